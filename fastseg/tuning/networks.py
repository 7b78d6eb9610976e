"""The convolutions and pyramids that a network runs on an image of some size."""

from typing import Any

import torch
from torch import nn

from fastseg.models.network import Network
from fastseg.nn import ASPP, ConvNormReLU, DilatedConv2d
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.tuning.layer import ConvLayer, Layer, PyramidLayer

SYSTEMS = (
    ("deeplabv1_largefov", (513, 513)),
    ("deeplabv2_vgg16_aspp_l", (513, 513)),
    ("deeplabv2_resnet101", (513, 513)),
    ("deeplabv3_resnet101", (513, 513)),
    ("deeplabv3plus_xception", (513, 513)),
    ("fcn_resnet50", (520, 520)),
    ("unet_padded", (512, 512)),
    ("deeplabv1_largefov", (321, 321)),
    ("deeplabv2_resnet101", (321, 321)),
)
# Input and output channels, size, kernel, rate, groups: what the benchmarks have beside those.
OTHERS = (
    (256, 128, 65, 1, 1, 1),
    (256, 512, 65, 1, 1, 1),
    (728, 728, 65, 3, 2, 728),
    (64, 64, 9, 3, 1, 1),
    (64, 64, 9, 1, 1, 1),
)


def layers_of(network: Network, size: tuple[int, int], batch: int = 1) -> list[Layer]:
    """Its different layers, in the order in which they run.

    Args:
        network: on the meta device: it is run there, without values.
        size: (H, W) of the image.
        batch: number of images.
    """
    found: dict[Layer, None] = {}

    def before_conv(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, DilatedConv2d)
        shape = tuple(arguments[0].shape)
        found[ConvLayer(shape, tuple(module.weight.shape), module.geometry)] = None

    def before_pyramid(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, ASPP)
        convs = [b.conv if isinstance(b, ConvNormReLU) else b for b in module.branches]
        shapes = tuple(tuple(conv.get_parameter("weight").shape) for conv in convs)
        layer = PyramidLayer(tuple(arguments[0].shape), shapes, module.rates, module.combine)
        found[layer] = None
        for conv in convs:
            before_conv(conv, arguments)  # a pyramid may run as its convolutions

    hooks = [
        module.register_forward_pre_hook(
            before_pyramid if isinstance(module, ASPP) else before_conv
        )
        for module in network.modules()
        if isinstance(module, DilatedConv2d | ASPP)
    ]
    channels = network.input_convention.num_channels
    try:
        with torch.no_grad():
            network(torch.empty(batch, channels, *size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def layers_of_system(name: str, size: tuple[int, int], batch: int = 1) -> list[Layer]:
    """:func:`layers_of` a system of ``fastseg.models``, of its CRF's network where it has one."""
    from fastseg.models import WithCRF, build

    with torch.device("meta"):
        model = build(name)
    network = model.network if isinstance(model, WithCRF) else model
    return layers_of(network.eval(), size, batch)


def default_layers(batch: int = 1) -> list[Layer]:
    """Those of nine networks and sizes; they have the class of every benchmark's layer."""
    layers = [layer for name, size in SYSTEMS for layer in layers_of_system(name, size, batch)]
    for inputs, outputs, size, taps, rate, groups in OTHERS:
        weight = (outputs, inputs // groups, taps, taps)
        geometry = ConvGeometry.of("tune", (taps, taps), rate=rate, padding="same", groups=groups)
        layers.append(ConvLayer((batch, inputs, size, size), weight, geometry))
    return list(dict.fromkeys(layers))
