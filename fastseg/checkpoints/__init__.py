"""Weights in and out: checkpoints of many origins are read, fastseg's own are written."""

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.load import load_weights
from fastseg.checkpoints.report import LoadReport
from fastseg.checkpoints.save import save_weights

__all__ = ["CheckpointError", "LoadReport", "load_weights", "save_weights"]
