"""MobileNetV2 (Sandler et al. 2018), with strides that can become rates."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from fastseg.backbones.geometry import set_geometry, spread
from fastseg.nn import ConvNormReLU
from fastseg.nn.checked import Count, Epsilon, Share, Stride, checked
from fastseg.nn.recipe import Recorded

GROUPS = (  # expansion, channels, blocks, stride: table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Recorded):
    """The stem and the seventeen inverted residual blocks, without the last 1x1 convolution.

    Args:
        in_channels: channels of the image.
        output_stride: 32 as published; 16 or 8 where the last strides become rates. A group's
            first block then keeps the rate of the group before.
        pad_input: zeros go around the input of a block and none around the image, so that the
            depthwise convolution sees beyond the border what the expansion makes of zeros. So do
            published DeepLab weights; torchvision pads the depthwise convolution itself.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
    """

    out_channels = (24, 32, 96, 320)

    @checked
    def __init__(
        self,
        *,
        in_channels: Count = 3,
        output_stride: Stride = 32,
        pad_input: bool = False,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels, self.pad_input = in_channels, pad_input
        conv = partial(
            ConvNormReLU, norm_eps=norm_eps, norm_momentum=norm_momentum, activation="relu6"
        )
        self.stem = conv(in_channels, 32, stride=2, padding=0 if pad_input else "same")
        self.blocks = nn.ModuleList()
        channels = 32
        for expansion, width, blocks, _ in GROUPS:
            for _ in range(blocks):
                self.blocks.append(InvertedResidual(channels, width, expansion, pad_input, conv))
                channels = width
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Spread strides and rates anew; the weights stay as they are."""
        published = [1 if i else stride for *_, blocks, stride in GROUPS for i in range(blocks)]
        steps = spread("MobileNetV2", published, output_stride, stem=2)
        self.output_stride = output_stride
        for block, step in zip(self.blocks, steps, strict=True):
            assert isinstance(block, InvertedResidual)
            block.set_geometry(step.stride, step.before)

    @property
    def min_size(self) -> int:
        """The shortest side that the stem takes."""
        return 3 if self.pad_input else 1

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The maps of 24, 32, 96 and 320 channels of an image ``(B, in_channels, H, W)``."""
        output, features = self.stem(input), []
        for index, block in enumerate(self.blocks):
            output = block(output)
            if index in (2, 5, 12, 16):
                features.append(output)
        return tuple(features)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3 and linear 1x1 projection, each with batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        pad_input: bool,
        conv: "partial[ConvNormReLU]",
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.pad_input, self.rate = pad_input, 1
        self.same_channels = in_channels == out_channels
        self.expand = conv(in_channels, hidden, kernel_size=1) if expansion > 1 else None
        self.depthwise = conv(hidden, hidden, groups=hidden)
        self.project = conv(hidden, out_channels, kernel_size=1, activation=None)

    def set_geometry(self, stride: int, rate: int) -> None:
        set_geometry(self.depthwise, stride=stride, rate=rate)
        if self.pad_input:
            conv = self.depthwise.conv
            conv.geometry = conv.geometry._replace(padding=(0, 0, 0, 0))
        self.stride, self.rate = stride, rate

    def forward(self, input: Tensor) -> Tensor:
        output = functional.pad(input, (self.rate,) * 4) if self.pad_input else input
        if self.expand is not None:
            output = self.expand(output)
        keeps_shape = self.same_channels and self.stride == 1
        result: Tensor = self.project(self.depthwise(output), input if keeps_shape else None)
        return result
