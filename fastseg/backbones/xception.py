"""Xception (Chollet 2017), with strides that can become rates."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from fastseg.backbones.geometry import set_geometry, spread
from fastseg.backbones.separable_block import SeparableBlock
from fastseg.nn import ConvNormReLU, DilatedConv2d, SeparableConvNormReLU
from fastseg.nn.checked import Count, Epsilon, Share, Stride, checked
from fastseg.nn.recipe import Recorded


class XceptionBlock(SeparableBlock):
    """ReLU before each separable convolution, and max pooling for the stride."""

    last_activation = None
    pooled = False

    def set_geometry(self, stride: int, rate: int) -> None:
        self.pooled = stride > 1
        for conv in self.convs:
            assert isinstance(conv, SeparableConvNormReLU)
            set_geometry(conv.depthwise, rate=rate)
        if self.shortcut is not None:
            set_geometry(self.shortcut, stride=stride)

    def forward(self, input: Tensor) -> Tensor:
        output = input.relu()
        *first, last = self.convs
        for conv in first:
            output = conv(output)
        if self.pooled:
            return functional.max_pool2d(last(output), 3, 2, 1) + self.around(input)
        result: Tensor = last(output, self.around(input))
        return result


class Xception(Recorded):
    """Xception as published, to its last convolution before batch norm.

    Args:
        in_channels: channels of the image.
        output_stride: 32 as published; 16 or 8 where the last strides become rates, from the
            first convolution of a block on. Dilated, ``conv3`` and ``conv4`` keep their padding
            of 1 and lose a border, as published DeepLab weights do.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
    """

    out_channels = (128, 256, 728, 2048)

    @checked
    def __init__(
        self,
        *,
        in_channels: Count = 3,
        output_stride: Stride = 32,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
    ) -> None:
        super().__init__()
        conv = partial(ConvNormReLU, norm_eps=norm_eps, norm_momentum=norm_momentum)
        separable = partial(
            SeparableConvNormReLU,
            norm_between=False,
            norm_eps=norm_eps,
            norm_momentum=norm_momentum,
        )
        self.in_channels = in_channels
        self.conv1 = conv(in_channels, 32, stride=2, padding=0)
        self.conv2 = conv(32, 64, padding=0)
        self.blocks = nn.ModuleList(
            [
                XceptionBlock((64, 128, 128), 2, conv, separable),
                XceptionBlock((128, 256, 256), 2, conv, separable),
                XceptionBlock((256, 728, 728), 2, conv, separable),
                *(XceptionBlock((728, 728, 728, 728), 1, conv, separable) for _ in range(8)),
                XceptionBlock((728, 728, 1024), 2, conv, separable),
            ]
        )
        self.conv3 = separable(1024, 1536)
        self.conv4 = nn.Sequential()
        self.conv4.add_module("depthwise", DilatedConv2d(1536, 1536, groups=1536, bias=False))
        self.conv4.add_module("pointwise", DilatedConv2d(1536, 2048, kernel_size=1, bias=False))
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Spread strides and rates anew; the weights stay as they are."""
        blocks = [block for block in self.blocks if isinstance(block, XceptionBlock)]
        steps = spread("Xception", [block.stride for block in blocks], output_stride, stem=2)
        self.output_stride = output_stride
        for block, step in zip(blocks, steps, strict=True):
            block.set_geometry(step.stride, step.rate)
        rate = steps[-1].rate
        for conv in (self.conv3.depthwise, self.conv4.get_submodule("depthwise")):
            assert isinstance(conv, DilatedConv2d)
            conv.geometry = conv.geometry._replace(rate=(rate, rate), padding=(1, 1, 1, 1))

    @property
    def min_size(self) -> int:
        """The shortest side that leaves ``conv3`` and ``conv4`` a pixel."""
        return {32: 7, 16: 71, 8: 103}[self.output_stride]

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The maps of 128, 256, 728 and 2048 channels of an image ``(B, in_channels, H, W)``."""
        output, features = self.conv2(self.conv1(input)), []
        for index, block in enumerate(self.blocks):
            output = block(output)
            if index in (0, 1, 10):
                features.append(output)
        return (*features, self.conv4(self.conv3(output)))
