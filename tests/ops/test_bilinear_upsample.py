"""Bilinear upsampling, alone and fused with argmax, softmax and cross-entropy."""

import gc
import math
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

import fastseg._C
from fastseg import reference
from fastseg.ops import (
    bilinear_upsample,
    upsample_argmax,
    upsample_cross_entropy,
    upsample_softmax,
)
from fastseg.reference.bilinear_upsample import interpolation_matrix

ops = torch.ops.fastseg
pytestmark = pytest.mark.usefixtures("device")

NO_SCALE = (None, None)

SMALL = pytest.mark.small
GEOMETRIES = [  # source, size, align_corners, scale
    pytest.param((5, 9), (33, 65), True, NO_SCALE, id="eightfold-corners"),
    pytest.param((9, 9), (72, 72), False, NO_SCALE, id="eightfold"),
    pytest.param((5, 7), (9, 50), False, NO_SCALE, id="odd", marks=SMALL),
    pytest.param((9, 30), (4, 7), False, NO_SCALE, id="smaller", marks=SMALL),
    pytest.param((20, 33), (15, 16), True, NO_SCALE, id="smaller-corners"),
    pytest.param((3, 40), (64, 41), False, NO_SCALE, id="tall-by-20"),
    pytest.param((1, 4), (1, 9), False, NO_SCALE, id="one-row"),
    pytest.param((6, 1), (5, 3), True, NO_SCALE, id="one-column"),
    pytest.param((2, 2), (3, 300), False, NO_SCALE, id="wide-by-150", marks=SMALL),
    pytest.param((1, 1), (1, 1), False, NO_SCALE, id="one-pixel", marks=SMALL),
    pytest.param((4, 13), (4, 13), False, NO_SCALE, id="same"),
    pytest.param((4, 9), (1, 1), True, NO_SCALE, id="to-one-pixel"),
    pytest.param((6, 9), (13, 20), False, (2.2, 2.3), id="scale"),
    pytest.param((6, 9), (20, 7), False, (1.5, 2.0), id="scale-beside-size"),
    pytest.param((6, 9), (20, 9), False, (3.3, 8.0), id="scale-of-the-same-width", marks=SMALL),
    pytest.param((16, 18), (12, 9), False, (0.75, 0.5), id="scale-smaller", marks=SMALL),
]

NIGHTLY = [
    pytest.param((33, 33), (257, 257), True, NO_SCALE, id="large-corners"),
    pytest.param((17, 64), (136, 512), False, NO_SCALE, id="large"),
    pytest.param((3, 70), (300, 33), False, NO_SCALE, id="tall-by-100"),
    pytest.param((90, 5), (7, 1024), False, NO_SCALE, id="wide"),
    pytest.param((40, 300), (20, 150), False, (0.5, 0.5), id="large-scale-smaller"),
]
if os.environ.get("FASTSEG_NIGHTLY"):
    GEOMETRIES += NIGHTLY

LAYOUTS = ["nchw", "channels-last", "strided", "transposed"]


def laid_out(tensor, layout):
    """The same ``(B, C, H, W)`` numbers in other memory."""
    if layout == "channels-last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([tensor, -tensor], -1)[..., 0]
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    return tensor.contiguous()


def scale_of(scale):
    return None if scale == NO_SCALE else scale


def interpolate(input, size, align_corners=False):
    """torch's on the CPU: its deterministic one for GPUs spreads NaN and infinity further."""
    upsampled = functional.interpolate(
        input.cpu(), size=size, mode="bilinear", align_corners=align_corners
    )
    return upsampled.to(input.device)


def labels_for(size, classes, ignored=255, batch=2):
    """Patches of labels, single ones among them, and an ignored line."""
    coarse = torch.randint(0, classes, (batch, 1, 5, 5)).double()
    labels = functional.interpolate(coarse, size=size).long()[:, 0]
    labels = torch.where(
        torch.rand(labels.shape) < 0.2, torch.randint_like(labels, classes), labels
    )
    labels[:, :, :: max(2, size[1] // 3)] = ignored
    return labels


# Against the reference and torch


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("source", "size", "corners", "scale"), GEOMETRIES)
def test_upsample_matches_reference(
    source, size, corners, scale, layout, score_dtype, close_scores
):
    scores = laid_out(torch.randn(2, 3, *source, dtype=score_dtype), layout)
    upsampled = bilinear_upsample(scores, size, corners, scale_of(scale))
    close_scores(upsampled, reference.bilinear_upsample(scores, size, corners, scale))
    last = layout == "channels-last" and not scores.is_contiguous()
    expected = torch.channels_last if last else torch.contiguous_format
    assert upsampled.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("source", "size", "corners", "scale"), GEOMETRIES)
def test_upsample_backward_is_the_adjoint(source, size, corners, scale, layout, score_dtype):
    grad = laid_out(torch.randn(2, 3, *size, dtype=score_dtype), layout)
    rows = interpolation_matrix(source[0], size[0], corners, scale[0])
    columns = interpolation_matrix(source[1], size[1], corners, scale[1])
    expected = rows.T @ grad.double() @ columns
    found = ops.bilinear_upsample_backward(grad, source, corners, *scale)
    unit = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
    worst = (found.double() - expected).abs().max()
    assert worst <= unit[score_dtype] * (1 + expected.abs().max())


@pytest.mark.parametrize(("corners", "recompute"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.3, 2.0, 7.9, (0.4, 3.7)])
def test_scale_means_what_interpolate_means(factor, recompute, corners):
    scores = torch.randn(1, 2, 13, 10, dtype=torch.float64)
    expected = functional.interpolate(
        scores,
        scale_factor=factor,
        mode="bilinear",
        align_corners=corners,
        recompute_scale_factor=recompute,
    )
    if recompute:
        found = bilinear_upsample(scores, tuple(expected.shape[2:]), corners)
    else:
        found = bilinear_upsample(scores, None, corners, factor)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    source=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.integers(1, 11),
    corners=st.booleans(),
    scale=st.none() | st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
    layout=st.sampled_from(LAYOUTS),
    single=st.booleans(),
)
def test_any_geometry(source, size, channels, corners, scale, layout, single):
    torch.manual_seed(source[0] * 31 + size[0])
    dtype = torch.float32 if single else torch.float64
    close = {"rtol": 1e-5, "atol": 3e-6} if single else {"rtol": 1e-11, "atol": 1e-11}
    scores = laid_out(3 * torch.randn(2, channels, *source, dtype=dtype), layout)
    arguments = (size, corners, scale or NO_SCALE)
    torch.testing.assert_close(
        bilinear_upsample(scores, size, corners, scale),
        reference.bilinear_upsample(scores, *arguments),
        **close,
    )
    torch_answer = torch._C._nn.upsample_bilinear2d(
        scores.double().contiguous(), size, corners, *arguments[2]
    )
    torch.testing.assert_close(
        bilinear_upsample(scores.double(), size, corners, scale), torch_answer,
        rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    torch.testing.assert_close(
        upsample_softmax(scores, size, corners, scale),
        reference.upsample_softmax(scores, *arguments),
        **close,
    )
    labels, margin = reference.upsample_argmax(scores, *arguments)
    found = upsample_argmax(scores, size, corners, scale)
    assert torch.equal(found[margin > 1e-6], labels[margin > 1e-6])
    if channels > 1:
        target = labels_for(size, channels)
        torch.testing.assert_close(
            upsample_cross_entropy(scores, target, align_corners=corners, scale=scale).double(),
            reference.upsample_cross_entropy(
                scores, target, align_corners=corners, scale=arguments[2]
            ),
            **close,
            equal_nan=True,
        )


# Known answers


def two_by_two(dtype=torch.float32):
    return torch.tensor([[[[1, 2], [3, 4]]]], dtype=dtype)


def test_lecture_half_pixel():
    expected = [
        [1, 1.25, 1.75, 2],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3, 3.25, 3.75, 4],
    ]
    assert bilinear_upsample(two_by_two(), 4)[0, 0].tolist() == expected
    assert bilinear_upsample(two_by_two(), scale=2)[0, 0].tolist() == expected


def test_lecture_align_corners(close, dtype):
    row = torch.tensor([0, 1, 2, 3], dtype=dtype) / 3
    expected = 1 + row[None, :] + 2 * row[:, None]
    close(bilinear_upsample(two_by_two(dtype), 4, True)[0, 0], expected)


def test_constant_stays_constant(dtype, close):
    scores = torch.full((1, 2, 5, 9), 3.25, dtype=dtype)
    close(bilinear_upsample(scores, (37, 80)), torch.full((1, 2, 37, 80), 3.25, dtype=dtype))


def test_same_size_is_the_same(score_dtype):
    scores = torch.randn(2, 3, 7, 19, dtype=score_dtype)
    assert torch.equal(bilinear_upsample(scores, (7, 19)), scores)
    assert torch.equal(upsample_argmax(scores, (7, 19)), scores.argmax(1))


@pytest.mark.small
def test_empty_batch(score_dtype):
    scores = torch.randn(0, 3, 4, 5, dtype=score_dtype, requires_grad=True)
    assert bilinear_upsample(scores, (8, 9)).shape == (0, 3, 8, 9)
    assert upsample_softmax(scores, (8, 9)).shape == (0, 3, 8, 9)
    labels = upsample_argmax(scores, (8, 9))
    assert labels.shape == (0, 8, 9)
    assert labels.dtype == torch.int64
    losses = upsample_cross_entropy(scores, labels, reduction="none")
    assert losses.shape == (0, 8, 9)
    assert upsample_cross_entropy(scores, labels).isnan()  # as F.cross_entropy
    loss = upsample_cross_entropy(scores, labels, reduction="sum")
    (grad,) = torch.autograd.grad(loss + bilinear_upsample(scores, 9).float().sum(), scores)
    assert loss == 0
    assert grad.shape == scores.shape


# Argmax


def smooth_scores(classes=21, source=17):
    """Regions with borders, as a network's scores have them."""
    coarse = 4 * torch.randn(1, classes, 6, 6)
    return interpolate(coarse, (source, source)) + 0.3 * torch.randn(1, classes, source, source)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "channels-last"])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_argmax_equals_float64(kind, layout, corners, score_dtype, instruction_set):
    scores = smooth_scores() if kind == "smooth" else torch.randn(1, 21, 17, 17)
    scores = laid_out(scores.to(score_dtype), layout)
    expected, margin = reference.upsample_argmax(scores, (129, 129), corners)
    for dtype in (torch.int64, torch.uint8):
        labels = upsample_argmax(scores, 129, corners, dtype=dtype)
        assert labels.dtype == dtype
        assert labels.is_contiguous()
        assert torch.equal(labels.long()[margin > 1e-6], expected[margin > 1e-6])


@pytest.mark.parametrize(("source", "size", "corners", "scale"), GEOMETRIES)
def test_argmax_of_every_geometry(source, size, corners, scale, dtype):
    scores = torch.randn(2, 5, *source).to(dtype)
    expected, margin = reference.upsample_argmax(scores, size, corners, scale)
    for kind in (torch.int64, torch.uint8):
        labels = upsample_argmax(scores, size, corners, scale_of(scale), dtype=kind)
        assert torch.equal(labels.long()[margin > 1e-6], expected[margin > 1e-6])


def test_argmax_of_what_cancels(instruction_set):
    """Corners of +-1000 that meet in small numbers, where single precision orders wrongly."""
    torch.manual_seed(5)
    corner = 1000 * torch.randn(1, 2, 16, 16, dtype=torch.float64)
    scores = torch.cat([corner, corner + 2e-4 * torch.randn_like(corner)], 1).float()
    expected, margin = reference.upsample_argmax(scores, (127, 127))
    naive = interpolate(scores, (127, 127)).argmax(1)
    assert (naive != expected)[margin > 1e-6].any()  # the case is hard
    labels = upsample_argmax(scores, 127)
    assert torch.equal(labels[margin > 1e-6], expected[margin > 1e-6])


@pytest.mark.small
def test_argmax_ties_go_to_the_lowest(score_dtype, instruction_set):
    scores = torch.randn(1, 4, 5, 9).to(score_dtype)
    doubled = torch.cat([scores, scores], 1)
    labels = upsample_argmax(doubled, (37, 70))
    assert torch.equal(labels, upsample_argmax(scores, (37, 70)))
    assert not upsample_argmax(torch.zeros(1, 3, 4, 4, dtype=score_dtype), 30).any()
    # Class 1 leads at one sample and equals class 0 at the others.
    scores = torch.zeros(1, 2, 3, 9, dtype=score_dtype)
    scores[0, 1, 1, 4] = 1
    labels = upsample_argmax(scores, (17, 65), True)
    influence = bilinear_upsample(scores, (17, 65), True)[:, 1] > 0
    assert torch.equal(labels, influence.long())
    # Class 1 leads but for one column, where the two are equal.
    scores = torch.zeros(1, 2, 3, 9, dtype=score_dtype)
    scores[0, 1] = 1
    scores[0, 1, :, 4] = 0
    labels = upsample_argmax(scores, (7, 25), True)
    assert (labels == 0).nonzero()[:, 2].unique().tolist() == [12]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_argmax_of_what_is_not_finite(value, score_dtype, instruction_set):
    scores = torch.randn(2, 5, 6, 11).to(score_dtype)
    scores[0, 3, 2, 4] = value
    scores[0, 1, 2, 5] = value
    scores[1, 2] = value
    for size, corners in (((31, 60), False), ((6, 11), False), ((21, 41), True), ((3, 4), False)):
        expected = interpolate(scores.double(), size, corners).argmax(1)
        assert torch.equal(upsample_argmax(scores, size, corners), expected)


def test_argmax_of_large_numbers(instruction_set):
    scores = 3e38 * (2 * torch.rand(1, 6, 5, 9) - 1)
    expected, _ = reference.upsample_argmax(scores, (33, 65))
    assert torch.equal(upsample_argmax(scores, (33, 65)), expected)


def test_argmax_of_many_classes():
    scores = torch.randn(1, 256, 4, 5)
    expected, _ = reference.upsample_argmax(scores, (13, 17))
    labels = upsample_argmax(scores, (13, 17), dtype=torch.uint8)
    assert torch.equal(labels.long(), expected)
    assert labels.max() > 200


def test_argmax_has_no_gradient():
    assert not upsample_argmax(torch.randn(1, 2, 3, 3, requires_grad=True), 5).requires_grad


# Softmax


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spread", [1, 30, 1000])
@pytest.mark.parametrize(("source", "size", "corners", "scale"), GEOMETRIES[::2])
def test_softmax_matches_reference(
    source, size, corners, scale, spread, layout, score_dtype, close_scores
):
    scores = spread * torch.randn(2, 9, *source, dtype=torch.float64)
    scores = laid_out(scores.to(score_dtype), layout)
    probs = upsample_softmax(scores, size, corners, scale_of(scale))
    upsampled = reference.bilinear_upsample(scores.double(), size, corners, scale)
    expected = upsampled.softmax(1)
    if spread == 1:
        close_scores(probs, expected.to(score_dtype))
    else:  # single precision rounds logits of this size by so much
        unit = {torch.float64: 1e-16}.get(score_dtype, 6e-8)
        allowed = torch.finfo(score_dtype).eps + 8 * spread * unit
        assert (probs.double() - expected).abs().max() < allowed
    torch.testing.assert_close(probs.double().sum(1), torch.ones(2, *size).double(), rtol=0,
                               atol=9 * torch.finfo(score_dtype).eps)  # fmt: skip
    last = layout == "channels-last" and not scores.is_contiguous()
    assert probs.is_contiguous(memory_format=[torch.contiguous_format, torch.channels_last][last])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e30, 1e30])
def test_softmax_of_what_is_not_finite(value, dtype, close, instruction_set):
    scores = torch.randn(2, 5, 6, 11, dtype=dtype)
    scores[0, 3, 2, 4] = value
    scores[1, 2] = value
    for size, corners in (((31, 60), False), ((6, 11), False), ((3, 4), False)):
        expected = interpolate(scores.double(), size, corners).softmax(1)
        found = upsample_softmax(scores, size, corners)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_softmax_of_every_instruction_set(instruction_set, dtype, close):
    assert instruction_set in (None, fastseg._C.instruction_set())
    for size in ((65, 130), (20, 22), (5, 9)):  # eightfold, twofold, smaller
        scores = 3 * torch.randn(1, 21, 9, 17, dtype=dtype)
        close(upsample_softmax(scores, size), reference.upsample_softmax(scores, size))


# Cross-entropy


def composed(logits, labels, weight, pixel_weight, ignore, reduction, corners):
    """The same from torch's own parts, in float64."""
    upsampled = interpolate(logits.double(), tuple(labels.shape[1:]), corners)
    weights = None if weight is None else weight.double()
    labels = labels.long()
    if pixel_weight is None:
        return functional.cross_entropy(
            upsampled, labels, weight=weights, ignore_index=ignore, reduction=reduction
        )
    losses = functional.cross_entropy(
        upsampled, labels, weight=weights, ignore_index=ignore, reduction="none"
    )
    losses = losses * pixel_weight.double()
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = labels != ignore
    omega = pixel_weight.double() * (1 if weights is None else weights[labels * counted])
    return losses.sum() / omega[counted].sum()


def loss_and_grad(function, logits, upstream):
    logits = logits.detach().requires_grad_()
    loss = function(logits)
    (grad,) = torch.autograd.grad(loss, logits, upstream.to(loss.dtype).expand(loss.shape))
    return loss.detach(), grad


@pytest.mark.parametrize("layout", ["nchw", "channels-last"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", ["", "weight", "pixel_weight", "weight,pixel_weight"])
@pytest.mark.parametrize(
    "size", [pytest.param((65, 66), id="larger"), pytest.param((7, 5), id="smaller", marks=SMALL)]
)
def test_cross_entropy_and_gradient(size, weights, reduction, layout, score_dtype):
    logits = laid_out((2 * torch.randn(2, 6, 9, 12)).to(score_dtype), layout)
    labels = labels_for(size, 6)
    weight = torch.rand(6) + 0.5 if "weight" in weights.split(",") else None
    pixel_weight = torch.rand(2, *size) if "pixel_weight" in weights else None
    upstream = torch.randn(2, *size) if reduction == "none" else torch.tensor(0.7)
    arguments = (labels, weight, pixel_weight, 255, reduction)
    loss, grad = loss_and_grad(lambda x: upsample_cross_entropy(x, *arguments), logits, upstream)
    expected, expected_grad = loss_and_grad(
        lambda x: composed(x, *arguments, False), logits, upstream
    )
    unit = {torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
    assert loss.dtype == (torch.float64 if score_dtype == torch.float64 else torch.float32)
    rtol = 1e-6 if score_dtype == torch.float64 and weights else 1e-5  # weights are float32
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=2e-6)
    assert grad.dtype == score_dtype
    allowed = unit.get(score_dtype, 2e-6) * expected_grad.abs().max()
    assert (grad.double() - expected_grad).abs().max() <= allowed
    plain = upsample_cross_entropy(logits, *arguments)  # without a gradient
    torch.testing.assert_close(plain, loss, rtol=0, atol=0)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("ignore", "byte"), [(255, False), (255, True), (0, False), (3, True), (-100, False)]
)
def test_cross_entropy_ignores(ignore, byte, corners, dtype, instruction_set):
    logits = torch.randn(2, 5, 6, 7, dtype=dtype)
    labels = labels_for((33, 41), 5, ignore).to(torch.uint8 if byte else torch.int64)
    upstream = torch.tensor(1.0)
    for reduction in ("mean", "sum"):
        loss, grad = loss_and_grad(
            lambda x, how=reduction: upsample_cross_entropy(
                x, labels, None, None, ignore, how, align_corners=corners
            ),
            logits,
            upstream,
        )
        expected, expected_grad = loss_and_grad(
            lambda x, how=reduction: composed(x, labels, None, None, ignore, how, corners),
            logits,
            upstream,
        )
        torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(grad.double(), expected_grad.double(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_with_all_ignored(reduction, dtype):
    logits = torch.randn(1, 3, 4, 4, dtype=dtype)
    labels = torch.full((1, 9, 9), 255)
    upstream = torch.ones(())
    loss, grad = loss_and_grad(
        lambda x: upsample_cross_entropy(x, labels, reduction=reduction), logits, upstream
    )
    expected, expected_grad = loss_and_grad(
        lambda x: composed(x, labels, None, None, 255, reduction, False), logits, upstream
    )
    torch.testing.assert_close(loss.double(), expected, equal_nan=True)
    assert torch.equal(grad.double(), expected_grad.double())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_cross_entropy_of_what_is_not_finite(value, dtype, instruction_set):
    logits = torch.randn(2, 4, 5, 11, dtype=dtype)
    logits[0, 1, 2, 4] = value
    labels = labels_for((21, 41), 4)
    expected = composed(logits, labels, None, None, 255, "none", False)
    losses = upsample_cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_cross_entropy_of_confident_logits(instruction_set):
    """Losses of 1e-6 and of 1000: no digits are lost to the exponentials."""
    logits = torch.zeros(1, 3, 5, 9)
    logits[0, 0] = 14
    logits[0, 2, 2, 3:6] = 1000
    labels = torch.zeros(1, 33, 65, dtype=torch.int64)
    labels[:, 20:] = 1
    expected = composed(logits, labels, None, None, 255, "none", False)
    losses = upsample_cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)


def test_nan_gradient_reaches_its_samples_only(dtype):
    grad = torch.zeros(1, 1, 40, 40, dtype=dtype)
    grad[0, 0, 13, 20] = math.nan
    found = ops.bilinear_upsample_backward(grad, (10, 10), False, None, None)
    (expected,) = torch.autograd.grad(
        interpolate(leaf := torch.zeros(1, 1, 10, 10, dtype=dtype, requires_grad=True), (40, 40)),
        leaf,
        grad,
    )
    assert torch.equal(found.isnan(), expected.isnan())
    assert found.isnan().sum() == 4


def test_loss_scale_keeps_half_gradients():
    """A mean over many pixels is below what float16 holds; the scale comes before the rounding."""
    logits = torch.randn(1, 4, 8, 8, dtype=torch.float16)
    labels = labels_for((512, 512), 4, batch=1)
    scale = torch.tensor(2.0**16)
    _, grad = loss_and_grad(lambda x: upsample_cross_entropy(x, labels), logits, scale)
    _, expected = loss_and_grad(
        lambda x: composed(x, labels, None, None, 255, "mean", False), logits, scale
    )
    worst = (grad.double() - expected.double()).abs().max()
    assert worst <= 1e-3 * expected.abs().max()


def resident(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


@pytest.mark.cpu_only
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy_makes_no_upsampled_logits(reduction):
    """One copy of them would be 22 MB; labels and losses are counted apart."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("needs Linux's /proc")
    logits = torch.randn(1, 21, 65, 65, requires_grad=True)
    labels = labels_for((513, 513), 21, batch=1)

    def step():
        loss = upsample_cross_entropy(logits, labels, reduction=reduction)
        return torch.autograd.grad(loss, logits, torch.ones_like(loss))

    step()
    gc.collect()
    clear.write_text("5")
    before = resident("VmRSS")
    step()
    assert resident("VmHWM") - before < 6e6


# Gradients


@pytest.mark.parametrize("layout", ["nchw", "channels-last"])
@pytest.mark.parametrize(("size", "corners"), [((5, 9), False), ((2, 3), True)])
@pytest.mark.parametrize("function", [bilinear_upsample, upsample_softmax])
def test_gradients(function, size, corners, layout):
    leaf = laid_out(torch.randn(1, 2, 3, 4, dtype=torch.float64), layout).requires_grad_()
    assert gradcheck(lambda x: function(x, size, corners), (leaf,))
    assert gradgradcheck(lambda x: function(x, size, corners), (leaf,))


@pytest.mark.small
def test_gradients_of_the_gradient():
    scores = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: bilinear_upsample(x, (5, 6), scale=1.7).square(), (scores,))
    upsampled = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda g: ops.bilinear_upsample_backward(g, (3, 4), False, None, None), (upsampled,)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_the_cross_entropy(reduction):
    logits = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = labels_for((7, 9), 3, batch=1)
    weight = torch.rand(3, dtype=torch.float64)
    pixel_weight = torch.rand(1, 7, 9, dtype=torch.float64)
    assert gradcheck(
        lambda x: upsample_cross_entropy(x, labels, weight, pixel_weight, 255, reduction), (logits,)
    )
    pixel_weight.requires_grad_()
    assert gradcheck(
        lambda x, w: upsample_cross_entropy(x, labels, weight, w, 255, reduction),
        (logits, pixel_weight),
    )
    loss = upsample_cross_entropy(logits, labels, weight, pixel_weight, 255, reduction)
    expected = upsample_cross_entropy(logits, labels, weight, pixel_weight.detach(), 255, reduction)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy_refuses_the_second_derivative(reduction):
    logits = torch.randn(1, 3, 3, 4, requires_grad=True)
    labels = labels_for((7, 9), 3, batch=1)
    loss = upsample_cross_entropy(logits, labels, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="must not be differentiated twice"):
        torch.autograd.grad(grad.sum(), logits)


def test_gradient_of_an_awkward_layout():
    scores = torch.randn(1, 3, 5, 9)
    labels = labels_for((17, 33), 3, batch=1)
    for layout in LAYOUTS:
        grads = []
        for input in (scores, laid_out(scores, layout)):
            leaf = input.detach().requires_grad_()
            total = upsample_softmax(leaf, (17, 33))[:, 1].square().sum()
            total = total + bilinear_upsample(leaf, (17, 33)).sin().sum()
            total = total + upsample_cross_entropy(leaf, labels)
            grads += torch.autograd.grad(total, leaf)
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


# Registration


def operator_calls(grad):
    logits = torch.randn(2, 3, 2, 3)
    labels = labels_for((4, 5), 3)
    target = (labels, torch.rand(3), torch.rand(2, 4, 5), 255)
    place = (False, None, 2.5)
    for layout in ("nchw", "channels-last"):
        scores = laid_out(logits, layout).requires_grad_(grad)
        large = laid_out(torch.randn(2, 3, 4, 5), layout).requires_grad_(grad)
        yield ops.bilinear_upsample, (scores, (4, 5), *place)
        yield ops.bilinear_upsample_backward, (large, (2, 3), *place)
        yield ops.upsample_cross_entropy, (scores, *target, "none", *place)
    yield ops.upsample_softmax, (scores, (4, 5), *place)
    probs = large.detach().softmax(1).requires_grad_(grad)
    yield ops.upsample_softmax_backward, (large, probs, (2, 3), *place)
    yield ops.upsample_cross_entropy, (scores, *target, "mean", *place)
    if not grad:
        yield ops.upsample_argmax, (scores, (4, 5), "uint8", *place)
        yield ops.upsample_cross_entropy_and_gradient, (scores, *target, "sum", *place)
        upstream = torch.rand(2, 4, 5)
        yield ops.upsample_cross_entropy_backward, (upstream, scores, *target, "none", *place)
        yield ops.upsample_cross_entropy_scaled_gradient, (torch.rand(()), scores, scores)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_registration(grad):
    for operator, arguments in operator_calls(grad):
        torch.library.opcheck(operator.default, arguments)


def test_registration_of_loss_and_gradient():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = labels_for((9, 11), 3)
    # opcheck's sum over the outputs differentiates the second, which has no gradient;
    # test_traced_training covers that.
    torch.library.opcheck(
        ops.upsample_cross_entropy_and_gradient.default,
        (logits, labels, None, None, 255, "mean", False, None, None),
        test_utils=["test_schema", "test_autograd_registration", "test_faketensor"],
    )


class Head(torch.nn.Module):
    """Every operator once."""

    def __init__(self):
        super().__init__()
        self.score = torch.nn.Conv2d(2, 4, 1)

    def forward(self, image, labels):
        size = (labels.shape[1], labels.shape[2])
        logits = self.score(image)
        loss = upsample_cross_entropy(logits, labels)
        half = bilinear_upsample(image, scale=0.5, align_corners=True)
        probs = upsample_softmax(logits, size)
        found = upsample_argmax(logits, size, dtype=torch.uint8)
        return loss + half.square().mean() + probs[:, 0].square().mean(), found


def compare_steps(module, compiled, image, labels):
    results = []
    for run in (module, compiled):
        module.zero_grad()
        loss, found = run(image, labels)
        loss.backward()
        grads = [p.grad.clone() for p in module.parameters()]
        results.append([loss.detach(), found, *grads])
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(plain, traced)


@pytest.mark.cpu_only
def test_traced_training():
    """Without a graph break; one graph also for a size that it has not seen."""
    torch._dynamo.reset()
    module = Head()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    compare_steps(module, compiled, torch.randn(2, 2, 6, 8), labels_for((21, 33), 4))
    compare_steps(module, compiled, torch.randn(2, 2, 7, 9), labels_for((25, 40), 4))


@pytest.mark.cpu_only
def test_compiled_training():
    """By inductor, which makes code of its own for what is not ours."""
    torch._dynamo.reset()

    def loss_of(logits, labels):
        return upsample_cross_entropy(2 * logits, labels)

    labels = labels_for((21, 33), 4)
    leaf = torch.randn(2, 4, 6, 8, requires_grad=True)
    results = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True)):
        loss = function(leaf, labels)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(plain, compiled)


@pytest.mark.cpu_only
def test_exported_model():
    module = Head().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    arguments = torch.randn(2, 2, 6, 8), labels_for((21, 33), 4)
    with torch.no_grad():
        program = torch.export.export(module, arguments, dynamic_shapes=({0: batch}, {0: batch}))
        for count in (2, 3):
            image, labels = torch.randn(count, 2, 6, 8), labels_for((21, 33), 4, batch=count)
            for found, expected in zip(
                program.module()(image, labels), module(image, labels), strict=True
            ):
                assert torch.equal(found, expected)


# Determinism


def every_result(logits, labels, size):
    leaf = logits.detach().requires_grad_()
    weight = torch.linspace(0.5, 2, logits.shape[1])
    upsampled = bilinear_upsample(leaf, size)
    probs = upsample_softmax(leaf, size)
    results = [upsampled, probs, upsample_argmax(leaf, size)]
    results += torch.autograd.grad(upsampled, leaf, probs.detach())
    results += torch.autograd.grad(probs, leaf, upsampled.detach())
    for reduction in ("mean", "none"):
        loss = upsample_cross_entropy(leaf, labels, weight, reduction=reduction)
        results += [loss, *torch.autograd.grad(loss, leaf, torch.ones_like(loss))]
    return results


@pytest.mark.cpu_only
@pytest.mark.parametrize("layout", ["nchw", "channels-last"])
def test_one_thread_equals_many(layout, num_threads, instruction_set):
    logits = laid_out(torch.randn(2, 7, 17, 19), layout)
    labels = labels_for((129, 150), 7)
    results = []
    for threads in (1, 2, 3):
        num_threads(threads)
        results.append(every_result(logits, labels, (129, 150)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.small
def test_batch_equals_loop(instruction_set):
    logits, labels = torch.randn(3, 5, 9, 11), labels_for((40, 50), 5, batch=3)
    together = every_result(logits, labels, (40, 50))
    for image in range(3):
        one = slice(image, image + 1)
        alone = every_result(logits[one], labels[one], (40, 50))
        for a, b in zip(together, alone, strict=True):
            if a.dim() and a.shape[0] == 3 and b.shape == a[one].shape:
                same = torch.equal(a[one], b)
                assert same or a.shape == logits.shape  # a mean's gradient knows the batch


# Refusals


def scores():
    return torch.ones(1, 3, 4, 5)


def labels():
    return torch.zeros(1, 8, 9, dtype=torch.int64)


def huge(*shape):
    return torch.zeros(1).expand(shape)


REJECTED = {
    "type": (
        lambda: bilinear_upsample([1.0], 2),
        TypeError,
        "bilinear_upsample: input must be a torch.Tensor, got list",
    ),
    "rank": (
        lambda: bilinear_upsample(torch.ones(3, 4), 2),
        ValueError,
        "bilinear_upsample: input must have shape (B, C, H, W), got (3, 4)",
    ),
    "rank-scale": (
        lambda: bilinear_upsample(torch.ones(3, 4), scale=2),
        ValueError,
        "bilinear_upsample: input must have shape (B, C, H, W), got (3, 4)",
    ),
    "dtype": (
        lambda: bilinear_upsample(scores().int(), 2),
        TypeError,
        "bilinear_upsample: input must have dtype float32, float64, float16 or bfloat16, got int32",
    ),
    "complex": (
        lambda: upsample_softmax(scores().cfloat(), 2),
        TypeError,
        "upsample_softmax: logits must have dtype float32, float64, float16 or bfloat16, "
        "got complex64",
    ),
    "no-channel": (
        lambda: bilinear_upsample(torch.ones(1, 0, 4, 5), 2),
        ValueError,
        "bilinear_upsample: input.shape[1] must be between 1 and 2147483583, got 0",
    ),
    "no-row": (
        lambda: upsample_argmax(torch.ones(1, 2, 0, 5), 2),
        ValueError,
        "upsample_argmax: logits.shape[2] must be between 1 and 2147483583, got 0",
    ),
    "no-output": (
        lambda: bilinear_upsample(scores(), (4, 0)),
        ValueError,
        "bilinear_upsample: size[1] must be between 1 and 2147483583, got 0",
    ),
    "negative-output": (
        lambda: bilinear_upsample(scores(), -3),
        ValueError,
        "bilinear_upsample: size[0] must be between 1 and 2147483583, got -3",
    ),
    "too-small-a-scale": (
        lambda: bilinear_upsample(scores(), scale=0.2),
        ValueError,
        "bilinear_upsample: size[0] must be between 1 and 2147483583, got 0",
    ),
    "wide-output": (
        lambda: bilinear_upsample(scores(), (4, 2**31)),
        ValueError,
        "bilinear_upsample: size[1] must be between 1 and 2147483583, got 2147483648",
    ),
    "three-sizes": (
        lambda: bilinear_upsample(scores(), (4, 5, 6)),
        ValueError,
        "bilinear_upsample: size must be (height, width), got (4, 5, 6)",
    ),
    "size-type": (
        lambda: bilinear_upsample(scores(), 2.5),
        TypeError,
        "bilinear_upsample: size must be an int or (height, width), got 2.5",
    ),
    "size-entry": (
        lambda: bilinear_upsample(scores(), (4, 5.0)),
        TypeError,
        "bilinear_upsample: size[1] must be an int, got float",
    ),
    "neither": (
        lambda: upsample_softmax(scores()),
        ValueError,
        "upsample_softmax: size or scale must be given, got neither",
    ),
    "scale-zero": (
        lambda: bilinear_upsample(scores(), scale=0),
        ValueError,
        "bilinear_upsample: scale[0] must be positive and finite, got 0",
    ),
    "scale-nan": (
        lambda: bilinear_upsample(scores(), 4, scale=(1.0, math.nan)),
        ValueError,
        "bilinear_upsample: scale[1] must be positive and finite, got nan",
    ),
    "scale-count": (
        lambda: bilinear_upsample(scores(), scale=(1.0,)),
        ValueError,
        "bilinear_upsample: scale must be a number or (vertical, horizontal), got (1.0,)",
    ),
    "scale-type": (
        lambda: bilinear_upsample(scores(), scale="2"),
        TypeError,
        "bilinear_upsample: scale must be a number or two, got '2'",
    ),
    "overflow": (
        lambda: bilinear_upsample(huge(2**20, 2**20, 1, 1), 2**20),
        ValueError,
        "bilinear_upsample: input must be small enough for arrays of less than 2^63 bytes, "
        "got shape (1048576, 1048576, 1, 1)",
    ),
    "label-dtype": (
        lambda: upsample_argmax(scores(), 4, dtype=torch.int32),
        TypeError,
        "upsample_argmax: dtype must be int64 or uint8, got int32",
    ),
    "uint8-classes": (
        lambda: upsample_argmax(torch.ones(1, 257, 2, 2), 4, dtype=torch.uint8),
        ValueError,
        "upsample_argmax: dtype must be int64 for more than 256 classes, got uint8 for 257",
    ),
    "labels-type": (
        lambda: upsample_cross_entropy(scores(), None),
        TypeError,
        "upsample_cross_entropy: labels must be a torch.Tensor, got NoneType",
    ),
    "labels-dtype": (
        lambda: upsample_cross_entropy(scores(), labels().int()),
        TypeError,
        "upsample_cross_entropy: labels must have dtype int64 or uint8, got int32",
    ),
    "labels-shape": (
        lambda: upsample_cross_entropy(scores(), labels()[0]),
        ValueError,
        "upsample_cross_entropy: labels must have shape (1, H, W) beside logits (1, 3, 4, 5), "
        "got (8, 9)",
    ),
    "labels-batch": (
        lambda: upsample_cross_entropy(scores(), labels().expand(2, 8, 9)),
        ValueError,
        "upsample_cross_entropy: labels must have shape (1, H, W) beside logits (1, 3, 4, 5), "
        "got (2, 8, 9)",
    ),
    "labels-empty": (
        lambda: upsample_cross_entropy(scores(), labels()[:, :0]),
        ValueError,
        "upsample_cross_entropy: labels.shape[1] must be between 1 and 2147483583, got 0",
    ),
    "labels-device": (
        lambda: upsample_cross_entropy(scores(), labels().to("meta")),
        ValueError,
        "upsample_cross_entropy: labels must be on the device of logits, {device}, got meta",
    ),
    "weight-shape": (
        lambda: upsample_cross_entropy(scores(), labels(), torch.ones(4)),
        ValueError,
        "upsample_cross_entropy: weight must have shape (3,), got (4,)",
    ),
    "weight-dtype": (
        lambda: upsample_cross_entropy(scores(), labels(), torch.ones(3).long()),
        TypeError,
        "upsample_cross_entropy: weight must have dtype float32, float64, float16 or bfloat16, "
        "got int64",
    ),
    "weight-gradient": (
        lambda: upsample_cross_entropy(scores(), labels(), torch.ones(3, requires_grad=True)),
        ValueError,
        "upsample_cross_entropy: weight must not require a gradient, got one that does",
    ),
    "pixel-weight-shape": (
        lambda: upsample_cross_entropy(scores(), labels(), None, torch.ones(8, 9)),
        ValueError,
        "upsample_cross_entropy: pixel_weight must have shape (1, 8, 9), got (8, 9)",
    ),
    "trained-pixel-weight-shape": (
        lambda: upsample_cross_entropy(
            scores(), labels(), None, torch.ones(8, 9, requires_grad=True)
        ),
        ValueError,
        "upsample_cross_entropy: pixel_weight must have shape (1, 8, 9), got (8, 9)",
    ),
    "reduction": (
        lambda: upsample_cross_entropy(scores(), labels(), reduction="average"),
        ValueError,
        "upsample_cross_entropy: reduction must be one of none, sum, mean, got 'average'",
    ),
    "trained-pixel-weight-reduction": (
        lambda: upsample_cross_entropy(
            scores(), labels(), None, torch.ones(1, 8, 9, requires_grad=True), reduction="average"
        ),
        ValueError,
        "upsample_cross_entropy: reduction must be one of none, sum, mean, got 'average'",
    ),
    "ignore-type": (
        lambda: upsample_cross_entropy(scores(), labels(), ignore_index=None),
        TypeError,
        "upsample_cross_entropy: ignore_index must be an int, got NoneType",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejects(call, error, message):
    message = message.replace("{device}", str(torch.get_default_device()))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("grad", [False, True], ids=["no-grad", "grad"])
@pytest.mark.parametrize("label", [3, -1, 254, 2**40, -(2**40), 2**32])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 17, 40), (1, 32, 64)])
def test_labels_that_are_none(label, place, grad, instruction_set, kernels):
    """Refused; but on a GPU, which no result is waited for, their loss is NaN."""
    logits = torch.randn(2, 3, 5, 9, requires_grad=grad)
    labels = labels_for((33, 65), 3)
    labels[place] = label
    labels[1, 32, 64] = label
    for reduction in ("mean", "none"):
        if kernels != "cpu":
            losses = upsample_cross_entropy(logits, labels, reduction=reduction)
            expected = torch.tensor(True) if reduction == "mean" else labels == label
            assert torch.equal(losses.isnan(), expected)
            if grad:
                (found,) = torch.autograd.grad(losses, logits, torch.ones_like(losses))
                assert found[1, :, 4, 8].isnan().all()
            continue
        message = (
            f"upsample_cross_entropy: labels must be in [0, 3) or ignore_index, 255, got {label} "
            f"at {place}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            upsample_cross_entropy(logits, labels, reduction=reduction)


def test_uint8_labels_that_are_none(kernels):
    labels = torch.full((1, 8, 9), 7, dtype=torch.uint8)
    if kernels != "cpu":
        assert upsample_cross_entropy(torch.ones(1, 3, 4, 5), labels).isnan()
        return
    message = (
        "upsample_cross_entropy: labels must be in [0, 3) or ignore_index, 255, got 7 at (0, 0, 0)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        upsample_cross_entropy(scores(), labels)


REJECTED_BY_BACKWARD = {
    "input-size": (
        lambda: ops.bilinear_upsample_backward(scores(), (4,), False, None, None),
        "bilinear_upsample_backward: input_size must be (height, width), got (4,)",
    ),
    "scale": (
        lambda: ops.bilinear_upsample_backward(scores(), (4, 5), False, None, -1.0),
        "bilinear_upsample_backward: scale[1] must be positive and finite, got -1",
    ),
    "shape": (
        lambda: ops.upsample_softmax_backward(
            scores(), scores()[..., :4], (2, 2), False, None, None
        ),
        "upsample_softmax_backward: grad must have shape (1, 3, 4, 4), got (1, 3, 4, 5)",
    ),
    "dtype": (
        lambda: ops.upsample_softmax_backward(
            scores().double(), scores(), (2, 2), False, None, None
        ),
        "upsample_softmax_backward: grad must have the dtype of probs, float32, got float64",
    ),
    "grad": (
        lambda: ops.upsample_cross_entropy_backward(
            torch.ones(3), scores(), labels(), None, None, 255, "mean", False, None, None
        ),
        "upsample_cross_entropy_backward: grad must have shape (), got (3,)",
    ),
    "grad-map": (
        lambda: ops.upsample_cross_entropy_backward(
            torch.ones(()), scores(), labels(), None, None, 255, "none", False, None, None
        ),
        "upsample_cross_entropy_backward: grad must have shape (1, 8, 9), got ()",
    ),
    "argmax-dtype": (
        lambda: ops.upsample_argmax(scores(), (4, 4), "int32", False, None, None),
        "upsample_argmax: dtype must be int64 or uint8, got int32",
    ),
}


@pytest.mark.parametrize(
    ("call", "message"), REJECTED_BY_BACKWARD.values(), ids=REJECTED_BY_BACKWARD.keys()
)
def test_operators_reject(call, message):
    with pytest.raises(RuntimeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("function", [bilinear_upsample, upsample_argmax, upsample_softmax])
def test_out_of_memory(function, device):
    """In Python's words on the CPU and in torch's on a GPU, as torch's own operators say it."""
    error, text = MemoryError, "out of memory$"
    if device == "cuda":
        error, text = torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate "
    with pytest.raises(error, match=f"^{function.__name__}: {text}"):
        function(scores(), (2**24, 2**24))
