"""Files that fastseg wrote."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from fastseg.backbones import VGG16
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.files import read
from fastseg.checkpoints.plan import Contents, Format, Plan, Request
from fastseg.checkpoints.rebuild import describe, rebuild
from fastseg.models.systems import SYSTEMS
from fastseg.nn.recipe import Recorded

KEY = "fastseg"
"""Of the entry of a safetensors file's metadata that describes the model, in JSON."""


def matches(contents: Contents) -> bool:
    return contents.kind == "safetensors" and KEY in contents.metadata


def plan(contents: Contents, request: Request) -> Plan:
    try:
        description = json.loads(contents.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"load_weights: the file's description of its model must be JSON, got {error}"
        ) from error
    if not isinstance(description, dict):
        raise CheckpointError(
            "load_weights: the file's description of its model must be an object, "
            f"got {type(description).__name__}"
        )
    return Plan("fastseg", lambda: rebuild(description), contents.tensors, keep_dtype=True)


def is_state_of(contents: Contents, model: Recorded | None) -> bool:
    """Whether a file without a description has the names of ``model``, as ``torch.save`` writes.

    Those of a :class:`VGG16` are Caffe's too.
    """
    if model is None or isinstance(model, VGG16) or matches(contents):
        return False
    return counted(contents.tensors) == counted(model.state_dict())


def counted(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith("num_batches_tracked")}


def state_plan(contents: Contents, model: Recorded) -> Plan:
    description = describe(model)
    return Plan("fastseg", lambda: rebuild(description), contents.tensors)


def classes_of(system: str, path: Path) -> int | None:
    """Number of classes of a file with the names of ``system``, as ``torch.save`` writes them.

    None if the file has other names.
    """
    tensors = read(path).tensors
    counts = 7, 11
    with torch.device("meta"):
        states = [SYSTEMS[system].build(count).state_dict() for count in counts]
    if counted(tensors) != counted(states[0]):
        return None
    for name, tensor in states[0].items():
        for axis, sizes in enumerate(zip(tensor.shape, states[1][name].shape, strict=True)):
            if sizes == counts and tensors[name].dim() == tensor.dim():
                return int(tensors[name].shape[axis])
    return None


FORMATS = (Format("fastseg", matches, plan),)
