"""Dilated (atrous) convolution as a module."""

import math

import torch
from torch import Tensor, nn

from fastseg.nn.checked import Activation, Count, Size, Zeros, checked
from fastseg.ops import dilated_conv2d
from fastseg.ops.conv_geometry import ConvGeometry, pair


class DilatedConv2d(nn.Module):
    """Convolution whose taps are ``rate`` samples apart, with bias, residual and activation.

    y[i] = act(sum_k x[i + rate * k] w[k] + b + residual) (Chen et al., "DeepLab", 2017, eq. 1).
    Parameters are named, shaped and initialised as those of ``torch.nn.Conv2d``, so that
    checkpoints of either load into the other. See :func:`fastseg.ops.dilated_conv2d`.

    Args:
        in_channels, out_channels: positive, divisible by ``groups``.
        kernel_size: taps, one number or (vertical, horizontal).
        rate: distance of neighbouring taps in samples, likewise.
        padding: zeros around the input: ``"same"`` (output ``ceil(H / stride)``), ``"valid"``, one
            number, (vertical, horizontal) or (top, bottom, left, right).
        stride: distance of neighbouring outputs in samples.
        groups: independent groups of channels; ``in_channels`` makes it depthwise.
        bias: whether there is one.
        activation: None, ``"relu"`` or ``"relu6"``.
    """

    bias: nn.Parameter | None

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        *,
        kernel_size: Size = 3,
        rate: Size = 1,
        padding: Zeros = "same",
        stride: Size = 1,
        groups: Count = 1,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(
                    f"DilatedConv2d: {name} must be a multiple of groups ({groups}), got {channels}"
                )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair("DilatedConv2d", "kernel_size", kernel_size)
        self.geometry = ConvGeometry.of(
            "DilatedConv2d",
            self.kernel_size,
            rate=rate,
            padding=padding,
            stride=stride,
            groups=groups,
        )
        self.activation = activation
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan in), as ``torch.nn.Conv2d``."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        rate, padding, stride, groups = self.geometry
        return dilated_conv2d(
            input,
            self.weight,
            self.bias,
            rate=rate,
            padding=padding,
            stride=stride,
            groups=groups,
            activation=self.activation,
            residual=residual,
        )

    def extra_repr(self) -> str:
        rate, padding, stride, groups = self.geometry
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", rate={rate}, padding={padding}, stride={stride}"
        if groups != 1:
            text += f", groups={groups}"
        if self.bias is None:
            text += ", bias=False"
        return text + (f", activation={self.activation!r}" if self.activation else "")
