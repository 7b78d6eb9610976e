"""Public functions over the compiled operators, with their fake kernels and gradients."""

from fastseg.ops.mean_field import mean_field
from fastseg.ops.permutohedral import Lattice, permutohedral_filter, permutohedral_lattice

__all__ = ["Lattice", "mean_field", "permutohedral_filter", "permutohedral_lattice"]
