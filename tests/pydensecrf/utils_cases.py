"""Cases for the helpers; pydensecrf is imported when a case runs."""

import numpy as np

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def library():
    import pydensecrf.utils as utils

    return utils


def labels(low, high, dtype=int):
    return np.random.default_rng(1).integers(low, high, (5, 7)).astype(dtype)


def probs(dtype=float, shape=(4, 5, 7)):
    scores = np.random.default_rng(2).normal(0, 4, shape)
    scores = np.exp(scores) / np.exp(scores).sum(0)
    return scores.astype(dtype)


def image(*shape, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, 256, shape).astype(dtype)


@case
def labels_with_unsure():
    utils = library()
    return [
        utils.unary_from_labels(labels(0, 4), 3, 0.7),
        utils.unary_from_labels(labels(1, 4), 3, gt_prob=0.7, zero_unsure=True),
        utils.unary_from_labels(labels(0, 4, np.int32), 3, 0.5),
        utils.unary_from_labels(labels(0, 3).ravel(), 2, 0.01, 1),
    ]


@case
def labels_without_unsure():
    utils = library()
    return [
        utils.unary_from_labels(labels(0, 3), 3, 0.7, False),
        utils.unary_from_labels(labels(0, 3, np.uint8), 3, 0.9, zero_unsure=None),
        utils.unary_from_labels(labels(0, 2, np.int16), 21, 0.999, zero_unsure=False),
    ]


@case
def compute_unary():
    utils = library()
    return [utils.compute_unary(labels(0, 4), 3), utils.compute_unary(labels(0, 4), 3, GT_PROB=0.8)]


@case
def softmax():
    utils = library()
    return [
        utils.unary_from_softmax(probs()),
        utils.unary_from_softmax(probs(np.float32)),
        utils.unary_from_softmax(probs(np.float16)),
        utils.unary_from_softmax(probs(np.float32, (2, 3, 4, 5))),
        utils.unary_from_softmax(probs(shape=(3, 8))),
        utils.unary_from_softmax(sm=probs(), scale=0.7, clip=1e-3),
        utils.unary_from_softmax(probs(np.float32), 0.7),
        utils.unary_from_softmax(probs(), 1),
        utils.unary_from_softmax(probs(), clip=None),
        utils.unary_from_softmax(np.eye(3)),
        utils.unary_from_softmax(np.eye(3, dtype=int)),
    ]


@case
def softmax_to_unary():
    utils = library()
    return [utils.softmax_to_unary(probs()), utils.softmax_to_unary(probs(), GT_PROB=0.6)]


@case
def softmax_of_zero():
    with np.errstate(divide="ignore"):
        return library().unary_from_softmax(np.eye(3), clip=None)


@case
def gaussian_features():
    utils = library()
    return [
        utils.create_pairwise_gaussian((3, 4.5), (5, 7)),
        utils.create_pairwise_gaussian(sdims=[2, 3, 7], shape=[4, 5, 6]),
        utils.create_pairwise_gaussian((0.1,), (9,)),
        utils.create_pairwise_gaussian(np.array([3.3, 0.7]), (5, 7)),
        utils._create_pairwise_gaussian_2d(3, 4, (5, 7)),
    ]


@case
def bilateral_features():
    utils = library()
    return [
        utils.create_pairwise_bilateral((3, 4), (5, 6, 7), image(5, 7, 3), chdim=2),
        utils.create_pairwise_bilateral((3, 4), 0.3, image(5, 7, 3), chdim=2),
        utils.create_pairwise_bilateral([3, 4], [0.1], image(5, 7)),
        utils.create_pairwise_bilateral((3, 4), 13, image(5, 7) / 255.0, -1),
        utils.create_pairwise_bilateral((3, 4), (5, 6), image(2, 5, 7), chdim=0),
        utils.create_pairwise_bilateral((1, 2, 3), (9,), image(4, 5, 6)),
        utils.create_pairwise_bilateral((1, 2, 3), (9, 8), image(4, 2, 5, 6), chdim=1),
        utils.create_pairwise_bilateral(sdims=(3, 4), schan=np.float32(7), img=image(5, 7)),
        utils.create_pairwise_bilateral((3, 4), (np.float64(0.7),), image(5, 7)),
        utils._create_pairwise_bilateral_2d(3, 4, 5, 6, 7, image(5, 7, 3)),
    ]


@case
def too_few_sigmas_keep_the_scale():
    utils = library()
    return [
        utils.create_pairwise_bilateral((3, 4), (0.05, 0.05), image(3, 5, 7), chdim=0),
        utils.create_pairwise_bilateral((3,), (5,), image(5, 7)),
    ]


@case
def star_import():
    names = {}
    exec("from pydensecrf.utils import *", names)
    return sorted(
        name
        for name in names
        if name.startswith(("unary", "create", "compute", "softmax"))
        or name in ("np", "Number", "warning")
    )


def refused(name, call):
    CASES[f"refused: {name}"] = lambda: call(library())


refused("gt_prob zero", lambda utils: utils.unary_from_labels(labels(0, 3), 3, 0))
refused("gt_prob one", lambda utils: utils.unary_from_labels(labels(0, 3), 3, 1.0))
refused("label too large", lambda utils: utils.unary_from_labels(labels(0, 9), 3, 0.7))
refused("label 255", lambda utils: utils.unary_from_labels(np.array([1, 255]), 3, 0.7))
refused("label one too large", lambda utils: utils.unary_from_labels(labels(0, 4), 3, 0.7, False))
refused("labels float", lambda utils: utils.unary_from_labels(labels(0, 3, float), 3, 0.7))
refused("scale zero", lambda utils: utils.unary_from_softmax(probs(), scale=0))
refused("scale above one", lambda utils: utils.unary_from_softmax(probs(), scale=1.1))
refused("sdims number", lambda utils: utils.create_pairwise_gaussian(3, (5, 7)))
refused("sdims too many", lambda utils: utils.create_pairwise_gaussian((1, 2, 3), (5, 7)))
refused(
    "bilateral sdims too many",
    lambda utils: utils.create_pairwise_bilateral((1, 2, 3), (5,), image(5, 7)),
)
refused(
    "schan too many", lambda utils: utils.create_pairwise_bilateral((1, 2), (5, 5), image(5, 7))
)
