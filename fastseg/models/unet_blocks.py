"""The blocks of U-Net: a pair of convolutions, and the way up to the next skip."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg.nn import ConvNormReLU, DilatedConv2d, TransposedConv2d
from fastseg.ops import bilinear_upsample


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with ReLU."""

    def __init__(
        self, in_channels: int, middle: int, out_channels: int, *, padding: str, norm: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv_relu(in_channels, middle, padding, norm)
        self.conv2 = conv_relu(middle, out_channels, padding, norm)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.conv2(self.conv1(input))
        return output


class UpLevel(nn.Module):
    """Enlarge, put the skip before it, convolve twice."""

    def __init__(
        self, up: TransposedConv2d | None, convs: DoubleConv, *, relu: bool, crop: bool
    ) -> None:
        super().__init__()
        self.up, self.relu, self.crop = up, relu, crop
        self.conv1, self.conv2 = convs.conv1, convs.conv2

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        if self.up is None:
            below = bilinear_upsample(below, scale=2, align_corners=True)
        else:
            below = self.up(below)
        if self.relu:
            below = below.relu()
        # By how much the skip is larger: a border to crop, or the row that pooling dropped.
        rows, columns = skip.shape[2] - below.shape[2], skip.shape[3] - below.shape[3]
        top, left = rows // 2, columns // 2
        if self.crop:
            skip = skip[:, :, top : top + below.shape[2], left : left + below.shape[3]]
        else:
            below = functional.pad(below, (left, columns - left, top, rows - top))
        output: Tensor = self.conv2(self.conv1(torch.cat([skip, below], dim=1)))
        return output


def conv_relu(in_channels: int, out_channels: int, padding: str, norm: bool) -> nn.Module:
    sides = 0 if padding == "valid" else 1
    if norm:
        return ConvNormReLU(in_channels, out_channels, padding=sides)
    return DilatedConv2d(in_channels, out_channels, padding=sides, activation="relu")
