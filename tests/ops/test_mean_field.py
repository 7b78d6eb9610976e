"""Mean-field inference: equal to the float64 reference, near the exact one, differentiable."""

import functools
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from simplex_features import features_inside
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import interpolate

from fastseg import reference
from fastseg.ops import mean_field
from fastseg.reference import mean_field_exact

ops = torch.ops.fastseg
pytestmark = pytest.mark.usefixtures("device")
NORMALIZATIONS = ["symmetric", "mean", "before", "after", "none"]
SHARED = Path(__file__).resolve().parents[3] / "shared"
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # float32, a few updates: exp and sums of 20 messages
# On CUDA Q is rounded in each iteration; elsewhere once, at the end.
HALVES = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def problem(labels=3, spatial=(5, 7), batch=2, dtype=torch.float32, dims=(2, 5)):
    """Unary, features of two kernels, and one transform each, scalar and diagonal."""
    unary = 2 * torch.randn(batch, labels, *spatial, dtype=dtype)
    features = [torch.randn(batch, d, *spatial, dtype=dtype) for d in dims]
    return unary, features, [torch.tensor(0.8, dtype=dtype), torch.rand(labels, dtype=dtype)]


def positions(height, width):
    """``(2, H, W)`` float64 pixel coordinates, x first."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).double()


def kernels_of(image, sigma_position, sigma_xy, sigma_rgb):
    """Features of a position and a bilateral kernel for ``image`` ``(3, H, W)``."""
    place = positions(*image.shape[1:])
    bilateral = torch.cat([place / sigma_xy, image / sigma_rgb])
    return [(place / sigma_position)[None], bilateral[None]]


def rough_scores(labels):
    """Logits ``(1, 5, H, W)`` float64 of a network with output stride 8 that knew ``labels``."""
    height, width = labels.shape
    probs = torch.nn.functional.one_hot(labels, 5).double().permute(2, 0, 1)[None]
    coarse = 6 * torch.nn.functional.avg_pool2d(probs, 8)
    coarse = coarse + torch.randn(coarse.shape, dtype=torch.float64)
    return interpolate(coarse, size=(height, width), mode="bicubic")


@functools.cache
def photographs():
    folder = SHARED / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/camvid")
    return [(file, folder / "valannot" / f"{file.stem}.png") for file in folder.glob("val/*.jpg")]


def photograph(seed, height=32, width=48):
    """A crop ``(3, H, W)`` in 0..255 of some photograph, and rough scores for five labels.

    It shows at least three labels.
    """
    torch.manual_seed(seed)
    files = sorted(photographs())
    for _ in range(1000):
        file, annotation = files[torch.randint(len(files), ())]
        labels = torch.tensor(np.array(Image.open(annotation))).long() % 5
        top, left = (torch.randint(size, ()) for size in (360 - height, 480 - width))
        window = slice(top, top + height), slice(left, left + width)
        shares = torch.bincount(labels[window].flatten()) / (height * width)
        if (shares > 0.1).sum() >= 3:
            image = torch.tensor(np.array(Image.open(file)))
            return image[window].permute(2, 0, 1).double(), rough_scores(labels[window])
    raise AssertionError("no crop found")


def invention(seed, height=32, width=48):
    """The same with random blobs for an image and other random blobs for its labels."""
    torch.manual_seed(seed)
    coarse = torch.rand(1, 8, height // 4, width // 4, dtype=torch.float64)
    smooth = interpolate(coarse, size=(height, width), mode="bicubic")[0]
    image = 255 * smooth[:3] + 10 * torch.randn(3, height, width, dtype=torch.float64)
    return image, rough_scores(smooth[3:].argmax(0))


# Against the reference


@functools.cache
def reference_case(labels, self_message, device):
    """A problem on the device, and what the reference makes of it with every normalisation."""
    unary, features, transforms = problem(labels)
    cases = []
    for kind in NORMALIZATIONS:
        options = {"iterations": 3, "normalization": kind, "self_message": self_message}
        if kind == "none":  # sums of 35 messages, not means
            transforms = [transform / 10 for transform in transforms]
        expected = reference.mean_field(unary, features, transforms, **options)
        cases.append((transforms, options, expected))
    return unary, features, cases


GRIDS = {  # standard deviations, height and width of the image
    "3 pixels": ((3.0, 3.0), 40, 72),
    "unequal": ((2.1, 7.0), 33, 65),
    "wide": ((40.0, 1.2), 50, 88),
    "one vertex": ((1e4, 1e4), 9, 64),
    "one line": ((2.5, 2.5), 1, 80),
    "too narrow": ((1.0, 1.0), 30, 64),
    "too low": ((3.0, 0.9), 30, 64),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("symmetric", "none") else pytest.mark.slow)
        for kind in NORMALIZATIONS
    ],
)
@pytest.mark.parametrize("grid", GRIDS)
def test_two_labels_on_a_grid_of_pixels(kind, grid):
    """Pixels' own places have a lattice of their own, unless they lie too far apart.

    So have their shifted places; places with the axes exchanged and bent ones have the general one.
    """
    sigma, height, width = GRIDS[grid]
    place = positions(height, width) / torch.tensor(sigma, dtype=torch.float64)[:, None, None]
    bent = place.clone()
    bent[0, 0, 5] += 0.01
    features = torch.stack([place, place + 17.3, place.flip(0), bent]).float()
    unary = 2 * torch.randn(len(features), 2, height, width)
    transform = torch.tensor(1.5 if kind != "none" else 0.05)
    options = {"iterations": 3, "normalization": kind}
    actual = mean_field(unary, [features], [transform], **options)
    for i in range(len(features)):
        one = slice(i, i + 1)
        expected = reference.mean_field(unary[one], [features[one]], [transform], **options)
        torch.testing.assert_close(actual[one], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.small
@pytest.mark.parametrize("labels", [1, 2, 3, 4, 5, 8, 21, 40])
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
def test_matches_reference(labels, self_message, device, instruction_set):
    unary, features, cases = reference_case(labels, self_message, device)
    for transforms, options, expected in cases:
        probs = mean_field(unary, features, transforms, **options)
        assert probs.is_contiguous()
        torch.testing.assert_close(probs, expected, **TOLERANCE)


SCENES = [pytest.param(3, (9, 12), 2, id="small")]  # labels, size, batch
if os.environ.get("FASTSEG_NIGHTLY"):
    SCENES += [
        pytest.param(21, (63, 84), 1, id="21-labels"),
        pytest.param(5, (48, 64), 3, id="batch"),
        pytest.param(2, (120, 160), 1, id="2-labels"),
        pytest.param(40, (40, 50), 1, id="40-labels"),
        pytest.param(2, (12, 24, 30), 1, id="volume"),
    ]


def scene(labels, spatial, batch):
    """The problem of an image of smooth regions and some noise: many pixels share a vertex.

    Pixels are moved off the faces of their simplices: a rounding would choose the vertices there.
    """
    axes = torch.meshgrid(*(torch.arange(size) for size in spatial), indexing="ij")
    moved = [axis + torch.rand(()) for axis in axes[::-1]]
    place = torch.stack(moved).expand(batch, len(spatial), *spatial)
    mode = "bicubic" if len(spatial) == 2 else "trilinear"
    smooth = interpolate(torch.rand(batch, 3, *[5] * len(spatial)), size=spatial, mode=mode)
    image = 255 * smooth + 4 * torch.randn(batch, 3, *spatial)
    unary = 2 * torch.randn(batch, labels, *spatial)
    features = [place / 3, torch.cat([place / 30, image / 13], 1)]
    return unary, features, [torch.tensor(0.8), torch.rand(labels)]


@pytest.mark.parametrize(("labels", "spatial", "batch"), SCENES)
def test_a_scene(labels, spatial, batch):
    unary, features, transforms = scene(labels, spatial, batch)
    expected = reference.mean_field(unary, features, transforms, iterations=3)
    probs = mean_field(unary, features, transforms, iterations=3)
    torch.testing.assert_close(probs, expected, **TOLERANCE)
    for half, tolerance in HALVES.items():
        probs = mean_field(unary.to(half), features, transforms, iterations=3)
        expected = mean_field(unary.to(half).float(), features, transforms, iterations=3)
        assert (probs.float() - expected).abs().max() < tolerance


@pytest.mark.parametrize(("labels", "spatial", "batch"), SCENES)
def test_gradients_of_a_scene(labels, spatial, batch):
    """Of the unary and of the transforms, which are sums over all pixels, against float64."""
    unary, features, transforms = scene(labels, spatial, batch)
    grad = torch.randn_like(unary)
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (unary, *transforms)]
        some = [f.to(dtype) for f in features]
        probs = mean_field(leaves[0], some, leaves[1:], iterations=3)
        grads.append(torch.autograd.grad(probs, leaves, grad.to(dtype)))
    for single, double in zip(*grads, strict=True):
        scale = double.abs().max().item()
        torch.testing.assert_close(single, double.float(), rtol=1e-2, atol=1e-4 * scale)


@pytest.mark.parametrize("composed", [False, True], ids=["fused", "composed"])
@pytest.mark.parametrize(
    "spatial", [(1, 1), (1, 9), (33,), (3, 4, 5), (17, 16)], ids=lambda shape: str(shape)
)
def test_every_image(spatial, composed):
    unary, features, transforms = problem(4, spatial)
    expected = reference.mean_field(unary, features, transforms, iterations=2)
    probs = mean_field(unary, features, transforms, iterations=2, composed=composed)
    torch.testing.assert_close(probs, expected, **TOLERANCE)


@pytest.mark.parametrize("kinds", [NORMALIZATIONS[:3], NORMALIZATIONS[2:]], ids=str)
def test_a_normalization_for_each_kernel(kinds):
    unary, features, transforms = problem(3, dims=(1, 3, 6))
    transforms.append(torch.randn(3, 3))
    for self_message in (True, False):
        options = {"iterations": 3, "normalization": kinds, "self_message": self_message}
        expected = reference.mean_field(unary, features, transforms, **options)
        for composed in (False, True):
            probs = mean_field(unary, features, transforms, composed=composed, **options)
            torch.testing.assert_close(probs, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_float64_matches_reference(kind):
    unary, features, transforms = problem(3, dtype=torch.float64)
    transforms[0] = torch.randn(3, 3, dtype=torch.float64)
    options = {"iterations": 4, "normalization": kind, "self_message": False}
    expected = reference.mean_field(unary, features, transforms, **options)
    probs = mean_field(unary, features, transforms, **options)
    torch.testing.assert_close(probs, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.small
@pytest.mark.parametrize("labels", [2, 5, 34])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_precision_is_storage(half, labels, device):
    """Sums are those of float32; features and transforms are as they were."""
    unary, features, transforms = problem(labels)
    stored = unary.to(device, half)
    features = [f.to(device) for f in features]
    for matrix in (transforms[1], torch.rand(labels, labels)):
        matrices = [transforms[0].to(device), matrix.to(device)]
        for kind in ("symmetric", "after"):
            options = {"iterations": 3, "normalization": kind, "self_message": kind == "after"}
            expected = mean_field(stored.float(), features, matrices, **options)
            for composed in (False, True):
                probs = mean_field(stored, features, matrices, composed=composed, **options)
                assert probs.dtype == half
                assert (probs.float() - expected).abs().max() < HALVES[half]


@pytest.mark.parametrize("features_gradient", ["simplex", "gaussian"])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_precision_has_gradients(half, features_gradient):
    torch.manual_seed(1)
    unary, features, transforms = problem(4, (8, 9))
    grad = torch.randn_like(unary).to(half)
    grads = []
    for dtype in (half, torch.float32):
        leaf = unary.to(half).to(dtype).requires_grad_()
        leaves = [leaf, *(t.clone().requires_grad_() for t in (*features, *transforms))]
        inference = flat_mean_field("after", True, features_gradient=features_gradient)
        grads.append(torch.autograd.grad(inference(*leaves), leaves, grad.to(dtype)))
        assert [g.dtype for g in grads[-1]] == [dtype, *[torch.float32] * 4]
    for stored, single in zip(*grads, strict=True):
        error = (stored.float() - single).abs().max()
        assert error < 2 * HALVES[half] * single.abs().max()


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 2),
    labels=st.integers(1, 9),
    spatial=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dims=st.lists(st.integers(1, 16), max_size=3),
    iterations=st.integers(0, 3),
    kind=st.sampled_from(NORMALIZATIONS),
    ranks=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    self_message=st.booleans(),
)
def test_any_shape(batch, labels, spatial, dims, iterations, kind, ranks, self_message):
    unary = torch.randn(batch, labels, *spatial)
    features = [torch.randn(batch, d, *spatial) for d in dims]
    transforms = [torch.rand([labels] * rank) for rank in ranks[: len(dims)]]
    options = {"iterations": iterations, "normalization": kind, "self_message": self_message}
    expected = reference.mean_field(unary, features, transforms, **options)
    probs = mean_field(unary, features, transforms, **options)
    # "none" multiplies by up to N, and rounding with it.
    torch.testing.assert_close(probs, expected, rtol=1e-3, atol=1e-3 if kind == "none" else 5e-5)


# Known answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_iteration_and_no_kernel_are_a_softmax(dtype):
    unary, features, transforms = problem(4, dtype=dtype)
    expected = torch.softmax(-unary, 1)
    torch.testing.assert_close(mean_field(unary, features, transforms, iterations=0), expected)
    torch.testing.assert_close(mean_field(unary, [], []), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_constant_image_stays_constant(dtype):
    """With "after" a constant Q is its own message: each update is Q = softmax(-U + w Q)."""
    unary = torch.tensor([0.3, 0.1, 0.7], dtype=dtype).reshape(1, 3, 1, 1).expand(2, 3, 6, 7)
    features = [torch.randn(2, 2, 6, 7, dtype=dtype)]
    q = torch.softmax(-unary[0, :, 0, 0], 0)
    for _ in range(5):
        q = torch.softmax(-unary[0, :, 0, 0] + 1.5 * q, 0)
    probs = mean_field(
        unary, features, [torch.tensor(1.5, dtype=dtype)], iterations=5, normalization="after"
    )
    torch.testing.assert_close(probs, q.reshape(1, 3, 1, 1).expand_as(unary).contiguous())


def test_one_label_has_probability_one():
    unary, features, _ = problem(1)
    for transform in (torch.tensor(2.0), torch.ones(1), torch.ones(1, 1)):
        probs = mean_field(unary, features, [transform] * 2)
        torch.testing.assert_close(probs, torch.ones_like(unary), rtol=0, atol=1e-6)


@pytest.mark.parametrize("labels", [2, 5])
def test_potts_is_a_full_matrix_but_for_a_constant(labels):
    """+w, diag(w), w I and -w (1 - I) send messages that softmax cannot tell apart."""
    unary, features, _ = problem(labels)
    identity = torch.eye(labels)
    weight = 1.5
    scalar, *others = (
        mean_field(unary, features, [transform] * 2, iterations=4)
        for transform in (
            torch.tensor(weight),
            torch.full((labels,), weight),
            weight * identity,
            -weight * (1 - identity),
        )
    )
    for other in others:
        torch.testing.assert_close(other, scalar, **TOLERANCE)


def test_a_label_that_is_ruled_out_stays_out():
    unary, features, transforms = problem(3)
    unary[0, 1] = math.inf
    for arguments in (
        (unary, features, transforms),
        (unary.double(), [f.double() for f in features], [t.double() for t in transforms]),
    ):
        leaf = arguments[0].clone().requires_grad_()
        probs = mean_field(leaf, *arguments[1:], iterations=3)
        assert (probs[0, 1] == 0).all()
        assert probs.isfinite().all()
        (grad,) = torch.autograd.grad(probs[:, 0].sum(), leaf)
        assert (grad[0, 1] == 0).all()
        assert grad.isfinite().all()


# Against brute force and the library that people use


# Mean |dQ| against brute force, measured over the crops below; the lattice of pydensecrf has the
# same error, see test_equals_pydensecrf.
MEASURED_ERRORS = {  # position, bilateral xy and rgb; weights; normalisation; self-message
    ((3, 80, 13), (3.0, 10.0), "symmetric", True): 5.3e-03,
    ((3, 80, 13), (3.0, 10.0), "symmetric", False): 5.9e-03,
    ((3, 80, 13), (3.0, 10.0), "after", True): 1.9e-03,
    ((3, 80, 13), (3.0, 10.0), "before", True): 3.2e-03,
    ((3, 80, 13), (3.0, 10.0), "mean", True): 1.5e-03,
    ((3, 67, 3), (3.0, 4.0), "symmetric", True): 2.2e-03,
    ((3, 67, 3), (3.0, 4.0), "symmetric", False): 1.9e-03,
    ((3, 67, 3), (3.0, 4.0), "after", True): 2.4e-03,
    ((3, 67, 3), (3.0, 4.0), "before", True): 2.0e-03,
    ((3, 67, 3), (3.0, 4.0), "mean", True): 9.0e-04,
}


@pytest.mark.cpu_only
@pytest.mark.parametrize(("sigmas", "weights", "kind", "self_message"), MEASURED_ERRORS)
def test_error_against_brute_force(sigmas, weights, kind, self_message):
    """Five labels, 10 iterations, three crops of photographs; 10 % of room."""
    errors, agreement = [], []
    for seed in range(3):
        image, scores = photograph(seed)
        features = kernels_of(image, *sigmas)
        transforms = [torch.tensor(weight).double() for weight in weights]
        options = {"normalization": kind, "self_message": self_message}
        exact = mean_field_exact(-scores, features, transforms, **options)
        single = [[t.float() for t in kernels] for kernels in (features, transforms)]
        probs = mean_field(-scores.float(), *single, **options)
        errors.append((probs - exact).abs().mean().item())
        agreement.append((probs.argmax(1) == exact.argmax(1)).double().mean().item())
    assert np.mean(errors) < 1.1 * MEASURED_ERRORS[sigmas, weights, kind, self_message], errors
    assert np.mean(agreement) > 0.98, agreement


def golden():
    path = SHARED / "golden" / "pydensecrf_24x32.npz"
    if not path.is_file():
        pytest.skip("no ../shared/golden/pydensecrf_24x32.npz")
    arrays = np.load(path)
    image = torch.tensor(arrays["img"]).permute(2, 0, 1).double()
    unary = torch.tensor(arrays["U"]).reshape(1, 4, 24, 32)
    return arrays, unary, kernels_of(image, 3, 20, 13)


# pydensecrf's NO_NORMALIZATION computes a mean and then does not use it: it is "none".
GOLDEN = [("sym", "symmetric"), ("after", "after"), ("before", "before"), ("mean", "none")]


@pytest.mark.parametrize(("name", "kind"), GOLDEN, ids=[kind for _, kind in GOLDEN])
def test_equals_pydensecrf(name, kind, instruction_set):
    arrays, unary, features = golden()
    probs = mean_field(
        unary,
        [f.float() for f in features],
        [torch.tensor(3.0), torch.tensor(4.0)],
        normalization=kind,
    )
    difference = np.abs(probs.reshape(4, -1).cpu().numpy() - arrays[f"lib_{name}"])
    assert difference.mean() < 1e-6


# Memory


def test_awkward_layouts():
    unary, features, transforms = problem(3, (4, 6))
    expected = mean_field(unary, features, transforms)
    plane = transforms[1].diag()
    for layout in (
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: torch.stack([t, -t], -1)[..., 0],
        lambda t: torch.cat([t, t], 1)[:, t.shape[1] :],
    ):
        probs = mean_field(layout(unary), [layout(f) for f in features], transforms)
        assert torch.equal(probs, expected)
        assert probs.is_contiguous()
    strided = torch.stack([transforms[1], -transforms[1]], -1)[:, 0]
    assert torch.equal(mean_field(unary, features, [transforms[0], strided]), expected)
    matrix = torch.randn(3, 3)
    assert torch.equal(
        mean_field(unary, features, [plane, matrix.T.contiguous().T]),
        mean_field(unary, features, [plane, matrix]),
    )


def test_inputs_are_left_as_they_were():
    arguments = problem(3)
    unary, features, transforms = arguments
    copies = unary.clone(), [f.clone() for f in features], [t.clone() for t in transforms]
    mean_field(*arguments)
    assert torch.equal(unary, copies[0])
    for kept, copy in zip(features + transforms, copies[1] + copies[2], strict=True):
        assert torch.equal(kept, copy)


# Gradients

TRANSFORM_SHAPES = [pytest.param((), id="scalar"), pytest.param((3,), id="diagonal")]
TRANSFORM_SHAPES += [pytest.param((3, 3), id="full")]


def gradient_problem(shape, spatial=(2, 2)):
    """Float64 leaves: unary, the features of two kernels, their transforms."""
    unary = torch.randn(1, 3, *spatial, dtype=torch.float64)
    features = [features_inside(1, dims, *spatial) for dims in (2, 3)]
    transforms = [
        torch.randn(shape, dtype=torch.float64),
        torch.tensor(0.7, dtype=torch.float64),
    ]
    return [leaf.requires_grad_() for leaf in (unary, *features, *transforms)]


def flat_mean_field(kind, self_message, iterations=2, **options):
    def inference(unary, first, second, *transforms):
        return mean_field(
            unary,
            [first, second],
            transforms,
            iterations=iterations,
            normalization=kind,
            self_message=self_message,
            **options,
        )

    return inference


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
def test_gradients(kind, self_message):
    shape = (3, 3) if self_message else (3,)
    assert gradcheck(flat_mean_field(kind, self_message), gradient_problem(shape))


def test_second_gradients():
    inference = flat_mean_field("symmetric", False)
    assert gradgradcheck(inference, gradient_problem((3,), spatial=(3,)))


@pytest.mark.parametrize("shape", TRANSFORM_SHAPES)
@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["few-vertices", "many-vertices"])
def test_adjoint_equals_autograd(shape, kind, self_message, spread):
    """The adjoint of the fused form, run in float64, against autograd through the operators."""
    unary, *features = (
        torch.randn(2, channels, 4, 5, dtype=torch.float64, requires_grad=True)
        for channels in (3, 2, 4)
    )
    features = [(spread * f).detach().requires_grad_() for f in features]
    transforms = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.7, dtype=torch.float64, requires_grad=True),
    ]
    leaves = [unary, *features, *transforms]
    probs = flat_mean_field(kind, self_message, iterations=3)(*leaves)
    grad = torch.randn_like(probs)
    expected = torch.autograd.grad(probs, leaves, grad)
    settings = 3, [kind] * 2, self_message, False
    with torch.no_grad():
        inputs = grad, probs, unary, features, transforms, *settings
        actual = ops.mean_field_backward(*inputs, [True] * 2, [True] * 2)
        partial = ops.mean_field_backward(*inputs, [False, True], [True, False])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert [len(partial[1]), len(partial[4])] == [0, 0]
    for k in (0, 2, 3):
        torch.testing.assert_close(partial[k], expected[k], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("features_gradient", ["simplex", "gaussian"])
def test_fused_gradients_are_the_float64_ones(kind, features_gradient):
    torch.manual_seed(1)
    unary, features, transforms = problem(4, (8, 9))
    grad = torch.randn_like(unary)
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (unary, *features, *transforms)]
        inference = flat_mean_field(kind, False, features_gradient=features_gradient)
        grads.append(torch.autograd.grad(inference(*leaves), leaves, grad.to(dtype)))
    for single, double in zip(*grads, strict=True):
        scale = double.abs().max().item()
        torch.testing.assert_close(single, double.float(), rtol=1e-2, atol=1e-4 * scale)


def test_gradients_without_iterations_and_kernels():
    unary, features, transforms = problem(3)
    leaf = unary.requires_grad_()
    grad = torch.randn_like(unary)
    (expected,) = torch.autograd.grad(torch.softmax(-leaf, 1), leaf, grad)
    for arguments in ((features, transforms, 0), ([], [], 3)):
        probs = mean_field(leaf, *arguments[:2], iterations=arguments[2])
        torch.testing.assert_close(torch.autograd.grad(probs, leaf, grad)[0], expected)


def test_empty_batch_has_gradients():
    unary, features, transforms = problem(3, batch=0)
    leaves = [t.requires_grad_() for t in (unary, *features, *transforms)]
    grads = torch.autograd.grad(flat_mean_field("after", True)(*leaves).sum(), leaves)
    assert [g.shape for g in grads] == [t.shape for t in leaves]
    assert all((g == 0).all() for g in grads)


def test_fused_form_is_differentiable_once():
    unary, features, transforms = problem(3)
    probs = mean_field(unary.requires_grad_(), features, transforms)
    (grad,) = torch.autograd.grad(probs.square().sum(), unary, create_graph=True)
    message = (
        "mean_field_backward: the fused form must not be differentiated twice; "
        "mean_field(..., composed=True) can be"
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        grad.sum().backward()


def width_gradients(inference, image, scores, sigmas, weights, **options):
    """d loss / d log of three widths and two weights; cross-entropy with the scores' labels."""
    widths = [torch.tensor(float(s), dtype=torch.float64, requires_grad=True) for s in sigmas]
    transforms = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in weights]
    features = kernels_of(image, *widths)
    probs = inference(-scores, features, transforms, iterations=5, **options)
    labels = scores.argmax(1, keepdim=True)
    loss = -probs.clamp_min(1e-12).gather(1, labels).log().mean()
    leaves = widths + transforms
    grads = torch.autograd.grad(loss, leaves)
    return torch.stack([g * leaf.detach() for g, leaf in zip(grads, leaves, strict=True)])


IMAGES = {"photographs": photograph, "inventions": invention}


@functools.cache
def exact_width_gradients(images, seed, sigmas, weights, kind, device):
    case = IMAGES[images](seed)
    return width_gradients(mean_field_exact, *case, sigmas, weights, normalization=kind)


# |difference| / |exact|, measured over the cases below: sigma_xy of the position kernel, sigma_xy
# and sigma_rgb of the bilateral one, and the two weights.
MEASURED_WIDTHS = {
    ("photographs", "simplex"): (0.67, 1.82, 1.27, 0.18, 0.08),
    ("photographs", "gaussian"): (0.29, 0.15, 0.56, 0.18, 0.08),
    ("inventions", "simplex"): (0.46, 1.04, 1.48, 0.24, 0.08),
    ("inventions", "gaussian"): (0.10, 0.20, 0.22, 0.24, 0.08),
}


@pytest.mark.parametrize(
    ("images", "features_gradient"),
    [
        pytest.param(*key, marks=() if key == ("photographs", "gaussian") else pytest.mark.slow)
        for key in MEASURED_WIDTHS
    ],
)
def test_gradient_of_a_width(images, features_gradient, device):
    pairs = []
    for seed in range(3):
        case = IMAGES[images](seed)
        for setting in (((3, 80, 13), (3.0, 10.0)), ((3, 30, 20), (3.0, 5.0))):
            for kind in ("symmetric", "after"):
                options = {"normalization": kind, "features_gradient": features_gradient}
                lattice = width_gradients(mean_field, *case, *setting, **options)
                exact = exact_width_gradients(images, seed, *setting, kind, device)
                pairs.append((lattice, exact))
    lattice, exact = (torch.stack(side) for side in zip(*pairs, strict=True))
    error = (lattice - exact).norm(dim=0) / exact.norm(dim=0)
    measured = torch.tensor(MEASURED_WIDTHS[images, features_gradient])
    assert (error < 1.1 * measured).all(), error


# Registration


def operator_calls(grad):
    unary, features, transforms = problem(3, (3, 4))
    for tensor in (unary, *features, *transforms):
        tensor.requires_grad_(grad)
    settings = 2, ["symmetric", "mean"], False
    yield ops.mean_field, (unary, features, transforms, *settings)
    yield ops.mean_field, (unary, [], [], 2, [], True)
    half = unary.detach().half().requires_grad_(grad)
    yield ops.mean_field, (half, features, transforms, *settings)
    yield ops.mean_field_gaussian_gradient, (unary, features, transforms, *settings)
    if not grad:  # it refuses to be differentiated
        probs = torch.softmax(-unary, 1)
        inputs = torch.randn_like(unary), probs, unary, features, transforms, *settings
        yield ops.mean_field_backward, (*inputs, False, [True, False], [False, True])
        yield ops.mean_field_backward, (*inputs, True, [True, True], [True, True])


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_registration(grad):
    for operator, arguments in operator_calls(grad):
        torch.library.opcheck(operator.default, arguments)


class SegmentationModel(torch.nn.Module):
    """One convolution, then the CRF over the image with a width that is trained."""

    def __init__(self, **options):
        super().__init__()
        self.scores = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.sigma = torch.nn.Parameter(torch.tensor(0.6))
        self.weight = torch.nn.Parameter(torch.tensor(1.2))
        self.options = options

    def forward(self, image):
        batch, _, height, width = image.shape
        place = positions(height, width).float().expand(batch, -1, -1, -1)
        features = [place / 3, torch.cat([place / 5, image / self.sigma], 1)]
        transforms = [self.weight, self.weight.expand(4)]
        return mean_field(-self.scores(image), features, transforms, iterations=2, **self.options)


MODELS = [
    pytest.param("inductor", {"features_gradient": "gaussian"}, id="inductor"),
    pytest.param("aot_eager", {}, id="traced"),
    pytest.param("aot_eager", {"composed": True, "self_message": False}, id="traced-composed"),
]


@pytest.mark.cpu_only
@pytest.mark.parametrize(("backend", "options"), MODELS)
def test_compiled_model(backend, options):
    """Forward and backward equal the eager ones, where it is cheap for a second size as well."""
    torch._dynamo.reset()
    model = SegmentationModel(**options)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for height in (5, 6) if backend == "aot_eager" else (5,):
        image = torch.rand(2, 3, height, 7)
        results = []
        for network in (model, compiled):
            model.zero_grad()
            probs = network(image)
            probs.square().sum().backward()
            results.append([probs, *(p.grad.clone() for p in model.parameters())])
        for eager, graph in zip(*results, strict=True):
            torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-5)


# Determinism


def probs_and_gradients(unary, features, transforms, **options):
    leaves = [t.clone().requires_grad_() for t in (unary, *features, *transforms)]
    count = len(features)
    probs = mean_field(leaves[0], leaves[1 : count + 1], leaves[count + 1 :], **options)
    return probs, *torch.autograd.grad(probs.square().sum(), leaves)


OPTIONS = [
    pytest.param({}, id="fused"),
    pytest.param({"features_gradient": "gaussian", "normalization": "after"}, id="gaussian"),
    pytest.param({"composed": True, "normalization": "mean", "self_message": False}, id="composed"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_batch_equals_loop(options, instruction_set):
    unary, features, transforms = problem(5, (9, 11), batch=3)
    together = probs_and_gradients(unary, features, transforms, iterations=3, **options)
    for image in range(3):
        one = slice(image, image + 1)
        kernels = [f[one] for f in features]
        alone = probs_and_gradients(unary[one], kernels, transforms, iterations=3, **options)
        # Transforms are shared: their gradient sums over the batch.
        for a, b in zip(together[:4], alone[:4], strict=True):
            assert torch.equal(a[one], b)


@pytest.mark.cpu_only
@pytest.mark.parametrize("options", OPTIONS)
def test_one_thread_equals_many(options, num_threads, instruction_set):
    # So many pixels that torch shares a sum out among its threads.
    unary, features, transforms = problem(3, (190, 230), batch=1, dims=(2, 3))
    results = []
    for threads in (1, 2, 3):
        num_threads(threads)
        results.append(probs_and_gradients(unary, features, transforms, iterations=2, **options))
    # What the composed form sums for a transform, torch shares out.
    compared = 4 if options.get("composed") else 6
    for other in results[1:]:
        for a, b in zip(results[0][:compared], other[:compared], strict=True):
            assert torch.equal(a, b)


# Refusals

GOOD = {
    "unary": torch.ones(1, 3, 4, 5),
    "features": [torch.ones(1, 2, 4, 5)] * 2,
    "transforms": [torch.ones(()), torch.ones(3)],
}
UNUSABLE = (
    "unary must hold no NaN and no -inf, and a finite energy for at least one label of each "
    "pixel, got a pixel that breaks this"
)


def with_value(tensor, index, value):
    changed = tensor.clone()
    changed[index] = value
    return changed


def second(tensor, name="features"):
    """The arguments with another second kernel."""
    return {name: [GOOD[name][0], tensor]}


REJECTED = {
    "unary-type": ({"unary": None}, TypeError, "unary must be a torch.Tensor, got NoneType"),
    "unary-integer": (
        {"unary": torch.ones(1, 3, 4, 5).long()},
        TypeError,
        "unary must have dtype float32, float64, float16 or bfloat16, got int64",
    ),
    "features-half": (
        {"unary": torch.ones(1, 3, 4, 5).half(), **second(torch.ones(1, 2, 4, 5).half())},
        TypeError,
        "features[1] must have dtype float32 beside a unary of float16, got float16",
    ),
    "transforms-double": (
        {"unary": torch.ones(1, 3, 4, 5).bfloat16(), "transforms": [torch.ones(3).double()] * 2},
        TypeError,
        "transforms[0] must have dtype float32 beside a unary of bfloat16, got float64",
    ),
    "unary-rank": (
        {"unary": torch.ones(3, 4), "features": [], "transforms": []},
        ValueError,
        "unary must have shape (B, L, *spatial), got (3, 4)",
    ),
    "no-label": (
        {"unary": torch.ones(1, 0, 4, 5)},
        ValueError,
        "unary must have 1 to 1000 labels, got 0",
    ),
    "1001-labels": (
        {"unary": torch.ones(1, 1001, 4, 5)},
        ValueError,
        "unary must have 1 to 1000 labels, got 1001",
    ),
    "no-pixel": (
        {"unary": torch.ones(1, 3, 0, 5), "features": [torch.ones(1, 2, 0, 5)] * 2},
        ValueError,
        "unary must have at least one pixel, got shape (1, 3, 0, 5)",
    ),
    "features-tensor": (
        {"features": torch.ones(1, 2, 4, 5)},
        TypeError,
        "features must be a list with one tensor for each kernel, got Tensor",
    ),
    "features-element": (
        second("bilateral"),
        TypeError,
        "features[1] must be a torch.Tensor, got str",
    ),
    "features-dtype": (
        second(torch.ones(1, 2, 4, 5).double()),
        TypeError,
        "features[1] must have the dtype of unary, float32, got float64",
    ),
    "features-device": (
        second(torch.ones(1, 2, 4, 5, device="meta")),
        ValueError,
        "features[1] must be on the device of unary, {device}, got meta",
    ),
    "features-spatial": (
        second(torch.ones(1, 2, 5, 4)),
        ValueError,
        "features[1] must have shape (1, D, 4, 5) beside unary (1, 3, 4, 5), got (1, 2, 5, 4)",
    ),
    "features-batch": (
        second(torch.ones(2, 2, 4, 5)),
        ValueError,
        "features[1] must have shape (1, D, 4, 5) beside unary (1, 3, 4, 5), got (2, 2, 4, 5)",
    ),
    "features-rank": (
        second(torch.ones(1, 2, 20)),
        ValueError,
        "features[1] must have shape (1, D, 4, 5) beside unary (1, 3, 4, 5), got (1, 2, 20)",
    ),
    "features-nan": (
        second(with_value(torch.ones(1, 2, 4, 5), (0, 1, 3, 4), math.nan)),
        ValueError,
        "features[1] must be finite, got NaN or infinity in feature 1",
    ),
    "features-inf": (
        second(with_value(torch.ones(1, 2, 4, 5), (0, 0, 0, 0), -math.inf)),
        ValueError,
        "features[1] must be finite, got NaN or infinity in feature 0",
    ),
    "transforms-type": (
        {"transforms": [1.0, 2.0]},
        TypeError,
        "transforms[0] must be a torch.Tensor, got float",
    ),
    "transforms-dtype": (
        second(torch.ones(3).int(), "transforms"),
        TypeError,
        "transforms[1] must have the dtype of unary, float32, got int32",
    ),
    "transforms-count": (
        {"transforms": [torch.ones(())]},
        ValueError,
        "transforms must have one entry for each of features, 2, got 1",
    ),
    "transforms-shape": (
        second(torch.ones(3, 1), "transforms"),
        ValueError,
        "transforms[1] must have shape (), (3,) or (3, 3), got (3, 1)",
    ),
    "transforms-nan": (
        second(with_value(torch.ones(3, 3), (1, 2), math.nan), "transforms"),
        ValueError,
        "transforms[1] must be finite, got nan",
    ),
    "normalization": (
        {"normalization": "sum"},
        ValueError,
        "normalization must be one of none, mean, before, after, symmetric, got 'sum'",
    ),
    "normalization-one-of": (
        {"normalization": ["after", None]},
        ValueError,
        "normalization must be one of none, mean, before, after, symmetric, got None",
    ),
    "normalization-count": (
        {"normalization": ["after"]},
        ValueError,
        "normalization must be one string or one for each kernel, 2, got 1",
    ),
    "normalization-type": (
        {"normalization": None},
        TypeError,
        "normalization must be one string or one for each kernel, got NoneType",
    ),
    "self-message": (
        {"self_message": "no"},
        TypeError,
        "self_message must be True or False, got 'no'",
    ),
    "unary-sparse": (
        {"unary": torch.ones(1, 3, 4, 5).to_sparse()},
        TypeError,
        "unary must be a dense tensor, got a sparse_coo one",
    ),
    "iterations-type": (
        {"iterations": 2.5},
        TypeError,
        "iterations must be an int, got float",
    ),
    "iterations-negative": (
        {"iterations": -1},
        ValueError,
        "iterations must be between 0 and 100, got -1",
    ),
    "iterations-many": (
        {"iterations": 101},
        ValueError,
        "iterations must be between 0 and 100, got 101",
    ),
    "unary-nan": (
        {"unary": with_value(torch.ones(1, 3, 4, 5), (0, 1, 3, 4), math.nan)},
        ValueError,
        UNUSABLE,
    ),
    "unary-minus-inf": (
        {"unary": with_value(torch.ones(1, 3, 4, 5), (0, 2, 0, 1), -math.inf)},
        ValueError,
        UNUSABLE,
    ),
    "unary-all-inf": (
        {"unary": with_value(torch.ones(1, 3, 4, 5), (0, slice(None), 2, 2), math.inf)},
        ValueError,
        UNUSABLE,
    ),
}


@pytest.mark.parametrize("composed", [False, True], ids=["fused", "composed"])
@pytest.mark.parametrize(("change", "error", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejects(change, error, message, composed, moved):
    """Both forms in the same words."""
    message = message.replace("{device}", str(torch.get_default_device()))
    arguments = moved({**GOOD, **change})
    with pytest.raises(error, match=f"^{re.escape('mean_field: ' + message)}$"):
        mean_field(**arguments, composed=composed)


@pytest.mark.parametrize("labels", [1, 2, 3, 21])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_rejects_a_bad_unary_for_any_number_of_labels(labels, value, instruction_set):
    unary, features, transforms = problem(labels, (9, 11))
    unary[1, labels - 1, 8, 10] = value
    for iterations in (0, 2):
        with pytest.raises(ValueError, match=f"^{re.escape('mean_field: ' + UNUSABLE)}$"):
            mean_field(unary, features, transforms, iterations=iterations)


@pytest.mark.parametrize(
    ("dims", "found"), [(0, "0"), (17, "17")], ids=["no-feature", "17-features"]
)
def test_rejects_feature_dimensions(dims, found, moved):
    message = f"mean_field: features[1] must have 1 to 16 feature dimensions, got {found}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mean_field(**moved({**GOOD, **second(torch.ones(1, dims, 4, 5))}))


def test_rejects_features_beyond_the_keys(moved):
    features = with_value(torch.ones(1, 2, 4, 5), (0, 1, 2, 2), 1e10)
    message = (
        r"^mean_field: features\[1\] must stay within int32 lattice coordinates \(about 2e9 / "
        r"\(D \+ 1\) standard deviations\), got a coordinate of [0-9.e+]+; a larger standard "
        r"deviation \(sigma\) makes them smaller$"
    )
    with pytest.raises(ValueError, match=message):
        mean_field(**moved({**GOOD, **second(features)}))


def test_rejects_unknown_gradients(moved):
    good = moved(GOOD)
    message = "mean_field: features_gradient must be one of simplex, gaussian, got 'exact'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mean_field(**good, features_gradient="exact")
    message = "mean_field: features_gradient must be 'simplex' where composed is true, got "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}'gaussian'$"):
        mean_field(**good, features_gradient="gaussian", composed=True)


def test_checks_sizes_without_allocating():
    """2^62 numbers need 2^64 bytes; one number is all that exists."""
    unary = torch.zeros(1).expand(1, 4, 2**30, 2**30)
    message = (
        "mean_field: unary must be small enough for arrays of less than 2^63 bytes, "
        f"got shape {tuple(unary.shape)}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mean_field(unary, [], [])
