"""Public functions over the compiled operators, with their fake kernels and gradients."""

from fastseg.ops.aspp import aspp
from fastseg.ops.bilinear_upsample import (
    bilinear_upsample,
    upsample_argmax,
    upsample_cross_entropy,
    upsample_softmax,
)
from fastseg.ops.dilated_conv import dilated_conv2d
from fastseg.ops.mean_field import mean_field
from fastseg.ops.permutohedral import Lattice, permutohedral_filter, permutohedral_lattice

__all__ = [
    "Lattice",
    "aspp",
    "bilinear_upsample",
    "dilated_conv2d",
    "mean_field",
    "permutohedral_filter",
    "permutohedral_lattice",
    "upsample_argmax",
    "upsample_cross_entropy",
    "upsample_softmax",
]
