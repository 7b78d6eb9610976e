"""The modified aligned Xception of DeepLab v3+ (Chen et al. 2018)."""

from functools import partial

from torch import Tensor, nn

from fastseg.backbones.geometry import set_geometry, spread
from fastseg.backbones.separable_block import SeparableBlock
from fastseg.nn import ConvNormReLU, SeparableConvNormReLU
from fastseg.nn.checked import Count, Epsilon, Share, Stride, checked
from fastseg.nn.recipe import Recorded


class AlignedBlock(SeparableBlock):
    """Three separable convolutions, the last with the stride."""

    def set_geometry(self, stride: int, rate: int) -> None:
        for index, conv in enumerate(self.convs):
            assert isinstance(conv, SeparableConvNormReLU)
            set_geometry(conv.depthwise, rate=rate, stride=stride if index == 2 else 1)
        if self.shortcut is not None:
            set_geometry(self.shortcut, stride=stride)

    def forward(self, input: Tensor) -> Tensor:
        output = input
        for conv in self.convs:
            output = conv(output)
        return output + self.around(input)


class AlignedXception(Recorded):
    """The modified aligned Xception of DeepLab v3+ (its fig. 4).

    Sixteen blocks in the middle flow, strided separable convolutions in place of max pooling,
    and batch norm and ReLU after each depthwise convolution.

    Args:
        in_channels: channels of the image.
        output_stride: 32, or 16 or 8 where the last strides become rates.
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
        separable = partial(SeparableConvNormReLU, norm_eps=norm_eps, norm_momentum=norm_momentum)
        self.in_channels = in_channels
        self.conv1 = conv(in_channels, 32, stride=2)
        self.conv2 = conv(32, 64)
        self.blocks = nn.ModuleList(
            [
                AlignedBlock((64, 128, 128, 128), 2, conv, separable),
                AlignedBlock((128, 256, 256, 256), 2, conv, separable),
                AlignedBlock((256, 728, 728, 728), 2, conv, separable),
                *(AlignedBlock((728, 728, 728, 728), 1, conv, separable) for _ in range(16)),
                AlignedBlock((728, 728, 1024, 1024), 2, conv, separable),
            ]
        )
        self.conv3 = separable(1024, 1536)
        self.conv4 = separable(1536, 1536)
        self.conv5 = separable(1536, 2048)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Spread strides and rates anew; the weights stay as they are."""
        blocks = [block for block in self.blocks if isinstance(block, AlignedBlock)]
        strides = [block.stride for block in blocks]
        steps = spread("AlignedXception", strides, output_stride, stem=2)
        self.output_stride = output_stride
        for block, step in zip(blocks, steps, strict=True):
            block.set_geometry(step.stride, step.before)
        for conv in (self.conv3, self.conv4, self.conv5):
            set_geometry(conv.depthwise, rate=steps[-1].rate)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The maps of 128, 256, 728 and 2048 channels of an image ``(B, in_channels, H, W)``."""
        output, features = self.conv2(self.conv1(input)), []
        for index, block in enumerate(self.blocks):
            output = block(output)
            if index in (0, 1, 18):
                features.append(output)
        return (*features, self.conv5(self.conv4(self.conv3(output))))
