"""Readable definition of dilated convolution: a sum over taps of shifted inputs."""

import torch
from torch import Tensor

from fastseg.ops.conv_geometry import ConvGeometry, Padding, Pair


def dilated_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    rate: Pair = 1,
    padding: Padding = 0,
    stride: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Same contract as :func:`fastseg.ops.dilated_conv2d`, in float64 arithmetic.

    y[o, i, j] = act(sum over c, u, v of w[o, c, u, v] x[c, i s + u r - p, j s + v r - p]
    + b[o] + residual[o, i, j]), x being zero outside of the image (Chen et al. 2017, eq. 1).
    """
    kernel = tuple(weight.shape[2:])
    geometry = ConvGeometry.of(
        "dilated_conv2d", kernel, rate=rate, padding=padding, stride=stride, groups=groups
    )
    total = sum_of_taps(input.double(), weight.double(), geometry)
    if bias is not None:
        total = total + bias.double()[:, None, None]
    if residual is not None:
        total = total + residual.double()
    return activated(total, activation).to(input.dtype)


def activated(total: Tensor, activation: str | None) -> Tensor:
    """max(0, x), and at most 6 of ``"relu6"``; NaN stays."""
    if activation is not None:
        total = torch.where(total < 0, 0.0, total)
    return torch.where(total > 6, 6.0, total) if activation == "relu6" else total


def sum_of_taps(image: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``(B, O, H', W')`` of a float64 image ``(B, C, H, W)`` and ``(O, C / groups, KH, KW)``."""
    batch, channels, height, width = image.shape
    out_channels, _, kernel_rows, kernel_columns = weight.shape
    rows, columns = geometry.output_size((height, width), (kernel_rows, kernel_columns))
    top, bottom, left, right = geometry.padding
    padded = image.new_zeros(batch, channels, top + height + bottom, left + width + right)
    padded[:, :, top : top + height, left : left + width] = image
    groups = geometry.groups
    total = image.new_zeros(batch, groups, out_channels // groups, rows, columns)
    for u in range(kernel_rows):
        for v in range(kernel_columns):
            first = u * geometry.rate[0], v * geometry.rate[1]
            last = first[0] + geometry.stride[0] * rows, first[1] + geometry.stride[1] * columns
            seen = padded[
                :,
                :,
                first[0] : last[0] : geometry.stride[0],
                first[1] : last[1] : geometry.stride[1],
            ]
            seen = seen.reshape(batch, groups, channels // groups, rows, columns)
            tap = weight[:, :, u, v].reshape(groups, out_channels // groups, channels // groups)
            total = total + torch.einsum("goc,bgcij->bgoij", tap, seen)
    return total.flatten(1, 2)
