"""Readable definitions that the kernels are judged by: float64, no kernel, no cleverness."""

from fastseg.reference.aspp import aspp
from fastseg.reference.bilinear_upsample import (
    bilinear_upsample,
    upsample_argmax,
    upsample_cross_entropy,
    upsample_softmax,
)
from fastseg.reference.dilated_conv import dilated_conv2d
from fastseg.reference.mean_field import mean_field, mean_field_exact
from fastseg.reference.permutohedral import permutohedral_filter, permutohedral_lattice

__all__ = [
    "aspp",
    "bilinear_upsample",
    "dilated_conv2d",
    "mean_field",
    "mean_field_exact",
    "permutohedral_filter",
    "permutohedral_lattice",
    "upsample_argmax",
    "upsample_cross_entropy",
    "upsample_softmax",
]
