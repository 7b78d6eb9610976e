"""Atrous spatial pyramid pooling as a module."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fastseg.nn.checked import Activation, Count, Epsilon, OneOf, RatesOrZero, Share, checked
from fastseg.nn.conv_norm_relu import ConvNormReLU
from fastseg.nn.dilated_conv import DilatedConv2d
from fastseg.ops import aspp
from fastseg.ops.activation import activate


class ASPP(nn.Module):
    """Parallel convolutions of one input at several rates, summed or concatenated.

    Chen et al., "DeepLab" (2017), sec. 3.2 and fig. 7: ``combine="sum"`` is the sum of the score
    heads of v2 ResNet; ``"concat"`` the hidden branches of v2 VGG (fc6, ``activation="relu"``)
    and, with ``norm=True`` and a rate of 0 for the 1x1 branch, of v3.

    The branches are ``branches[i]``, in the order of ``rates``: :class:`DilatedConv2d` with a
    bias, or :class:`ConvNormReLU` without its activation where ``norm`` is true. The activation
    follows the sum or the concatenation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each branch.
        rates: one per branch; 0 stands for a 1x1 convolution.
        combine: ``"sum"`` or ``"concat"``.
        kernel_size: of the branches whose rate is not 0; odd.
        norm: whether batch norm follows each convolution, which then has no bias.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
        activation: None, ``"relu"`` or ``"relu6"``.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        *,
        rates: RatesOrZero,
        combine: Annotated[str, OneOf("sum", "concat")] = "sum",
        kernel_size: Count = 3,
        norm: bool = False,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 0.1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"ASPP: kernel_size must be odd, got {kernel_size}")
        self.rates, self.combine, self.activation = tuple(rates), combine, activation
        self.norm = norm
        branches: list[nn.Module] = []
        for rate in self.rates:
            size, spacing = (1, 1) if rate == 0 else (kernel_size, rate)
            if norm:
                branches.append(
                    ConvNormReLU(
                        in_channels,
                        out_channels,
                        kernel_size=size,
                        rate=spacing,
                        norm_eps=norm_eps,
                        norm_momentum=norm_momentum,
                        activation=None,
                    )
                )
            else:
                branches.append(
                    DilatedConv2d(in_channels, out_channels, kernel_size=size, rate=spacing)
                )
        self.branches = nn.ModuleList(branches)

    def forward(self, input: Tensor) -> Tensor:
        if not self.norm and not self.records_gradients(input):
            branches: Any = list(self.branches)
            weights, biases = [b.weight for b in branches], [b.bias for b in branches]
            return aspp(input, weights, biases, self.rates, self.combine, self.activation)
        outputs = [branch(input) for branch in self.branches]
        combined = torch.cat(outputs, dim=1) if self.combine == "concat" else sum_of(outputs)
        return activate(combined, self.activation)

    def records_gradients(self, input: Tensor) -> bool:
        """Then each branch is computed to the high accuracy that training asks for."""
        return torch.is_grad_enabled() and (
            input.requires_grad or any(p.requires_grad for p in self.parameters())
        )

    def extra_repr(self) -> str:
        return f"combine={self.combine!r}, activation={self.activation!r}"


def sum_of(outputs: list[Tensor]) -> Tensor:
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total
