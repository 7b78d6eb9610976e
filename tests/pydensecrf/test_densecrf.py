"""The drop-in's classes against the real pydensecrf, its golden file, and on their own."""

import copy
import itertools
import multiprocessing
import pickle
import threading

import densecrf_cases
import numpy as np
import pytest
from densecrf_cases import (
    HEIGHT,
    LABELS,
    PIXELS,
    WIDTH,
    both_kernels,
    photograph,
    unary,
)

import fastseg.pydensecrf
from fastseg.pydensecrf import densecrf as dcrf
from fastseg.pydensecrf import eigen, utils

GOLDEN_NORMALIZATION = {
    "lib_sym": dcrf.NORMALIZE_SYMMETRIC,
    "lib_after": dcrf.NORMALIZE_AFTER,
    "lib_before": dcrf.NORMALIZE_BEFORE,
    "lib_mean": dcrf.NO_NORMALIZATION,
}


@pytest.fixture(autouse=True)
def ours(installed):
    """The cases import pydensecrf."""


def crf_2d():
    return densecrf_cases.crf_2d()


@pytest.mark.parametrize("name", densecrf_cases.CASES)
def test_same_as_real(name, same_as_real):
    # Both sides work in float32; rounding grows over up to 250 updates.
    same_as_real(densecrf_cases, name, atol=2e-4)


@pytest.mark.parametrize("name", GOLDEN_NORMALIZATION)
def test_golden_file(name, golden):
    crf = dcrf.DenseCRF2D(32, 24, 4)
    crf.setUnaryEnergy(utils.unary_from_softmax(golden["P"]))
    normalization = GOLDEN_NORMALIZATION[name]
    crf.addPairwiseGaussian(3, 3, normalization=normalization)
    crf.addPairwiseBilateral(20, 13, golden["img"], 4, normalization=normalization)
    q = np.array(crf.inference(10))
    expected = golden[name].reshape(q.shape)
    assert np.abs(q - expected).mean() < 1e-3
    np.testing.assert_array_equal(q.argmax(axis=0), expected.argmax(axis=0))


def test_gaussian_equals_its_features():
    crf = crf_2d()
    crf.addPairwiseGaussian((3, 5), 3)
    other = crf_2d()
    y, x = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1).astype(np.float32)
    other.addPairwiseEnergy(np.stack([x / 3, y / 5]), 3)
    np.testing.assert_allclose(crf.inference(5), other.inference(5), atol=1e-6)


def test_constant_unary_without_colour_stays_uniform():
    crf = dcrf.DenseCRF2D(9, 7, 3)
    crf.setUnaryEnergy(np.zeros((3, 63), np.float32))
    crf.addPairwiseBilateral(20, 13, np.zeros((7, 9, 3), np.uint8), 10)
    np.testing.assert_allclose(crf.inference(10), 1 / 3, atol=1e-6)


def test_public_names():
    names = {"DenseCRF", "DenseCRF2D", "Unary", "ConstUnary", "LogisticUnary", "eigen"}
    names |= {"KernelType", "NormalizationType", *dcrf.KernelType.__members__}
    names |= set(dcrf.NormalizationType.__members__)
    assert set(dcrf.__all__) == names
    assert [kind.name for kind in dcrf.KernelType] == ["CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"]
    assert [(kind.name, kind.value) for kind in dcrf.NormalizationType] == [
        ("NO_NORMALIZATION", 0),
        ("NORMALIZE_BEFORE", 1),
        ("NORMALIZE_AFTER", 2),
        ("NORMALIZE_SYMMETRIC", 3),
    ]


def same_place(compat, pixels=20):
    """A CRF whose pixels are all at one place: F, normalised after, takes the mean of Q."""
    crf = dcrf.DenseCRF(pixels, LABELS)
    crf.setUnaryEnergy(unary(LABELS, pixels))
    features = np.zeros((2, pixels), np.float32)
    crf.addPairwiseEnergy(features, compat, normalization=dcrf.NORMALIZE_AFTER)
    return crf


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=0)


MATRIX = np.random.default_rng(3).normal(0, 2, (LABELS, LABELS)).astype(np.float32)

TRANSFORMS = {
    "number": (2.5, 2.5 * np.eye(LABELS)),
    "negative-number": (-1, -np.eye(LABELS)),
    "vector": (MATRIX[0], -np.diag(MATRIX[0])),
    "matrix": (MATRIX, -(MATRIX + MATRIX.T) / 2),
}


@pytest.mark.parametrize(("compat", "transform"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_signs_of_the_compatibilities(compat, transform):
    crf = same_place(compat)
    energies = unary(LABELS, 20)
    q = softmax(-energies)
    np.testing.assert_allclose(crf.inference(0), q, atol=1e-6)
    message = transform @ q.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(crf.inference(1), softmax(-energies + message), atol=1e-5)


@pytest.mark.parametrize(("compat", "transform"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_divergence_of_known_value(compat, transform):
    crf = same_place(compat)
    energies = unary(LABELS, 20)
    q = softmax(-energies).astype(float)
    message = transform @ q.mean(axis=1, keepdims=True)
    expected = (q * np.log(q)).sum() + (q * energies).sum() - (q * message).sum()
    assert crf.klDivergence(crf.inference(0)) == pytest.approx(expected, rel=1e-5)


def test_steps_equal_inference():
    crf = both_kernels(crf_2d())
    q, first, second = crf.startInference()
    for count in range(1, 6):
        crf.stepInference(q, first, second)
        np.testing.assert_allclose(q, crf.inference(count), atol=1e-6)


AWKWARD_UNARY = {
    "fortran": lambda u: np.asfortranarray(u),
    "strided": lambda u: np.repeat(u, 2, axis=1)[:, ::2],
    "negative-stride": lambda u: u[:, ::-1].copy()[:, ::-1],
    "memoryview": memoryview,
    "matrix": eigen.matrixXf,
}


@pytest.mark.parametrize("awkward", AWKWARD_UNARY.values(), ids=AWKWARD_UNARY)
def test_awkward_unary_and_features(awkward):
    expected = both_kernels(crf_2d()).inference(3)
    crf = both_kernels(dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS))
    crf.setUnaryEnergy(awkward(unary()))
    np.testing.assert_array_equal(crf.inference(3), np.asarray(expected))
    crf.setUnary(dcrf.ConstUnary(awkward(unary())))
    np.testing.assert_array_equal(crf.inference(3), np.asarray(expected))

    features = utils.create_pairwise_gaussian((3, 3), (HEIGHT, WIDTH))
    found = []
    for given in (features, awkward(features)):
        crf = crf_2d()
        crf.addPairwiseEnergy(given, 3)
        found.append(np.array(crf.inference(3)))
    np.testing.assert_array_equal(*found)


AWKWARD_IMAGE = {
    "bgr-view": lambda image: image[..., ::-1].copy()[..., ::-1],
    "transposed": lambda image: image.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "cropped": lambda image: np.pad(image, ((2, 3), (4, 1), (0, 2)))[2:-3, 4:-1, :3],
    "memoryview": memoryview,
}


@pytest.mark.parametrize("awkward", AWKWARD_IMAGE.values(), ids=AWKWARD_IMAGE)
def test_awkward_image(awkward):
    found = []
    for image in (photograph(), awkward(photograph())):
        crf = crf_2d()
        crf.addPairwiseBilateral(20, 13, image, 4)
        found.append(np.array(crf.inference(3)))
    np.testing.assert_array_equal(*found)


def test_read_only_arrays_are_served():
    energies, image = unary(), photograph()
    energies.flags.writeable = image.flags.writeable = False
    crf = crf_2d()
    crf.setUnaryEnergy(energies)
    crf.addPairwiseBilateral(20, 13, image, 4)
    assert np.isfinite(crf.inference(2)).all()


def test_awkward_compatibilities_are_served():
    matrix = np.random.default_rng(1).normal(0, 2, (LABELS, LABELS)).astype(np.float32)
    cases = [(matrix, np.asfortranarray(matrix)), (matrix[0], np.repeat(matrix[0], 2)[::2])]
    for plain, awkward in cases:
        found = []
        for compat in (plain, awkward):
            crf = crf_2d()
            crf.addPairwiseGaussian(3, compat)
            found.append(np.array(crf.inference(3)))
        np.testing.assert_array_equal(*found)


def test_unary_object_serves_twice():
    energies = dcrf.ConstUnary(unary())
    found = []
    for crf in (crf_2d(), dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)):
        both_kernels(crf)
        crf.setUnary(energies)
        crf.setUnary(energies)
        found.append(np.array(crf.inference(3)))
    np.testing.assert_array_equal(*found)


def test_logistic_unary_is_a_product():
    rng = np.random.default_rng(2)
    weights, measured = rng.normal(size=(3, 5)).astype("f"), rng.normal(size=(5, 20)).astype("f")
    expected = dcrf.DenseCRF(20, 3)
    expected.setUnaryEnergy(weights @ measured)
    for set_unary in (
        lambda crf: crf.setUnary(dcrf.LogisticUnary(weights, measured)),
        lambda crf: crf.setUnaryEnergy(weights, measured),
        lambda crf: crf.setUnaryEnergy(np.asfortranarray(weights), f=measured),
    ):
        crf = dcrf.DenseCRF(20, 3)
        set_unary(crf)
        np.testing.assert_allclose(crf.inference(0), expected.inference(0), atol=1e-6)


def test_no_pixels():
    crf = dcrf.DenseCRF2D(0, 4, 3)
    crf.setUnaryEnergy(np.zeros((3, 0), np.float32))
    crf.addPairwiseGaussian(3, 3)
    crf.addPairwiseBilateral(3, 3, np.zeros((4, 0, 3), np.uint8), 3)
    q, first, second = crf.startInference()
    crf.stepInference(q, first, second)
    assert np.array(q).shape == np.array(crf.inference(5)).shape == (3, 0)
    assert np.argmax(q, axis=0).reshape(4, 0).shape == (4, 0)
    assert crf.klDivergence(q) == 0


class Named(dcrf.DenseCRF2D):
    """A subclass with an argument of its own, which pydensecrf turns into a crash."""

    def __init__(self, name, width, height, labels, unary):
        super().__init__(width, height, labels)
        self.name = name
        self.setUnaryEnergy(unary)

    def labels(self, count):
        return np.argmax(self.inference(count), axis=0)


def test_subclass_with_arguments_of_its_own():
    crf = both_kernels(Named("scene", WIDTH, HEIGHT, LABELS, unary()))
    expected = np.argmax(both_kernels(crf_2d()).inference(3), axis=0)
    np.testing.assert_array_equal(crf.labels(3), expected)
    assert crf.name == "scene"


def test_subclass_without_init():
    crf = type("Plain", (dcrf.DenseCRF2D,), {})(5, 4, 3, "more")
    crf.addPairwiseGaussian(3, 3)
    assert np.array(crf.inference(2)).shape == (3, 20)


def test_subclass_that_does_not_create_its_base():
    class Silent(dcrf.DenseCRF2D):
        def __init__(self, width, height, labels, name):
            self.name = name

    crf = Silent(5, 4, 3, "scene")
    for call in (
        lambda: crf.inference(1),
        lambda: crf.setUnaryEnergy(np.zeros((3, 20), np.float32)),
        lambda: crf.addPairwiseGaussian(3, 3),
        lambda: crf.startInference(),
    ):
        with pytest.raises(
            TypeError, match=r"^Silent: Silent.__init__ must call super\(\).__init__ with the sizes"
        ):
            call()
    with pytest.raises(AttributeError, match="'Silent' object has no attribute 'other'"):
        crf.other()


def test_subclass_of_a_unary():
    class Doubled(dcrf.ConstUnary):
        def __init__(self, energies):
            super().__init__(2 * energies)

    crf = crf_2d()
    crf.setUnary(Doubled(unary()))
    expected = crf_2d()
    expected.setUnaryEnergy(2 * unary())
    np.testing.assert_array_equal(crf.inference(0), np.asarray(expected.inference(0)))


def test_unaries_can_be_copied_and_crfs_cannot():
    energies = dcrf.ConstUnary(unary())
    for other in (copy.deepcopy(energies), pickle.loads(pickle.dumps(energies))):
        crf = crf_2d()
        crf.setUnary(other)
        np.testing.assert_array_equal(crf.inference(0), np.asarray(crf_2d().inference(0)))
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^DenseCRF2D objects cannot be copied or pickled"):
            duplicate(crf_2d())
    assert pickle.loads(pickle.dumps(dcrf.DIAG_KERNEL)) is dcrf.DIAG_KERNEL


def refined():
    return np.array(both_kernels(crf_2d()).inference(5))


def test_two_threads():
    """Two CRFs at once, and one CRF from two threads."""
    shared = both_kernels(crf_2d())
    expected, found = refined(), []

    def work():
        found.append(refined())
        found.append(np.array(shared.inference(5)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for q in found:
        np.testing.assert_array_equal(q, expected)


def test_fork_after_use():
    """A forked process, as in a data loader's worker, has no threads of its parent's."""
    expected = refined()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for q in [task.get(timeout=60) for task in [pool.apply_async(refined) for _ in range(4)]]:
            np.testing.assert_array_equal(q, expected)


def test_any_number_of_threads_gives_equal_bits():
    before = fastseg.pydensecrf.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            fastseg.pydensecrf.set_num_threads(threads)
            assert fastseg.pydensecrf.get_num_threads() == threads
            found.append(refined())
    finally:
        fastseg.pydensecrf.set_num_threads(before)
    for one, other in itertools.pairwise(found):
        np.testing.assert_array_equal(one, other)


FEATURES = np.zeros((2, PIXELS), np.float32)
IMAGE = photograph()


def changed(values, value):
    values = values.copy()
    values.flat[7] = value
    return values


def infer_with(energies):
    crf = crf_2d()
    crf.setUnaryEnergy(energies)
    return crf.inference(1)


def step(q, *others):
    return crf_2d().stepInference(q, *others)


REJECTED = {
    "nvar-negative": (
        lambda crf: dcrf.DenseCRF(-5, 3),
        *(ValueError, "DenseCRF: nvar must not be negative, got -5"),
    ),
    "nvar-text": (
        lambda crf: dcrf.DenseCRF("5", 3),
        *(TypeError, "DenseCRF: nvar must be an integer, got '5'"),
    ),
    "nvar-nan": (
        lambda crf: dcrf.DenseCRF(float("nan"), 3),
        *(ValueError, "DenseCRF: nvar must be an integer, got nan"),
    ),
    "w-negative": (
        lambda crf: dcrf.DenseCRF2D(-5, -4, 3),
        *(ValueError, "DenseCRF2D: h must not be negative, got -4"),
    ),
    "w-none": (
        lambda crf: dcrf.DenseCRF2D(None, 4, 3),
        *(TypeError, "DenseCRF2D: w must be an integer, got NoneType"),
    ),
    "nlabels-zero": (
        lambda crf: dcrf.DenseCRF2D(5, 4, 0),
        *(ValueError, "DenseCRF2D: nlabels must be at least 1, got 0"),
    ),
    "too-many-pixels": (
        lambda crf: dcrf.DenseCRF2D(2**40, 2**40, 3),
        *(ValueError, r"MeanField: spatial must be small enough"),
    ),
    "niter-text": (
        lambda crf: crf.inference("5"),
        *(TypeError, "inference: niter must be an integer, got '5'"),
    ),
    "unary-none": (
        lambda crf: crf.setUnaryEnergy(None),
        *(TypeError, "setUnaryEnergy: u must not be None"),
    ),
    "unary-list": (
        lambda crf: crf.setUnaryEnergy([[1.0]]),
        *(TypeError, "setUnaryEnergy: u must be a NumPy array, got list"),
    ),
    "unary-dtype": (
        lambda crf: crf.setUnaryEnergy(unary().astype(float)),
        ValueError,
        r"setUnaryEnergy: u must have dtype float32, got float64; array.astype\(np.float32\) ",
    ),
    "unary-rank": (
        lambda crf: crf.setUnaryEnergy(unary().reshape(4, 24, 32)),
        *(ValueError, r"setUnaryEnergy: u must have 2 dimensions, got shape \(4, 24, 32\)"),
    ),
    "unary-shape": (
        lambda crf: crf.setUnaryEnergy(unary().T),
        ValueError,
        r"setUnaryEnergy: u must have shape \(nlabels, nvar\) = \(4, 768\), got \(768, 4\)",
    ),
    "unary-nan": (
        lambda crf: infer_with(changed(unary(), np.nan)),
        *(ValueError, ".*unary must .*NaN"),
    ),
    "unary-minus-infinity": (
        lambda crf: infer_with(changed(unary(), -np.inf)),
        *(ValueError, ".*unary must .*-inf"),
    ),
    "unary-without-a-label": (
        lambda crf: infer_with(np.where(np.arange(PIXELS) == 7, np.inf, unary()).astype("f")),
        *(ValueError, ".*unary must .*at least one label of each pixel"),
    ),
    "unary-features": (
        lambda crf: crf.setUnaryEnergy(np.ones((4, 3), "f"), np.ones((2, PIXELS), "f")),
        ValueError,
        r"setUnaryEnergy: f must have as many rows as u has columns, 3, got shape \(2, 768\)",
    ),
    "unary-product-shape": (
        lambda crf: crf.setUnaryEnergy(np.ones((5, 3), "f"), np.ones((3, PIXELS), "f")),
        *(ValueError, r"setUnaryEnergy: u must have shape .* \(4, 768\), got \(5, 768\)"),
    ),
    "set-unary-none": (
        lambda crf: crf.setUnary(None),
        TypeError,
        "setUnary: u must be a ConstUnary or a LogisticUnary, got NoneType",
    ),
    "set-unary-bare": (
        lambda crf: crf.setUnary(dcrf.Unary()),
        TypeError,
        "setUnary: u must be a ConstUnary or a LogisticUnary, got Unary without energies",
    ),
    "set-unary-shape": (
        lambda crf: crf.setUnary(dcrf.ConstUnary(unary(3))),
        *(ValueError, r"setUnary: u must have shape .* = \(4, 768\), got \(3, 768\)"),
    ),
    "logistic-shape": (
        lambda crf: dcrf.LogisticUnary(np.eye(4, dtype="f"), np.ones((3, 9), "f")),
        ValueError,
        r"LogisticUnary: f must have as many rows as L has columns, 4, got shape \(3, 9\)",
    ),
    "features-shape": (
        lambda crf: crf.addPairwiseEnergy(FEATURES[:, :9], 3),
        ValueError,
        r"addPairwiseEnergy: features must have shape \(D, nvar\) = \(D, 768\), got \(2, 9\)",
    ),
    "features-none": (
        lambda crf: crf.addPairwiseEnergy(np.zeros((0, PIXELS), "f"), 3),
        *(ValueError, "addPairwiseEnergy: features must have 1 to 16 feature dimensions, got 0"),
    ),
    "features-many": (
        lambda crf: crf.addPairwiseEnergy(np.zeros((17, PIXELS), "f"), 3),
        *(ValueError, "addPairwiseEnergy: features must have 1 to 16 feature dimensions, got 17"),
    ),
    "features-nan": (
        lambda crf: crf.addPairwiseEnergy(changed(FEATURES, np.nan), 3),
        *(ValueError, "addPairwiseEnergy: features must be finite, got "),
    ),
    "features-infinite": (
        lambda crf: crf.addPairwiseEnergy(changed(FEATURES, np.inf), 3),
        *(ValueError, "addPairwiseEnergy: features must be finite, got "),
    ),
    "features-large": (
        lambda crf: crf.addPairwiseEnergy(changed(FEATURES, 1e30), 3),
        *(ValueError, "addPairwiseEnergy: features must stay within int32 lattice coordinates"),
    ),
    "compat-vector": (
        lambda crf: crf.addPairwiseGaussian(3, np.ones(3, "f")),
        ValueError,
        r"addPairwiseGaussian: compat must be a number or have shape \(4,\) or \(4, 4\), "
        r"got \(3,\)",
    ),
    "compat-matrix": (
        lambda crf: crf.addPairwiseEnergy(FEATURES, np.ones((4, 3), "f")),
        *(ValueError, r"addPairwiseEnergy: compat must be a number .* \(4, 4\), got \(4, 3\)"),
    ),
    "compat-0-d": (
        lambda crf: crf.addPairwiseGaussian(3, np.array(3, "f")),
        ValueError,
        r"addPairwiseGaussian: compat must be a number or have 1 or 2 dimensions, got shape \(\)",
    ),
    "compat-nan": (
        lambda crf: crf.addPairwiseGaussian(3, float("nan")),
        *(ValueError, "addPairwiseGaussian: compat must be finite in float32, got nan"),
    ),
    "compat-large": (
        lambda crf: crf.addPairwiseGaussian(3, 1e300),
        *(ValueError, r"addPairwiseGaussian: compat must be finite in float32, got 1e\+300"),
    ),
    "compat-larger-than-float": (
        lambda crf: crf.addPairwiseGaussian(3, 10**400),
        *(ValueError, "addPairwiseGaussian: compat must be finite in float32, got a larger number"),
    ),
    "compat-list": (
        lambda crf: crf.addPairwiseGaussian(3, [1, 2]),
        *(TypeError, "addPairwiseGaussian: compat must be a NumPy array, got list"),
    ),
    "compat-complex": (
        lambda crf: crf.addPairwiseGaussian(3, 2j),
        *(TypeError, "addPairwiseGaussian: compat must be a real number, got complex"),
    ),
    "kernel": (
        lambda crf: crf.addPairwiseGaussian(3, 3, kernel=7),
        ValueError,
        r"addPairwiseGaussian: kernel must be one of CONST_KERNEL \(0\), DIAG_KERNEL \(1\), "
        r"FULL_KERNEL \(2\), got 7",
    ),
    "normalization": (
        lambda crf: crf.addPairwiseGaussian(3, 3, normalization=-1),
        *(ValueError, r"addPairwiseGaussian: normalization must be one of NO_N.*\(3\), got -1"),
    ),
    "sxy-zero": (
        lambda crf: crf.addPairwiseGaussian(0, 3),
        *(ValueError, "addPairwiseGaussian: sxy must be positive in float32, got 0"),
    ),
    "sxy-negative": (
        lambda crf: crf.addPairwiseGaussian((3, -3), 3),
        *(ValueError, "addPairwiseGaussian: sxy must be positive in float32, got -3"),
    ),
    "sxy-nan": (
        lambda crf: crf.addPairwiseGaussian(float("nan"), 3),
        *(ValueError, "addPairwiseGaussian: sxy must be positive in float32, got nan"),
    ),
    "sxy-short": (
        lambda crf: crf.addPairwiseGaussian((3,), 3),
        *(IndexError, r"addPairwiseGaussian: sxy must be a number or 2 of them, got \(3,\)"),
    ),
    "sxy-tiny": (
        lambda crf: crf.addPairwiseGaussian(1e-30, 3),
        ValueError,
        r"addPairwiseGaussian: with sxy \(1e-30, .*\): features must stay within int32 lattice",
    ),
    "srgb-zero": (
        lambda crf: crf.addPairwiseBilateral(3, (3, 0, 3), IMAGE, 3),
        *(ValueError, "addPairwiseBilateral: srgb must be positive in float32, got 0"),
    ),
    "srgb-tiny": (
        lambda crf: crf.addPairwiseBilateral(3, 1e-8, IMAGE, 3),
        ValueError,
        r"addPairwiseBilateral: with sxy \(3, 3\) and srgb \(1e-08, .*\): features must stay",
    ),
    "srgb-none": (
        lambda crf: crf.addPairwiseBilateral(3, None, IMAGE, 3),
        *(TypeError, "addPairwiseBilateral: srgb must be a number or 3 of them, got NoneType"),
    ),
    "image-unit": (
        lambda crf: crf.addPairwiseBilateral(3, 3, IMAGE / 255, 3),
        ValueError,
        r"addPairwiseBilateral: rgbim must have dtype uint8, got float64; its values end at 1 and "
        r"0-255 is meant: \(255 \* image\).round\(\).astype\(np.uint8\)",
    ),
    "image-float": (
        lambda crf: crf.addPairwiseBilateral(3, 3, IMAGE.astype("f"), 3),
        ValueError,
        r"addPairwiseBilateral: rgbim must have dtype uint8, got float32; "
        r"image.round\(\).astype\(np.uint8\) converts",
    ),
    "image-int": (
        lambda crf: crf.addPairwiseBilateral(3, 3, IMAGE.astype(np.int32), 3),
        *(ValueError, "addPairwiseBilateral: rgbim must have dtype uint8, got int32; "),
    ),
    "image-none": (
        lambda crf: crf.addPairwiseBilateral(3, 3, None, 3),
        *(TypeError, "addPairwiseBilateral: rgbim must not be None"),
    ),
    "image-turned": (
        lambda crf: crf.addPairwiseBilateral(3, 3, IMAGE.transpose(1, 0, 2), 3),
        ValueError,
        r"addPairwiseBilateral: rgbim must have shape \(h, w, 3\) = \(24, 32, 3\), "
        r"got \(32, 24, 3\); DenseCRF2D takes the width first",
    ),
    "image-channels": (
        lambda crf: crf.addPairwiseBilateral(3, 3, IMAGE[..., :2], 3),
        *(ValueError, r".*got \(24, 32, 2\); utils.create_pairwise_bilateral and addPairwise"),
    ),
    "step-array": (
        lambda crf: step(unary(), None, None),
        TypeError,
        r"stepInference: Q must be an eigen.MatrixXf, got ndarray; eigen.matrixXf\(array\) makes",
    ),
    "step-shape": (
        lambda crf: step(eigen.MatrixXf(), eigen.MatrixXf(), eigen.MatrixXf()),
        ValueError,
        r"stepInference: Q must have shape \(nlabels, nvar\) = \(4, 768\), got \(0, 0\)",
    ),
    "step-buffer": (
        lambda crf: step(eigen.matrixXf(unary()), unary(), None),
        *(TypeError, "stepInference: tmp1 must be an eigen.MatrixXf, got ndarray"),
    ),
    "divergence-none": (
        lambda crf: crf.klDivergence(None),
        *(TypeError, "klDivergence: Q must be an eigen.MatrixXf, got NoneType"),
    ),
    "divergence-shape": (
        lambda crf: crf.klDivergence(eigen.matrixXf(unary(3))),
        *(ValueError, r"klDivergence: Q must have shape .* \(4, 768\), got \(3, 768\)"),
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REJECTED.values(), ids=REJECTED)
def test_rejects(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(crf_2d())


def test_a_refused_kernel_leaves_the_crf_as_it_was():
    crf = both_kernels(crf_2d())
    expected = np.array(crf.inference(3))
    for features, compat in (
        (changed(FEATURES, np.nan), 3),
        (FEATURES, np.ones(9, "f")),
        (changed(FEATURES, 1e30), 3),
    ):
        with pytest.raises(ValueError, match="must"):
            crf.addPairwiseEnergy(features, compat)
    with pytest.raises(ValueError, match="must have shape"):
        crf.setUnaryEnergy(unary(3))
    np.testing.assert_array_equal(crf.inference(3), expected)
