"""Programs as users of pydensecrf write them: post-processing, pseudo-labels, volumes.

Not one of them knows of this package. Imports stand inside, so that each runs on the pydensecrf
that is installed when it runs.
"""

import numpy as np

CASES = {}


def program(function):
    CASES[function.__name__] = function
    return function


def scene(height=40, width=56, labels=5):
    """A photograph and the softmax of a coarse network for it, (labels, height, width)."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:height, :width]
    truth = ((x // 19) + 2 * (y // 23)) % labels
    image = rng.integers(30, 220, (labels, 3))[truth] + rng.normal(0, 8, (height, width, 3))
    logits = 2.0 * (np.roll(truth, 3, axis=1) == np.arange(labels)[:, None, None])
    logits = logits + rng.normal(0, 1.0, logits.shape)
    exponentials = np.exp(logits)
    return image.clip(0, 255).astype(np.uint8), exponentials / exponentials.sum(axis=0)


@program
def network_postprocessing():
    """A callable with the parameters of a configuration file."""
    import pydensecrf.densecrf as dcrf
    import pydensecrf.utils as utils

    class PostProcessor:
        def __init__(self, iter_max, pos_w, pos_xy_std, bi_w, bi_xy_std, bi_rgb_std):
            self.iter_max = iter_max
            self.pos = {"sxy": pos_xy_std, "compat": pos_w}
            self.bi = {"sxy": bi_xy_std, "srgb": bi_rgb_std, "compat": bi_w}

        def __call__(self, image, probmap):
            classes, height, width = probmap.shape
            energy = np.ascontiguousarray(utils.unary_from_softmax(probmap))
            image = np.ascontiguousarray(image)
            model = dcrf.DenseCRF2D(width, height, classes)
            model.setUnaryEnergy(energy)
            model.addPairwiseGaussian(**self.pos)
            model.addPairwiseBilateral(rgbim=image, **self.bi)
            return np.array(model.inference(self.iter_max)).reshape((classes, height, width))

    image, probs = scene()
    refined = PostProcessor(10, 3, 1, 4, 67, 3)(image, probs.astype(np.float32))
    return refined, np.argmax(refined, axis=0)


@program
def pseudo_labels_from_a_map():
    """Weak supervision: sure labels from a class activation map, with names in any order."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_labels

    def crf_on_labels(image, labels, rounds=10, n_labels=21, gt_prob=0.7):
        height, width = image.shape[:2]
        model = dcrf.DenseCRF2D(width, height, n_labels)
        model.setUnaryEnergy(
            unary_from_labels(labels, n_labels, gt_prob=gt_prob, zero_unsure=False)
        )
        model.addPairwiseGaussian(sxy=3, compat=3)
        model.addPairwiseBilateral(
            sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(image)), compat=10
        )
        return np.argmax(np.array(model.inference(rounds)).reshape((n_labels, height, width)), 0)

    image, probs = scene()
    cam = probs.max(axis=0)
    keys = np.pad(np.array([3, 7, 12, 15, 20]), (1, 0), mode="constant")
    found = np.argmax(np.pad(probs, ((1, 0), (0, 0), (0, 0)), constant_values=0.3), axis=0)
    sure = crf_on_labels(image, found, n_labels=keys.shape[0])
    unsure = crf_on_labels(
        image, np.where(cam > 0.5, found, 0), n_labels=keys.shape[0], gt_prob=0.9
    )
    return keys[sure], keys[unsure]


@program
def scaled_image():
    """Standard deviations that follow the scale of the image."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    def refine(image, probs, t=10, scale_factor=1, labels=5):
        h, w = image.shape[:2]
        d = dcrf.DenseCRF2D(w, h, labels)
        d.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs)))
        d.addPairwiseGaussian(sxy=3 / scale_factor, compat=3)
        d.addPairwiseBilateral(
            sxy=80 / scale_factor, srgb=13, rgbim=np.copy(np.ascontiguousarray(image)), compat=10
        )
        return np.array(d.inference(t)).reshape((labels, h, w))

    image, probs = scene()
    return [refine(image, probs, scale_factor=s) for s in (1, 1.5, 12)]


@program
def annotation_with_unknown_pixels():
    """Colours of an annotation become labels; black is not a label. Two ways, two classes."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import (
        create_pairwise_bilateral,
        create_pairwise_gaussian,
        unary_from_labels,
    )

    image, probs = scene()
    palette = np.array([0x0000FF, 0x00FF00, 0, 0xFF0000, 0xFFFF00], dtype=np.uint32)
    colours, labels = np.unique(palette[np.argmax(probs, axis=0)], return_inverse=True)
    has_unknown = 0 in colours
    if has_unknown:
        colours = colours[1:]
    n_labels = len(set(labels.flat)) - int(has_unknown)

    found = []
    for use_2d in (True, False):
        if use_2d:
            d = dcrf.DenseCRF2D(image.shape[1], image.shape[0], n_labels)
        else:
            d = dcrf.DenseCRF(image.shape[1] * image.shape[0], n_labels)
        d.setUnaryEnergy(unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=has_unknown))
        options = {
            "kernel": dcrf.DIAG_KERNEL,
            "normalization": dcrf.NORMALIZE_SYMMETRIC,
        }
        if use_2d:
            d.addPairwiseGaussian(sxy=(3, 3), compat=3, **options)
            d.addPairwiseBilateral(
                sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10, **options
            )
        else:
            feats = create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
            d.addPairwiseEnergy(feats, compat=3, **options)
            feats = create_pairwise_bilateral(
                sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2
            )
            d.addPairwiseEnergy(feats, compat=10, **options)
        Q = d.inference(5)
        MAP = np.argmax(Q, axis=0)
        found.append(colours[MAP].reshape(image.shape[:2]))

    Q, tmp1, tmp2 = d.startInference()
    divergences = []
    for _ in range(5):
        divergences.append(d.klDivergence(Q))
        d.stepInference(Q, tmp1, tmp2)
    return found, divergences


@program
def one_channel_and_convergence():
    """Not RGB: one measured channel, and the divergence per pixel along the way."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import create_pairwise_bilateral, unary_from_softmax

    H, W, NLABELS = 40, 56, 2
    image, probs = scene(H, W, NLABELS)
    img = image[..., :1].astype(np.float32) / 255
    U = unary_from_softmax(probs)
    pairwise_energy = create_pairwise_bilateral(sdims=(10, 10), schan=(0.05,), img=img, chdim=2)
    d = dcrf.DenseCRF2D(W, H, NLABELS)
    d.setUnaryEnergy(U)
    d.addPairwiseEnergy(pairwise_energy, compat=10)
    Q, tmp1, tmp2 = d.startInference()
    solutions = []
    for steps in (5, 20):
        for _ in range(steps):
            d.stepInference(Q, tmp1, tmp2)
        solutions.append((d.klDivergence(Q) / (H * W), np.argmax(Q, axis=0).reshape((H, W))))
    return solutions, pairwise_energy.reshape((-1, H, W))


@program
def binary_mask():
    """A grey mask 0-255 refined to a mask; its probabilities are float64."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    image, probs = scene(labels=2)
    mask = (255 * probs[1]).astype(np.uint8)
    prob = np.stack([1 - mask / 255, mask / 255], axis=0)
    d = dcrf.DenseCRF2D(image.shape[1], image.shape[0], 2)
    d.setUnaryEnergy(unary_from_softmax(prob, scale=0.9))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    solution = np.argmax(d.inference(5), axis=0).reshape((image.shape[0], image.shape[1]))
    return (solution * 255).astype(np.uint8)


@program
def medical_volume():
    """A scan with two modalities, channels first, weighted features and another step loop."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import (
        create_pairwise_bilateral,
        create_pairwise_gaussian,
        unary_from_softmax,
    )

    rng = np.random.default_rng(5)
    shape = (6, 16, 20)
    truth = np.linalg.norm(np.indices(shape).T - (3, 8, 10), axis=-1).T < 6
    scan = np.stack([truth * 90.0, truth * 40.0 + 60]) + rng.normal(0, 10, (2, *shape))
    lesion = np.clip(0.25 + 0.5 * truth + rng.normal(0, 0.2, shape), 0.01, 0.99)
    d = dcrf.DenseCRF(np.prod(shape), 2)
    d.setUnaryEnergy(unary_from_softmax(np.stack([1 - lesion, lesion])))
    gaussian = create_pairwise_gaussian((1.0, 1.0, 1.0), shape)
    d.addPairwiseEnergy(0.5 * gaussian, compat=3, kernel=dcrf.FULL_KERNEL)
    bilateral = create_pairwise_bilateral((5.0,) * 3, (20.0,) * scan.shape[0], scan, chdim=0)
    d.addPairwiseEnergy(bilateral, compat=10, normalization=dcrf.NORMALIZE_AFTER)
    Q, tmp1, tmp2 = d.startInference()
    for _ in range(5):
        d.stepInference(Q, tmp1, tmp2)
    segmentation = np.argmax(Q, axis=0).reshape(shape).astype(np.float32)
    return segmentation, np.asarray(d.inference(5), np.float32).reshape(2, *shape)


@program
def unsupervised_batch():
    """Two images, channels first, 150 rounds of one strong bilateral term."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import create_pairwise_bilateral, unary_from_softmax

    def fit_predict(softmax, image, niter=150):
        unary = unary_from_softmax(softmax).reshape(softmax.shape[0], -1)
        bilateral = create_pairwise_bilateral(
            sdims=(25, 25), schan=(0.05, 0.05, 0.05), img=image, chdim=0
        )
        crf = dcrf.DenseCRF2D(image.shape[2], image.shape[1], softmax.shape[0])
        crf.setUnaryEnergy(unary)
        crf.addPairwiseEnergy(bilateral, compat=100)
        return np.array(crf.inference(niter)).reshape((-1, image.shape[1], image.shape[2]))

    image, probs = scene()
    images = np.stack([image, image[::-1]]).transpose(0, 3, 1, 2) / 255.0
    return np.stack(
        [fit_predict(p, x) for p, x in zip([probs, probs[:, ::-1]], images, strict=True)]
    )


@program
def compatibility_between_classes():
    """A learned compatibility, a unary set from an object, and Q among other arrays."""
    from pydensecrf.densecrf import (
        DIAG_KERNEL,
        NORMALIZE_AFTER,
        ConstUnary,
        DenseCRF2D,
    )
    from pydensecrf.utils import unary_from_softmax

    image, probs = scene()
    classes, height, width = probs.shape
    penalty = np.full((classes, classes), 3, dtype=np.float32)
    np.fill_diagonal(penalty, 0)
    penalty[0, 1] = 9
    crf = DenseCRF2D(width, height, classes)
    crf.setUnary(ConstUnary(unary_from_softmax(probs)))
    crf.addPairwiseBilateral(40, 13, image, penalty, DIAG_KERNEL, NORMALIZE_AFTER)
    crf.addPairwiseGaussian(2, np.array([-1, -1, -2, -1, -1], dtype=np.float32))
    q = crf.inference(8)
    before = probs.reshape(classes, -1)
    confidence = np.max(q, axis=0) - np.max(before, axis=0)
    return np.mean(before * q, axis=1), confidence.reshape(height, width), np.sum(q, axis=0)
