"""ASPP as DeepLab v3 has it (Chen et al. 2017, fig. 5): with batch norm and image pooling."""

from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor, nn

from fastseg.backbones.build import Backbone
from fastseg.backbones.geometry import set_geometry
from fastseg.models.network import Network, without_variance
from fastseg.nn import ASPP, ConvNormReLU, SeparableConvNormReLU


class Norm(TypedDict):
    """Settings of the batch norms of a network."""

    norm_eps: float
    norm_momentum: float | None


class PyramidPooling(nn.Module):
    """A 1x1 branch, 3x3 branches at several rates and image pooling, joined by a 1x1 convolution.

    Args:
        in_channels: channels of the input.
        rates: of the 3x3 branches at output stride 16, see :meth:`set_output_stride`.
        channels: of each branch and of the output.
        separable: whether the 3x3 branches are depthwise separable.
        norm_between: whether batch norm and ReLU stand inside those.
        norm: settings of the batch norms.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        rates: Sequence[int],
        norm: Norm,
        channels: int = 256,
        separable: bool = False,
        norm_between: bool = True,
    ) -> None:
        super().__init__()
        self.rates = tuple(rates)
        dense = (0,) if separable else (0, *rates)
        self.branches = ASPP(
            in_channels,
            channels,
            rates=dense,
            combine="concat",
            norm=True,
            activation="relu",
            **norm,
        )
        self.separable_branches = nn.ModuleList(
            SeparableConvNormReLU(in_channels, channels, norm_between=norm_between, **norm)
            for _ in (rates if separable else ())
        )
        self.image_pooling = ImagePooling(in_channels, channels, norm)
        self.project = ConvNormReLU((len(rates) + 2) * channels, channels, kernel_size=1, **norm)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the rates by 16 / ``output_stride``; the weights stay as they are."""
        rates = [rate * 16 // output_stride for rate in self.rates]
        if len(self.separable_branches):
            for branch, rate in zip(self.separable_branches, rates, strict=True):
                assert isinstance(branch, SeparableConvNormReLU)
                set_geometry(branch.depthwise, rate=rate)
            return
        self.branches.rates = (0, *rates)
        for branch, rate in zip(self.branches.branches[1:], rates, strict=True):
            assert isinstance(branch, ConvNormReLU)
            set_geometry(branch, rate=rate)

    def forward(self, input: Tensor) -> Tensor:
        outputs = [self.branches(input)]
        outputs += [branch(input) for branch in self.separable_branches]
        outputs.append(self.image_pooling(input))
        output: Tensor = self.project(torch.cat(outputs, dim=1))
        return output


class TwoStrides(Network):
    """A backbone and ASPP that run at one output stride in training, at another in evaluation.

    Args:
        backbone, norm, rates, separable, norm_between, head_conv, dropout: see :class:`DeepLabV3`.
        output_strides: in training and in evaluation mode.

    Attributes:
        train_output_stride, eval_output_stride: which, from the next :meth:`train` or :meth:`eval`
            on. The weights are the same.
    """

    settings = (*Network.settings, "train_output_stride", "eval_output_stride")

    def __init__(
        self,
        backbone: Backbone,
        norm: Norm,
        *,
        rates: Sequence[int],
        output_strides: tuple[int, int],
        separable: bool,
        norm_between: bool,
        head_conv: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.train_output_stride, self.eval_output_stride = output_strides
        self.backbone = backbone
        self.conv3x3 = partial(conv3x3, norm=norm, separable=separable, norm_between=norm_between)
        self.aspp = PyramidPooling(
            backbone.out_channels[-1],
            rates=rates,
            norm=norm,
            separable=separable,
            norm_between=norm_between,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = self.conv3x3(256, 256) if head_conv else nn.Identity()

    def encode(self, features: Tensor) -> Tensor:
        """The 256 channels that the backbone's last map becomes."""
        encoded: Tensor = self.head(self.dropout(self.aspp(features)))
        return encoded

    def set_output_stride(self, output_stride: int) -> None:
        """Spread strides and rates anew, until the next :meth:`train` or :meth:`eval`."""
        self.backbone.set_output_stride(output_stride)
        self.aspp.set_output_stride(output_stride)

    def train(self, mode: bool = True) -> "TwoStrides":
        super().train(mode)
        self.set_output_stride(self.train_output_stride if mode else self.eval_output_stride)
        return self


class ImagePooling(nn.Module):
    """The mean of the whole map, 1x1 convolution, batch norm, ReLU, spread over the map again.

    One image alone in training mode is normalised as :func:`without_variance` says.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = ConvNormReLU(in_channels, out_channels, kernel_size=1, **norm)

    def forward(self, input: Tensor) -> Tensor:
        output = without_variance(self.conv, input.mean((2, 3), keepdim=True))
        return output.expand(-1, -1, *input.shape[2:])


def conv3x3(
    in_channels: int, out_channels: int, *, norm: Norm, separable: bool, norm_between: bool
) -> ConvNormReLU | SeparableConvNormReLU:
    """A 3x3 convolution with batch norm and ReLU, depthwise separable or not."""
    if separable:
        return SeparableConvNormReLU(in_channels, out_channels, norm_between=norm_between, **norm)
    return ConvNormReLU(in_channels, out_channels, **norm)
