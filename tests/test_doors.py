"""The two doors to the kernels, below the public functions: equal bits, and every refusal."""

import itertools

import numpy as np
import pytest
import torch

import fastseg._C  # loads the operators
from fastseg import _numpy

ops = torch.ops.fastseg
NORMALIZATIONS = ("none", "mean", "before", "after", "symmetric")


def random_problem(spatial: tuple[int, ...], labels: int, seed: int = 0):
    """Unary ``(L, N)`` and features ``(D, N)`` of a position and a bilateral kernel."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*spatial, 3), dtype=np.uint8)
    points = int(np.prod(spatial))
    unary = rng.standard_normal((labels, points)).astype(np.float32)
    axes = len(spatial)
    features = [
        _numpy.image_features(spatial, (3,) * axes),
        _numpy.image_features(spatial, (20,) * axes, image, (60, 60, 60)),
    ]
    return unary, features


def by_numpy(spatial, unary, features, transforms, iterations, normalizations, self_message=True):
    field = _numpy.MeanField(spatial, len(unary))
    for kernel, transform, name in zip(features, transforms, normalizations, strict=True):
        field.add_kernel(kernel, transform, name, self_message)
    return field.run(unary, iterations)


def by_torch(spatial, unary, features, transforms, iterations, normalizations, self_message=True):
    probs = ops.mean_field(
        torch.from_numpy(unary).view(1, -1, *spatial),
        [torch.from_numpy(f).view(1, -1, *spatial) for f in features],
        [torch.as_tensor(t, dtype=torch.float32) for t in transforms],
        iterations,
        list(normalizations),
        self_message,
    )
    assert probs.shape == (1, len(unary), *spatial)
    return probs.view(len(unary), -1).numpy()


@pytest.mark.parametrize(
    ("spatial", "labels"),
    [((13, 17), 1), ((13, 17), 2), ((1, 1), 3), ((13, 17), 21), ((5, 6, 7), 2), ((40,), 50)],
    ids=["one-label", "two-labels", "one-pixel", "21-labels", "volume", "line"],
)
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
def test_doors_return_equal_bits(spatial, labels, self_message):
    unary, features = random_problem(spatial, labels)
    rng = np.random.default_rng(1)
    weights = [
        np.float32(2.5),
        rng.uniform(1, 3, labels).astype(np.float32),
        rng.uniform(-2, 2, (labels, labels)).astype(np.float32),
    ]
    for transform, name, iterations in itertools.product(weights, NORMALIZATIONS, (0, 1, 4)):
        problem = (unary, features, [1.5, transform], iterations, ["symmetric", name], self_message)
        probs = by_numpy(spatial, *problem)
        np.testing.assert_array_equal(probs, by_torch(spatial, *problem))
        np.testing.assert_allclose(probs.sum(0), 1, atol=1e-5)


def test_no_kernels_is_a_softmax():
    unary, _ = random_problem((6, 7), 4)
    expected = torch.from_numpy(-unary).softmax(0).numpy()
    np.testing.assert_allclose(by_torch((6, 7), unary, [], [], 5, []), expected, atol=1e-6)
    np.testing.assert_allclose(by_numpy((6, 7), unary, [], [], 5, []), expected, atol=1e-6)


def test_continuing_from_an_earlier_result():
    unary, features = random_problem((12, 9), 5)
    field = _numpy.MeanField((12, 9), 5)
    for kernel in features:
        field.add_kernel(kernel, 2.0)
    halfway = field.run(unary, 2)
    np.testing.assert_allclose(field.run(unary, 3, halfway), field.run(unary, 5), atol=1e-6)


def test_message_is_what_an_update_adds():
    unary, features = random_problem((12, 9), 5)
    field = _numpy.MeanField((12, 9), 5)
    for kernel in features:
        field.add_kernel(kernel, 2.0)
    logits = field.message(field.run(unary, 0)) - unary
    updated = torch.from_numpy(logits).softmax(0).numpy()
    np.testing.assert_allclose(field.run(unary, 1), updated, atol=1e-6)


@pytest.mark.parametrize("spatial", [(9, 11), (130, 128)], ids=["image-a-thread", "threads-inside"])
def test_batch_equals_loop(spatial, num_threads):
    problems = [random_problem(spatial, 3, seed) for seed in range(3)]
    unary = torch.stack([torch.from_numpy(u).view(3, *spatial) for u, _ in problems])
    features = [
        torch.stack([torch.from_numpy(f[k]).view(-1, *spatial) for _, f in problems])
        for k in range(2)
    ]
    weights = [torch.tensor(1.5), torch.tensor([1.0, 2.0, 3.0])]

    def infer(images: slice) -> torch.Tensor:
        kernels = [f[images] for f in features]
        return ops.mean_field(unary[images], kernels, weights, 3, ["symmetric"] * 2, True)

    for threads in (1, 2):
        num_threads(threads)
        probs = infer(slice(0, 3))
        for b in range(3):
            assert torch.equal(probs[b : b + 1], infer(slice(b, b + 1)))
    assert infer(slice(0, 0)).shape == (0, 3, *spatial)


def layouts(array: np.ndarray):
    """The same numbers in memory of other shapes and kinds."""
    yield "float64", array.astype(np.float64)
    yield "fortran", np.asfortranarray(array)
    yield "big-endian", array.astype(">f4")
    yield "strided", np.repeat(array, 2, axis=-1)[..., ::2]
    yield "reversed", array[::-1].copy()[::-1]
    yield "list", array.tolist()
    shifted = np.zeros(array.nbytes + 1, np.uint8)
    shifted[1:] = np.ascontiguousarray(array).view(np.uint8).ravel()
    yield "misaligned", shifted[1:].view(np.float32).reshape(array.shape)
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


def test_numpy_door_takes_any_layout():
    unary, features = random_problem((12, 9), 3)
    transform = np.arange(9, dtype=np.float32).reshape(3, 3) / 4

    def infer(unary, feature, transform):
        field = _numpy.MeanField((12, 9), 3)
        field.add_kernel(feature, transform)
        return field.run(unary, 3, unary_probs)

    unary_probs = torch.from_numpy(-unary).softmax(0).numpy()
    expected = infer(unary, features[1], transform)
    for arguments in zip(layouts(unary), layouts(features[1]), layouts(transform), strict=True):
        names = {name for name, _ in arguments}
        result = infer(*(array for _, array in arguments))
        np.testing.assert_array_equal(result, expected, err_msg=str(names))


def test_torch_door_takes_any_layout():
    unary, features = random_problem((12, 9), 3)
    unary = torch.from_numpy(unary).view(1, 3, 12, 9)
    feature = torch.from_numpy(features[1]).view(1, 5, 12, 9)
    transform = torch.arange(9.0).view(3, 3)
    expected = ops.mean_field(unary, [feature], [transform], 3, ["after"], True)

    def strided(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.transpose(0, -1).contiguous().transpose(0, -1)
        assert not copy.is_contiguous()
        return copy

    probs = ops.mean_field(
        strided(unary), [strided(feature)], [strided(transform)], 3, ["after"], True
    )
    assert torch.equal(probs, expected)
    assert probs.is_contiguous()


def test_image_features():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 3, 4, 2), dtype=np.uint8)  # depth, height, width, channels
    sigma, sigma_image = (2.0, 4.0, 8.0), (16.0, 3.0)
    z, y, x = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij")
    expected = [x / 2, y / 4, z / 8, image[..., 0] / 16, image[..., 1] / 3]
    expected = np.stack([row.ravel() for row in expected]).astype(np.float32)
    for samples in (image, image.astype(np.float32), image.astype(np.int64)[::1]):
        features = _numpy.image_features((2, 3, 4), sigma, samples, sigma_image)
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(_numpy.image_features((2, 3, 4), sigma), expected[:3])


def lattice_of(points: int = 20, dims: int = 2, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    features = 5 * torch.rand(1, dims, points, generator=generator, dtype=dtype)
    return ops.permutohedral_lattice(features)


def test_lattice_of_nothing_and_values_without_channels():
    vertices, barycentric, _, neighbours, segments, contributors = lattice_of()
    values = torch.zeros(1, 20, 0)
    lattice = ops.permutohedral_splat(values, vertices, barycentric, segments, contributors)
    assert lattice.shape == (len(segments) - 1, 0)
    lattice = ops.permutohedral_blur(lattice, neighbours, False)
    assert ops.permutohedral_slice(lattice, vertices, barycentric).shape == values.shape
    products = ops.permutohedral_vertex_products(lattice, values, vertices)
    assert torch.equal(products, torch.zeros(1, 20, 3))

    empty = ops.permutohedral_lattice(torch.zeros(0, 2, 20))
    assert [tuple(t.shape) for t in empty] == [(0, 20, 3)] * 3 + [(3, 0, 2), (1,), (0,)]
    lattice = ops.permutohedral_splat(torch.zeros(0, 20, 4), *empty[:2], *empty[4:])
    assert lattice.shape == (0, 4)


# What each door refuses: the call, the kind of error and its whole text.

SMALL = np.zeros((2, 6), np.float32)
HUGE = np.broadcast_to(np.float32(0), (2**40,))


def field(spatial=(2, 3), labels=2) -> _numpy.MeanField:
    return _numpy.MeanField(spatial, labels)


NUMPY_REFUSALS = {
    "no-axes": (
        lambda: field(()),
        ValueError,
        "MeanField: spatial must have shape (..., H, W), got ()",
    ),
    "no-pixels": (
        lambda: field((2, 0)),
        ValueError,
        "MeanField: spatial must have at least one pixel, got (2, 0)",
    ),
    "negative-size": (
        lambda: field((-2, 3)),
        ValueError,
        "MeanField: spatial must have at least one pixel, got (-2, 3)",
    ),
    "too-many-pixels": (
        lambda: field((2**40, 2**40)),
        ValueError,
        "MeanField: spatial must be small enough for arrays of less than 2^63 bytes, got shape "
        "(1099511627776, 1099511627776)",
    ),
    "too-many-labels-for-the-pixels": (
        lambda: field((2**53,), 1000),
        ValueError,
        "MeanField: spatial must be small enough for arrays of less than 2^63 bytes, got shape "
        "(9007199254740992,)",
    ),
    "size-of-2^64": (
        lambda: field((2**64,)),
        ValueError,
        "MeanField: spatial must be less than 2^63, got 18446744073709551616",
    ),
    "float-size": (
        lambda: field((2.0, 3)),
        TypeError,
        "MeanField: spatial must be an integer, got 2.0",
    ),
    "scalar-spatial": (
        lambda: field(6),
        TypeError,
        "MeanField: spatial must be a tuple, got 6",
    ),
    "text-spatial": (
        lambda: field("23"),
        TypeError,
        "MeanField: spatial must be a tuple, got '23'",
    ),
    "no-labels": (
        lambda: field(labels=0),
        ValueError,
        "MeanField: labels must be between 1 and 1000, got 0",
    ),
    "too-many-labels": (
        lambda: field(labels=1001),
        ValueError,
        "MeanField: labels must be between 1 and 1000, got 1001",
    ),
    "float-labels": (
        lambda: field(labels=2.5),
        TypeError,
        "MeanField: labels must be an integer, got 2.5",
    ),
    "features-rank": (
        lambda: field().add_kernel(np.zeros(6), 1),
        ValueError,
        "MeanField.add_kernel: features must have shape (D, 6), got (6,)",
    ),
    "features-points": (
        lambda: field().add_kernel(np.zeros((2, 7)), 1),
        ValueError,
        "MeanField.add_kernel: features must have shape (D, 6), got (2, 7)",
    ),
    "features-dims": (
        lambda: field().add_kernel(np.zeros((17, 6)), 1),
        ValueError,
        "MeanField.add_kernel: features must have 1 to 16 feature dimensions, got 17",
    ),
    "features-no-dims": (
        lambda: field().add_kernel(np.zeros((0, 6)), 1),
        ValueError,
        "MeanField.add_kernel: features must have 1 to 16 feature dimensions, got 0",
    ),
    "features-complex": (
        lambda: field().add_kernel(np.zeros((2, 6), complex), 1),
        TypeError,
        "MeanField.add_kernel: features must be an array of real numbers, got dtype complex128",
    ),
    "features-object": (
        lambda: field().add_kernel(None, 1),
        TypeError,
        "MeanField.add_kernel: features must be an array of real numbers, got dtype object",
    ),
    "features-text": (
        lambda: field().add_kernel("gaussian", 1),
        TypeError,
        "MeanField.add_kernel: features must be an array of real numbers, got dtype <U8",
    ),
    "features-ragged": (
        lambda: field().add_kernel([[1, 2], [3]], 1),
        TypeError,
        "MeanField.add_kernel: features must be an array of real numbers, got [[1, 2], [3]]",
    ),
    "features-nan": (
        lambda: field().add_kernel(np.array([[0, 1, 2, 3, 4, np.nan]]), 1),
        ValueError,
        "MeanField.add_kernel: features must be finite, got NaN or infinity in feature 0",
    ),
    "features-too-large-for-float32": (
        lambda: field().add_kernel(np.array([[0, 1, 2, 3, 4, 1e300]]), 1),
        ValueError,
        "MeanField.add_kernel: features must be finite, got NaN or infinity in feature 0",
    ),
    "features-huge": (
        lambda: field((2**40,)).add_kernel(np.broadcast_to(HUGE, (17, 2**40)), 1),
        ValueError,
        "MeanField.add_kernel: features must have 1 to 16 feature dimensions, got 17",
    ),
    "features-past-2^63-bytes": (
        lambda: field((2**57,)).add_kernel(np.broadcast_to(np.int8(0), (9, 2**57)), 1),
        ValueError,
        "MeanField.add_kernel: features must be small enough for arrays of less than 2^63 bytes, "
        "got shape (9, 144115188075855872)",
    ),
    "transform-length": (
        lambda: field().add_kernel(SMALL, np.ones(3)),
        ValueError,
        "MeanField.add_kernel: transform must have shape (), (2,) or (2, 2), got (3,)",
    ),
    "transform-rank": (
        lambda: field().add_kernel(SMALL, np.ones((2, 2, 2))),
        ValueError,
        "MeanField.add_kernel: transform must have shape (), (2,) or (2, 2), got (2, 2, 2)",
    ),
    "transform-infinite": (
        lambda: field().add_kernel(SMALL, [1, -np.inf]),
        ValueError,
        "MeanField.add_kernel: transform must be finite, got -inf",
    ),
    "normalization": (
        lambda: field().add_kernel(SMALL, 1, "sym"),
        ValueError,
        "MeanField.add_kernel: normalization must be one of none, mean, before, after, symmetric, "
        "got 'sym'",
    ),
    "unary-shape": (
        lambda: field().run(np.zeros((3, 6)), 1),
        ValueError,
        "MeanField.run: unary must have shape (2, 6), got (3, 6)",
    ),
    "unary-nan": (
        lambda: field().run(np.full((2, 6), np.nan), 1),
        ValueError,
        "MeanField.run: unary must hold no NaN and no -inf, and a finite energy for at least one "
        "label of each pixel, got a pixel that breaks this",
    ),
    "unary-object": (
        lambda: field().run(None, 1),
        TypeError,
        "MeanField.run: unary must be an array of real numbers, got dtype object",
    ),
    "iterations-negative": (
        lambda: field().run(SMALL, -1),
        ValueError,
        "MeanField.run: iterations must be between 0 and 100, got -1",
    ),
    "iterations-many": (
        lambda: field().run(SMALL, 101),
        ValueError,
        "MeanField.run: iterations must be between 0 and 100, got 101",
    ),
    "iterations-float": (
        lambda: field().run(SMALL, 5.0),
        TypeError,
        "MeanField.run: iterations must be an integer, got 5.0",
    ),
    "initial-shape": (
        lambda: field().run(SMALL, 1, SMALL.T),
        ValueError,
        "MeanField.run: initial must have shape (2, 6), got (6, 2)",
    ),
    "initial-nan": (
        lambda: field().run(SMALL, 1, np.full((2, 6), np.nan)),
        ValueError,
        "MeanField.run: initial must be finite, got nan",
    ),
    "q-shape": (
        lambda: field().message(np.zeros((2, 5))),
        ValueError,
        "MeanField.message: q must have shape (2, 6), got (2, 5)",
    ),
    "q-infinite": (
        lambda: field().message(np.full((2, 6), np.inf)),
        ValueError,
        "MeanField.message: q must be finite, got inf",
    ),
    "no-axes-of-image": (
        lambda: _numpy.image_features((), ()),
        ValueError,
        "image_features: spatial must have shape (..., H, W), got ()",
    ),
    "no-pixels-of-image": (
        lambda: _numpy.image_features((0, 3), (1, 1)),
        ValueError,
        "image_features: spatial must have at least one pixel, got (0, 3)",
    ),
    "sigma-zero": (
        lambda: _numpy.image_features((2, 3), (1, 0)),
        ValueError,
        "image_features: sigma_spatial must be positive and finite, got 0",
    ),
    "sigma-negative": (
        lambda: _numpy.image_features((2, 3), (1, 1), np.zeros((2, 3, 1)), (-3.5,)),
        ValueError,
        "image_features: sigma_image must be positive and finite, got -3.5",
    ),
    "sigma-nan": (
        lambda: _numpy.image_features((2, 3), (float("nan"), 1)),
        ValueError,
        "image_features: sigma_spatial must be positive and finite, got nan",
    ),
    "sigma-text": (
        lambda: _numpy.image_features((2, 3), (1, "wide")),
        TypeError,
        "image_features: sigma_spatial must hold numbers, got 'wide'",
    ),
    "sigma-scalar": (
        lambda: _numpy.image_features((2, 3), 3.0),
        TypeError,
        "image_features: sigma_spatial must be a tuple, got 3.0",
    ),
    "sigma-count": (
        lambda: _numpy.image_features((2, 3), (1, 1, 1)),
        ValueError,
        "image_features: sigma_spatial must have one entry for each axis of spatial, 2, got 3",
    ),
    "image-shape": (
        lambda: _numpy.image_features((2, 3), (1, 1), np.zeros((3, 2, 1)), (1,)),
        ValueError,
        "image_features: image must have shape (2, 3, 1) (spatial, and a channel for each entry of "
        "sigma_image), got (3, 2, 1)",
    ),
    "image-missing": (
        lambda: _numpy.image_features((2, 3), (1, 1), None, (1,)),
        ValueError,
        "image_features: image must have shape (2, 3, 1) (spatial, and a channel for each entry of "
        "sigma_image), got None",
    ),
    "image-text": (
        lambda: _numpy.image_features((2, 3), (1, 1), "photo.png", (1,)),
        TypeError,
        "image_features: image must be an array of real numbers, got dtype <U9",
    ),
    "image-nan": (
        lambda: _numpy.image_features((1, 2), (1, 1), [[[0.0], [np.nan]]], (1,)),
        ValueError,
        "image_features: image must be finite, got nan",
    ),
    "too-many-channels": (
        lambda: _numpy.image_features((2, 3), (1, 1), np.zeros((2, 3, 15)), (1,) * 15),
        ValueError,
        "image_features: spatial and image must have at most 16 axes and channels together, got 17",
    ),
    "image-past-2^63-bytes": (
        lambda: _numpy.image_features((2**40, 2**40), (1, 1)),
        ValueError,
        "image_features: spatial must be small enough for arrays of less than 2^63 bytes, got "
        "shape (1099511627776, 1099511627776)",
    ),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("case", NUMPY_REFUSALS)
def test_numpy_door_refuses(case):
    call, error, message = NUMPY_REFUSALS[case]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


def huge(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One element, seen as many: no memory behind it."""
    return torch.zeros((), dtype=dtype).expand(shape)


def run(unary=None, features=None, transforms=None, iterations=1, normalizations=None):
    return ops.mean_field(
        torch.zeros(1, 2, 2, 3) if unary is None else unary,
        [torch.zeros(1, 2, 2, 3)] if features is None else features,
        [torch.ones(())] if transforms is None else transforms,
        iterations,
        ["symmetric"] if normalizations is None else normalizations,
        True,
    )


LATTICE = lattice_of()
VERTICES, BARYCENTRIC, _, NEIGHBOURS, SEGMENTS, CONTRIBUTORS = LATTICE
M = len(SEGMENTS) - 1


def splat(**changed: torch.Tensor):
    arguments = {
        "values": torch.ones(1, 20, 4),
        "vertices": VERTICES,
        "barycentric": BARYCENTRIC,
        "segments": SEGMENTS,
        "contributors": CONTRIBUTORS,
    }
    return ops.permutohedral_splat(*(arguments | changed).values())


def changed_at(tensor: torch.Tensor, index: int, value: int) -> torch.Tensor:
    copy = tensor.clone()
    copy.view(-1)[index] = value
    return copy


TORCH_REFUSALS = {
    "unary-float64": (
        lambda: run(torch.zeros(1, 2, 2, 3).double()),
        "TypeError: mean_field: unary must have dtype float32, float16 or bfloat16, got float64",
    ),
    "unary-complex": (
        lambda: run(torch.zeros(1, 2, 2, 3, dtype=torch.complex64)),
        "TypeError: mean_field: unary must have dtype float32, float16 or bfloat16, got complex64",
    ),
    "unary-rank": (
        lambda: run(torch.zeros(2, 3)),
        "ValueError: mean_field: unary must have shape (B, L, *spatial), got (2, 3)",
    ),
    "unary-no-labels": (
        lambda: run(torch.zeros(1, 0, 2, 3)),
        "ValueError: mean_field: unary must have 1 to 1000 labels, got 0",
    ),
    "unary-many-labels": (
        lambda: run(torch.zeros(1, 1001, 2, 3)),
        "ValueError: mean_field: unary must have 1 to 1000 labels, got 1001",
    ),
    "unary-no-pixels": (
        lambda: run(torch.zeros(1, 2, 0, 3)),
        "ValueError: mean_field: unary must have at least one pixel, got shape (1, 2, 0, 3)",
    ),
    "unary-past-2^63-bytes": (
        lambda: run(huge(1, 2, 2**30, 2**30)),
        "ValueError: mean_field: unary must be small enough for arrays of less than 2^63 bytes, "
        "got shape (1, 2, 1073741824, 1073741824)",
    ),
    "unary-nan": (
        lambda: run(torch.full((1, 2, 2, 3), torch.nan)),
        "ValueError: mean_field: unary must hold no NaN and no -inf, and a finite energy for at "
        "least one label of each pixel, got a pixel that breaks this",
    ),
    "features-float64": (
        lambda: run(features=[torch.zeros(1, 2, 2, 3).double()]),
        "TypeError: mean_field: features[0] must have dtype float32, got float64",
    ),
    "features-rank": (
        lambda: run(features=[torch.zeros(1, 2, 6)]),
        "ValueError: mean_field: features[0] must have shape (1, D, 2, 3) beside unary "
        "(1, 2, 2, 3), got (1, 2, 6)",
    ),
    "features-batch": (
        lambda: run(features=[torch.zeros(2, 2, 2, 3)]),
        "ValueError: mean_field: features[0] must have shape (1, D, 2, 3) beside unary "
        "(1, 2, 2, 3), got (2, 2, 2, 3)",
    ),
    "features-spatial": (
        lambda: run(features=[torch.zeros(1, 2, 3, 2)]),
        "ValueError: mean_field: features[0] must have shape (1, D, 2, 3) beside unary "
        "(1, 2, 2, 3), got (1, 2, 3, 2)",
    ),
    "features-dims": (
        lambda: run(features=[torch.zeros(1, 17, 2, 3)]),
        "ValueError: mean_field: features[0] must have 1 to 16 feature dimensions, got 17",
    ),
    "features-past-2^63-bytes": (
        lambda: run(huge(1, 1, 2**30, 2**27), [huge(1, 15, 2**30, 2**27)]),
        "ValueError: mean_field: features[0] must be small enough for arrays of less than 2^63 "
        "bytes, got shape (1, 15, 1073741824, 134217728)",
    ),
    "features-nan-in-the-second-kernel-and-image": (
        lambda: run(
            torch.zeros(2, 2, 2, 3),
            [torch.zeros(2, 1, 2, 3), changed_at(torch.zeros(2, 1, 2, 3), 8, 1).log()],
            [torch.ones(())] * 2,
            normalizations=["none"] * 2,
        ),
        "ValueError: mean_field: features[1] must be finite, got NaN or infinity in feature 0",
    ),
    "features-too-large": (
        lambda: run(features=[changed_at(torch.zeros(1, 2, 2, 3), 3, 10**10)]),
        "ValueError: mean_field: features[0] must stay within int32 lattice coordinates (about "
        "2e9 / (D + 1) standard deviations), got a coordinate of 1.73205e+10; a larger standard "
        "deviation (sigma) makes them smaller",
    ),
    "transforms-count": (
        lambda: run(transforms=[]),
        "ValueError: mean_field: transforms must have one entry for each of features, 1, got 0",
    ),
    "transforms-shape": (
        lambda: run(transforms=[torch.ones(2, 3)]),
        "ValueError: mean_field: transforms[0] must have shape (), (2,) or (2, 2), got (2, 3)",
    ),
    "transforms-dtype": (
        lambda: run(transforms=[torch.ones((), dtype=torch.int64)]),
        "TypeError: mean_field: transforms[0] must have dtype float32, got int64",
    ),
    "transforms-nan": (
        lambda: run(transforms=[torch.tensor([1, torch.nan])]),
        "ValueError: mean_field: transforms[0] must be finite, got nan",
    ),
    "normalizations-count": (
        lambda: run(normalizations=["none", "none"]),
        "ValueError: mean_field: normalizations must have one entry for each of features, 1, got 2",
    ),
    "normalizations-name": (
        lambda: run(normalizations=["rows"]),
        "ValueError: mean_field: normalizations[0] must be one of none, mean, before, after, "
        "symmetric, got 'rows'",
    ),
    "iterations-negative": (
        lambda: run(iterations=-1),
        "ValueError: mean_field: iterations must be between 0 and 100, got -1",
    ),
    "iterations-many": (
        lambda: run(iterations=101),
        "ValueError: mean_field: iterations must be between 0 and 100, got 101",
    ),
    "lattice-dtype": (
        lambda: ops.permutohedral_lattice(torch.zeros(1, 2, 5, dtype=torch.float16)),
        "TypeError: permutohedral_lattice: features must have dtype float32 or float64, "
        "got float16",
    ),
    "lattice-rank": (
        lambda: ops.permutohedral_lattice(torch.zeros(2, 5)),
        "ValueError: permutohedral_lattice: features must have shape (B, D, *spatial), got (2, 5)",
    ),
    "lattice-no-dims": (
        lambda: ops.permutohedral_lattice(torch.zeros(1, 0, 5)),
        "ValueError: permutohedral_lattice: features.shape[1] must be between 1 and 16, got 0",
    ),
    "lattice-many-dims": (
        lambda: ops.permutohedral_lattice(torch.zeros(1, 17, 5)),
        "ValueError: permutohedral_lattice: features.shape[1] must be between 1 and 16, got 17",
    ),
    "lattice-no-points": (
        lambda: ops.permutohedral_lattice(torch.zeros(1, 2, 0, 5)),
        "ValueError: permutohedral_lattice: features must have at least one point, "
        "got shape (1, 2, 0, 5)",
    ),
    "lattice-infinite": (
        lambda: ops.permutohedral_lattice(torch.full((1, 2, 5), torch.inf)),
        "ValueError: permutohedral_lattice: features must be finite, got NaN or infinity in "
        "feature 0",
    ),
    "lattice-too-large": (
        lambda: ops.permutohedral_lattice(1e10 * torch.arange(5.0).view(1, 1, 5).double()),
        "ValueError: permutohedral_lattice: features must stay within int32 lattice coordinates "
        "(about 2e9 / (D + 1) standard deviations), got a coordinate of 4.6188e+10; a larger "
        "standard deviation (sigma) makes them smaller",
    ),
    "lattice-past-2^63-bytes": (
        lambda: ops.permutohedral_lattice(huge(1, 15, 2**30, 2**26)),
        "ValueError: permutohedral_lattice: features must be small enough for arrays of less than "
        "2^63 bytes, got shape (1, 15, 1073741824, 67108864)",
    ),
    "splat-values-dtype": (
        lambda: splat(values=torch.ones(1, 20, 4, dtype=torch.int32)),
        "TypeError: permutohedral_splat: values must have dtype float32 or float64, got int32",
    ),
    "splat-mixed-dtypes": (
        lambda: splat(values=torch.ones(1, 20, 4).double()),
        "TypeError: permutohedral_splat: barycentric must have the dtype of values, float64, "
        "got float32",
    ),
    "splat-vertices-dtype": (
        lambda: splat(vertices=VERTICES.long()),
        "TypeError: permutohedral_splat: vertices must have dtype int32, got int64",
    ),
    "splat-vertices-rank": (
        lambda: splat(vertices=VERTICES[0]),
        "ValueError: permutohedral_splat: vertices must have shape (B, N, D + 1), got (20, 3)",
    ),
    "splat-one-corner": (
        lambda: splat(vertices=VERTICES[..., :1]),
        "ValueError: permutohedral_splat: vertices.shape[2] must be between 2 and 17, got 1",
    ),
    "splat-barycentric-shape": (
        lambda: splat(barycentric=BARYCENTRIC[..., :2]),
        "ValueError: permutohedral_splat: barycentric must have the shape of vertices, "
        "(1, 20, 3), got (1, 20, 2)",
    ),
    "splat-values-rank": (
        lambda: splat(values=torch.ones(20, 4)),
        "ValueError: permutohedral_splat: values must have shape (B, N, C), got (20, 4)",
    ),
    "splat-values-points": (
        lambda: splat(values=torch.ones(1, 19, 4)),
        "ValueError: permutohedral_splat: values must have shape (1, 20, C), the points of "
        "vertices, got (1, 19, 4)",
    ),
    "splat-segments-dtype": (
        lambda: splat(segments=SEGMENTS.int()),
        "TypeError: permutohedral_splat: segments must have dtype int64, got int32",
    ),
    "splat-segments-empty": (
        lambda: splat(segments=SEGMENTS[:0]),
        "ValueError: permutohedral_splat: segments must have shape (M + 1,), got (0,)",
    ),
    "splat-segments-end": (
        lambda: splat(segments=changed_at(SEGMENTS, -1, 61)),
        "ValueError: permutohedral_splat: segments must rise from 0 to the number of "
        "contributors, 60, got 0 to 61",
    ),
    "splat-segments-fall": (
        lambda: splat(segments=changed_at(SEGMENTS, 1, 1000)),
        "ValueError: permutohedral_splat: segments must rise from 0 to the number of "
        "contributors, 60, got 0 to 60 with a fall",
    ),
    "splat-contributors-dtype": (
        lambda: splat(contributors=CONTRIBUTORS.int()),
        "TypeError: permutohedral_splat: contributors must have dtype int64, got int32",
    ),
    "splat-contributors-count": (
        lambda: splat(contributors=CONTRIBUTORS[1:]),
        "ValueError: permutohedral_splat: contributors must have one entry for each of vertices, "
        "(60,), got (59,)",
    ),
    "splat-contributors-range": (
        lambda: splat(contributors=changed_at(CONTRIBUTORS, 7, 60)),
        "ValueError: permutohedral_splat: contributors must be in [0, 60), got 60",
    ),
    "splat-contributors-negative": (
        lambda: splat(contributors=changed_at(CONTRIBUTORS, 7, -1)),
        "ValueError: permutohedral_splat: contributors must be in [0, 60), got -1",
    ),
    "splat-past-2^63-bytes": (
        lambda: splat(values=huge(1, 20, 2**57), segments=huge(2**20, dtype=torch.int64)),
        "ValueError: permutohedral_splat: values must be small enough for arrays of less than "
        "2^63 bytes, got shape (1, 20, 144115188075855872)",
    ),
    "blur-dtype": (
        lambda: ops.permutohedral_blur(torch.ones(M, 4).half(), NEIGHBOURS, False),
        "TypeError: permutohedral_blur: lattice must have dtype float32 or float64, got float16",
    ),
    "blur-rank": (
        lambda: ops.permutohedral_blur(torch.ones(M), NEIGHBOURS, False),
        f"ValueError: permutohedral_blur: lattice must have shape (M, C), got ({M},)",
    ),
    "blur-neighbours-dtype": (
        lambda: ops.permutohedral_blur(torch.ones(M, 4), NEIGHBOURS.long(), False),
        "TypeError: permutohedral_blur: neighbours must have dtype int32, got int64",
    ),
    "blur-neighbours-shape": (
        lambda: ops.permutohedral_blur(torch.ones(5, 4), NEIGHBOURS, False),
        "ValueError: permutohedral_blur: neighbours must have shape (D + 1, 5, 2), "
        f"got (3, {M}, 2)",
    ),
    "blur-neighbours-axes": (
        lambda: ops.permutohedral_blur(torch.ones(M, 4), NEIGHBOURS[:1], False),
        "ValueError: permutohedral_blur: neighbours.shape[0] must be between 2 and 17, got 1",
    ),
    "blur-neighbours-range": (
        lambda: ops.permutohedral_blur(torch.ones(M, 4), changed_at(NEIGHBOURS, 3, M), True),
        f"ValueError: permutohedral_blur: neighbours must be in [-1, {M}), got {M}",
    ),
    "slice-mixed-dtypes": (
        lambda: ops.permutohedral_slice(torch.ones(M, 4).double(), VERTICES, BARYCENTRIC),
        "TypeError: permutohedral_slice: barycentric must have the dtype of lattice, float64, "
        "got float32",
    ),
    "slice-vertices-dtype": (
        lambda: ops.permutohedral_slice(torch.ones(M, 4), VERTICES.long(), BARYCENTRIC),
        "TypeError: permutohedral_slice: vertices must have dtype int32, got int64",
    ),
    "slice-shapes": (
        lambda: ops.permutohedral_slice(torch.ones(M, 4), VERTICES, BARYCENTRIC[:, 1:]),
        "ValueError: permutohedral_slice: barycentric must have the shape of vertices, "
        "(1, 20, 3), got (1, 19, 3)",
    ),
    "slice-range": (
        lambda: ops.permutohedral_slice(torch.ones(M, 4), VERTICES + M, BARYCENTRIC),
        f"ValueError: permutohedral_slice: vertices must be in [0, {M}), got {M}",
    ),
    "slice-past-2^63-bytes": (
        lambda: ops.permutohedral_slice(huge(2, 2**57), VERTICES, BARYCENTRIC),
        "ValueError: permutohedral_slice: vertices must be small enough for arrays of less than "
        "2^63 bytes, got shape (1, 20, 3)",
    ),
    "products-mixed-dtypes": (
        lambda: ops.permutohedral_vertex_products(
            torch.ones(M, 4), torch.ones(1, 20, 4).double(), VERTICES
        ),
        "TypeError: permutohedral_vertex_products: values must have the dtype of lattice, "
        "float32, got float64",
    ),
    "products-points": (
        lambda: ops.permutohedral_vertex_products(torch.ones(M, 4), torch.ones(2, 20, 4), VERTICES),
        "ValueError: permutohedral_vertex_products: values must have shape (1, 20, C), the points "
        "of vertices, got (2, 20, 4)",
    ),
    "products-channels": (
        lambda: ops.permutohedral_vertex_products(torch.ones(M, 4), torch.ones(1, 20, 3), VERTICES),
        "ValueError: permutohedral_vertex_products: values must have the channels of lattice, 4, "
        "got 3",
    ),
    "products-range": (
        lambda: ops.permutohedral_vertex_products(
            torch.ones(M, 4), torch.ones(1, 20, 4), VERTICES - M
        ),
        f"ValueError: permutohedral_vertex_products: vertices must be in [0, {M}), got {-M}",
    ),
}


@pytest.mark.parametrize("case", TORCH_REFUSALS)
def test_torch_door_refuses(case):
    """torch hands on one kind of exception: fastseg.ops makes the named kind from its text."""
    call, message = TORCH_REFUSALS[case]
    with pytest.raises(RuntimeError) as raised:
        call()
    assert str(raised.value).partition("\n")[0] == f"fastseg {message}"
    assert "csrc" not in str(raised.value)
    assert ".cpp" not in str(raised.value)


def test_lack_of_memory_has_its_own_error():
    """2^50 pixels pass the checks, and no machine has the memory."""
    with pytest.raises(RuntimeError) as raised:
        run(huge(1, 1, 2**25, 2**25), [], [], normalizations=[])
    assert str(raised.value) == "fastseg MemoryError: mean_field: out of memory"
    with pytest.raises(MemoryError):
        field((2**25, 2**25), 1).run(np.broadcast_to(np.float32(0), (1, 2**50)), 1)


TORCH_SAYS = {  # of what an allocation can meet: the error raised for the user, its first line
    "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has": (
        torch.OutOfMemoryError,
        "bilinear_upsample: {}",
    ),
    "Allocation on device 0 would exceed allowed memory. (out of memory)": (
        torch.OutOfMemoryError,
        "bilinear_upsample: {}",
    ),
    "DefaultCPUAllocator: can't allocate memory: you tried to": (
        MemoryError,
        "bilinear_upsample: out of memory",
    ),
    "CUDA error: an illegal memory access was encountered": (RuntimeError, "{}"),
    "CUDA error: operation not permitted when stream is capturing": (RuntimeError, "{}"),
}


@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
@pytest.mark.parametrize("text", TORCH_SAYS)
def test_torchs_own_errors_keep_their_text(text):
    """Only a lack of memory is one: what failed may be the work that a GPU was given before."""

    def refuse(*arguments, **named):
        raise RuntimeError(text)

    scores = torch.ones(1, 1, 2, 2)
    kind, line = TORCH_SAYS[text]
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", refuse, "CPU", allow_override=True)
    try:
        with pytest.raises(kind) as raised:
            fastseg.bilinear_upsample(scores, 3)
    finally:
        library._destroy()
    assert type(raised.value) is kind
    first = str(raised.value).partition("\n")[0]
    assert first == line.format(f"RuntimeError: {text}")  # the kind is of Python's own wording
