"""The blocks: what their arguments mean, and that they load what torch's modules saved."""

import re

import pytest
import torch
from torch import nn

from fastseg.nn import ASPP, ConvNormReLU, DilatedConv2d

CONV = dict(rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_convolution_loads_torchs_parameters(bias):
    torchs = nn.Conv2d(6, 4, (3, 1), 2, (1, 0), (2, 1), groups=2, bias=bias)
    ours = DilatedConv2d(
        6, 4, kernel_size=(3, 1), stride=2, padding=(1, 0), rate=(2, 1), groups=2, bias=bias
    )
    assert [*ours.state_dict()] == [*torchs.state_dict()]
    ours.load_state_dict(torchs.state_dict())
    image = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(ours(image), torchs(image), **CONV)


def test_convolution_is_initialised_as_torchs():
    torch.manual_seed(3)
    torchs = nn.Conv2d(6, 4, 3)
    torch.manual_seed(3)
    ours = DilatedConv2d(6, 4)
    assert torch.equal(ours.weight, torchs.weight)
    assert torch.equal(ours.bias, torchs.bias)


def test_convolution_adds_the_residual_before_the_activation():
    conv = DilatedConv2d(3, 3, activation="relu")
    image = torch.randn(1, 3, 6, 6)
    torchs = nn.functional.conv2d(image, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(image, image), (torchs + image).relu(), **CONV)
    torch.testing.assert_close(conv(image), torchs.relu(), **CONV)


def test_same_padding_keeps_the_size():
    image = torch.randn(1, 2, 9, 8)
    assert DilatedConv2d(2, 5, rate=4)(image).shape == (1, 5, 9, 8)
    assert DilatedConv2d(2, 5, kernel_size=4, rate=3)(image).shape == (1, 5, 9, 8)
    assert DilatedConv2d(2, 5, stride=2)(image).shape == (1, 5, 5, 4)


@pytest.mark.parametrize("training", [True, False])
def test_norm_block_is_its_parts(training):
    block = ConvNormReLU(3, 3, rate=2, norm_eps=1e-3, norm_momentum=0.3).train(training)
    assert (block.norm.eps, block.norm.momentum) == (1e-3, 0.3)
    assert [*dict(block.named_parameters())] == ["conv.weight", "norm.weight", "norm.bias"]
    image = torch.randn(2, 3, 7, 7)
    torchs = nn.functional.conv2d(image, block.conv.weight, padding=2, dilation=2)
    norm = nn.BatchNorm2d(3, eps=1e-3).train(training)
    torch.testing.assert_close(block(image, image), (norm(torchs) + image).relu(), **CONV)
    block.activation = None
    torch.testing.assert_close(block(image), norm(torchs), **CONV)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("recording", [False, True])
def test_pyramid_is_its_branches(combine, norm, recording):
    pyramid = ASPP(5, 4, rates=(0, 1, 3), combine=combine, norm=norm, activation="relu").eval()
    image = torch.randn(2, 5, 8, 7)
    with torch.set_grad_enabled(recording):
        output = pyramid(image)
    outputs = [branch(image) for branch in pyramid.branches]
    total = torch.cat(outputs, 1) if combine == "concat" else sum(outputs)
    torch.testing.assert_close(output, total.relu(), **CONV)
    assert output.requires_grad == recording
    sizes = [(b.conv if norm else b).kernel_size for b in pyramid.branches]
    assert sizes == [(1, 1), (3, 3), (3, 3)]


def test_pyramid_names():
    assert [*ASPP(2, 3, rates=(6, 12)).state_dict()] == [
        f"branches.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")
    ]


@pytest.mark.parametrize(
    "block",
    [
        DilatedConv2d(4, 4, rate=2, activation="relu"),
        DilatedConv2d(4, 4, groups=4),
        ConvNormReLU(4, 4, rate=3),
        ASPP(4, 3, rates=(0, 2), combine="concat", norm=True),
        ASPP(4, 3, rates=(6, 12)),
    ],
    ids=["conv", "depthwise", "norm", "v3", "v2"],
)
def test_blocks_train(block):
    image = torch.randn(2, 4, 9, 9, requires_grad=True)
    block(image).square().mean().backward()
    for tensor in (image, *block.parameters()):
        assert tensor.grad.abs().max() > 0


def test_printed_form():
    text = repr(DilatedConv2d(4, 2, rate=2, groups=2, bias=False, activation="relu"))
    assert text == (
        "DilatedConv2d(4, 2, kernel_size=(3, 3), rate=(2, 2), padding=(2, 2, 2, 2), "
        "stride=(1, 1), groups=2, bias=False, activation='relu')"
    )


REJECTED = [
    (
        lambda: DilatedConv2d(3, 4, groups=2),
        "DilatedConv2d: in_channels must be a multiple of groups (2), got 3",
    ),
    (lambda: ASPP(4, 4, rates=(1,), kernel_size=2), "ASPP: kernel_size must be odd, got 2"),
]


@pytest.mark.parametrize(("make", "message"), REJECTED, ids=[m for _, m in REJECTED])
def test_rejects(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
