"""Readable definition of the permutohedral lattice and of the filter over it, in float64.

Written from Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral
Lattice" (2010). The lattice lives in the hyperplane of R^(D+1) whose coordinates sum to zero. Its
vertices have integer coordinates that leave one and the same remainder k in 0..D when divided by
D + 1; every simplex has exactly one vertex of each remainder, and a point's simplex is spanned by
its nearest vertex of each remainder.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

TIE = 1e-9


class Lattice(NamedTuple):
    """The lattice of one image: N points, D feature dimensions, M vertices."""

    keys: Tensor  # (M, D + 1) int64, coordinates of the vertices, in the order they were met
    vertices: Tensor  # (N, D + 1) int64 in [0, M): the simplex of a point, by remainder
    barycentric: Tensor  # (N, D + 1) float64, differentiable; sums to one
    rank: Tensor  # (N, D + 1) int64: 0 where the point exceeds its remainder-0 vertex the most
    neighbours: Tensor  # (D + 1, M, 2) int64: one step back and forward along an axis, M = none


def elevation(dims: int) -> Tensor:
    """``(D + 1, D)`` map of features into the hyperplane (sec. 3.1, the matrix E).

    Its columns are orthogonal. It is scaled by sqrt(2/3) (D + 1) so that one blur has the standard
    deviation of one feature unit (p. 6).
    """
    basis = torch.zeros(dims + 1, dims, dtype=torch.float64)
    for i in range(dims):
        basis[: i + 1, i] = 1.0
        basis[i + 1, i] = -(i + 1.0)
        basis[:, i] /= math.sqrt((i + 1) * (i + 2))
    return basis * math.sqrt(2 / 3) * (dims + 1)


def nearest_vertices(elevated: Tensor, remainder: int) -> Tensor:
    """``(N, D + 1)`` int64, the nearest lattice vertex of one remainder.

    Rounds every coordinate to the remainder's grid and repairs the sum by moving the coordinates
    that were rounded furthest (Conway and Sloane, ch. 20).
    """
    size = elevated.shape[1]
    position = (elevated - remainder) / size
    cell = position.round()
    excess = (cell.sum(1) + remainder).long()  # cells must sum to -remainder
    order = (position - cell).argsort(dim=1, stable=True)  # rounded up the furthest comes first
    place = torch.empty_like(order).scatter_(1, order, torch.arange(size).expand_as(order))
    lower = place < excess[:, None]
    higher = place >= size + excess[:, None]
    return (cell.long() - lower.long() + higher.long()) * size + remainder


def permutohedral_lattice(features: Tensor) -> Lattice:
    """The lattice around the points of ``features`` ``(D, N)``."""
    dims = features.shape[0]
    elevated = features.double().T @ elevation(dims).T  # (N, D + 1)
    # A point on a face has several simplices. The one on the side of the lower coordinates is
    # taken: the point is moved there for the search, by less than matters and more than rounds.
    aside = TIE * (dims / 2 - torch.arange(dims + 1, dtype=torch.float64))
    searched = elevated.detach() + aside
    simplex = torch.stack([nearest_vertices(searched, k) for k in range(dims + 1)], 1)

    # Barycentric weights by their definition: they sum to one and the vertices average to the
    # point. Coordinates sum to zero: the last one says nothing new and gives its row to the ones.
    system = simplex.double().transpose(1, 2).clone()
    system[:, -1] = 1.0
    target = torch.cat([elevated[:, :-1], elevated.new_ones(len(elevated), 1)], 1)
    barycentric = torch.linalg.solve(system, target)

    difference = searched - simplex[:, 0]
    rank = difference.argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    table: dict[tuple[int, ...], int] = {}
    flat = [table.setdefault(tuple(key), len(table)) for key in simplex.flatten(0, 1).tolist()]
    vertices = torch.tensor(flat, dtype=torch.int64).reshape(-1, dims + 1)
    keys = torch.tensor(list(table), dtype=torch.int64).reshape(-1, dims + 1)

    neighbours = torch.empty(dims + 1, len(table), 2, dtype=torch.int64)
    for axis in range(dims + 1):
        for side, sign in enumerate((1, -1)):  # forward lowers all coordinates but one
            moved = keys + sign
            moved[:, axis] -= sign * (dims + 1)
            found = [table.get(tuple(key), len(table)) for key in moved.tolist()]
            neighbours[axis, :, side] = torch.tensor(found, dtype=torch.int64)
    return Lattice(keys, vertices, barycentric, rank, neighbours)


def splat(values: Tensor, lattice: Lattice) -> Tensor:
    """``(N, C)`` to ``(M, C)``."""
    weighted = values[:, None] * lattice.barycentric[..., None]
    empty = values.new_zeros(len(lattice.keys), values.shape[1])
    return empty.index_add(0, lattice.vertices.flatten(), weighted.flatten(0, 1))


def blur(values: Tensor, lattice: Lattice) -> Tensor:
    """``(M, C)`` to ``(M, C)``: v + (previous + next) / 2 along each of the D + 1 axes in turn."""
    for neighbours in lattice.neighbours:
        padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
        values = values + padded[neighbours].sum(1) / 2
    return values


def slice(values: Tensor, lattice: Lattice) -> Tensor:
    """``(M, C)`` to ``(N, C)``."""
    return (lattice.barycentric[..., None] * values[lattice.vertices]).sum(1)


def self_share(barycentric: Tensor) -> Tensor:
    """``(N, 1)``: how much of itself a point gets back where no vertex on the way is missing."""
    dims = barycentric.shape[1] - 1
    apart = torch.arange(dims + 1)
    apart = (apart[:, None] - apart).abs().double()
    # From one vertex to another: a step along each of the axes between them or, backwards, along
    # each of the others; every step halves. To itself: no step, or all of them, either way.
    coupling = 2.0**-apart + 2.0 ** -(dims + 1 - apart) + (apart == 0) * 2.0 ** -(dims + 1)
    return scale(dims) * ((barycentric @ coupling) * barycentric).sum(1, keepdim=True)


def scale(dims: int) -> float:
    """Makes a point alone on a vertex get back exactly what it gave."""
    return 1 / (1 + 2.0**-dims)


def _filter(values: Tensor, features: Tensor, normalization: str, self_message: bool) -> Tensor:
    lattice = permutohedral_lattice(features)
    alpha = scale(features.shape[0])
    ones = values.new_ones(len(values), 1)
    norm = alpha * slice(blur(splat(ones, lattice), lattice), lattice)
    before, after = {
        "none": (ones, ones),
        "mean": (ones, ones / norm.mean()),
        "before": (1 / norm, ones),
        "after": (ones, 1 / norm),
        "symmetric": (norm**-0.5, norm**-0.5),
    }[normalization]
    filtered = alpha * slice(blur(splat(before * values, lattice), lattice), lattice)
    if not self_message:
        filtered = filtered - self_share(lattice.barycentric) * before * values
    return after * filtered


def permutohedral_filter(
    values: Tensor, features: Tensor, *, normalization: str = "none", self_message: bool = True
) -> Tensor:
    """Same contract as :func:`fastseg.ops.permutohedral_filter`, in float64 arithmetic."""
    filtered = [
        _filter(image.double().flatten(1).T, points.flatten(1), normalization, self_message).T
        for image, points in zip(values, features, strict=True)
    ]
    if not filtered:
        return values.clone()
    return torch.stack(filtered).reshape(values.shape).to(values.dtype)
