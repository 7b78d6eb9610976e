"""Photographs, scores and label maps on disk. None of it needs torch."""

from fastseg.data.errors import DataError, DataWarning
from fastseg.data.files import whole_file
from fastseg.data.images import read_image
from fastseg.data.overlay import draw_overlay
from fastseg.data.palette import voc_palette, write_labels
from fastseg.data.scores import Scores, fit_scores, read_scores

__all__ = [
    "DataError",
    "DataWarning",
    "Scores",
    "draw_overlay",
    "fit_scores",
    "read_image",
    "read_scores",
    "voc_palette",
    "whole_file",
    "write_labels",
]
