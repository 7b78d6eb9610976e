"""Modules that are one convolution, as the kernels see them: weights ``(O, C / groups, KH, KW)``.

A transposed convolution of stride 1 is a convolution with its kernel turned round: where every
sample lays the kernel down, every output gathers it from the other end (Dumoulin and Visin, "A
guide to convolution arithmetic for deep learning", 2016, ch. 4). Its padding p cuts the output,
which leaves rate (kernel - 1) - p rows of zeros around the input.
"""

from functools import lru_cache
from typing import Any, TypeAlias

from torch import Tensor, nn

from fastseg.nn import DilatedConv2d
from fastseg.ops.activation import CEILING
from fastseg.ops.conv_geometry import ConvGeometry

Conv: TypeAlias = nn.Conv2d | DilatedConv2d | nn.ConvTranspose2d


def is_convolution_turned_round(conv: nn.ConvTranspose2d) -> bool:
    """Whether a transposed convolution is one whose padding is not negative."""
    return conv.stride == (1, 1) and conv.output_padding == (0, 0) and min(borders(conv)) >= 0


def borders(conv: nn.ConvTranspose2d) -> tuple[int, int]:
    """Rows and columns of zeros around the input of the convolution."""
    padding: Any = conv.padding
    sides = zip(conv.kernel_size, conv.dilation, padding, strict=True)
    rows, columns = (rate * (taps - 1) - cut for taps, rate, cut in sides)
    return rows, columns


def weight_of(conv: Conv) -> Tensor:
    """In the layout of a convolution, detached; the parameter itself where it has that layout."""
    weight: Tensor = conv.weight.detach()
    if not isinstance(conv, nn.ConvTranspose2d):
        return weight
    inputs, outputs, *kernel = weight.shape
    by_groups = weight.reshape(conv.groups, inputs // conv.groups, outputs, *kernel)
    return by_groups.transpose(1, 2).flatten(0, 1).flip(2, 3)


def weight_shape_of(conv: Conv) -> tuple[int, ...]:
    weight = conv._parameters["weight"]
    assert weight is not None
    if not isinstance(conv, nn.ConvTranspose2d):
        return tuple(weight.shape)
    inputs, outputs, *kernel = weight.shape
    return outputs * conv.groups, inputs // conv.groups, *kernel


def geometry_of(conv: Conv) -> ConvGeometry:
    if isinstance(conv, DilatedConv2d):
        return conv.geometry
    padding: Any = borders(conv) if isinstance(conv, nn.ConvTranspose2d) else conv.padding
    sizes: Any = conv.kernel_size, conv.dilation, padding, conv.stride, conv.groups
    return geometry_from(*sizes)


@lru_cache(maxsize=1024)
def geometry_from(
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    padding: Any,
    stride: tuple[int, int],
    groups: int,
) -> ConvGeometry:
    """Of the attributes of ``torch.nn.Conv2d``."""
    return ConvGeometry.of(
        "compile_for_inference",
        kernel_size,
        rate=dilation,
        padding=padding,
        stride=stride,
        groups=groups,
    )


def own_activation(block: nn.Module) -> str:
    """What a convolution or block says of itself: torch's convolutions have none."""
    return getattr(block, "activation", None) or "none"


def activation_of(module: nn.Module) -> str | None:
    """The name of an activation that the kernels have, too; None of other modules."""
    if type(module).forward is nn.ReLU.forward:
        return "relu"
    if isinstance(module, nn.Hardtanh) and type(module).forward is nn.Hardtanh.forward:
        return "relu6" if (module.min_val, module.max_val) == (0.0, CEILING) else None
    return None
