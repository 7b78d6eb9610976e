"""DenseCRF: equal to the exact definition within a stated error, trainable, and clear when "
"misused."""

import copy
import io
import itertools
import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from fastseg.crf import (
    PRESETS,
    BilateralKernel,
    DenseCRF,
    FeatureKernel,
    GaussianKernel,
    PairwiseKernel,
    mean_field_exact,
)

NORMALIZATIONS = ["none", "mean", "before", "after", "symmetric"]


def scene(labels=4, spatial=(6, 8), batch=2, channels=3, dtype=torch.float32):
    """Logits ``(B, L, *spatial)`` and a uint8 image of two flat halves with a little noise."""
    scores = torch.randn(batch, labels, *spatial, dtype=dtype)
    image = torch.randint(0, 12, (batch, channels, *spatial), dtype=torch.uint8)
    image[..., spatial[-1] // 2 :] += 120
    return scores, image


def small_crf(**options):
    return DenseCRF([GaussianKernel(3.0, 0.6), BilateralKernel(6.0, 20.0, 1.2)], **options)


# Against the definition


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("self_message", [True, False], ids=["self", "no-self"])
def test_exact_is_the_definition(normalization, self_message):
    scores, image = scene(dtype=torch.float64)
    crf = small_crf(normalization=normalization, self_message=self_message, exact=True)
    axes = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    place = torch.stack(axes[::-1]).double().expand(2, -1, -1, -1)
    expected = mean_field_exact(
        scores,
        [place / 3, torch.cat([place / 6, image.double() / 20], 1)],
        [torch.tensor(w).double() for w in (0.6, 1.2)],
        iterations=10,
        normalization=normalization,
        self_message=self_message,
    )
    torch.testing.assert_close(crf(-scores, image), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_no_iteration_returns_the_probabilities(kind):
    logits, image = scene()
    probs = logits.softmax(1)
    scores = logits if kind == "logits" else probs
    torch.testing.assert_close(small_crf(iterations=0)(scores, image, kind=kind), probs)


def test_no_kernel_returns_the_probabilities():
    logits, _ = scene()
    torch.testing.assert_close(DenseCRF([])(logits), logits.softmax(1))


@pytest.mark.parametrize("exact", [False, True], ids=["lattice", "exact"])
def test_potts_equals_its_full_and_diagonal_matrices(exact):
    scores, image = scene()
    q = small_crf(exact=exact)(scores, image)
    for compatibility in (1 - torch.eye(4), -torch.eye(4), -torch.ones(4), "full", "diagonal"):
        other = small_crf(compatibility=compatibility, labels=4, exact=exact)(scores, image)
        torch.testing.assert_close(other, q, rtol=1e-5, atol=1e-6)
        assert torch.equal(other.argmax(1), q.argmax(1))


@pytest.mark.parametrize("weight_dims", [0, 1, 2])
@pytest.mark.parametrize("compatibility_dims", [0, 1, 2])
def test_weights_and_compatibilities_combine_as_matrices(weight_dims, compatibility_dims):
    """-C W, whatever forms C and W were given in."""
    scores, image = scene(labels=3)
    weight = [torch.tensor(0.8), torch.rand(3), torch.rand(3, 3)][weight_dims]
    compatibility = [None, torch.randn(3), torch.randn(3, 3)][compatibility_dims]
    crf = DenseCRF([BilateralKernel(6.0, 20.0, weight)], compatibility)
    full_weight = [weight * torch.eye(3), weight.diag() if weight_dims == 1 else weight, weight][
        weight_dims
    ]
    full = 1 - torch.eye(3) if compatibility is None else compatibility
    full = full.diag() if full.dim() == 1 else full
    expected = DenseCRF([BilateralKernel(6.0, 20.0, full_weight)], full)(scores, image)
    torch.testing.assert_close(crf(scores, image), expected, rtol=1e-4, atol=1e-5)


def test_a_reward_on_the_diagonal_attracts_and_a_price_repels():
    scores = torch.zeros(1, 2, 5, 5)
    scores[0, 0, 2, 2] = 3.0
    near = {}
    for name, diagonal in (("reward", -1.0), ("price", 1.0)):
        crf = DenseCRF([GaussianKernel(2.0, 2.0)], [diagonal, diagonal], iterations=1)
        near[name] = crf(scores)[0, 0, 2, 1].item()
    assert near["price"] < 0.5 < near["reward"]


def test_each_kernel_may_have_its_own_normalization():
    scores, image = scene(dtype=torch.float64)
    mixed = DenseCRF(
        [GaussianKernel(3.0, 0.6, normalization="after"), BilateralKernel(6.0, 20.0, 1.2)],
        normalization="mean",
        exact=True,
    )
    explicit = DenseCRF(
        [
            GaussianKernel(3.0, 0.6, normalization="after"),
            BilateralKernel(6.0, 20.0, 1.2, normalization="mean"),
        ],
        exact=True,
    )
    assert torch.equal(mixed(scores, image), explicit(scores, image))
    uniform = small_crf(normalization="mean", exact=True)(scores, image)
    assert not torch.allclose(mixed(scores, image), uniform)


def test_chebyshev_distance_is_the_largest_difference_along_an_axis():
    scores, _ = scene(labels=2, spatial=(5, 5), batch=1, dtype=torch.float64)
    crf = DenseCRF([GaussianKernel(2.0, 1.0)], exact=True, distance="chebyshev", iterations=1)
    crf.normalization = "none"
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    y, x = y.flatten().double(), x.flatten().double()
    apart = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs()) / 2
    message = scores.softmax(1).flatten(2) @ torch.exp(-(apart**2) / 2)
    expected = (scores.flatten(2) + message).softmax(1).reshape(scores.shape)
    torch.testing.assert_close(crf(scores), expected, rtol=1e-12, atol=1e-12)


# Shapes, layouts, dtypes


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    labels=st.integers(1, 5),
    spatial=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    channels=st.integers(1, 4),
    normalization=st.sampled_from(NORMALIZATIONS),
)
def test_any_shape(batch, labels, spatial, channels, normalization):
    scores, image = scene(labels, spatial, batch, channels)
    q = small_crf(normalization=normalization, iterations=3)(scores, image)
    assert q.shape == scores.shape and q.is_contiguous()
    torch.testing.assert_close(q.sum(1), torch.ones(batch, *spatial))


def test_volume_of_one_slice_equals_the_image():
    scores, image = scene()
    crf = DenseCRF([GaussianKernel(3.0, 0.6)], exact=True)
    torch.testing.assert_close(crf(scores[:, :, None])[:, :, 0], crf(scores))
    crf = small_crf(exact=True)
    torch.testing.assert_close(
        crf(scores[:, :, None], image[:, :, None])[:, :, 0], crf(scores, image)
    )


def test_batch_equals_loop():
    scores, image = scene(batch=3)
    crf = small_crf()
    whole = crf(scores, image)
    for i in range(3):
        assert torch.equal(crf(scores[i : i + 1], image[i : i + 1]), whole[i : i + 1])


def test_any_memory_layout():
    scores, image = scene()
    crf = small_crf()
    strided = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    turned = image.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous() and not turned.is_contiguous()
    assert torch.equal(crf(strided, turned), crf(scores, image))
    flipped = crf(scores.flip(3), image.flip(3)).flip(3)
    assert flipped.shape == scores.shape


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype, kind):
    scores, image = scene()
    scores = (scores if kind == "logits" else torch.softmax(scores, 1)).to(dtype)
    q = small_crf()(scores, image, kind=kind)
    assert q.dtype == dtype
    assert torch.equal(q, small_crf()(scores.float(), image, kind=kind).to(dtype))
    stored = small_crf(half_storage=True)(scores, image, kind=kind)
    assert stored.dtype == dtype
    if kind == "logits":  # the unary of probabilities is rounded
        assert torch.equal(stored, q)
    torch.testing.assert_close(stored, q, rtol=0, atol=1.5e-2)


def test_autocast_changes_nothing():
    scores, image = scene()
    crf = small_crf(compatibility="full", labels=4)
    crf.kernels[0].weight.data = torch.rand(4, 4)
    expected = crf(scores, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf(scores, image), expected)


def test_float64_agrees_with_float32():
    scores, image = scene(dtype=torch.float64)
    crf = small_crf()
    q = crf(scores, image)
    assert q.dtype == torch.float64
    torch.testing.assert_close(q.float(), crf(scores.float(), image), rtol=1e-4, atol=1e-5)


def test_module_dtype_moves_parameters_only():
    scores, image = scene()
    expected = small_crf()(scores, image)
    assert torch.equal(small_crf().double()(scores, image), expected)
    halved = small_crf().to(torch.bfloat16)
    assert halved.kernels[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(halved(scores, image), expected, rtol=0, atol=5e-3)


def test_probabilities_are_clipped_like_pydensecrf():
    probs = torch.zeros(1, 2, 3, 3)
    probs[:, 0] = 1.0
    crf = small_crf(exact=True)
    image = torch.zeros(1, 3, 3, 3)
    found = crf(probs, image, kind="probabilities")
    expected = crf(probs.clamp_min(1e-5).log(), image)
    assert torch.equal(found, expected)


def test_huge_logits_and_weights_stay_finite():
    scores, image = scene()
    crf = DenseCRF([BilateralKernel(80.0, 13.0, 1e6)])
    q = crf(scores * 1e30, image)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(2, 6, 8))


def test_a_logit_of_minus_infinity_rules_its_label_out():
    scores, image = scene()
    low = scores.clone()
    scores[0, 1, 2:4], low[0, 1, 2:4] = -torch.inf, -1e4
    for crf in (small_crf(), small_crf(exact=True), small_crf().double()):
        dtype = crf.kernels[0].weight.dtype
        q = crf(scores.to(dtype), image)
        assert (q[0, 1, 2:4] == 0).all()
        torch.testing.assert_close(q, crf(low.to(dtype), image), rtol=1e-5, atol=1e-6)


def test_wide_kernels_see_one_simplex():
    scores, _ = scene()
    q = DenseCRF([GaussianKernel(1e8, 1.0)], normalization="after", exact=True)(scores)
    lattice = DenseCRF([GaussianKernel(1e8, 1.0)], normalization="after")(scores)
    torch.testing.assert_close(lattice, q, rtol=1e-4, atol=1e-5)


# Own features, own kernels


def test_feature_kernels_take_their_features_in_order():
    scores, image = scene()
    axes = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    place = torch.stack(axes[::-1]).expand(2, -1, -1, -1)
    both = torch.cat([place / 6, image.float() / 20], 1)
    crf = DenseCRF([FeatureKernel(0.6, 3.0), FeatureKernel(1.2)])
    assert torch.equal(crf(scores, features=[place, both]), small_crf()(scores, image))
    lone = DenseCRF([FeatureKernel(0.6, 3.0)])
    assert torch.equal(lone(scores, features=place), lone(scores, features=[place]))


def test_a_kernel_of_your_own():
    class BrightnessKernel(PairwiseKernel):
        def forward(self, unary, image, features):
            return image.to(unary).mean(1, keepdim=True) / 30

    scores, image = scene()
    own = DenseCRF([BrightnessKernel(0.9)])(scores, image)
    grey = image.float().mean(1, keepdim=True)
    assert torch.equal(own, DenseCRF([FeatureKernel(0.9, 30.0)])(scores, features=grey))


# Presets


def test_presets_carry_their_normalization_and_numbers():
    crf = DenseCRF.preset("deeplab-resnet")
    position, bilateral = crf.kernels
    assert (position.sigma_xy.item(), position.weight.item()) == (1.0, 3.0)
    found = (bilateral.weight, bilateral.sigma_xy, bilateral.sigma_rgb)
    assert [p.item() for p in found] == [4.0, 67.0, 3.0]
    assert (crf.iterations, crf.train_iterations, crf.normalization) == (10, None, "after")
    assert DenseCRF.preset("pydensecrf").normalization == "symmetric"
    rnn = DenseCRF.preset("crf-rnn")
    assert (rnn.iterations, rnn.train_iterations, rnn.normalization) == (10, 5, "after")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(name):
    scores, image = scene()
    q = DenseCRF.preset(name)(scores, image)
    torch.testing.assert_close(q.sum(1), torch.ones(2, 6, 8))


def test_preset_overrides():
    crf = DenseCRF.preset(
        "crf-rnn", iterations=3, normalization="mean", train_weight=True, train_sigma=True
    )
    assert (crf.iterations, crf.train_iterations, crf.normalization) == (3, None, "mean")
    assert all(p.requires_grad for p in crf.parameters())


def test_crf_rnn_starts_as_potts():
    scores, image = scene()
    rnn = DenseCRF.crf_rnn(4)
    assert torch.equal(rnn.kernels[0].weight, 3 * torch.eye(4))
    assert torch.equal(rnn.kernels[1].weight, 5 * torch.eye(4))
    assert torch.equal(rnn.compatibility, -torch.eye(4))
    assert sum(p.requires_grad for p in rnn.parameters()) == 3
    expected = DenseCRF.preset("crf-rnn").eval()(scores, image)
    torch.testing.assert_close(rnn.eval()(scores, image), expected, rtol=1e-4, atol=1e-5)


def test_training_takes_its_own_number_of_iterations():
    scores, image = scene()
    crf = small_crf(iterations=4, train_iterations=1)
    assert torch.equal(crf.train()(scores, image), small_crf(iterations=1)(scores, image))
    assert torch.equal(crf.eval()(scores, image), small_crf(iterations=4)(scores, image))


# Modules


def test_state_dict_round_trip():
    crf = DenseCRF.crf_rnn(4)
    for parameter in crf.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    file = io.BytesIO()
    torch.save(crf.state_dict(), file)
    file.seek(0)
    other = DenseCRF.crf_rnn(4)
    other.load_state_dict(torch.load(file))
    scores, image = scene()
    assert torch.equal(other(scores, image), crf(scores, image))
    assert sorted(crf.state_dict()) == [
        "compatibility",
        "kernels.0.sigma_xy",
        "kernels.0.weight",
        "kernels.1.sigma_rgb",
        "kernels.1.sigma_xy",
        "kernels.1.weight",
    ]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles(twin):
    crf = small_crf(compatibility="diagonal", labels=4, train_iterations=3)
    scores, image = scene()
    assert torch.equal(twin(crf)(scores, image), crf(scores, image))
    assert repr(twin(crf)) == repr(crf)


def test_repr():
    assert repr(DenseCRF([GaussianKernel()], "full", labels=2, train_compatibility=True)) == (
        "DenseCRF(\n"
        "  compatibility=(2, 2) (trained), iterations=10, normalization='symmetric', "
        "self_message=True\n"
        "  (kernels): ModuleList(\n"
        "    (0): GaussianKernel(sigma_xy=3, weight=3)\n"
        "  )\n"
        ")"
    )
    exact = DenseCRF([], train_iterations=5, exact=True).extra_repr()
    assert exact == (
        "compatibility='potts', iterations=10, train_iterations=5, normalization='symmetric', "
        "self_message=True, exact=True, distance='euclidean'"
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_at_the_end_of_a_model(dynamic):
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 4, 3, padding=1)
            self.crf = DenseCRF.crf_rnn(4, train_iterations=2, train_sigma=True)

        def forward(self, image):
            return self.crf(self.head(image / 255), image)

    model, image = Segmenter(), torch.rand(2, 3, 6, 8) * 255
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    q = model(image)
    q[:, 0].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    again = compiled(image)
    torch.testing.assert_close(again, q, rtol=1e-5, atol=1e-6)
    again[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


# Training


def coarse_problem():
    """An image of two colours with a curved edge, its labels, and logits from an 8x8 grid."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    labels = (x + 4 * torch.sin(y / 4) > 16).long()[None]
    colours = torch.tensor([[60.0, 90.0, 120.0], [150.0, 110.0, 70.0]])
    generator = torch.Generator().manual_seed(3)
    image = colours[labels].permute(0, 3, 1, 2)
    image = image + 6 * torch.randn(image.shape, generator=generator)
    blocks = nn.functional.one_hot(labels).permute(0, 3, 1, 2).float()
    coarse = nn.functional.avg_pool2d(blocks, 8)
    coarse = nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return 2 * coarse + torch.randn(coarse.shape, generator=generator), image, labels


def loss_of(crf, logits, image, labels):
    return nn.functional.nll_loss(crf(logits, image).clamp_min(1e-12).log(), labels)


def trainable_crf(exact=False, **options):
    return DenseCRF(
        [
            GaussianKernel(2.0, torch.tensor([0.3, 0.2]), train_weight=True, train_sigma=True),
            BilateralKernel((9.0, 8.0), 25.0, 0.5, train_weight=True, train_sigma=True),
        ],
        torch.tensor([[0.1, 1.0], [0.8, 0.0]]),
        iterations=3,
        train_compatibility=True,
        exact=exact,
        **options,
    )


def test_training_reduces_the_loss():
    logits, image, labels = coarse_problem()
    crf = trainable_crf()
    before = copy.deepcopy(crf.state_dict())
    optimizer = torch.optim.SGD(crf.parameters(), lr=1.0, momentum=0.5)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = loss_of(crf, logits, image, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    for name, value in crf.state_dict().items():
        assert not torch.equal(value, before[name]), f"{name} did not move"


def test_gradients_agree_with_the_exact_definition():
    """Largest difference over the largest entry: 0.7 to 0.9 % measured here, 3 % under "mean"."""
    logits, image, labels = coarse_problem()
    gradients = {}
    for exact in (False, True):
        crf, scores = trainable_crf(exact), logits.clone().requires_grad_()
        loss_of(crf, scores, image, labels).backward()
        gradients[exact] = {name: p.grad for name, p in crf.named_parameters()}
        gradients[exact]["logits"] = scores.grad
    for name in ("compatibility", "kernels.0.weight", "kernels.1.weight", "logits"):
        found, expected = gradients[False][name], gradients[True][name]
        error = (found - expected).abs().max() / expected.abs().max()
        assert error <= 0.015, f"{name}: {error:.3g}"


# The error of the lattice changes quickly with a width, so the slope of the loss scatters about
# that of the exact definition although the two losses stay within 1 %. Over 17 widths: root mean
# square of the difference, and its mean, over those of the exact slope, as measured here.
WIDTHS = {
    "position": (lambda v, **o: DenseCRF([GaussianKernel(v, 1.0, train_sigma=True)], **o), (1, 5)),
    "bilateral-xy": (
        lambda v, **o: DenseCRF([BilateralKernel(v, 60.0, 1.0, train_sigma=True)], **o),
        (5, 25),
    ),
    "bilateral-rgb": (
        lambda v, **o: DenseCRF([BilateralKernel(9.0, v, 1.0, train_sigma=True)], **o),
        (30, 120),
    ),
}
MEASURED_SLOPES = {
    ("position", "gaussian"): (0.11, 0.06),
    ("position", "simplex"): (0.41, 0.25),
    ("bilateral-xy", "gaussian"): (0.48, 0.24),
    ("bilateral-xy", "simplex"): (0.48, 0.07),
    ("bilateral-rgb", "gaussian"): (0.21, 0.13),
    ("bilateral-rgb", "simplex"): (0.32, 0.05),
}


def width_slope(build, width, problem, name, **options):
    crf = build(width, iterations=3, **options)
    loss_of(crf, *problem).backward()
    return getattr(crf.kernels[0], name).grad


@pytest.mark.parametrize("case", WIDTHS)
def test_slope_of_a_width_follows_the_exact_one_over_a_range(case):
    build, (least, most) = WIDTHS[case]
    problem, name = coarse_problem(), "sigma_rgb" if case == "bilateral-rgb" else "sigma_xy"
    widths = torch.linspace(least, most, 17).tolist()
    expected = torch.stack([width_slope(build, w, problem, name, exact=True) for w in widths])
    for kind in ("gaussian", "simplex"):
        slopes = [width_slope(build, w, problem, name, features_gradient=kind) for w in widths]
        difference = torch.stack(slopes) - expected
        scatter = difference.square().mean().sqrt() / expected.square().mean().sqrt()
        bias = difference.mean().abs() / expected.abs().mean()
        most_scatter, most_bias = MEASURED_SLOPES[case, kind]
        assert scatter <= 1.1 * most_scatter, (kind, scatter)
        assert bias <= 1.1 * most_bias, (kind, bias)


def test_gradients_are_the_slopes_of_the_lattice_itself():
    """In float64 against finite differences; the fused float32 gradient is the same.

    The widths keep every pixel off the faces of the simplices: sigma_xy = 2.3 would put row 23 at
    y / sigma_xy = 10, on a face, where a vertex comes into being and the loss has a tiny step.
    """
    logits, image, labels = coarse_problem()
    crf = DenseCRF(
        [
            GaussianKernel(2.357, 0.5, train_weight=True, train_sigma=True),
            BilateralKernel(8.413, (31.0, 27.0, 35.0), 0.9, train_weight=True, train_sigma=True),
        ],
        -torch.eye(2),
        iterations=3,
        train_compatibility=True,
        features_gradient="simplex",
    ).double()
    problem = (logits.double(), image.double(), labels)
    loss_of(crf, *problem).backward()
    step = 1e-6
    for name, parameter in crf.named_parameters():
        with torch.no_grad():
            direction = torch.rand_like(parameter) + 0.5
            parameter += step * direction
            above = loss_of(crf, *problem)
            parameter -= 2 * step * direction
            below = loss_of(crf, *problem)
            parameter += step * direction
        slope = ((above - below) / (2 * step)).item()
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4), name

    fused = copy.deepcopy(crf).float()
    fused.zero_grad()
    loss_of(fused, logits, image, labels).backward()
    for (name, parameter), double in zip(fused.named_parameters(), crf.parameters(), strict=True):
        error = (parameter.grad - double.grad).abs().max() / double.grad.abs().max()
        assert error < 2e-3, f"{name}: {error:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kinds_of_gradient_differ_in_that_to_features_alone(dtype):
    logits, image, labels = coarse_problem()
    crfs = {
        kind: trainable_crf(features_gradient=kind).to(dtype) for kind in ("simplex", "gaussian")
    }
    for crf in crfs.values():
        loss_of(crf, logits.to(dtype), image.to(dtype), labels).backward()
    simplex, gaussian = (dict(crf.named_parameters()) for crf in crfs.values())
    for name, parameter in simplex.items():
        equal = torch.allclose(parameter.grad, gaussian[name].grad, rtol=1e-4, atol=1e-7)
        assert equal == ("sigma" not in name), name


def test_gradient_kind_is_passed_on_and_shown():
    crfs = [
        small_crf(features_gradient="simplex"),
        DenseCRF.preset("default", features_gradient="simplex"),
        DenseCRF.crf_rnn(3, features_gradient="simplex"),
    ]
    for crf in crfs:
        assert crf.features_gradient == "simplex"
        assert "features_gradient='simplex'" in repr(crf)
    assert small_crf().features_gradient == "gaussian"


def test_float64_without_gradient_to_features_is_differentiable_twice():
    scores, image = scene(labels=2, spatial=(3, 4), batch=1, dtype=torch.float64)
    crf = DenseCRF([GaussianKernel(1.1, 0.5), BilateralKernel(2.3, 37.0, 0.7)], iterations=2)
    assert torch.autograd.gradgradcheck(lambda s: crf(s, image), scores.requires_grad_())


def test_widths_train_to_the_true_ones():
    """Three widths towards the Q of others. With "simplex" they end at 0.6, 0.9 and 2.1 times."""
    logits, image, _ = coarse_problem()

    def build(position, sigma_xy, sigma_rgb):
        kernels = [
            GaussianKernel(position, 1.0, train_sigma=True),
            BilateralKernel(sigma_xy, sigma_rgb, 2.0, train_sigma=True),
        ]
        return DenseCRF(kernels, iterations=3)

    true = [2.0, 9.0, 20.0]
    target = build(*true)(logits, image).detach()
    crf = build(1.2, 13.5, 35.0)
    widths = [p for p in crf.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": 0.06 * t} for p, t in zip(widths, true, strict=True)]
    )
    for _ in range(40):
        optimizer.zero_grad()
        (-(target * crf(logits, image).log()).sum(1).mean()).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.95
    ratios = torch.stack(widths).detach() / torch.tensor(true)
    assert (ratios - 1).abs().max() < 0.12, ratios


def test_shapes_on_the_meta_device():
    """Built and run without values, as large models are; they are loaded afterwards."""
    with torch.device("meta"):
        crf = small_crf(compatibility="full", labels=4)
    scores, image = (tensor.to("meta") for tensor in scene())
    q = crf(scores, image.float())
    assert q.is_meta and q.shape == scores.shape
    loaded = small_crf(compatibility="full", labels=4)
    crf.to_empty(device="cpu").load_state_dict(loaded.state_dict())
    problem = scene()
    assert torch.equal(crf(*problem), loaded(*problem))


def test_gradients_reach_features_from_a_network():
    logits, image, labels = coarse_problem()
    network = nn.Conv2d(3, 2, 1)
    crf = DenseCRF([FeatureKernel(0.5)], iterations=2)
    q = crf(logits, features=network(image / 50))
    nn.functional.nll_loss(q.log(), labels).backward()
    assert network.weight.grad.abs().max() > 1e-5


# Accuracy on photographs, beside pydensecrf's

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"
SETTINGS = {"80/13": (3.0, 3.0, 10.0, 80.0, 13.0), "67/3": (3.0, 3.0, 4.0, 67.0, 3.0)}


def photograph(name, top, left):
    """A 48x64 crop: uint8 image, and probabilities of 5 labels as a coarse network gives them."""
    if not CAMVID.is_dir():
        pytest.skip(f"no CamVid photographs at {CAMVID}")
    crop = np.s_[top : top + 48, left : left + 64]
    with Image.open(CAMVID / "val" / f"{name}.jpg") as photo:
        image = np.array(photo.convert("RGB"))[crop]
    with Image.open(CAMVID / "valannot" / f"{name}.png") as annotation:
        labels = np.array(annotation)[crop]
    kept = np.bincount(labels.ravel(), minlength=12).argsort()[::-1][:5]
    lookup = np.full(256, 4)
    lookup[kept] = np.arange(5)
    blocks = np.eye(5)[lookup[labels]].reshape(6, 8, 8, 8, 5).mean((1, 3))
    probs = torch.from_numpy(blocks).permute(2, 0, 1)[None]
    probs = nn.functional.interpolate(probs, size=(48, 64), mode="bilinear")
    noise = torch.rand(probs.shape, generator=torch.Generator().manual_seed(top))
    probs = 0.75 * probs + 0.25 * noise
    probs = (probs / probs.sum(1, keepdim=True)).float()
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None], probs


CROPS = [("0016E5_08099", 192, 64), ("0016E5_08119", 144, 192), ("0016E5_07999", 192, 384)]


def crf_of(setting, normalization, exact=False):
    position_sigma, position_weight, weight, sigma_xy, sigma_rgb = SETTINGS[setting]
    return DenseCRF(
        [
            GaussianKernel(position_sigma, position_weight),
            BilateralKernel(sigma_xy, sigma_rgb, weight),
        ],
        normalization=normalization,
        exact=exact,
    )


def by_pydensecrf(image, probs, setting, normalization):
    dcrf = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed: no error to compare with"
    )
    assert dcrf.DenseCRF2D.__module__.startswith("pydensecrf"), "a stand-in is imported"
    position_sigma, position_weight, weight, sigma_xy, sigma_rgb = SETTINGS[setting]
    kind = {
        "none": dcrf.NO_NORMALIZATION,
        "before": dcrf.NORMALIZE_BEFORE,
        "after": dcrf.NORMALIZE_AFTER,
        "symmetric": dcrf.NORMALIZE_SYMMETRIC,
    }[normalization]
    crf = dcrf.DenseCRF2D(64, 48, 5)
    crf.setUnaryEnergy(-np.log(np.clip(probs[0].numpy().reshape(5, -1), 1e-5, 1)))
    crf.addPairwiseGaussian(sxy=position_sigma, compat=position_weight, normalization=kind)
    crf.addPairwiseBilateral(
        sxy=sigma_xy,
        srgb=sigma_rgb,
        rgbim=np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()),
        compat=weight,
        normalization=kind,
    )
    return torch.from_numpy(np.array(crf.inference(10))).reshape(1, 5, 48, 64)


def distance(q, expected):
    """Mean |dQ|, and how many pixels have another label."""
    apart = (q - expected).abs().mean().item()
    return apart, int((q.argmax(1) != expected.argmax(1)).sum())


# Every setting and normalisation on one photograph, pydensecrf's default on all of them. It has
# no "mean": its NO_NORMALIZATION is the sum over the lattice, which is "none" here.
CASES = [
    (crop, setting, normalization)
    for setting in SETTINGS
    for i, normalization in enumerate(["none", "before", "after", "symmetric"])
    for crop in (CROPS if normalization == "symmetric" else CROPS[i : i + 1])
]


@pytest.mark.parametrize(
    ("crop", "setting", "normalization"), CASES, ids=[f"{c[0]}-{s}-{n}" for c, s, n in CASES]
)
def test_as_exact_as_pydensecrf_on_photographs(crop, setting, normalization):
    image, probs = photograph(*crop)
    # In float32, three digits better than the errors compared and twice as fast as float64.
    exact = crf_of(setting, normalization, exact=True)(probs, image, kind="probabilities")
    q = crf_of(setting, normalization)(probs, image, kind="probabilities")
    error, changed = distance(q, exact)
    theirs = by_pydensecrf(image, probs, setting, normalization)
    their_error, their_changed = distance(theirs, exact)
    assert error <= 1.05 * their_error, (error, their_error)
    assert changed <= their_changed + 1, (changed, their_changed)


# Mean |dQ| of "mean" against the exact definition, the larger of two photographs measured, with a
# fifth to spare. The float64 lattice has the same error: it is the approximation's own.
MEAN_ERROR = {"80/13": 6.2e-2, "67/3": 6.4e-3}


@pytest.mark.parametrize("setting", SETTINGS)
def test_mean_normalization_on_photographs(setting):
    for crop in CROPS[:2]:
        image, probs = photograph(*crop)
        exact = crf_of(setting, "mean", exact=True)(probs, image, kind="probabilities")
        q = crf_of(setting, "mean")(probs, image, kind="probabilities")
        error, _ = distance(q, exact)
        assert error <= MEAN_ERROR[setting], error


@pytest.mark.parametrize(
    ("bilateral", "gain"),
    [pytest.param(None, 0.3, id="position"), pytest.param((67.0, 3.0, 0.02), 0.7, id="bilateral")],
)
def test_true_kernel_is_closer_to_the_textbook_sum(bilateral, gain):
    image, probs = photograph(*CROPS[0])
    kernels = [GaussianKernel(3.0, 0.1)] + ([BilateralKernel(*bilateral)] if bilateral else [])

    def infer(**options):
        return DenseCRF(kernels, normalization="none", **options)(
            probs, image, kind="probabilities"
        )

    exact = infer(exact=True)
    assert torch.equal(infer(exact=True, true_kernel=True), exact)
    error, _ = distance(infer(true_kernel=True), exact)
    assert error < gain * distance(infer(), exact)[0]


def test_true_kernel_leaves_other_normalizations_alone():
    scores, image = scene()
    assert torch.equal(small_crf(true_kernel=True)(scores, image), small_crf()(scores, image))


@pytest.mark.parametrize(
    ("dims", "density"), [(1, 32), (2, 8), (3, 4)], ids=["one-axis", "two-axes", "three-axes"]
)
def test_true_kernel_makes_row_sums_those_of_the_gaussian(dims, density):
    """Points ``density`` to a standard deviation along each axis, seen away from the border."""
    width = 8.0
    line = torch.arange(0, width, 1 / density)
    axes = torch.meshgrid(*[line] * dims, indexing="ij")
    points = torch.stack(axes).reshape(1, dims, 1, -1)
    scores = torch.zeros(1, 2, 1, points.shape[3])
    scores[:, 0] = 8.0  # Q is all but one-hot: the message is the row sum
    crf = DenseCRF([FeatureKernel(1e-3)], normalization="none", iterations=1, true_kernel=True)
    q = crf(scores.double(), features=points)[0, :, 0].log()
    message = (q[0] - q[1] - 8) / 1e-3 / (1 - 2 * torch.sigmoid(torch.tensor(-8.0)))
    inside = ((points[0, :, 0] - width / 2).abs() < width / 2 - 3).all(0)
    expected = (density * math.sqrt(2 * math.pi)) ** dims
    torch.testing.assert_close(message[inside].mean().item() / expected, 1.0, rtol=0, atol=0.02)


# Errors: the whole message

SCORES, IMAGE = scene()
NAN_SCORES = SCORES.clone()
NAN_SCORES[1, 2, 3, 4] = float("nan")
INFINITE_SCORES = SCORES.clone()
INFINITE_SCORES[0, :, 0, 1] = -float("inf")
NAN_IMAGE = IMAGE.float()
NAN_IMAGE[0, 1, 2, 3] = float("nan")
PROBS = SCORES.softmax(1)

BAD_CALLS = [
    (
        lambda: small_crf()(SCORES[0], IMAGE),
        ValueError,
        "DenseCRF: scores must have shape (B, L, H, W) or (B, L, D, H, W), got (4, 6, 8); "
        "scores[None] adds the batch dimension",
    ),
    (
        lambda: small_crf()(SCORES[None, None], IMAGE),
        ValueError,
        "DenseCRF: scores must have shape (B, L, H, W) or (B, L, D, H, W), got (1, 1, 2, 4, 6, 8)",
    ),
    (
        lambda: small_crf()(SCORES[:, :0], IMAGE),
        ValueError,
        "DenseCRF: scores must have at least one label and one pixel, got (2, 0, 6, 8)",
    ),
    (
        lambda: small_crf()(SCORES[..., :0], IMAGE),
        ValueError,
        "DenseCRF: scores must have at least one label and one pixel, got (2, 4, 6, 0)",
    ),
    (
        lambda: small_crf()(SCORES.numpy(), IMAGE),
        TypeError,
        "DenseCRF: scores must be a torch.Tensor, got ndarray",
    ),
    (
        lambda: small_crf()(SCORES.long(), IMAGE),
        TypeError,
        "DenseCRF: scores must have a floating dtype, got int64",
    ),
    (
        lambda: small_crf()(SCORES.to(torch.complex64), IMAGE),
        TypeError,
        "DenseCRF: scores must have a floating dtype, got complex64",
    ),
    (
        lambda: small_crf()(SCORES, IMAGE, kind="energies"),
        ValueError,
        "DenseCRF: kind must be one of logits, probabilities, got 'energies'",
    ),
    (
        lambda: small_crf()(NAN_SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must be finite, or -inf for a label that is ruled out, got nan at "
        "(1, 2, 3, 4) and 1 such values in all",
    ),
    (
        lambda: small_crf()(-INFINITE_SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must be finite, or -inf for a label that is ruled out, got inf at "
        "(0, 0, 0, 1) and 4 such values in all",
    ),
    (
        lambda: small_crf()(INFINITE_SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must leave at least one label to each pixel, got only -inf at "
        "(0, :, 0, 1)",
    ),
    (
        lambda: small_crf(exact=True)(NAN_SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must be finite, or -inf for a label that is ruled out, got nan at "
        "(1, 2, 3, 4) and 1 such values in all",
    ),
    (
        lambda: small_crf()(SCORES, NAN_IMAGE),
        ValueError,
        "DenseCRF: image must be finite, got nan at (0, 1, 2, 3) and 1 such values in all",
    ),
    (
        lambda: small_crf(exact=True)(SCORES, NAN_IMAGE),
        ValueError,
        "DenseCRF: image must be finite, got nan at (0, 1, 2, 3) and 1 such values in all",
    ),
    (
        lambda: small_crf()(NAN_SCORES, IMAGE, kind="probabilities"),
        ValueError,
        "DenseCRF: scores must lie in [0, 1] where kind is 'probabilities', got values from nan "
        "to nan",
    ),
    (lambda: small_crf()(2 * PROBS + 1, IMAGE, kind="probabilities"), ValueError, None),
    (
        lambda: small_crf()(PROBS / 2, IMAGE, kind="probabilities"),
        ValueError,
        "DenseCRF: scores must sum to 1 over the labels where kind is 'probabilities', got sums "
        "from 0.5 to 0.5",
    ),
    (
        lambda: small_crf()(SCORES),
        ValueError,
        "BilateralKernel: image must be a tensor of shape (2, C, 6, 8), got None",
    ),
    (
        lambda: small_crf()(SCORES, IMAGE[:, :, :3]),
        ValueError,
        "BilateralKernel: image must have shape (2, C, 6, 8) like the scores, got (2, 3, 3, 8)",
    ),
    (
        lambda: small_crf(labels=3)(SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must have 3 labels in dimension 1, got (2, 4, 6, 8)",
    ),
    (
        lambda: small_crf(compatibility=torch.eye(3))(SCORES, IMAGE),
        ValueError,
        "DenseCRF: scores must have the 3 labels of the compatibility (3, 3), got 4",
    ),
    (
        lambda: DenseCRF([GaussianKernel(weight=[1.0, 2.0])])(SCORES),
        ValueError,
        "DenseCRF: kernels[0].weight must have shape (), (4,) or (4, 4) for the 4 labels of "
        "scores, got (2,)",
    ),
    (
        lambda: small_crf()(SCORES, IMAGE.numpy()),
        TypeError,
        "BilateralKernel: image must be a torch.Tensor, got ndarray",
    ),
    (
        lambda: small_crf()(SCORES.to_sparse(), IMAGE),
        TypeError,
        "DenseCRF: scores must be a dense tensor, got a sparse_coo one",
    ),
    (
        lambda: small_crf()(SCORES, IMAGE.float().to_sparse()),
        TypeError,
        "BilateralKernel: image must be a dense tensor, got a sparse_coo one",
    ),
    (
        lambda: small_crf()(torch.zeros(1, 1001, 6, 8), IMAGE[:1]),
        ValueError,
        "DenseCRF: scores must have 1 to 1000 labels, got 1001",
    ),
    (
        lambda: small_crf()(SCORES, IMAGE, features=SCORES),
        ValueError,
        "DenseCRF: features must be one tensor for each of the 0 FeatureKernels, got 1",
    ),
    (
        lambda: DenseCRF([FeatureKernel()])(SCORES),
        ValueError,
        "DenseCRF: features must be one tensor for each of the 1 FeatureKernels, got 0",
    ),
]
BAD_ARGUMENTS = [
    (
        lambda: DenseCRF(GaussianKernel()),
        TypeError,
        "DenseCRF: kernels must be a sequence of kernels, got GaussianKernel(sigma_xy=3, weight=3)",
    ),
    (
        lambda: DenseCRF(None),
        TypeError,
        "DenseCRF: kernels must be a sequence of kernels, got None",
    ),
    (
        lambda: DenseCRF([nn.Identity()]),
        TypeError,
        "DenseCRF: kernels[0] must be a PairwiseKernel, got Identity",
    ),
    (
        lambda: small_crf(iterations=-1),
        ValueError,
        "DenseCRF: iterations must be between 0 and 100, got -1",
    ),
    (
        lambda: small_crf(iterations=101),
        ValueError,
        "DenseCRF: iterations must be between 0 and 100, got 101",
    ),
    (
        lambda: small_crf(iterations=2.0),
        TypeError,
        "DenseCRF: iterations must be an int, got float",
    ),
    (
        lambda: small_crf(train_iterations=True),
        TypeError,
        "DenseCRF: train_iterations must be an int, got bool",
    ),
    (lambda: small_crf(labels=0), ValueError, "DenseCRF: labels must be between 1 and 1000, got 0"),
    (
        lambda: small_crf(normalization="sym"),
        ValueError,
        "DenseCRF: normalization must be one of none, mean, before, after, symmetric, got 'sym'",
    ),
    (
        lambda: small_crf(distance="manhattan"),
        ValueError,
        "DenseCRF: distance must be one of euclidean, chebyshev, got 'manhattan'",
    ),
    (
        lambda: small_crf(distance="chebyshev"),
        ValueError,
        "DenseCRF: distance must be 'euclidean' for kernels on the lattice, got 'chebyshev'; "
        "exact=True serves both",
    ),
    (
        lambda: small_crf(compatibility="potts"),
        ValueError,
        "DenseCRF: compatibility must be None, 'diagonal', 'full' or a tensor, got 'potts'",
    ),
    (
        lambda: small_crf(compatibility="full"),
        ValueError,
        "DenseCRF: labels must be given where compatibility is 'full', got None",
    ),
    (
        lambda: small_crf(compatibility=torch.ones(2, 3)),
        ValueError,
        "DenseCRF: compatibility must have shape (L,) or (L, L), got (2, 3)",
    ),
    (
        lambda: small_crf(compatibility=[[1, 2], [3]]),
        TypeError,
        "DenseCRF: compatibility must be made of numbers, (L,) or (L, L), got [[1, 2], [3]]",
    ),
    (
        lambda: small_crf(features_gradient="smooth"),
        ValueError,
        "DenseCRF: features_gradient must be one of simplex, gaussian, got 'smooth'",
    ),
    (
        lambda: small_crf(self_message="no"),
        TypeError,
        "DenseCRF: self_message must be True or False, got 'no'",
    ),
    (
        lambda: small_crf(compatibility=1.0),
        ValueError,
        "DenseCRF: compatibility must have shape (L,) or (L, L), got ()",
    ),
    (
        lambda: small_crf(compatibility=torch.eye(2, dtype=torch.bool)),
        TypeError,
        "DenseCRF: compatibility must be real, got bool",
    ),
    (
        lambda: small_crf(compatibility=torch.full((2,), torch.nan)),
        ValueError,
        "DenseCRF: compatibility must be finite, got [nan, nan]",
    ),
    (
        lambda: small_crf(compatibility=torch.ones(2), labels=3),
        ValueError,
        "DenseCRF: compatibility must have shape (3,) or (3, 3) for 3 labels, got (2,)",
    ),
    (
        lambda: small_crf(train_compatibility=True),
        ValueError,
        "DenseCRF: compatibility must be a tensor, 'diagonal' or 'full' where "
        "train_compatibility is true, got None",
    ),
    (
        lambda: DenseCRF.preset("deeplab"),
        ValueError,
        f"DenseCRF.preset: name must be one of {', '.join(PRESETS)}, got 'deeplab'",
    ),
    (lambda: DenseCRF.crf_rnn(0), ValueError, "DenseCRF: labels must be between 1 and 1000, got 0"),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    BAD_CALLS + BAD_ARGUMENTS,
    ids=[str(m) for *_, m in BAD_CALLS + BAD_ARGUMENTS],
)
def test_rejects(call, error, message):
    with pytest.raises(
        error, match=f"^{re.escape(message)}$" if message else "^DenseCRF: scores must lie in "
    ):
        call()


def test_a_width_too_small_for_the_lattice_is_named():
    crf = DenseCRF([GaussianKernel(), BilateralKernel(80.0, 1e-8)])
    with pytest.raises(
        ValueError,
        match=r"^mean_field: features\[1\] .*; these are the features of "
        r"BilateralKernel\(sigma_xy=80, sigma_rgb=1e-08, weight=10\)$",
    ):
        crf(SCORES, IMAGE)


def test_parameters_that_training_broke_are_named():
    crf = small_crf(compatibility="full", labels=4)
    crf.kernels[1].weight.data.fill_(torch.inf)
    with pytest.raises(
        ValueError, match=r"^DenseCRF: kernels\[1\].weight must be finite, got inf$"
    ):
        crf(SCORES, IMAGE)
    crf.compatibility.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^DenseCRF: compatibility must be finite, got "):
        crf(SCORES, IMAGE)


def test_unit_range_image_draws_one_warning_that_names_the_caller():
    crf = DenseCRF([BilateralKernel(), BilateralKernel(20.0, 5.0)])
    image = IMAGE.float() / 255
    with pytest.warns(UserWarning, match="image should hold 0-255 values") as caught:
        crf(SCORES, image)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message) == (
        "DenseCRF: image should hold 0-255 values where sigma_rgb is 1 or more, got values from 0 "
        "to 0.5137; multiply the image by 255, or divide sigma_rgb by 255"
    )


@pytest.mark.parametrize(
    ("image", "sigma_rgb"),
    [
        pytest.param(IMAGE.float() / 255, 13 / 255, id="sigma-in-unit-range"),
        pytest.param(torch.zeros_like(IMAGE.float()), 13.0, id="black"),
        pytest.param(torch.ones_like(IMAGE.float()), 13.0, id="constant"),
        pytest.param(IMAGE % 2, 13.0, id="uint8"),
        pytest.param(IMAGE.float(), 13.0, id="0-255"),
        pytest.param(IMAGE.float() / 255 - 0.25, 13.0, id="mean-subtracted"),
    ],
)
def test_no_warning(image, sigma_rgb):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DenseCRF([BilateralKernel(80.0, sigma_rgb)])(SCORES, image)
