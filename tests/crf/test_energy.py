"""Energy of a labelling: the worked 3x3 example, an independent double loop, and refusals."""

import itertools
import math
import re

import pytest
import torch

from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel, energy

KERNELS = [GaussianKernel(1.0, 1.0), BilateralKernel(1.0, 1.0, 1.0)]


@pytest.fixture
def example():
    """A white 3x3 image with a black centre, and the probability of label 1 at each pixel."""
    image = torch.full((1, 1, 3, 3), 255.0)
    image[0, 0, 1, 1] = 0
    one = torch.tensor([[0.8, 0.8, 0.8], [0.9, 0.1, 0.8], [0.9, 0.9, 0.9]], dtype=torch.float64)
    return image, torch.stack([1 - one, one])[None]


def labelling(centre):
    labels = torch.ones(1, 3, 3, dtype=torch.int64)
    labels[0, 1, 1] = centre
    return labels


@pytest.mark.parametrize(
    ("centre", "distance", "log", "unary", "pairwise"),
    [
        (0, "chebyshev", "log10", 0.616428, 4.852245),
        (1, "chebyshev", "log10", 1.570670, 0.0),
        (0, "chebyshev", "natural", 1.419377, 4.852245),
        (1, "chebyshev", "natural", 3.616601, 0.0),
        (0, "euclidean", "natural", 1.419377, 4 * math.exp(-0.5) + 4 * math.exp(-1)),
        (1, "euclidean", "natural", 3.616601, 0.0),
    ],
)
def test_worked_example(example, centre, distance, log, unary, pairwise):
    image, probs = example
    found = energy(labelling(centre), probs, KERNELS, image, distance=distance, log=log)
    assert found.unary.item() == pytest.approx(unary, abs=5e-7)
    assert found.pairwise.item() == pytest.approx(pairwise, abs=5e-7)
    assert found.total.item() == pytest.approx(unary + pairwise, abs=1e-6)


@pytest.mark.parametrize("log", ["natural", "log10"])
def test_filling_the_hole_is_the_minimum_of_all_labellings(example, log):
    image, probs = example
    every = torch.tensor(list(itertools.product([0, 1], repeat=9))).reshape(512, 3, 3)
    total = energy(
        every,
        probs.expand(512, -1, -1, -1),
        KERNELS,
        image.expand(512, -1, -1, -1),
        distance="chebyshev",
        log=log,
    ).total
    order = total.argsort()
    assert torch.equal(every[order[0]], labelling(1)[0])
    assert torch.equal(every[order[1]], labelling(0)[0])
    assert total[order[0]] < total[order[1]] < total[order[2]]


def test_mean_field_of_the_example_fills_the_hole(example):
    image, probs = example
    crf = DenseCRF(
        KERNELS, normalization="none", self_message=False, exact=True, distance="chebyshev"
    )
    centre = []
    for iterations in (0, 1, 2, 5, 10):
        crf.iterations = iterations
        centre.append(crf(probs, image, kind="probabilities")[0, 1, 1, 1].item())
    assert centre == pytest.approx([0.100, 0.768, 0.926, 0.9335, 0.9335], abs=5e-4)


def by_loops(labels, theta, terms, price):
    """sum_{i<j}, written out; terms: (features of a pixel, weight)."""
    pixels = list(itertools.product(*map(range, labels.shape)))
    unary = sum(theta[(labels[p], *p)] for p in pixels)
    pairwise = 0.0
    for p, q in itertools.combinations(pixels, 2):
        for feature, weight in terms:
            apart = sum((a - b) ** 2 for a, b in zip(feature(p), feature(q), strict=True))
            cost = price[labels[p]][labels[q]]
            pairwise += weight * cost * math.exp(-apart / 2)
    return unary, pairwise


@pytest.mark.parametrize(
    ("compatibility", "price"),
    [
        (None, lambda a, b: float(a != b)),
        ([-1.0, -2.0, 0.5], lambda a, b: [-1.0, -2.0, 0.5][a] if a == b else 0.0),
        (
            [[0.0, 1.0, 3.0], [2.0, 0.0, 1.0], [3.0, 5.0, -1.0]],
            lambda a, b: [[0, 1.5, 3], [1.5, 0, 3], [3, 3, -1]][a][b],
        ),
    ],
    ids=["potts", "diagonal", "full-asymmetric"],
)
def test_against_a_double_loop(compatibility, price):
    image = torch.randint(0, 20, (1, 3, 4, 5))
    logits = torch.randn(1, 3, 4, 5)
    labels = torch.randint(0, 3, (1, 4, 5))
    kernels = [GaussianKernel((2.0, 3.0), 0.7), BilateralKernel(4.0, (5.0, 6.0, 7.0), 1.3)]
    found = energy(labels, logits, kernels, image, compatibility, kind="logits")

    values = image[0].tolist()
    terms = [
        (lambda p: (p[1] / 2, p[0] / 3), 0.7),
        (
            lambda p: (
                p[1] / 4,
                p[0] / 4,
                *(values[c][p[0]][p[1]] / (5.0, 6.0, 7.0)[c] for c in range(3)),
            ),
            1.3,
        ),
    ]
    theta = -torch.log_softmax(logits[0].double(), 0)
    table = [[price(a, b) for b in range(3)] for a in range(3)]
    unary, pairwise = by_loops(labels[0], theta, terms, table)
    assert found.unary.item() == pytest.approx(float(unary), rel=1e-6)
    # Weights such as 0.7 are float32 parameters: seven digits.
    assert found.pairwise.item() == pytest.approx(pairwise, rel=1e-6)


def test_weights_by_class_equal_the_matrix_they_stand_for():
    labels, probs = torch.randint(0, 3, (2, 3, 4)), torch.softmax(torch.randn(2, 3, 3, 4), 1)
    vector = torch.tensor([1.0, 2.0, 3.0])
    one = energy(labels, probs, [GaussianKernel(weight=vector)])
    matrix = energy(labels, probs, [GaussianKernel(weight=vector.diag())])
    # Potts times diag(w), symmetric part: a pair of labels a, b costs (w_a + w_b) / 2.
    pair = (1 - torch.eye(3)) * (vector[:, None] + vector) / 2
    priced = energy(labels, probs, [GaussianKernel(weight=1.0)], compatibility=pair)
    assert torch.allclose(one.pairwise, matrix.pairwise, rtol=1e-12)
    assert torch.allclose(one.pairwise, priced.pairwise, rtol=1e-12)


def test_batch_equals_loop_and_volumes():
    labels, logits = torch.randint(0, 2, (3, 2, 3, 4)), torch.randn(3, 2, 2, 3, 4)
    image = torch.randint(0, 256, (3, 1, 2, 3, 4))
    kernels = [GaussianKernel(), BilateralKernel()]
    whole = energy(labels, logits, kernels, image, kind="logits")
    for i in range(3):
        part = energy(
            labels[i : i + 1], logits[i : i + 1], kernels, image[i : i + 1], kind="logits"
        )
        assert torch.equal(part.total[0], whole.total[i])


def test_blocks_of_rows_change_nothing(monkeypatch):
    labels, logits = torch.randint(0, 2, (1, 5, 6)), torch.randn(1, 2, 5, 6)
    features = torch.randn(1, 4, 5, 6)
    whole = energy(labels, logits, [FeatureKernel()], features=features, kind="logits").pairwise
    monkeypatch.setattr("fastseg.crf.labelling_energy.BLOCK_VALUES", 70)  # two rows
    parts = energy(labels, logits, [FeatureKernel()], features=features, kind="logits").pairwise
    assert torch.allclose(whole, parts, rtol=1e-12)


def test_kinds_of_scores_agree():
    labels, logits = torch.randint(0, 3, (2, 4, 4)), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    by_logits = energy(labels, logits, [], kind="logits").unary
    probs = torch.softmax(logits, 1)
    assert torch.allclose(energy(labels, probs, []).unary, by_logits)
    assert torch.allclose(energy(labels, -probs.log(), [], kind="unary").unary, by_logits)


def test_impossible_label_costs_the_clipped_logarithm():
    probs = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    found = energy(torch.ones(1, 1, 1, dtype=torch.int64), probs, [])
    assert found.unary.item() == pytest.approx(-math.log(1e-5), rel=1e-6)


def test_gradients_in_float64():
    labels = torch.randint(0, 2, (1, 3, 3))
    logits = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    features = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def total(logits, features):
        return energy(labels, logits, [FeatureKernel()], features=features, kind="logits").total

    assert torch.autograd.gradcheck(total, (logits, features))
    assert torch.autograd.gradgradcheck(total, (logits, features))


def test_empty_batch():
    found = energy(
        torch.zeros(0, 2, 2, dtype=torch.int64), torch.zeros(0, 3, 2, 2), [GaussianKernel()]
    )
    assert found.total.shape == (0,)


def test_unit_range_image_draws_a_warning():
    image = torch.rand(1, 3, 2, 2)
    with pytest.warns(UserWarning, match="^energy: image should hold 0-255 values where sigma_rgb"):
        energy(
            torch.zeros(1, 2, 2, dtype=torch.int64),
            torch.full((1, 2, 2, 2), 0.5),
            [BilateralKernel()],
            image,
        )


LABELS, PROBS = torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2, 2), 0.5)
NAN = torch.full((1, 1, 2, 2), float("nan"))
REJECTED = [
    (
        lambda: energy(LABELS, PROBS, None),
        TypeError,
        "energy: kernels must be a sequence of kernels, got None",
    ),
    (
        lambda: energy(LABELS, PROBS, [BilateralKernel]),
        TypeError,
        "energy: kernels[0] must be a PairwiseKernel, got type",
    ),
    (
        lambda: energy(LABELS, PROBS, [], kind="softmax"),
        ValueError,
        "energy: kind must be one of probabilities, logits, unary, got 'softmax'",
    ),
    (
        lambda: energy(LABELS, PROBS, [], log="log2"),
        ValueError,
        "energy: log must be one of natural, log10, got 'log2'",
    ),
    (
        lambda: energy(LABELS, PROBS, [], kind="unary", log="log10"),
        ValueError,
        "energy: log must be 'natural' where kind is 'unary', got 'log10'",
    ),
    (
        lambda: energy(LABELS, PROBS, [], distance="manhattan"),
        ValueError,
        "energy: distance must be one of euclidean, chebyshev, got 'manhattan'",
    ),
    (
        lambda: energy(LABELS, PROBS[0], []),
        ValueError,
        "energy: scores must have shape (B, L, H, W) or (B, L, D, H, W) with at least one label "
        "and one pixel, got (2, 2, 2)",
    ),
    (
        lambda: energy(LABELS, PROBS[:, :0], []),
        ValueError,
        "energy: scores must have shape (B, L, H, W) or (B, L, D, H, W) with at least one label "
        "and one pixel, got (1, 0, 2, 2)",
    ),
    (
        lambda: energy(LABELS, LABELS, []),
        TypeError,
        "energy: scores must have a floating dtype, got int64",
    ),
    (
        lambda: energy(LABELS, None, []),
        TypeError,
        "energy: scores must be a torch.Tensor, got NoneType",
    ),
    (
        lambda: energy(LABELS, PROBS * torch.inf, []),
        ValueError,
        "energy: scores must be finite, got 8 values that are NaN or infinite",
    ),
    (
        lambda: energy(LABELS, PROBS * 3, []),
        ValueError,
        "energy: scores must lie in [0, 1] where kind is 'probabilities', got values from 1.5 to "
        "1.5",
    ),
    (lambda: energy([0], PROBS, []), TypeError, "energy: labels must be a torch.Tensor, got list"),
    (
        lambda: energy(LABELS.float(), PROBS, []),
        TypeError,
        "energy: labels must have an integer dtype, got float32",
    ),
    (
        lambda: energy(LABELS[0], PROBS, []),
        ValueError,
        "energy: labels must have shape (1, 2, 2) like scores, got (2, 2)",
    ),
    (
        lambda: energy(LABELS.to("meta"), PROBS, []),
        ValueError,
        "energy: labels must be on the device of scores, cpu, got meta",
    ),
    (
        lambda: energy(LABELS + 2, PROBS, []),
        ValueError,
        "energy: labels must lie in [0, 2), got values from 2 to 2",
    ),
    (
        lambda: energy(LABELS - 1, PROBS, []),
        ValueError,
        "energy: labels must lie in [0, 2), got values from -1 to -1",
    ),
    (
        lambda: energy(LABELS, PROBS, [BilateralKernel()], NAN),
        ValueError,
        "energy: image and features must be finite, got NaN or infinity in the features of "
        "kernels[0], BilateralKernel(sigma_xy=80, sigma_rgb=13, weight=10)",
    ),
    (
        lambda: energy(LABELS, PROBS, [GaussianKernel(weight=[1.0, 2.0, 3.0])]),
        ValueError,
        "energy: kernels[0].weight must have shape (), (2,) or (2, 2) for the 2 labels of "
        "scores, got (3,)",
    ),
    (
        lambda: energy(LABELS, PROBS, [], compatibility=torch.ones(3)),
        ValueError,
        "energy: compatibility must have shape (2,) or (2, 2) for 2 labels, got (3,)",
    ),
    (
        lambda: energy(LABELS, PROBS, [FeatureKernel()]),
        ValueError,
        "energy: features must be one tensor for each of the 1 FeatureKernels, got 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REJECTED, ids=[m for *_, m in REJECTED])
def test_rejects(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
