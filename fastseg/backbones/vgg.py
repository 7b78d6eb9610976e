"""VGG-16 (Simonyan and Zisserman 2015), with the pooling and rates of segmentation networks."""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from torch import Tensor, nn

from fastseg.nn import ConvNormReLU, DilatedConv2d
from fastseg.nn.checked import Count, Epsilon, Integer, Several, Share, checked
from fastseg.nn.recipe import Recorded

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

FiveCounts: TypeAlias = Annotated[Sequence[int], Several(Integer(), 5)]


class VGG16(Recorded):
    """The convolutional layers ``conv1_1`` to ``conv5_3`` and the pooling after each stage.

    As published: 3x3 convolutions with ReLU and 2x2 max pooling of stride 2. The arguments with one
    number a stage are what FCN and DeepLab change.

    Args:
        in_channels: channels of the image.
        batch_norm: VGG-16-bn: batch norm between convolution (which keeps its bias) and ReLU.
        first_padding: zeros around the image at ``conv1_1``; 100 in FCN.
        rates: of the convolutions of each stage.
        pool_kernels, pool_strides, pool_paddings: of the max pooling after each stage.
        ceil_mode: whether pooling keeps the last, incomplete window, as Caffe does.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
    """

    out_channels = tuple(stage[-1] for stage in STAGES)

    @checked
    def __init__(
        self,
        in_channels: Count = 3,
        *,
        batch_norm: bool = False,
        first_padding: Annotated[int, Integer(0)] = 1,
        rates: FiveCounts = (1, 1, 1, 1, 1),
        pool_kernels: FiveCounts = (2, 2, 2, 2, 2),
        pool_strides: FiveCounts = (2, 2, 2, 2, 2),
        pool_paddings: Annotated[Sequence[int], Several(Integer(0), 5)] = (0, 0, 0, 0, 0),
        ceil_mode: bool = False,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
    ) -> None:
        super().__init__()
        for kernel, padding in zip(pool_kernels, pool_paddings, strict=True):
            if 2 * padding > kernel:
                raise ValueError(
                    "VGG16: pool_paddings must be at most half of pool_kernels, got "
                    f"{padding} for {kernel}"
                )
        self.in_channels = in_channels
        self.stages: list[list[str]] = []
        pools = zip(pool_kernels, pool_strides, pool_paddings, strict=True)
        self.pools = nn.ModuleList(
            nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
            for kernel, stride, padding in pools
        )
        for stage, (widths, rate) in enumerate(zip(STAGES, rates, strict=True), start=1):
            names = [f"conv{stage}_{index}" for index in range(1, len(widths) + 1)]
            for name, width in zip(names, widths, strict=True):
                padding = first_padding if name == "conv1_1" else rate
                layer: nn.Module
                if batch_norm:
                    layer = ConvNormReLU(
                        in_channels,
                        width,
                        rate=rate,
                        padding=padding,
                        bias=True,
                        norm_eps=norm_eps,
                        norm_momentum=norm_momentum,
                    )
                else:
                    layer = DilatedConv2d(
                        in_channels, width, rate=rate, padding=padding, activation="relu"
                    )
                self.add_module(name, layer)
                in_channels = width
            self.stages.append(names)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The five maps ``pool1`` to ``pool5`` of an image ``(B, in_channels, H, W)``."""
        features = []
        for names, pool in zip(self.stages, self.pools, strict=True):
            for name in names:
                input = getattr(self, name)(input)
            input = pool(input)
            features.append(input)
        return tuple(features)
