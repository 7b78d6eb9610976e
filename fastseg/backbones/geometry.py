"""Strides that become rates, on convolutions that already exist."""

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


def check_output_stride(network: str, output_stride: int) -> None:
    if output_stride not in (8, 16, 32):
        raise ValueError(f"{network}: output_stride must be 8, 16 or 32, got {output_stride}")
