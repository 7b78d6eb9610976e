"""Files that fastseg wrote."""

import json

import torch

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request
from fastseg.checkpoints.rebuild import rebuild

KEY = "fastseg"
"""Of the entry of a safetensors file's metadata that describes the model, in JSON."""


def matches(contents: Contents) -> bool:
    return contents.kind == "safetensors" and KEY in contents.metadata


def plan(contents: Contents, request: Request) -> Plan:
    try:
        description = json.loads(contents.metadata[KEY])
    except ValueError as error:
        raise CheckpointError(
            f"load_weights: the file's description of its model must be JSON, got {error}"
        ) from error
    if not isinstance(description, dict):
        raise CheckpointError(
            "load_weights: the file's description of its model must be an object, "
            f"got {type(description).__name__}"
        )
    with torch.device("meta"):
        model = rebuild(description)
    return Plan(
        "fastseg",
        lambda: rebuild(description),
        contents.tensors,
        input_convention=model.input_convention,
        keep_dtype=True,
    )


FORMATS = (Format("fastseg", matches, plan),)
