"""DeepLab v1 (Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets", 2015)."""

from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg.backbones.vgg import VGG16
from fastseg.models.input_convention import DEEPLAB, DEEPLAB_EVEN_POOLS
from fastseg.models.network import Network, gaussian_
from fastseg.nn import DilatedConv2d
from fastseg.nn.checked import Count, OneOf, checked


class Variant(NamedTuple):
    """A row of the paper's table 2."""

    kernel: int
    """Of fc6."""
    rate: int
    """Of fc6."""
    channels: int
    """Of fc6 and fc7."""
    pool_kernel: int
    """Of the pools of stride 2."""
    average_pool: bool
    """Whether pool5a, an average over 3x3, follows pool5."""


VARIANTS = {
    "7x7": Variant(kernel=7, rate=4, channels=4096, pool_kernel=2, average_pool=False),
    "base": Variant(kernel=4, rate=4, channels=4096, pool_kernel=2, average_pool=False),
    "4x4": Variant(kernel=4, rate=8, channels=4096, pool_kernel=2, average_pool=False),
    "largefov": Variant(kernel=3, rate=12, channels=1024, pool_kernel=3, average_pool=True),
}


def dilated_vgg16(pool_kernel: int = 3, in_channels: int = 3) -> VGG16:
    """VGG-16 at output stride 8: pool4 and pool5 without stride, conv5 at rate 2.

    With pools of 3x3 every stage is centred on the samples of the one before, and an image of
    8 k + 1 pixels gives k + 1; the pools of 2x2 are those of the network first released.
    """
    kernels, paddings = {2: ((2, 2, 2, 2, 3), (1, 1, 1, 0, 1)), 3: ((3,) * 5, (1,) * 5)}[
        pool_kernel
    ]
    return VGG16(
        in_channels,
        rates=(1, 1, 1, 1, 2),
        pool_kernels=kernels,
        pool_strides=(2, 2, 2, 1, 1),
        pool_paddings=paddings,
        # With a pixel of padding, pools of 2x2 have as many windows rounded up as down.
        ceil_mode=pool_kernel == 3,
    )


class DeepLabV1(Network):
    """VGG-16 with holes, and fc6 to fc8 as convolutions at output stride 8.

    Args:
        num_classes: K.
        variant: of table 2: ``"7x7"``, ``"base"`` (released as vgg128_noup), ``"4x4"`` or
            ``"largefov"``.
        multi_scale: MSc: features of the image and of pool1 to pool4 beside fc7 (sec. 4.3).
        in_channels: channels of the image.
        align_corners: as Caffe's Interp, see :class:`Network`.
    """

    input_convention = DEEPLAB
    crf_preset = "deeplab-largefov"

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        variant: Annotated[str, OneOf(*VARIANTS)] = "largefov",
        multi_scale: bool = False,
        in_channels: Count = 3,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        row = VARIANTS[variant]
        self.num_classes, self.align_corners = num_classes, align_corners
        self.variant = variant
        if row.pool_kernel == 2:
            self.input_convention = DEEPLAB_EVEN_POOLS
        self.backbone = dilated_vgg16(row.pool_kernel, in_channels)
        self.pool5a = nn.AvgPool2d(3, 1, 1) if row.average_pool else nn.Identity()
        self.fc6 = DilatedConv2d(
            512,
            row.channels,
            kernel_size=row.kernel,
            rate=row.rate,
            padding=row.rate * (row.kernel - 1) // 2,
            activation="relu",
        )
        self.fc7 = DilatedConv2d(row.channels, row.channels, kernel_size=1, activation="relu")
        self.branches = MultiScaleFeatures(in_channels) if multi_scale else None
        self.fc8 = DilatedConv2d(row.channels + 640 * multi_scale, num_classes, kernel_size=1)
        self.dropout = nn.Dropout(0.5)
        self.least = 4 - row.pool_kernel  # two pixels let pool4 of 2x2 see a map of two
        gaussian_(self.fc8)

    @property
    def min_size(self) -> int:
        return self.least

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at output stride 8.

        Raises:
            ValueError: a side is shorter than :attr:`min_size`.
        """
        self.check_size(input)
        features = self.backbone(input)
        top = self.dropout(self.fc6(self.pool5a(features[-1])))
        top = self.dropout(self.fc7(top))
        if self.branches is not None:
            top = torch.cat([top, *self.branches((input, *features[:4]), top)], dim=1)
        scores: Tensor = self.fc8(top)
        return scores


class MultiScaleFeatures(nn.Module):
    """A two-layer perceptron, 3x3 and 1x1 of 128 filters, on the image and each of four pools.

    Dropout follows each layer, as in the release.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        channels, strides = (in_channels, 64, 128, 256, 512), (8, 4, 2, 1, 1)
        self.strides = strides
        self.dropout = nn.Dropout(0.5)
        self.branches = nn.ModuleList(
            nn.Sequential(
                DilatedConv2d(width, 128, padding=1, stride=stride, activation="relu"),
                DilatedConv2d(128, 128, kernel_size=1, activation="relu"),
            )
            for width, stride in zip(channels, strides, strict=True)
        )

    def forward(self, features: tuple[Tensor, ...], top: Tensor) -> list[Tensor]:
        """Maps of 128 channels at the size of ``top``, zeros where pooling rounded up."""
        height, width = top.shape[2:]
        outputs = []
        sources = zip(self.branches.children(), self.strides, features, strict=True)
        for branch, stride, feature in sources:
            rows = (height - 1) * stride + 1 - feature.shape[2]
            columns = (width - 1) * stride + 1 - feature.shape[3]
            output = functional.pad(feature, (0, columns, 0, rows))
            for layer in branch.children():
                output = self.dropout(layer(output))
            outputs.append(output)
        return outputs
