"""Cases that the real pydensecrf serves or refuses, without the ones that crash it.

pydensecrf is imported when a case runs, so that the same functions run on either package.
"""

from fractions import Fraction

import numpy as np

HEIGHT, WIDTH, LABELS = 24, 32, 4
PIXELS = HEIGHT * WIDTH
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def library():
    import pydensecrf.densecrf as dcrf

    return dcrf


def photograph(height=HEIGHT, width=WIDTH, channels=3):
    """Two smooth regions with noise; uint8."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    inside = (x - 0.4 * width) ** 2 + (y - 0.5 * height) ** 2 < (0.3 * height) ** 2
    colours = rng.integers(40, 200, (2, channels))
    noise = rng.normal(0, 6, (height, width, channels))
    return (colours[inside.astype(int)] + noise).clip(0, 255).astype(np.uint8)


def unary(labels=LABELS, pixels=PIXELS, seed=1):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 1.0, (labels, pixels)).astype(np.float32)


def crf_2d(height=HEIGHT, width=WIDTH, labels=LABELS, seed=1):
    crf = library().DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(unary(labels, height * width, seed))
    return crf


def both_kernels(crf, height=HEIGHT, width=WIDTH, **options):
    crf.addPairwiseGaussian(sxy=3, compat=3, **options)
    crf.addPairwiseBilateral(sxy=20, srgb=13, rgbim=photograph(height, width), compat=4, **options)
    return crf


def with_compat(compat):
    crf = crf_2d()
    crf.addPairwiseGaussian(sxy=3, compat=compat)
    return np.array(crf.inference(5))


@case
def symmetric():
    return [both_kernels(crf_2d()).inference(n) for n in (0, 1, 5, 10)]


@case
def after():
    return [
        both_kernels(crf_2d(), normalization=library().NORMALIZE_AFTER).inference(n)
        for n in (1, 10)
    ]


@case
def before():
    return [
        both_kernels(crf_2d(), normalization=library().NORMALIZE_BEFORE).inference(n)
        for n in (1, 10)
    ]


@case
def no_normalization():
    # Weights of a thousandth: the raw kernels' sums reach hundreds.
    crf = crf_2d()
    raw = library().NO_NORMALIZATION
    crf.addPairwiseGaussian(3, 0.02, normalization=raw)
    crf.addPairwiseBilateral(20, 13, photograph(), 0.005, normalization=raw)
    return [crf.inference(n) for n in (1, 10)]


@case
def no_normalization_saturated():
    return both_kernels(crf_2d(), normalization=library().NO_NORMALIZATION).inference(10)


@case
def kernel_types():
    dcrf = library()
    kinds = (dcrf.CONST_KERNEL, dcrf.DIAG_KERNEL, dcrf.FULL_KERNEL)
    return [both_kernels(crf_2d(), kernel=kind).inference(3) for kind in kinds]


@case
def enums():
    dcrf = library()
    values = [(m.name, m.value) for e in (dcrf.KernelType, dcrf.NormalizationType) for m in e]
    return [list(pair) for pair in values]


@case
def integers_for_enums():
    crf = crf_2d()
    crf.addPairwiseGaussian(3, 3, 2, 1)
    crf.addPairwiseGaussian(3, 3, 1.0, 2.0)
    return crf.inference(5)


@case
def separate_sigmas():
    crf = crf_2d()
    crf.addPairwiseGaussian((2, 5), 3)
    crf.addPairwiseBilateral([30.5, 9], (5, 13.25, 40), photograph(), 4)
    crf.addPairwiseGaussian(np.array([4.0, 1.1]), 1)
    return crf.inference(5)


@case
def infinite_sigma():
    crf = crf_2d()
    crf.addPairwiseGaussian((3, float("inf")), 3)
    return crf.inference(5)


@case
def huge_sigma():
    crf = crf_2d()
    crf.addPairwiseGaussian(1e8, 3)
    crf.addPairwiseBilateral(1e8, 1e8, photograph(), 3)
    return crf.inference(5)


@case
def compat_negative_number():
    return with_compat(-2.5)


@case
def compat_number_types():
    numbers = (3, 3.0, True, np.float32(3), np.float64(3), np.int64(3), Fraction(3, 2))
    return [with_compat(number) for number in numbers]


@case
def compat_vector():
    return with_compat(np.array([-1.0, -3.0, 0.5, 2.0], np.float32))


@case
def compat_matrix():
    rng = np.random.default_rng(3)
    return with_compat((4 * (1 - np.eye(LABELS)) * rng.random((LABELS, LABELS))).astype("f"))


@case
def compat_negative_asymmetric_matrix():
    return with_compat(np.random.default_rng(4).normal(0, 3, (LABELS, LABELS)).astype("f"))


@case
def compat_forms_together():
    rng = np.random.default_rng(5)
    crf = crf_2d()
    crf.addPairwiseGaussian(3, 2)
    crf.addPairwiseGaussian(5, rng.normal(0, 1, LABELS).astype("f"))
    crf.addPairwiseBilateral(20, 13, photograph(), rng.normal(0, 1, (LABELS, LABELS)).astype("f"))
    crf.addPairwiseBilateral(9, 30, photograph(), 1, normalization=library().NORMALIZE_AFTER)
    return crf.inference(5), crf.klDivergence(crf.inference(5))


@case
def no_kernel():
    crf = crf_2d()
    return crf.inference(3), crf.klDivergence(crf.inference(3))


@case
def no_unary():
    crf = both_kernels(library().DenseCRF2D(WIDTH, HEIGHT, LABELS))
    q, first, second = crf.startInference()
    start = np.array(q)
    crf.stepInference(q, first, second)
    return crf.inference(2), start, q, crf.klDivergence(q)


@case
def no_unary_and_no_kernel():
    crf = library().DenseCRF(5, 3)
    q, *_ = crf.startInference()
    return crf.inference(2), q, crf.klDivergence(crf.inference(0))


@case
def kernel_added_after_inference():
    crf = crf_2d()
    crf.addPairwiseGaussian(3, 3)
    first = crf.inference(3)
    crf.addPairwiseBilateral(20, 13, photograph(), 4)
    return first, crf.inference(3), first


@case
def another_unary():
    crf = both_kernels(crf_2d())
    first = crf.inference(3)
    crf.setUnaryEnergy(unary(seed=2))
    second = crf.inference(3)
    crf.setUnary(library().ConstUnary(unary(seed=1)))
    return first, second, crf.inference(3)


@case
def unary_is_copied():
    energies = unary()
    crf = library().DenseCRF2D(WIDTH, HEIGHT, LABELS)
    crf.setUnaryEnergy(energies)
    crf.addPairwiseGaussian(3, 3)
    energies[:] = 0
    return crf.inference(3)


@case
def features_are_copied():
    features = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1).astype(np.float32) / 3
    crf = crf_2d()
    crf.addPairwiseEnergy(features, 3)
    features[:] = 0
    return crf.inference(3)


@case
def logistic_unary():
    rng = np.random.default_rng(6)
    weights = rng.normal(0, 1, (LABELS, 9)).astype("f")
    measured = rng.normal(0, 1, (9, PIXELS)).astype("f")
    crf = both_kernels(library().DenseCRF2D(WIDTH, HEIGHT, LABELS))
    crf.setUnary(library().LogisticUnary(weights, measured))
    return crf.inference(5), crf.startInference()[0]


@case
def set_unary_energy_with_features():
    energies = unary(3, 20)
    crf = library().DenseCRF(20, 3)
    crf.setUnaryEnergy(energies, np.random.default_rng(8).random((20, 20)).astype("f"))
    return crf.inference(1)


@case
def set_unary_energy_without_features():
    crf = library().DenseCRF(20, 3)
    crf.setUnaryEnergy(u=unary(3, 20), f=None)
    return crf.inference(1)


@case
def infinite_energy():
    energies = unary()
    energies[1, ::3] = np.inf
    crf = both_kernels(crf_2d())
    crf.setUnaryEnergy(energies)
    return crf.inference(5), (np.asarray(crf.inference(5))[1, ::3] == 0).all().item()


@case
def step_by_step():
    crf = both_kernels(crf_2d())
    q, first, second = crf.startInference()
    seen = [np.array(q)]
    divergence = [crf.klDivergence(q)]
    for _ in range(5):
        crf.stepInference(q, first, second)
        seen.append(np.array(q))
        divergence.append(crf.klDivergence(q))
    return seen, divergence, crf.inference(5), np.array(first).shape, np.array(second).shape


@case
def step_writes_through_a_view():
    crf = both_kernels(crf_2d())
    q, first, second = crf.startInference()
    view = np.asarray(q)
    crf.stepInference(q, first, second)
    written = np.array_equal(view, np.asarray(q))
    view[:] = 1 / LABELS
    crf.stepInference(q, first, second)
    return written, q


@case
def step_from_own_start():
    from pydensecrf.eigen import MatrixXf, matrixXf

    rng = np.random.default_rng(9)
    q = matrixXf(rng.dirichlet(np.ones(LABELS), PIXELS).T.astype("f", order="C"))
    crf = both_kernels(crf_2d())
    crf.stepInference(q, MatrixXf(), MatrixXf())
    return q, crf.klDivergence(q)


@case
def many_iterations():
    crf = crf_2d()
    crf.addPairwiseGaussian(3, 2)
    return [crf.inference(n) for n in (99, 100, 101, 250)]


@case
def iterations_of_other_types():
    crf = both_kernels(crf_2d())
    return [crf.inference(n) for n in (3.0, 3.7, True, np.int64(3), np.float32(3), -3)]


@case
def sizes_of_other_types():
    dcrf = library()
    crfs = [dcrf.DenseCRF(20.0, 3), dcrf.DenseCRF(20.9, 3.2), dcrf.DenseCRF(np.prod((4, 5)), 3)]
    crfs += [dcrf.DenseCRF(nlabels=3, nvar=20), dcrf.DenseCRF(20, 3, "more", other=1)]
    crfs += [dcrf.DenseCRF2D(5, np.int32(4), 3), dcrf.DenseCRF2D(5, 4, 3, "more", other=1)]
    return [crf.inference(1) for crf in crfs]


@case
def volume():
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian

    shape = (6, 10, 8)
    scan = photograph(60, 8, 1).reshape(shape)
    crf = library().DenseCRF(scan.size, 2)
    crf.setUnaryEnergy(unary(2, scan.size))
    crf.addPairwiseEnergy(create_pairwise_gaussian((1, 2, 2), shape), compat=2)
    crf.addPairwiseEnergy(create_pairwise_bilateral((3, 5, 5), (13,), scan), compat=4)
    return crf.inference(10), crf.klDivergence(crf.inference(10))


@case
def features_of_seven_dimensions():
    from pydensecrf.utils import create_pairwise_bilateral

    image = photograph(channels=5)
    crf = crf_2d()
    crf.addPairwiseEnergy(create_pairwise_bilateral((20, 20), (13,) * 5, image, chdim=2), 4)
    return crf.inference(5)


@case
def features_of_one_dimension():
    crf = crf_2d()
    crf.addPairwiseEnergy(np.linspace(0, 40, PIXELS, dtype="f").reshape(1, -1), 2)
    return crf.inference(5)


@case
def odd_size():
    return both_kernels(crf_2d(7, 13), 7, 13).inference(5)


@case
def one_row():
    return both_kernels(crf_2d(1, 40), 1, 40).inference(5)


@case
def one_pixel():
    return both_kernels(crf_2d(1, 1), 1, 1).inference(5)


@case
def one_label():
    return both_kernels(crf_2d(labels=1)).inference(5)


@case
def two_labels():
    return both_kernels(crf_2d(labels=2)).inference(5)


@case
def many_labels():
    return both_kernels(crf_2d(labels=21)).inference(5), both_kernels(crf_2d(labels=70)).inference(
        2
    )


@case
def strong_weights():
    crf = crf_2d()
    crf.addPairwiseGaussian(3, 500)
    crf.addPairwiseBilateral(20, 13, photograph(), 1000)
    return crf.inference(5)


@case
def image_of_booleans():
    crf = crf_2d()
    crf.addPairwiseBilateral(3, 0.5, photograph() > 100, 3)
    return crf.inference(3)


def refused(name, call):
    """``call`` raises in the real pydensecrf."""
    CASES[f"refused: {name}"] = lambda: call(crf_2d(), library())


FEATURES = np.zeros((2, PIXELS), np.float32)
IMAGE = photograph()

refused("too few sizes", lambda crf, dcrf: dcrf.DenseCRF(5))
refused("too few sizes 2D", lambda crf, dcrf: dcrf.DenseCRF2D(5, 4))
refused("nvar text", lambda crf, dcrf: dcrf.DenseCRF("5", 3))
refused("nvar none", lambda crf, dcrf: dcrf.DenseCRF(None, 3))
refused("w text", lambda crf, dcrf: dcrf.DenseCRF2D("5", 4, 3))
refused("niter text", lambda crf, dcrf: crf.inference("5"))
refused("niter none", lambda crf, dcrf: crf.inference(None))
refused("niter missing", lambda crf, dcrf: crf.inference())
refused("unary transposed", lambda crf, dcrf: crf.setUnaryEnergy(unary().T.copy()))
refused("unary double", lambda crf, dcrf: crf.setUnaryEnergy(unary().astype(float)))
refused("unary half", lambda crf, dcrf: crf.setUnaryEnergy(unary().astype(np.float16)))
refused("unary integers", lambda crf, dcrf: crf.setUnaryEnergy(unary().astype(int)))
refused("unary big-endian", lambda crf, dcrf: crf.setUnaryEnergy(unary().astype(">f4")))
refused("unary 3-D", lambda crf, dcrf: crf.setUnaryEnergy(unary().reshape(4, 24, 32)))
refused("unary 1-D", lambda crf, dcrf: crf.setUnaryEnergy(unary().ravel()))
refused("unary none", lambda crf, dcrf: crf.setUnaryEnergy(None))
refused("unary list", lambda crf, dcrf: crf.setUnaryEnergy(unary().tolist()))
refused("unary number", lambda crf, dcrf: crf.setUnaryEnergy(3))
refused("unary too few labels", lambda crf, dcrf: crf.setUnaryEnergy(unary(3)))
refused("unary too few pixels", lambda crf, dcrf: crf.setUnaryEnergy(unary(4, 760)))
refused("unary missing", lambda crf, dcrf: crf.setUnaryEnergy())
refused("unary features double", lambda crf, dcrf: crf.setUnaryEnergy(unary(), np.eye(PIXELS)))
refused("set_unary array", lambda crf, dcrf: crf.setUnary(unary()))
refused("const unary missing", lambda crf, dcrf: dcrf.ConstUnary())
refused("const unary none", lambda crf, dcrf: dcrf.ConstUnary(None))
refused("const unary double", lambda crf, dcrf: dcrf.ConstUnary(np.ones((2, 2))))
refused("const unary 1-D", lambda crf, dcrf: dcrf.ConstUnary(np.ones(2, "f")))
refused("logistic unary missing", lambda crf, dcrf: dcrf.LogisticUnary(unary()))
refused("logistic unary none", lambda crf, dcrf: dcrf.LogisticUnary(unary(), None))
refused("features double", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES.astype(float), 3))
refused("features 1-D", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES[0], 3))
refused("features 3-D", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES.reshape(2, 24, 32), 3))
refused("features none", lambda crf, dcrf: crf.addPairwiseEnergy(None, 3))
refused("features width", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES[:, :9].copy(), 3))
refused("compat missing", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES))
refused("compat none", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, None))
refused("compat text", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, "abc"))
refused("compat list", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, [1, 2, 3, 4]))
refused("compat complex", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, 2j))
refused("compat double", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, np.ones(4)))
refused("compat integers", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, np.ones(4, int)))
refused("compat 0-D", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, np.array(3, "f")))
refused("compat 3-D", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, np.ones((4, 4, 4), "f")))
refused("kernel text", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, 3, "diag"))
refused("kernel none", lambda crf, dcrf: crf.addPairwiseEnergy(FEATURES, 3, None))
refused("normalization none", lambda crf, dcrf: crf.addPairwiseGaussian(3, 3, normalization=None))
refused("gaussian compat missing", lambda crf, dcrf: crf.addPairwiseGaussian(3))
refused("sxy one entry", lambda crf, dcrf: crf.addPairwiseGaussian((3,), 3))
refused("sxy none", lambda crf, dcrf: crf.addPairwiseGaussian(None, 3))
refused("sxy text", lambda crf, dcrf: crf.addPairwiseGaussian("34", 3))
refused("sxy complex", lambda crf, dcrf: crf.addPairwiseGaussian(2j, 3))
refused("sxy 0-D", lambda crf, dcrf: crf.addPairwiseGaussian(np.array(3.0), 3))
refused("srgb two entries", lambda crf, dcrf: crf.addPairwiseBilateral(3, (3, 3), IMAGE, 3))
refused("srgb none", lambda crf, dcrf: crf.addPairwiseBilateral(3, None, IMAGE, 3))
refused("image none", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, None, 3))
refused("image list", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE.tolist(), 3))
refused("image float", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE / 255, 3))
refused("image int", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE.astype(int), 3))
refused("image int8", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE.astype("i1"), 3))
refused("image uint16", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE.astype("u2"), 3))
refused("image grey", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE[..., 0].copy(), 3))
refused("image RGBA", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE.repeat(2, 2), 3))
refused("image turned", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, photograph(32, 24), 3))
refused("image of other size", lambda crf, dcrf: crf.addPairwiseBilateral(3, 3, IMAGE[:9], 3))
refused("gaussian without a size", lambda crf, dcrf: dcrf.DenseCRF(9, 3).addPairwiseGaussian(3, 3))
refused("step of an array", lambda crf, dcrf: crf.stepInference(unary(), None, None))
refused("step without matrices", lambda crf, dcrf: crf.stepInference(crf.inference(1)))
refused("step with arrays", lambda crf, dcrf: crf.stepInference(crf.inference(1), unary(), unary()))
refused("divergence of an array", lambda crf, dcrf: crf.klDivergence(unary()))
refused("pickle", lambda crf, dcrf: __import__("pickle").dumps(crf))
refused("copy", lambda crf, dcrf: __import__("copy").copy(crf))
