"""Fused kernels in place of a model's convolutions, for as long as nothing trains it."""

from typing import TypeVar

from torch import nn

from fastseg.inference.discovery import fused_forward
from fastseg.inference.fused_conv import Settings
from fastseg.inference.fused_forward import FusedForward

M = TypeVar("M", bound=nn.Module)

__all__ = ["compile_for_inference", "undo_compile_for_inference"]


def compile_for_inference(
    model: M,
    *,
    accuracy: str = "default",
    deterministic: bool = False,
    channels_last: bool = True,
) -> M:
    """Make ``model`` run on the fused kernels whenever it is called for inference.

    Convolutions take in the batch norm, the residual addition and the ReLU that follow them, and
    keep their weights in the form that their algorithm reads, made at the first call of each size.
    Fused are the blocks of :mod:`fastseg.nn`; ``torch.nn.Conv2d``, and ``torch.nn.ConvTranspose2d``
    of stride 1, a convolution with its kernel turned round; in ``nn.Sequential`` and classes that
    inherit its ``forward``, a convolution with the ``BatchNorm2d`` and ``ReLU`` or ``ReLU6``
    after it; and the same, with a residual addition, in modules whose ``forward`` is a plain
    sequence of calls. Modules with hooks, parametrisations or a ``forward`` of their instance are
    left alone.

    The model is changed in place, and only in what its modules call: parameters, buffers, their
    names and ``state_dict()`` stay as they are, and :func:`undo_compile_for_inference` takes it
    back. Copies (``copy.deepcopy``, ``pickle``, ``torch.save``) are compiled as well. The kernels'
    weights follow the parameters: a loaded ``state_dict``, ``.to()``, an optimiser's step or any
    other change that PyTorch counts is seen by the next call. What is written behind its back,
    through ``.data`` or a NumPy view, is seen after a call in training mode, or when
    ``compile_for_inference`` is called again.

    A module computes as before, at its former speed, where the fused kernels would change more
    than rounding: in training mode, where gradients are recorded (so call the model under
    ``torch.no_grad()`` or ``torch.inference_mode()``), in float64, under autocast, on other
    devices, and while torch.compile, torch.export or torch.jit.trace look at it. Several threads
    may call one model. NaN may be lost: oneDNN, which runs some convolutions together with their
    ReLU, makes it 0, as it does under torch.compile.

    Args:
        model: any module; usually in evaluation mode.
        accuracy: ``"default"`` or ``"high"``, see :func:`fastseg.ops.dilated_conv2d`.
        deterministic: whether torch's own convolution, whose bits depend on the number of threads,
            is left out of the choice.
        channels_last: whether convolutions bring their input to channels_last, where the kernels
            are fastest; outputs are channels_last then. Otherwise the input's format stays.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: another accuracy.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"compile_for_inference: model must be a torch.nn.Module, got {type(model).__name__}"
        )
    if accuracy not in ("default", "high"):
        raise ValueError(
            f"compile_for_inference: accuracy must be 'default' or 'high', got {accuracy!r}"
        )
    undo_compile_for_inference(model)
    settings = Settings(accuracy, bool(deterministic), bool(channels_last))
    found = [(module, fused_forward(module, settings)) for module in model.modules()]
    for module, forward in found:
        if forward is not None:
            module.forward = forward
    return model


def undo_compile_for_inference(model: M) -> M:
    """Take :func:`compile_for_inference` back, in place; nothing happens where it was not called.

    Returns:
        ``model`` itself.
    """
    for module in model.modules():
        if isinstance(vars(module).get("forward"), FusedForward):
            del module.forward
    return model
