"""Which modules can call the fused kernels and still compute what they computed."""

import contextlib
from typing import TypeGuard

from torch import nn
from torch.nn.utils import parametrize

from fastseg.inference.conv_modules import (
    Conv,
    activation_of,
    is_convolution_turned_round,
    own_activation,
)
from fastseg.inference.fused_conv import FusedConv, Settings, has_hooks
from fastseg.inference.fused_forward import (
    FusedBlock,
    FusedForward,
    FusedRun,
    FusedSequence,
    FusedStraightLine,
)
from fastseg.inference.fused_pyramid import FusedPyramid
from fastseg.inference.straight_line import StraightLine, Unreadable
from fastseg.nn import ASPP, ConvNormReLU, DilatedConv2d


def fused_forward(module: nn.Module, settings: Settings) -> FusedForward | None:
    """What ``module`` is to call from now on; None where that is what it called before."""
    if "forward" in vars(module):
        return None
    own = type(module).forward
    if isinstance(module, ConvNormReLU) and own is ConvNormReLU.forward:
        conv, norm = module.conv, module.norm
        if is_conv(conv) and is_norm(norm):
            return FusedBlock(module, FusedConv(conv, norm, settings))
    if isinstance(module, ASPP) and own is ASPP.forward:
        branches = [parts_of(branch) for branch in module.branches]
        if all(conv is not None for conv, _ in branches):
            convs = [FusedConv(conv, norm, settings) for conv, norm in branches if conv is not None]
            return FusedPyramid(module, convs, settings)
    if is_conv(module):
        return FusedBlock(module, FusedConv(module, None, settings))
    if own is nn.Sequential.forward:
        parts = fuse_neighbours([m for m in module._modules.values() if m is not None], settings)
        if any(isinstance(part, FusedRun) for part in parts):
            return FusedSequence(module, parts)
    elif any(is_conv(child) for child in module.children()):
        with contextlib.suppress(Unreadable):
            line = StraightLine(module, settings, is_conv, foldable)
            return FusedStraightLine(module, line)
    return None


def parts_of(branch: nn.Module) -> tuple[Conv | None, nn.BatchNorm2d | None]:
    """Convolution and norm of a block that ends with them; None where it is something else."""
    if isinstance(branch, ConvNormReLU) and type(branch).forward is ConvNormReLU.forward:
        conv, norm = branch.conv, branch.norm
        if is_plain(branch) and branch.activation is None and is_conv(conv) and is_norm(norm):
            return conv, norm
    if is_conv(branch) and getattr(branch, "activation", None) is None:
        return branch, None
    return None, None


def fuse_neighbours(modules: list[nn.Module], settings: Settings) -> list[FusedRun | nn.Module]:
    """The modules in their order, runs of convolution, norm and ReLU each as one."""
    parts: list[FusedRun | nn.Module] = []
    while modules:
        conv, following = modules[0], [*modules[1:3], None, None]
        if not is_conv(conv):
            parts.append(modules.pop(0))
            continue
        norm = foldable(conv, following[0])
        activation = own_activation(conv)
        length = 1 + (norm is not None)
        if activation == "none" and (found := plain_activation(following[length - 1])) is not None:
            activation, length = found, length + 1
        if length > 1:
            fused = FusedConv(conv, norm, settings)
            parts.append(FusedRun(modules[:length], fused, activation))
        else:
            parts.append(conv)
        modules = modules[length:]
    return parts


def foldable(conv: Conv, follower: object) -> nn.BatchNorm2d | None:
    """A batch norm that follows a convolution directly, without an activation in between."""
    if not is_norm(follower) or getattr(conv, "activation", None) is not None:
        return None
    return follower if follower.num_features == conv.out_channels else None


def is_conv(module: object) -> TypeGuard[Conv]:
    if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward:
        known = type(module)._conv_forward is nn.Conv2d._conv_forward
        return known and module.padding_mode == "zeros" and is_plain(module)
    if isinstance(module, nn.ConvTranspose2d):
        known = type(module).forward is nn.ConvTranspose2d.forward
        return known and is_convolution_turned_round(module) and is_plain(module)
    return (
        isinstance(module, DilatedConv2d)
        and type(module).forward is DilatedConv2d.forward
        and is_plain(module)
    )


def is_norm(module: object) -> TypeGuard[nn.BatchNorm2d]:
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).forward is nn.BatchNorm2d.forward
        and type(module)._check_input_dim is nn.BatchNorm2d._check_input_dim
        and module.running_mean is not None
        and is_plain(module)
    )


def plain_activation(module: nn.Module | None) -> str | None:
    return None if module is None or not is_plain(module) else activation_of(module)


def is_plain(module: nn.Module) -> bool:
    return (
        "forward" not in vars(module)
        and not has_hooks(module)
        and not parametrize.is_parametrized(module)
    )
