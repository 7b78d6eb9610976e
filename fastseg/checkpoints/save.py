"""fastseg's own files: safetensors, with what it takes to build the model again."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastseg.checkpoints.own import KEY
from fastseg.checkpoints.rebuild import describe, rebuild
from fastseg.data.files import whole_file


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of ``model``, and how to build it, to a safetensors file.

    ``fastseg.load_weights(None, path)`` gives the same model back: its arguments, and what may be
    changed afterwards (``align_corners``, ``crf_preset``, ``input_convention``, the output strides
    of DeepLab v3 and v3+, a CRF's iterations and normalisation). A model in
    ``DistributedDataParallel``, ``DataParallel`` or ``torch.compile`` is unwrapped; one that is
    compiled for inference is written as it was before. The file appears whole or not at all, and
    its folder is made if it is missing. Tensors keep their dtype; tensors that share memory are
    written once each.

    Args:
        model: of :mod:`fastseg.models` or a backbone of :mod:`fastseg.backbones`.
        path: of the file, which is replaced; its name should end in ``.safetensors``.

    Raises:
        TypeError: a module that fastseg cannot build again, or no path.
        ValueError: parameters without values (on the meta device), or of other shapes than the
            model's arguments build, because a layer was replaced.
        OSError: the file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"save_weights: path must be a path, got {type(path).__name__}")
    model = unwrapped(model)
    description = describe(model)
    _check_shapes(model, description)
    tensors = _stored(model.state_dict())
    content = save(tensors, {KEY: json.dumps(description), "format": "pt"})
    with whole_file(Path(path)) as file:
        file.write(content)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, ``DataParallel`` and the like."""
    while True:
        inner: Any = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | DistributedDataParallel):
            inner = model.get_submodule("module")
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _check_shapes(model: nn.Module, description: dict[str, Any]) -> None:
    """Raises ValueError unless what the description builds has the shapes of ``model``."""
    with torch.device("meta"):
        again = rebuild(description)
    theirs, ours = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (again, model))
    for name in (*theirs, *ours):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"save_weights: {name} must be as the arguments of {type(model).__name__} build "
                f"it, {_in_words(theirs.get(name))}, got {_in_words(ours.get(name))}; build it "
                "with other arguments (such as num_classes) instead of exchanging its layers, or "
                "save its state_dict() with torch.save"
            )


def _in_words(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"of shape {shape}"


def _stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, no two in the same memory: what the format takes."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in state.items():
        if tensor.is_meta:
            raise ValueError(
                f"save_weights: {name} must have values, got a tensor on the meta device"
            )
        stored = tensor.detach().cpu().contiguous()
        place = stored.untyped_storage().data_ptr()
        result[name] = stored.clone() if place in taken else stored
        taken.add(place)
    return result
