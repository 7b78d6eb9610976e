"""Layers that one choice of an algorithm serves: what of a call decides which algorithm is fastest.

Coarse on purpose: a table of a few dozen classes covers the networks of this package, and a size
that was not measured finds the choice of one that is like it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # the operators choose by this table
    from fastseg.ops.conv_geometry import ConvGeometry

QUARTERS = 4

PRECISIONS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


@lru_cache(maxsize=4096)
def shape_class(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: "ConvGeometry",
    dtype: torch.dtype,
    *,
    tf32: bool,
    channels_last: bool,
) -> str:
    """The class of a convolution, as a table of choices has it.

    Equal for layers whose numbers of output pixels (of the whole batch), input channels and output
    channels round to the same powers of two, and that agree in precision, memory format, kernel,
    stride, kind of groups, whether the rate is above 1, and how many quarters of the products of
    taps and pixels meet the image and not its padding.

    Args:
        input_shape: ``(B, C, H, W)``.
        weight_shape: ``(O, C / groups, KH, KW)``.
        geometry: of the layer; its output has at least one pixel.
        dtype: of input and weight.
        tf32: whether torch's switch lets float32 convolutions round their factors to TF32
            (``torch.backends.cudnn.allow_tf32``, or ``conv.fp32_precision``); says nothing of
            other dtypes.
        channels_last: whether the input is.

    Returns:
        For example ``"float32 nhwc 3x3 stride 1 dilated 4/4 dense pixels 2^12 channels 2^9 2^9"``.
    """
    batch, channels, *size = input_shape
    outputs, group_channels, *kernel = weight_shape
    rows, columns = geometry.output_size(size, kernel)
    groups = "dense"
    if geometry.groups > 1:
        groups = "depthwise" if group_channels == 1 and geometry.groups == channels else "grouped"
    return " ".join(
        (
            storage(dtype, tf32, channels_last),
            "x".join(map(str, kernel)),
            f"stride {'x'.join(map(str, dict.fromkeys(geometry.stride)))}",
            "dilated" if max(geometry.rate) > 1 else "plain",
            quarters([share_inside(size, kernel, geometry)]),
            groups,
            f"pixels {power_of_two(batch * rows * columns)}",
            f"channels {power_of_two(channels)} {power_of_two(outputs)}",
        )
    )


@lru_cache(maxsize=1024)
def pyramid_class(
    input_shape: tuple[int, ...],
    weight_shapes: tuple[tuple[int, ...], ...],
    geometries: "tuple[ConvGeometry, ...]",
    combine: str,
    dtype: torch.dtype,
    *,
    tf32: bool,
    channels_last: bool,
) -> str:
    """The class of a spatial pyramid; its arguments are those of :func:`shape_class`, by branch.

    ``combine`` is ``"sum"`` or ``"concat"``; the output channels are those of the result.

    Returns:
        For example ``"float32 nhwc sum of 36 taps 3/4 pixels 2^12 channels 2^11 2^4"``.
    """
    batch, channels, *size = input_shape
    taps = [kernel[0] * kernel[1] for _, _, *kernel in weight_shapes]
    shares = [
        share_inside(size, kernel, geometry) * count
        for (_, _, *kernel), geometry, count in zip(weight_shapes, geometries, taps, strict=True)
    ]
    outputs = [shape[0] for shape in weight_shapes]
    total = sum(outputs) if combine == "concat" else outputs[0]
    return " ".join(
        (
            storage(dtype, tf32, channels_last),
            f"{combine} of {sum(taps)} taps",
            quarters(shares, sum(taps)),
            f"pixels {power_of_two(batch * size[0] * size[1])}",
            f"channels {power_of_two(channels)} {power_of_two(total)}",
        )
    )


def storage(dtype: torch.dtype, tf32: bool, channels_last: bool) -> str:
    precision = "tf32" if tf32 and dtype == torch.float32 else PRECISIONS[dtype]
    return f"{precision} {'nhwc' if channels_last else 'nchw'}"


def power_of_two(number: int) -> str:
    """The nearest by ratio: 65 * 65 is ``"2^12"``."""
    exponent = max(number, 1).bit_length() - 1
    if number * number > 1 << (2 * exponent + 1):
        exponent += 1
    return f"2^{exponent}"


def quarters(shares: Sequence[float], whole: float = 1.0) -> str:
    """The sum of shares of ``whole`` in quarters, rounded up: 1/4 to 4/4."""
    return f"{max(1, math.ceil(QUARTERS * sum(shares) / whole - 1e-9))}/{QUARTERS}"


def share_inside(size: Sequence[int], kernel: Sequence[int], geometry: "ConvGeometry") -> float:
    """Of the products of a tap and an output pixel, how many meet the image and not its padding.

    Near 1 for rates that are small against the image; at a rate of its size only the centre counts.
    """
    inside, products = 1, 1
    outputs = geometry.output_size(size, kernel)
    for axis, before in enumerate((geometry.padding[0], geometry.padding[2])):
        inside *= sum(
            taps_inside(
                offset=tap * geometry.rate[axis] - before,
                stride=geometry.stride[axis],
                outputs=outputs[axis],
                size=size[axis],
            )
            for tap in range(kernel[axis])
        )
        products *= kernel[axis] * outputs[axis]
    return inside / products if products > 0 else 1.0


def taps_inside(*, offset: int, stride: int, outputs: int, size: int) -> int:
    """How many of ``outputs`` positions ``offset + stride * i`` lie in ``range(size)``."""
    first = max(0, -(offset // stride))
    last = min(outputs - 1, (size - 1 - offset) // stride)
    return max(0, last - first + 1)
