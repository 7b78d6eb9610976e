"""Strides that become rates, on convolutions that already exist."""

from collections.abc import Iterable
from typing import NamedTuple

from fastseg.nn import ConvNormReLU, DilatedConv2d
from fastseg.ops.conv_geometry import ConvGeometry


def set_geometry(layer: DilatedConv2d | ConvNormReLU, *, rate: int = 1, stride: int = 1) -> None:
    """Give a size-keeping convolution another rate and stride; its weights stay as they are."""
    conv = layer.conv if isinstance(layer, ConvNormReLU) else layer
    conv.geometry = ConvGeometry.of(
        "set_geometry",
        conv.kernel_size,
        rate=rate,
        padding="same",
        stride=stride,
        groups=conv.geometry.groups,
    )


class Step(NamedTuple):
    """What a stage does instead of its published stride."""

    stride: int
    before: int
    """The rate of what comes before it."""
    rate: int
    """The rate of what comes after its stride."""


def spread(network: str, strides: Iterable[int], output_stride: int, *, stem: int) -> list[Step]:
    """The stages' strides until ``output_stride`` is reached, and rates in place of the others.

    Args:
        network: for the error.
        strides: of the stages as published.
        output_stride: 8, 16 or 32.
        stem: stride of what comes before the stages.

    Raises:
        ValueError: another output stride.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"{network}: output_stride must be 8, 16 or 32, got {output_stride}")
    steps, rate = [], 1
    for stride in strides:
        before = rate
        if stem * stride > output_stride:
            rate, stride = rate * stride, 1
        stem *= stride
        steps.append(Step(stride, before, rate))
    return steps
