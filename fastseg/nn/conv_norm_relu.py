"""Convolution, batch norm and ReLU as one block."""

from torch import Tensor, nn

from fastseg.nn.checked import Activation, Count, Epsilon, Share, Size, Zeros, checked
from fastseg.nn.dilated_conv import DilatedConv2d
from fastseg.ops.activation import activate


class ConvNormReLU(nn.Module):
    """``act(norm(conv(input)) + residual)``: a convolution, batch norm, activation.

    Args:
        in_channels, out_channels, kernel_size, rate, stride, padding, groups: of the convolution,
            see :class:`fastseg.nn.DilatedConv2d`.
        bias: whether the convolution has one too, which the norm makes redundant.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
        activation: ``"relu"``, ``"relu6"`` or None.
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
        groups: Count = 1,
        bias: bool = False,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
        activation: Activation | None = "relu",
    ) -> None:
        super().__init__()
        self.conv = DilatedConv2d(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            rate=rate,
            padding=padding,
            stride=stride,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        output = self.norm(self.conv(input))
        return activate(output if residual is None else output + residual, self.activation)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"
