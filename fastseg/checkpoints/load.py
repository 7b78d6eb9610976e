"""Checkpoints in: recognised, renamed, and put into a model that fits."""

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from fastseg._arguments import dtype_name
from fastseg.checkpoints.agreement import check_agreement, fitted_names
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.files import read
from fastseg.checkpoints.formats import plan_of
from fastseg.checkpoints.plan import Contents, Plan, Request, Tensors, check_variant
from fastseg.checkpoints.rebuild import with_own_pixels
from fastseg.checkpoints.report import LoadReport, shortened
from fastseg.checkpoints.save import unwrapped
from fastseg.nn.recipe import Recorded


def load_weights(
    model: nn.Module | None,
    path: str | os.PathLike[str],
    variant: str | None = None,
    *,
    strict: bool = True,
) -> nn.Module:
    """Weights of a checkpoint, in the model that they belong to.

    The origin is recognised by the names of the tensors, the number of classes and the depth of
    the backbone by their shapes. Training checkpoints are unwrapped. A classifier's file gives its
    backbone.

    Args:
        model: to be filled, in place; None builds what the file holds, in evaluation mode. A model
            may differ from the file's in what weights do not depend on, such as the output stride
            of DeepLab v3, or strides, rates and pooling of a backbone. ``model.backbone`` takes a
            classifier's file; where the two take other pixels, predicting, and exporting, is
            refused until ``model.input_convention`` or ``model.backbone.input_convention`` is set.
            One in ``DistributedDataParallel`` or ``torch.compile`` is unwrapped.
        path: of a .pth, .safetensors, .npz, .h5 (which needs h5py) or .caffemodel file; or of a
            folder with ``config.json`` and ``model.safetensors``. The content counts, not the
            name.
        variant: which of two networks with equal names and shapes the file is of:
            ``"fcn8s"`` or ``"fcn8s_at_once"``, ``"v2"`` or ``"v2s"``; for DeepLab on VGG-16
            ``"base"`` or ``"4x4"``, ``"v1"`` or ``"v2"``, ``"aspp-s"`` or ``"aspp-l"``; for VGG-16
            by torchvision's names, whose pixels it takes: ``"torchvision"``, ``"caffe"`` or
            ``"features"``. Needed where neither the file nor ``model`` says it. The name of the
            system is a variant of every file; one that the file does not leave open is an error.
        strict: whether a name that the file lacks, or that the model lacks, is an error. If not,
            what fits in name and shape is loaded, and a warning says what was not. Left out of
            this are batch norms' counts, which files of old PyTorch lack, and heads for training
            only.

    Returns:
        The model itself, or the new one; ``model.input_convention`` says which pixels it takes,
        and ``model.load_report``, a :class:`LoadReport`, what was done. New models keep the dtype
        of fastseg's own files; of others, floating tensors become float32.

    Raises:
        CheckpointError: the file is damaged, would run code, is not recognised, is of a network
            that fastseg does not have, fits two networks, or does not fit ``model``, which is
            left as it was.
        FileNotFoundError: there is no such file.
        ValueError: ``model`` is on the meta device.
        TypeError: ``model`` is no network or backbone of fastseg, or ``variant`` no word.
    """
    target = None if model is None else unwrapped(model)
    if target is not None and not isinstance(target, Recorded):
        raise TypeError(
            "load_weights: model must be a network or backbone of fastseg, or None, "
            f"got {type(target).__name__}"
        )
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"load_weights: path must be a path, got {type(path).__name__}")
    if variant is not None and not isinstance(variant, str):
        raise TypeError(f"load_weights: variant must be a word or None, got {variant!r}")
    if target is not None and any(tensor.is_meta for tensor in target.state_dict().values()):
        raise ValueError(
            "load_weights: model must have memory, got one on the meta device; "
            "load_weights(None, path) builds the file's own"
        )
    report, filled = fill(target, read(Path(path)), str(path), variant, strict)
    object.__setattr__(filled, "load_report", report)
    if report.missing or report.unexpected:
        warnings.warn(f"load_weights: {report}", stacklevel=2)
    return filled if model is None else model


def fill(
    target: Recorded | None, contents: Contents, path: str, variant: str | None, strict: bool
) -> tuple[LoadReport, Recorded]:
    """:func:`load_weights` of a file that is read."""
    request = Request(variant, target)
    check_storage(contents.tensors, path)
    plan = plan_of(contents, request, path)
    with torch.device("meta"):
        built = plan.build().eval()
    check_variant(request, plan, built.system)
    tensors = plan.tensors
    if not plan.keep_dtype:
        tensors = {name: _single(tensor) for name, tensor in tensors.items()}
    model = built if target is None else target
    if target is not None:
        if strict:
            check_agreement(target, built, plan.format)
        tensors = fitted_names(target, built, tensors)
    state = model.state_dict()
    wanted = [name for name in state if not name.endswith("num_batches_tracked")]
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in state]
    wrong = [n for n in tensors if n in state and state[n].shape != tensors[n].shape]
    if strict and (missing or unexpected or wrong):
        raise CheckpointError(_misfit(model, plan, state, tensors, missing, unexpected, wrong))
    fitting = {n: t for n, t in tensors.items() if n in state and n not in wrong}
    for name, tensor in fitting.items():
        if state[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"load_weights: {name} of {path} must hold floating-point values, "
                f"got {dtype_name(tensor)}"
            )
    missing, unexpected = missing + wrong, unexpected + wrong
    if target is None:
        fitting = {name: whole(tensor) for name, tensor in fitting.items()}
        model = _assigned(plan, built, fitting, bool(missing))
    else:
        target.load_state_dict(fitting, strict=False)
    if target is not None and not missing:
        for module in with_own_pixels(model).values():
            module.input_convention = None
        for name, module in with_own_pixels(built).items():
            model.get_submodule(name).input_convention = module.input_convention
    convention = plan.input_convention or built.input_convention
    if convention is not None:
        model.input_convention = convention
    report = LoadReport(
        path,
        plan.format,
        model.system or type(model).__name__,
        len(fitting),
        tuple(missing),
        tuple(unexpected),
        tuple(plan.dropped),
        plan.note,
    )
    return report, model


def check_storage(tensors: Tensors, path: str) -> None:
    """Raises CheckpointError unless every tensor has values, all of them."""
    for name, tensor in tensors.items():
        kind = (
            "a tensor without values (on the meta device)"
            if tensor.is_meta
            else "a quantised tensor"
            if tensor.is_quantized
            else "a nested or sparse tensor"
            if tensor.is_nested or tensor.layout != torch.strided
            else None
        )
        if kind is not None:
            raise CheckpointError(
                f"load_weights: {name} of {path} must be a dense tensor of numbers, got {kind}"
            )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """With memory for each of its numbers: files may repeat one, which nobody could write to."""
    return tensor.contiguous()


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _assigned(plan: Plan, built: Recorded, tensors: Tensors, incomplete: bool) -> Recorded:
    """A model with values: the file's tensors themselves where they are all of them."""
    if incomplete:
        model = plan.build().eval()
        model.load_state_dict(tensors, strict=False)
        return model
    counts = {
        name: torch.zeros((), dtype=torch.long)
        for name in built.state_dict()
        if name.endswith("num_batches_tracked") and name not in tensors
    }
    built.load_state_dict({**tensors, **counts}, assign=True)
    return built


def _misfit(
    model: Recorded,
    plan: Plan,
    state: Tensors,
    tensors: Tensors,
    missing: list[str],
    unexpected: list[str],
    wrong: list[str],
) -> str:
    lines = [
        f"load_weights: the {plan.format} file must fit {model.system or type(model).__name__}"
    ]
    for word, names in (("lacks", missing), ("has", unexpected)):
        if names:
            place = "" if word == "lacks" else ", which the model lacks"
            lines.append(f"the file {word} {shortened(names)}{place}")
    lines += [
        f"{name} must have shape {tuple(state[name].shape)}, got {tuple(tensors[name].shape)}"
        for name in wrong[:3]
    ]
    lines.append("strict=False loads what fits")
    return "; ".join(lines)
