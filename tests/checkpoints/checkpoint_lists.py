"""Checkpoints without weights: a tensor of any shape takes the memory of one number."""

import json
from pathlib import Path

import pytest
import torch

LISTS = Path(__file__).resolve().parents[3] / "shared" / "checkpoints"


def names_of(list_name):
    """Names and shapes of a published checkpoint."""
    path = LISTS / f"{list_name}.json"
    if not path.exists():
        pytest.skip(f"no ../shared/checkpoints/{path.name}")
    return json.loads(path.read_text(encoding="utf-8"))


def numbered(shapes):
    """Tensors of these shapes, each full of a number of its own."""
    return {
        name: torch.full((1,), float(index + 1)).expand(shape)
        if not name.endswith("num_batches_tracked")
        else torch.tensor(index + 1)
        for index, (name, shape) in enumerate(shapes.items())
    }
