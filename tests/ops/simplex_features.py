"""Features that keep their distance from the faces of the lattice, where it has no derivative."""

import math

import torch

from fastseg.reference import permutohedral_lattice


def distance_to_face(features):
    """``(B, N)``: distance of every point to the nearest face of its simplex, in feature units.

    The weight of a vertex is the distance to the face across from it, over the simplex's height:
    in lifted units (D + 1) / sqrt(2), of which sqrt(2/3) (D + 1) are one feature unit.
    """
    lattices = [permutohedral_lattice(points.flatten(1)) for points in features]
    return torch.stack([lattice.barycentric.amin(1) for lattice in lattices]) * math.sqrt(3) / 2


def features_inside(*shape, margin=1e-3):
    """Random float64 features ``(B, D, *spatial)`` that keep ``margin`` from every face."""
    features = 1.5 * torch.randn(*shape, dtype=torch.float64)
    for _ in range(100):
        close = (distance_to_face(features) < margin).reshape(shape[0], 1, *shape[2:])
        if not close.any():
            return features
        features = torch.where(close, 1.5 * torch.randn_like(features), features)
    raise AssertionError("no features found")
