"""Residual networks (He et al. 2016) in the conventions of torchvision, Caffe and their mixture."""

from functools import partial
from typing import Annotated, NamedTuple, TypeAlias

from torch import Tensor, nn

from fastseg.backbones.geometry import set_geometry, spread
from fastseg.nn import ConvNormReLU
from fastseg.nn.checked import Count, Counts, Epsilon, OneOf, Share, Stride, checked
from fastseg.nn.recipe import Recorded

DEPTHS = {  # blocks a layer
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


WIDTHS = (64, 128, 256, 512)


class Convention(NamedTuple):
    """Where two implementations of equal weights differ."""

    stride_on_1x1: bool
    """A bottleneck's stride sits on its first 1x1 convolution, not on the 3x3."""
    rate_from_first: bool
    """A layer's first block has the rate of the layer, not of the layer before."""
    ceil_pool: bool
    """The pooling of the stem keeps its last, incomplete window."""


CONVENTIONS = {
    "torchvision": Convention(stride_on_1x1=False, rate_from_first=False, ceil_pool=False),
    "caffe": Convention(stride_on_1x1=True, rate_from_first=True, ceil_pool=True),
    "uniform": Convention(stride_on_1x1=False, rate_from_first=True, ceil_pool=False),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, conv: "partial[ConvNormReLU]") -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, kernel_size=1)
        self.conv2 = conv(width, width)
        self.conv3 = conv(width, 4 * width, kernel_size=1)
        self.shortcut = shortcut(in_channels, 4 * width, conv)

    def set_geometry(self, stride: int, first_rate: int, rate: int, *, stride_on_1x1: bool) -> None:
        """``first_rate`` is that of the only 3x3, which is the first."""
        set_geometry(self.conv1, stride=stride if stride_on_1x1 else 1)
        set_geometry(self.conv2, stride=1 if stride_on_1x1 else stride, rate=first_rate)
        if self.shortcut is not None:
            set_geometry(self.shortcut, stride=stride)

    def forward(self, input: Tensor) -> Tensor:
        residual = input if self.shortcut is None else self.shortcut(input)
        output: Tensor = self.conv3(self.conv2(self.conv1(input)), residual)
        return output


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ResNet-18 and 34."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, conv: "partial[ConvNormReLU]") -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width)
        self.conv2 = conv(width, width)
        self.shortcut = shortcut(in_channels, width, conv)

    def set_geometry(self, stride: int, first_rate: int, rate: int, *, stride_on_1x1: bool) -> None:
        set_geometry(self.conv1, stride=stride, rate=first_rate)
        set_geometry(self.conv2, rate=rate)
        if self.shortcut is not None:
            set_geometry(self.shortcut, stride=stride)

    def forward(self, input: Tensor) -> Tensor:
        residual = input if self.shortcut is None else self.shortcut(input)
        output: Tensor = self.conv2(self.conv1(input), residual)
        return output


def shortcut(
    in_channels: int, out_channels: int, conv: "partial[ConvNormReLU]"
) -> ConvNormReLU | None:
    if in_channels == out_channels:
        return None
    return conv(in_channels, out_channels, kernel_size=1, activation=None)


ConventionName: TypeAlias = Annotated[str, OneOf(*CONVENTIONS)]
Depth: TypeAlias = Annotated[int, OneOf(*DEPTHS)]


class ResNet(Recorded):
    """ResNet-18, 34, 50, 101 or 152 without its classifier.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the image.
        output_stride: 32 as published; 16 or 8 where the last strides become rates.
        multi_grid: factors of the rates of ``layer4``'s blocks (Chen et al., "Rethinking Atrous
            Convolution", 2017, sec. 3.2.1), used again from the first where they are fewer.
        convention: ``"torchvision"``; ``"caffe"``, that of the original weights and of DeepLab's;
            ``"uniform"``, torchvision's strides and pooling with one rate a layer. The same
            weights fit all three, and give different results.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
    """

    @checked
    def __init__(
        self,
        depth: Depth = 101,
        *,
        in_channels: Count = 3,
        output_stride: Stride = 32,
        multi_grid: Counts = (1,),
        convention: ConventionName = "torchvision",
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
    ) -> None:
        super().__init__()
        self.depth, self.in_channels, self.multi_grid = depth, in_channels, tuple(multi_grid)
        self.convention = CONVENTIONS[convention]
        conv = partial(ConvNormReLU, norm_eps=norm_eps, norm_momentum=norm_momentum)
        block = Bottleneck if depth >= 50 else BasicBlock
        self.out_channels = tuple(block.expansion * width for width in WIDTHS)
        self.stem = conv(in_channels, 64, kernel_size=7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=self.convention.ceil_pool)
        channels = 64
        for index, width in enumerate(WIDTHS):
            blocks = []
            for _ in range(DEPTHS[depth][index]):
                blocks.append(block(channels, width, conv))
                channels = self.out_channels[index]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Spread strides and rates anew; the weights stay as they are."""
        steps = spread("ResNet", (1, 2, 2, 2), output_stride, stem=4)
        self.output_stride = output_stride
        for index, (blocks, step) in enumerate(zip(self._layers(), steps, strict=True)):
            for i, block in enumerate(blocks):
                assert isinstance(block, BasicBlock | Bottleneck)
                first = step.rate if i or self.convention.rate_from_first else step.before
                grid = self.multi_grid[i % len(self.multi_grid)] if index == 3 else 1
                block.set_geometry(
                    1 if i else step.stride,
                    first * grid,
                    step.rate * grid,
                    stride_on_1x1=self.convention.stride_on_1x1,
                )

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """The four maps ``layer1`` to ``layer4`` of an image ``(B, in_channels, H, W)``."""
        features = []
        output = self.pool(self.stem(input))
        for layer in self._layers():
            output = layer(output)
            features.append(output)
        return tuple(features)

    def _layers(self) -> list[nn.Sequential]:
        return [self.get_submodule(f"layer{index}") for index in (1, 2, 3, 4)]  # type: ignore[misc]
