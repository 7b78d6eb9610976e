"""What may follow a convolution, by its name: ``"none"``, ``"relu"`` or ``"relu6"``."""

import torch
from torch import Tensor
from torch.nn import functional

CEILING = 6.0  # of "relu6"


def activation_name(op: str, activation: str | None) -> str:
    """As the compiled operators call it."""
    if activation not in (None, "relu", "relu6"):
        raise ValueError(f"{op}: activation must be None, 'relu' or 'relu6', got {activation!r}")
    return activation or "none"


def activate(value: Tensor, activation: str | None, *, in_place: bool = False) -> Tensor:
    """max(0, ``value``), for ``"relu6"`` at most 6; ``value`` itself where nothing follows."""
    if activation == "relu":
        return functional.relu(value, inplace=in_place)
    return functional.relu6(value, inplace=in_place) if activation == "relu6" else value


def activation_grad(grad: Tensor, output: Tensor, activation: str) -> Tensor:
    """The gradient before the activation, from that after it and from its output."""
    before: Tensor
    if activation == "relu6":
        before = torch.ops.aten.hardtanh_backward(grad, output, 0.0, CEILING)
    else:
        before = torch.ops.aten.threshold_backward(grad, output, 0)
    return before
