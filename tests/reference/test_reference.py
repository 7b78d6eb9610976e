"""The definitions themselves: against the printed example, the golden file, and plain loops."""

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastseg.reference import mean_field, mean_field_exact, permutohedral_lattice
from fastseg.reference.permutohedral import elevation

NORMALIZATIONS = ["none", "mean", "before", "after", "symmetric"]
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "pydensecrf_24x32.npz"


def problem(labels=3, spatial=(3, 4), batch=2, dims=(2, 3)):
    """Float64 unary, features of two kernels, and one transform each, full and diagonal."""
    unary = torch.randn(batch, labels, *spatial, dtype=torch.float64)
    features = [torch.randn(batch, d, *spatial, dtype=torch.float64) for d in dims]
    transforms = [torch.randn(labels, labels), torch.randn(labels)]
    return unary, features, [t.double() for t in transforms]


# mean_field_exact


def by_loops(unary, kernels, transforms, iterations, kind, self_message):
    """One image, label by label and pair by pair, as one would write it on paper."""
    points = unary.shape[1]
    weights = []
    for features in kernels:
        k = np.empty((points, points))
        for i in range(points):
            for j in range(points):
                k[i, j] = math.exp(-sum((features[:, i] - features[:, j]) ** 2) / 2)
        n = k.sum(1)
        before, after = {
            "none": (np.ones(points), np.ones(points)),
            "mean": (np.ones(points), np.full(points, points / n.sum())),
            "before": (1 / n, np.ones(points)),
            "after": (np.ones(points), 1 / n),
            "symmetric": (n**-0.5, n**-0.5),
        }[kind]
        weights.append(after[:, None] * k * before)
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(iterations):
        logits = -unary.copy()
        for k, transform in zip(weights, transforms, strict=True):
            matrix = transform if transform.ndim == 2 else np.diag(transform)
            for i in range(points):
                for j in range(points):
                    if self_message or i != j:
                        logits[:, i] += k[i, j] * (matrix @ q[:, j])
        q = np.exp(logits) / np.exp(logits).sum(0)
    return q


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
def test_exact_equals_plain_loops(kind, self_message):
    unary, features, transforms = problem()
    options = {"iterations": 3, "normalization": kind, "self_message": self_message}
    probs = mean_field_exact(unary, features, transforms, **options)
    for image in range(2):
        expected = by_loops(
            unary[image].flatten(1).numpy(),
            [f[image].flatten(1).numpy() for f in features],
            [t.numpy() for t in transforms],
            3,
            kind,
            self_message,
        )
        np.testing.assert_allclose(probs[image].flatten(1).numpy(), expected, rtol=1e-12)


def test_exact_solves_the_worked_example():
    """Q(centre = 1) of the 3x3 image with a dark centre: SPEC 7.1, Chebyshev distance."""
    image = torch.full((1, 1, 3, 3), 255.0, dtype=torch.float64)
    image[..., 1, 1] = 0
    certain = torch.tensor([[0.8, 0.8, 0.8], [0.9, 0.1, 0.8], [0.9, 0.9, 0.9]]).double()
    unary = -torch.stack([certain, 1 - certain]).log()[None]
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    place = torch.stack([columns, rows]).double()[None]
    kernels = [torch.cat([place, image], 1), place]
    potts = [torch.tensor(1.0).double()] * 2
    expected = {0: 0.100, 1: 0.768, 2: 0.926, 5: 0.9335, 10: 0.9335}
    for iterations, centre in expected.items():
        probs = mean_field_exact(
            unary,
            kernels,
            potts,
            iterations=iterations,
            normalization="none",
            self_message=False,
            distance="chebyshev",
        )
        digits = 3 if iterations < 5 else 4
        assert round(probs[0, 0, 1, 1].item(), digits) == pytest.approx(centre, abs=1e-12)


def test_chebyshev_replaces_the_leading_rows_only():
    unary, (features, _), transforms = problem(dims=(4, 1))
    points = features.flatten(2)
    apart = (points[:, :, :, None] - points[:, :, None, :]).abs()
    for spatial_dims in (0, 1, 3, 4, 9):
        square = apart[:, spatial_dims:].square().sum(1)
        if spatial_dims:
            square = square + apart[:, :spatial_dims].amax(1).square()
        kernel = torch.exp(-square / 2)
        q = torch.softmax(-unary, 1).flatten(2)
        message = transforms[0] @ (q @ kernel / kernel.sum(1)[:, None])
        expected = torch.softmax(message - unary.flatten(2), 1).reshape(unary.shape)
        probs = mean_field_exact(
            unary,
            [features],
            transforms[:1],
            iterations=1,
            normalization="after",
            distance="chebyshev",
            spatial_dims=spatial_dims,
        )
        torch.testing.assert_close(probs, expected, rtol=1e-12, atol=1e-14)
    default = mean_field_exact(unary, [features], transforms[:1], distance="chebyshev")
    two = mean_field_exact(unary, [features], transforms[:1], distance="chebyshev", spatial_dims=2)
    assert torch.equal(default, two)


@pytest.mark.parametrize("kind", ["sym", "after", "before", "mean"])
@pytest.mark.parametrize("own", ["self", "noself"])
def test_exact_equals_the_golden_file(kind, own):
    if not GOLDEN.is_file():
        pytest.skip("no ../shared/golden/pydensecrf_24x32.npz")
    arrays = np.load(GOLDEN)
    image = torch.from_numpy(arrays["img"]).permute(2, 0, 1).double()
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    place = torch.stack([columns, rows]).double()
    probs = mean_field_exact(
        torch.from_numpy(arrays["U"]).double().reshape(1, 4, 24, 32),
        [(place / 3)[None], torch.cat([place / 20, image / 13])[None]],
        [torch.tensor(3.0).double(), torch.tensor(4.0).double()],
        normalization="symmetric" if kind == "sym" else kind,
        self_message=own == "self",
    )
    expected = arrays[f"exact_{kind}_{own}"]
    assert np.abs(probs.reshape(4, -1).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("kept", [1 << 30, 0], ids=["kept", "computed-again"])
@pytest.mark.parametrize("distance", ["euclidean", "chebyshev"])
def test_blocks_change_nothing(kept, distance, monkeypatch):
    """Rows in blocks of two, with matrices kept or not: the same result and gradients."""
    unary, features, transforms = problem()
    leaves = [t.requires_grad_() for t in (unary, *features, *transforms)]

    def probs_and_gradients():
        probs = mean_field_exact(unary, features, transforms, iterations=2, distance=distance)
        return probs, *torch.autograd.grad(probs.square().sum(), leaves)

    expected = probs_and_gradients()
    module = importlib.import_module("fastseg.reference.mean_field")
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 2 * 12 * 8)
    monkeypatch.setattr(module, "KEPT_BYTES", kept)
    for a, b in zip(probs_and_gradients(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("distance", ["euclidean", "chebyshev"])
def test_exact_gradients(kind, distance):
    unary, features, transforms = problem(labels=2, spatial=(2, 2), batch=1)
    leaves = [t.requires_grad_() for t in (unary, *features, *transforms)]

    def inference(unary, first, second, *transforms):
        return mean_field_exact(
            unary,
            [first, second],
            transforms,
            iterations=2,
            normalization=kind,
            self_message=kind != "after",
            distance=distance,
        )

    assert gradcheck(inference, leaves)
    if kind == "symmetric":
        assert gradgradcheck(inference, leaves)


def test_exact_keeps_float32_and_any_layout():
    unary, features, transforms = problem()
    expected = mean_field_exact(unary, features, transforms)
    awkward = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (unary, *features)]
    torch.testing.assert_close(mean_field_exact(awkward[0], awkward[1:], transforms), expected)
    single = mean_field_exact(
        unary.float(), [f.float() for f in features], [t.float() for t in transforms]
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


def test_exact_serves_the_smallest_cases():
    one = torch.ones(1, 1, 1)
    assert mean_field_exact(one, [one], [torch.ones(())]).item() == 1
    unary, features, transforms = problem(batch=0)
    assert mean_field_exact(unary, features, transforms).shape == (0, 3, 3, 4)
    unary, _, _ = problem()
    torch.testing.assert_close(mean_field_exact(unary, [], []), torch.softmax(-unary, 1))
    unary[0, 1] = math.inf
    ruled_out = mean_field_exact(unary, *problem()[1:])
    assert (ruled_out[0, 1] == 0).all()
    assert ruled_out.isfinite().all()


def test_lattice_mean_field_is_near_the_exact_one():
    """Mean |dQ| on 20x20 with a smooth image and weights that decide little: at most 1.1e-3."""
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    place = torch.stack([columns, rows]).double()
    image = 127 + 90 * torch.stack([(rows / 4).sin(), (columns / 5).cos()]).double()
    features = [(place / 3)[None], torch.cat([place / 20, image / 40])[None]]
    unary = torch.randn(1, 3, 20, 20, dtype=torch.float64)
    transforms = [torch.tensor(1.0).double()] * 2
    for kind in NORMALIZATIONS[1:]:
        options = {"normalization": kind, "iterations": 5}
        lattice = mean_field(unary, features, transforms, **options)
        exact = mean_field_exact(unary, features, transforms, **options)
        assert (lattice - exact).abs().mean() < 1.25e-3


# The lattice


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 8, 16])
def test_lattice_is_the_one_of_the_paper(dims):
    """What Adams, Baek and Davis say of it, sec. 2 and 3."""
    features = 2 * torch.randn(dims, 60, dtype=torch.float64)
    lattice = permutohedral_lattice(features)
    keys = lattice.keys
    assert (keys.sum(1) == 0).all()
    assert (keys % (dims + 1) == (keys % (dims + 1))[:, :1]).all()  # one remainder each
    assert len(set(map(tuple, keys.tolist()))) == len(keys)
    simplices = keys[lattice.vertices]
    remainders = simplices[..., 0] % (dims + 1)
    assert torch.equal(remainders, torch.arange(dims + 1).expand_as(remainders))
    # A simplex: consecutive vertices are one step apart, and none spans more than D + 1.
    span = simplices.amax(1) - simplices.amin(1)
    assert (span <= dims + 1).all()
    assert (lattice.barycentric >= -1e-9).all()
    torch.testing.assert_close(lattice.barycentric.sum(1), torch.ones(60).double())
    lifted = (lattice.barycentric[..., None] * simplices).sum(1)
    torch.testing.assert_close(lifted, features.T @ elevation(dims).T, rtol=0, atol=1e-9)


def test_elevation_keeps_distances():
    for dims in (1, 2, 5, 16):
        matrix = elevation(dims)
        assert torch.allclose(matrix.sum(0), torch.zeros(dims).double(), atol=1e-12)
        scale = 2 / 3 * (dims + 1) ** 2
        torch.testing.assert_close(matrix.T @ matrix, scale * torch.eye(dims).double())


def test_neighbours_are_one_step_away():
    lattice = permutohedral_lattice(torch.randn(3, 80, dtype=torch.float64))
    count = len(lattice.keys)
    found = 0
    for axis, neighbours in enumerate(lattice.neighbours):
        step = -torch.ones(4, dtype=torch.int64)
        step[axis] = 3
        for side, sign in ((0, -1), (1, 1)):
            exists = neighbours[:, side] < count
            moved = lattice.keys[neighbours[exists, side]]
            assert torch.equal(moved, lattice.keys[exists] + sign * step)
            found += int(exists.sum())
    assert found > 0


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_points_on_faces_have_a_simplex(dims):
    """Whole lattice vertices, and a grey ramp: many ties, no simplex that is none."""
    vertices = (dims + 1) * torch.randint(-3, 4, (dims + 1, 20))
    vertices -= vertices.sum(0) // (dims + 1)  # of remainder 0 where that is whole
    on_vertices = torch.linalg.pinv(elevation(dims)) @ vertices.double()
    ramp = torch.arange(12).double()[None] / 3 * torch.ones(dims, 1).double()
    for features in (on_vertices, ramp, torch.zeros(dims, 3).double()):
        lattice = permutohedral_lattice(features)
        assert (lattice.barycentric > -1e-6).all()
        lifted = (lattice.barycentric[..., None] * lattice.keys[lattice.vertices]).sum(1)
        torch.testing.assert_close(lifted, features.T @ elevation(dims).T, rtol=0, atol=1e-9)


# Refusals

UNARY = torch.ones(1, 3, 2, 2)
GOOD = {"unary": UNARY, "kernels": [UNARY, UNARY], "transforms": [torch.ones(()), torch.ones(3)]}
UNUSABLE = (
    "unary must hold no NaN and no -inf, and a finite energy for at least one label of each "
    "pixel, got a pixel that breaks this"
)


def nan_in(tensor):
    changed = tensor.clone()
    changed[0, 1, 1, 0] = math.nan
    return changed


REJECTED = {
    "unary-type": ({"unary": 3}, TypeError, "unary must be a torch.Tensor, got int"),
    "unary-dtype": (
        {"unary": UNARY.half()},
        TypeError,
        "unary must have dtype float32 or float64, got float16",
    ),
    "unary-rank": (
        {"unary": torch.ones(3, 4), "kernels": [], "transforms": []},
        ValueError,
        "unary must have shape (B, L, *spatial), got (3, 4)",
    ),
    "no-label": (
        {"unary": torch.ones(1, 0, 2, 2)},
        ValueError,
        "unary must have 1 to 1000 labels, got 0",
    ),
    "no-pixel": (
        {"unary": torch.ones(1, 3, 0, 2)},
        ValueError,
        "unary must have at least one pixel, got shape (1, 3, 0, 2)",
    ),
    "unary-nan": ({"unary": nan_in(UNARY)}, ValueError, UNUSABLE),
    "kernels-tensor": (
        {"kernels": UNARY},
        TypeError,
        "kernels must be a list with one tensor for each kernel, got Tensor",
    ),
    "kernels-type": (
        {"kernels": [UNARY, 1]},
        TypeError,
        "kernels[1] must be a torch.Tensor, got int",
    ),
    "kernels-dtype": (
        {"kernels": [UNARY, UNARY.double()]},
        TypeError,
        "kernels[1] must have the dtype of unary, float32, got float64",
    ),
    "kernels-device": (
        {"kernels": [UNARY, UNARY.to("meta")]},
        ValueError,
        "kernels[1] must be on the device of unary, cpu, got meta",
    ),
    "kernels-shape": (
        {"kernels": [UNARY, torch.ones(1, 3, 4)]},
        ValueError,
        "kernels[1] must have shape (1, D, 2, 2) beside unary (1, 3, 2, 2), got (1, 3, 4)",
    ),
    "kernels-no-feature": (
        {"kernels": [UNARY, torch.ones(1, 0, 2, 2)]},
        ValueError,
        "kernels[1] must have at least 1 feature dimension, got 0",
    ),
    "kernels-nan": (
        {"kernels": [UNARY, nan_in(UNARY)]},
        ValueError,
        "kernels[1] must be finite, got NaN or infinity in feature 1",
    ),
    "transforms-count": (
        {"transforms": []},
        ValueError,
        "transforms must have one entry for each of kernels, 2, got 0",
    ),
    "transforms-shape": (
        {"transforms": [torch.ones(()), torch.ones(1)]},
        ValueError,
        "transforms[1] must have shape (), (3,) or (3, 3), got (1,)",
    ),
    "transforms-infinite": (
        {"transforms": [torch.ones(()), torch.tensor([1, math.inf, 1])]},
        ValueError,
        "transforms[1] must be finite, got inf",
    ),
    "iterations": (
        {"iterations": -1},
        ValueError,
        "iterations must be between 0 and 100, got -1",
    ),
    "iterations-type": (
        {"iterations": True},
        TypeError,
        "iterations must be an int, got bool",
    ),
    "normalization": (
        {"normalization": "max"},
        ValueError,
        "normalization must be one of none, mean, before, after, symmetric, got 'max'",
    ),
    "normalization-count": (
        {"normalization": ["none"] * 3},
        ValueError,
        "normalization must be one string or one for each kernel, 2, got 3",
    ),
    "self-message": (
        {"self_message": None},
        TypeError,
        "self_message must be True or False, got None",
    ),
    "distance": (
        {"distance": "manhattan"},
        ValueError,
        "distance must be one of euclidean, chebyshev, got 'manhattan'",
    ),
    "spatial-dims": (
        {"spatial_dims": -2},
        ValueError,
        "spatial_dims must be at least 0, got -2",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_exact_rejects(change, error, message):
    with pytest.raises(error, match=f"^{re.escape('mean_field_exact: ' + message)}$"):
        mean_field_exact(**{**GOOD, **change})
