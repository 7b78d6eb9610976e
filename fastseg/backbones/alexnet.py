"""AlexNet (Krizhevsky et al. 2012) in the conventions of torchvision and of Caffe."""

from typing import Annotated

import torch
from torch import Tensor, nn

from fastseg.nn import DilatedConv2d
from fastseg.nn.checked import Count, Integer, OneOf, checked
from fastseg.nn.recipe import Recorded


class AlexNet(Recorded):
    """The convolutional layers ``conv1`` to ``conv5`` and the three pools.

    Args:
        in_channels: channels of the image.
        convention: ``"torchvision"``: one column of 64, 192, 384, 256 and 256 channels.
            ``"caffe"``: two columns (groups) of 96, 256, 384, 384 and 256 channels in all, with
            local response normalisation after the first two pools, which round up.
        first_padding: zeros around the image at ``conv1``; None for the convention's, 2 and 0.
            100 in FCN.
    """

    @checked
    def __init__(
        self,
        in_channels: Count = 3,
        *,
        convention: Annotated[str, OneOf("torchvision", "caffe")] = "torchvision",
        first_padding: Annotated[int, Integer(0)] | None = None,
    ) -> None:
        super().__init__()
        caffe = convention == "caffe"
        widths = (96, 256, 384, 384, 256) if caffe else (64, 192, 384, 256, 256)
        groups = 2 if caffe else 1
        if first_padding is None:
            first_padding = 0 if caffe else 2
        self.in_channels = in_channels
        self.out_channels = (widths[0], widths[1], widths[4])
        self.conv1 = DilatedConv2d(
            in_channels,
            widths[0],
            kernel_size=11,
            stride=4,
            padding=first_padding,
            activation="relu",
        )
        self.conv2 = DilatedConv2d(
            widths[0], widths[1], kernel_size=5, groups=groups, activation="relu"
        )
        self.conv3 = DilatedConv2d(widths[1], widths[2], activation="relu")
        self.conv4 = DilatedConv2d(widths[2], widths[3], groups=groups, activation="relu")
        self.conv5 = DilatedConv2d(widths[3], widths[4], groups=groups, activation="relu")
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=caffe)
        self.norm = LocalResponseNorm(5, alpha=1e-4, beta=0.75) if caffe else nn.Identity()

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The maps after the three pools of an image ``(B, in_channels, H, W)``."""
        pool1 = self.norm(self.pool(self.conv1(input)))
        pool2 = self.norm(self.pool(self.conv2(pool1)))
        pool5 = self.pool(self.conv5(self.conv4(self.conv3(pool2))))
        return pool1, pool2, pool5


class LocalResponseNorm(nn.LocalResponseNorm):
    """torch's, which sums no squares in half precision, in float32."""

    def forward(self, input: Tensor) -> Tensor:
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        return super().forward(wide).to(input.dtype)
