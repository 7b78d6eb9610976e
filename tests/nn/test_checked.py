"""Arguments of every constructor in models, nn and backbones that are no such thing."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from fastseg import backbones, models
from fastseg import nn as blocks
from fastseg.nn.recipe import recipe_of

CLASSES = [
    kind
    for module in (models, blocks, backbones)
    for kind in map(module.__dict__.get, module.__all__)
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not models.Network
]
BAD = [-1, 0, 2.5, 10**30, math.nan, True, None, "a", (0,), (1, "a"), nn.Conv2d(1, 1, 1)]
NEEDED = {
    "in_channels": 4,
    "out_channels": 4,
    "kernel_size": 3,
    "rates": (1, 2),
    "network": models.DeepLabV1(2),
    "backbone": backbones.VGG16(),
}


def parameters(kind):
    return list(inspect.signature(kind).parameters.values())


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"):
        yield


CASES = [(kind, parameter.name) for kind in CLASSES for parameter in parameters(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{k.__name__}-{n}" for k, n in CASES])
def test_a_bad_argument_is_named_by_the_class(kind, name):
    needed = {p.name: NEEDED[p.name] for p in parameters(kind) if p.default is p.empty}
    refused = 0
    for value in BAD:
        try:
            kind(**{**needed, name: value})
        except (ValueError, TypeError) as error:
            rule = rf"{kind.__name__}: {name}(\[\d+\])? must [^\n]+, got [^\n]+"
            assert re.fullmatch(rule, str(error)), (value, error)
            refused += 1
    assert refused >= len(BAD) - 4  # 0, 2.5, 10**30 and None fit some arguments


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_numpys_integers_are_integers(kind):
    """And are written to files as such."""
    needed = {p.name: NEEDED[p.name] for p in parameters(kind) if p.default is p.empty}
    given = {p.name: needed.get(p.name, p.default) for p in parameters(kind)}
    numbers = {
        name: np.int64(value) if type(value) is int else list(np.array(value))
        for name, value in given.items()
        if type(value) is int or (type(value) is tuple and type(value[0]) is int)
    }
    module = kind(**{**needed, **numbers})
    ours, plain = (getattr(m, "network", m) for m in (module, kind(**needed)))
    assert repr(ours) == repr(plain)
    if hasattr(module, "arguments"):
        found = recipe_of(module)["arguments"]
        assert all(type(found[name]) in (int, list) for name in numbers)


MESSAGES = [
    (lambda: models.UNet(dropout=2), "UNet: dropout must lie in [0, 1], got 2"),
    (lambda: models.UNet(width="a"), "UNet: width must be a positive integer, got 'a'"),
    (lambda: models.UNet(depth=40), "UNet: depth must be at most 16, got 40"),
    (lambda: models.UNet(up="nearest"), "UNet: up must be one of deconv, bilinear, got 'nearest'"),
    (
        lambda: models.MultiScale(nn.Conv2d(1, 1, 1)),
        "MultiScale: network must be a Network, got Conv2d",
    ),
    (lambda: models.WithCRF(5, 5), "WithCRF: network must be a Network, got int"),
    (
        lambda: models.WithCRF(models.DeepLabV1(2), 5),
        "WithCRF: crf must be a DenseCRF, got int",
    ),
    (
        lambda: models.WithCRF(models.UNet(width=1), models.CRFRNN(2).crf),
        "WithCRF: network must give logits of the size of the image, got a UNet of valid "
        "convolutions; padding='same' does",
    ),
    (
        lambda: models.DeepLabV2VGG16(rates=(0,)),
        "DeepLabV2VGG16: rates[0] must be a positive integer, got 0",
    ),
    (
        lambda: models.DeepLabV2ResNet(rates=[]),
        "DeepLabV2ResNet: rates must hold one value or more, got ()",
    ),
    (
        lambda: models.DeepLabV3(output_stride=7),
        "DeepLabV3: output_stride must be one of 8, 16, 32, got 7",
    ),
    (
        lambda: models.DeepLabV3(rates=(6, -12)),
        "DeepLabV3: rates[1] must be a positive integer, got -12",
    ),
    (
        lambda: models.DeepLabV1(variant="fov"),
        "DeepLabV1: variant must be one of 7x7, base, 4x4, largefov, got 'fov'",
    ),
    (
        lambda: models.MultiScale(models.DeepLabV1(2), scales=(0.5, 0)),
        "MultiScale: scales[1] must be a positive number up to 16, got 0",
    ),
    (
        lambda: blocks.ASPP(4, 4, rates=(1,), activation="gelu"),
        "ASPP: activation must be one of None, relu, relu6, got 'gelu'",
    ),
    (
        lambda: blocks.DilatedConv2d(4, 4, rate=(1, 0)),
        "DilatedConv2d: rate must be a positive integer, got 0",
    ),
    (
        lambda: blocks.TransposedConv2d(4, 4, kernel_size=2, stride=2, output_padding=2),
        "TransposedConv2d: output_padding must be less than stride or rate, got 2",
    ),
    (
        lambda: backbones.VGG16(pool_paddings=(0, 0, 0, 0, 2)),
        "VGG16: pool_paddings must be at most half of pool_kernels, got 2 for 2",
    ),
    (
        lambda: backbones.VGG16(rates=(1, 1, 2)),
        "VGG16: rates must hold 5 values, got (1, 1, 2)",
    ),
    (
        lambda: models.overlap_tile(models.UNet(width=1), torch.zeros(1, 1, 9, 9), tile="a"),
        "overlap_tile: tile must be a positive integer, got 'a'",
    ),
    (
        lambda: models.overlap_tile(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 9, 9)),
        "overlap_tile: network must be a UNet, got Conv2d",
    ),
    (
        lambda: models.aggregate_proposals([torch.zeros(2, 3, 3)], [(0, 0, 3.5, 3)], (5, 5)),
        "aggregate_proposals: boxes[0][2] must be an integer of at least -2147483647, got 3.5",
    ),
    (
        lambda: models.border_weight_map([1]),
        "border_weight_map: instances must be a torch.Tensor, got list",
    ),
    (
        lambda: models.border_weight_map(torch.zeros(3, 3).int(), class_weights=(1,)),
        "border_weight_map: class_weights must hold 2 values, got (1.0,)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_message(call, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}$"):
        call()


def test_parameters_that_no_memory_holds():
    with torch.device("cpu"), pytest.raises(MemoryError, match=r"^UNet: the parameters must fit"):
        models.UNet(2**31 - 1)
    with torch.device("cpu"), pytest.raises(MemoryError, match="got in_channels=2147483647, out_"):
        blocks.DilatedConv2d(2**31 - 1, 2**31 - 1)
