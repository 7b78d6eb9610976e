"""Bilinear and transposed-convolution modules, with the lecture's worked examples."""

import copy
import pickle
import re

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from fastseg.nn import BilinearUpsample, TransposedConv2d, bilinear_kernel

TWO_BY_TWO = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])


def test_bilinear_upsample_of_the_lecture():
    doubled = BilinearUpsample(scale=2)(TWO_BY_TWO)[0, 0].tolist()
    assert doubled == [
        [1, 1.25, 1.75, 2],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3, 3.25, 3.75, 4],
    ]
    aligned = BilinearUpsample(4, align_corners=True)(TWO_BY_TWO)[0, 0]
    expected = torch.tensor([[3, 4, 5, 6], [5, 6, 7, 8], [7, 8, 9, 10], [9, 10, 11, 12]]) / 3
    torch.testing.assert_close(aligned, expected)


def test_size_in_the_call_comes_first():
    scores = torch.randn(1, 2, 5, 6)
    module = BilinearUpsample((9, 9), align_corners=True)
    expected = functional.interpolate(scores, (7, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(module(scores, (7, 8)), expected)
    assert module(scores).shape == (1, 2, 9, 9)
    assert repr(module) == "BilinearUpsample(size=(9, 9), scale=None, align_corners=True)"
    assert not list(module.parameters())


def test_size_or_scale_must_be_given():
    message = "bilinear_upsample: size or scale must be given, got neither"
    with pytest.raises(ValueError, match=f"^{message}$"):
        BilinearUpsample()(TWO_BY_TWO)


LECTURE = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
TRANSPOSED = {
    1: [[0, 0, 1], [0, 4, 6], [4, 12, 9]],
    2: [[0, 0, 0, 1], [0, 0, 2, 3], [0, 2, 0, 3], [4, 6, 6, 9]],
}


@pytest.mark.parametrize("stride", TRANSPOSED)
def test_transposed_convolution_of_the_lecture(stride):
    layer = TransposedConv2d(1, 1, kernel_size=2, stride=stride, bias=False)
    layer.weight.data.copy_(LECTURE)
    assert layer(LECTURE)[0, 0].tolist() == TRANSPOSED[stride]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolution_is_the_adjoint(stride, rate, padding):
    """<C x, y> = <x, C^T y> for the convolution C with the same weights."""
    layer = TransposedConv2d(
        3, 2, kernel_size=3, stride=stride, padding=padding, rate=rate, bias=False
    ).double()
    y = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    spread = layer(y)
    for size, samples in zip(spread.shape[2:], y.shape[2:], strict=True):
        assert size == (samples - 1) * stride - 2 * padding + rate * 2 + 1
    x = torch.randn_like(spread)
    convolved = functional.conv2d(x, layer.weight, None, stride, padding, rate)
    torch.testing.assert_close((convolved * y).sum(), (x * spread).sum())


def test_transposed_convolution_keeps_torchs_names():
    torch.manual_seed(0)
    ours = TransposedConv2d(4, 6, kernel_size=(3, 2), stride=2, output_padding=1, groups=2, rate=2)
    torch.manual_seed(0)
    theirs = torch.nn.ConvTranspose2d(4, 6, (3, 2), 2, output_padding=1, groups=2, dilation=2)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 4, 5, 6)
    assert torch.equal(ours(image), theirs(image))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(copied(image), ours(image))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 63, 64])
def test_bilinear_kernel_is_that_of_fcn(size):
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    row = [1 - abs(i - centre) / factor for i in range(size)]
    expected = torch.tensor([[a * b for b in row] for a in row])
    torch.testing.assert_close(bilinear_kernel(size), expected)


def test_bilinear_kernel_of_four():
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(4), torch.outer(row, row))


@pytest.mark.parametrize("factor", [1, 2, 3, 8, 16, 32])
def test_bilinear_initialisation_equals_interpolation_inside(factor):
    image = torch.randn(1, 3, 5, 6)
    layer = TransposedConv2d.bilinear(3, factor)
    enlarged = layer(image)
    expected = BilinearUpsample(scale=factor)(image)
    assert enlarged.shape == expected.shape
    inside = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(enlarged[inside], expected[inside], rtol=1e-5, atol=2e-6)
    assert layer.weight.requires_grad
    if factor > 1:  # beyond the border it takes zero
        assert not torch.allclose(enlarged, expected)


def test_bilinear_initialisation_of_fcn32s():
    layer = TransposedConv2d.bilinear(21, 32, padding=0, trainable=False)
    assert layer.weight.shape == (21, 21, 64, 64)
    assert not layer.weight.requires_grad
    assert layer(torch.zeros(1, 21, 16, 16)).shape == (1, 21, 544, 544)
    off_diagonal = layer.weight[~torch.eye(21, dtype=torch.bool)]
    assert not off_diagonal.any()


def test_transposed_convolution_trains():
    layer = TransposedConv2d.bilinear(2, 2).double()
    image = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (image,))
    layer(image).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0


REJECTED = {
    "factor": (
        lambda: TransposedConv2d.bilinear(2, 0),
        "TransposedConv2d: factor must be a positive integer, got 0",
    ),
    "size": (lambda: bilinear_kernel(0), "bilinear_kernel: size must be a positive integer, got 0"),
    "channels": (
        lambda: TransposedConv2d(2, 3, kernel_size=4).init_bilinear_(),
        "TransposedConv2d: out_channels must equal in_channels, without groups, for bilinear "
        "weights, got 2 to 3 in 1 groups",
    ),
    "groups": (
        lambda: TransposedConv2d(4, 4, kernel_size=4, groups=2).init_bilinear_(),
        "TransposedConv2d: out_channels must equal in_channels, without groups, for bilinear "
        "weights, got 4 to 4 in 2 groups",
    ),
    "kernel": (
        lambda: TransposedConv2d(2, 2, kernel_size=(4, 2)).init_bilinear_(),
        "TransposedConv2d: kernel_size must be square for bilinear weights, got (4, 2)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejects(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
