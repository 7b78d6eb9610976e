"""Depthwise and pointwise convolution in place of a full one."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from fastseg.nn.checked import Activation, Count, Epsilon, Share, Size, Zeros, checked
from fastseg.nn.conv_norm_relu import ConvNormReLU
from fastseg.nn.dilated_conv import DilatedConv2d


class SeparableConvNormReLU(nn.Module):
    """A dilated depthwise convolution, then a 1x1 convolution with batch norm and ReLU.

    The atrous separable convolution of DeepLab v3+ (Chen et al. 2018, sec. 3.1) has batch norm and
    ReLU after the depthwise part too; the original of Xception (Chollet 2017) has nothing there.

    Args:
        in_channels, out_channels, kernel_size, rate, stride, padding: of the convolution it stands
            for, see :class:`fastseg.nn.DilatedConv2d`.
        norm_between: whether batch norm and ReLU follow the depthwise part.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
        activation: at the end, ``"relu"``, ``"relu6"`` or None.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        *,
        kernel_size: Size = 3,
        rate: Size = 1,
        stride: Size = 1,
        padding: Zeros = "same",
        norm_between: bool = True,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
        activation: Activation | None = "relu",
    ) -> None:
        super().__init__()
        depthwise: Callable[..., DilatedConv2d | ConvNormReLU] = (
            partial(ConvNormReLU, norm_eps=norm_eps, norm_momentum=norm_momentum)
            if norm_between
            else partial(DilatedConv2d, bias=False)
        )
        self.depthwise = depthwise(
            in_channels,
            in_channels,
            kernel_size=kernel_size,
            rate=rate,
            stride=stride,
            padding=padding,
            groups=in_channels,
        )
        self.pointwise = ConvNormReLU(
            in_channels,
            out_channels,
            kernel_size=1,
            norm_eps=norm_eps,
            norm_momentum=norm_momentum,
            activation=activation,
        )

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        output: Tensor = self.pointwise(self.depthwise(input), residual)
        return output
