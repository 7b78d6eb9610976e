"""Photographs to labels: sizes, windows, memory, and images larger than memory."""

from fastseg.predict.large import segment_tiff
from fastseg.predict.plan import Plan
from fastseg.predict.segmenter import SCALES, Segmenter

__all__ = ["SCALES", "Plan", "Segmenter", "segment_tiff"]
