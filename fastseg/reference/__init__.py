"""Readable definitions that the kernels are judged by: float64, no kernel, no cleverness."""

from fastseg.reference.mean_field import mean_field, mean_field_exact
from fastseg.reference.permutohedral import permutohedral_filter, permutohedral_lattice

__all__ = ["mean_field", "mean_field_exact", "permutohedral_filter", "permutohedral_lattice"]
