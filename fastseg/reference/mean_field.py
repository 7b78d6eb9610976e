"""Readable definition of mean-field inference in a fully connected CRF.

``mean_field_exact`` sums over all pairs of pixels; the lattice is judged by it. ``mean_field`` is
the same iteration over the float64 lattice of :mod:`fastseg.reference.permutohedral`; the fused
kernel is judged by that one.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastseg._arguments import (
    check_flag,
    check_floating,
    check_iterations,
    check_mean_field,
    check_tensor,
    normalization_of_each,
    tensors_of_each,
)
from fastseg.reference.permutohedral import permutohedral_filter

DISTANCES = ("euclidean", "chebyshev")
BLOCK_BYTES = 1 << 25  # rows of a pairwise matrix are computed this much at a time
KEPT_BYTES = 1 << 30  # pairwise matrices are kept between iterations up to this size in all


def apply_transform(transform: Tensor, values: Tensor) -> Tensor:
    """A v over the labels of ``values`` ``(B, L, N)``; ``transform`` is (), (L,) or (L, L)."""
    if transform.dim() == 2:
        return torch.einsum("kl,bln->bkn", transform, values)
    return transform.reshape(-1, 1) * values


def iterate(
    unary: Tensor,
    filters: Sequence[Callable[[Tensor], Tensor]],
    transforms: Sequence[Tensor],
    iterations: int,
    softmax: bool = True,
) -> Tensor:
    """Q = softmax(-U), then ``iterations`` times Q = softmax(-U + sum_k A_k F_k Q).

    Without ``softmax``, what the last one is taken of.
    """
    logits = -unary
    for _ in range(iterations):
        q = torch.softmax(logits, 1)
        logits = -unary
        for message, transform in zip(filters, transforms, strict=True):
            logits = logits + apply_transform(transform, message(q))
    return torch.softmax(logits, 1) if softmax else logits


class ExactFilter:
    """The normalised Gaussian filter over all pairs of points; features ``(B, D, N)``.

    Values ``(B, L, N)`` to the same shape. The pairwise matrix is kept as blocks of rows, or,
    where ``keep`` is false, computed again on every call and in every backward pass.
    """

    def __init__(
        self,
        features: Tensor,
        normalization: str,
        self_message: bool,
        spatial_dims: int,
        keep: bool,
    ) -> None:
        self.features = features
        self.spatial_dims = spatial_dims
        self.self_message = self_message
        batch, _, points = features.shape
        row_bytes = max(1, batch * points * features.element_size())
        rows = max(1, BLOCK_BYTES // row_bytes)
        self.starts = range(0, points, rows)
        self.rows = rows
        self.blocks: list[Tensor] | None = None
        if keep:
            self.blocks = [self._remember(self._block, start) for start in self.starts]

        ones = features.new_ones(batch, 1, points)
        norm = self._multiply(ones)  # row sums, the diagonal included
        self.before, self.after = {
            "none": (ones, ones),
            "mean": (ones, 1 / norm.mean(2, keepdim=True)),
            "before": (1 / norm, ones),
            "after": (ones, 1 / norm),
            "symmetric": (norm**-0.5, norm**-0.5),
        }[normalization]

    def __call__(self, values: Tensor) -> Tensor:
        given = self.before * values
        message = self._multiply(given)
        if not self.self_message:
            message = message - given  # the kernel of a point with itself is one
        return self.after * message

    def _block(self, start: int) -> Tensor:
        """Rows ``start`` to ``start + rows`` of exp(-distance^2 / 2), ``(B, rows, N)``."""
        squares = []
        for row in self.features.unbind(1):
            apart = row[:, start : start + self.rows, None] - row[:, None, :]
            squares.append(apart * apart)
        distance = sum(squares[self.spatial_dims :], self.features.new_zeros(()))
        if self.spatial_dims:
            distance = distance + torch.stack(squares[: self.spatial_dims]).amax(0)
        return torch.exp(-distance / 2)

    def _multiply(self, values: Tensor) -> Tensor:
        if self.blocks is not None:
            parts = [values @ block.transpose(1, 2) for block in self.blocks]
        else:
            parts = [self._remember(self._multiply_block, start, values) for start in self.starts]
        return torch.cat(parts, 2) if parts else values.clone()

    def _multiply_block(self, start: int, values: Tensor) -> Tensor:
        return values @ self._block(start).transpose(1, 2)

    def _remember(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Calls ``function``; its temporaries, D times the block, are not kept for backward."""
        if torch.is_grad_enabled() and self.features.requires_grad:
            result: Tensor = checkpoint(function, *inputs, use_reentrant=False)
            return result
        return function(*inputs)


def mean_field_exact(
    unary: Tensor,
    kernels: Sequence[Tensor],
    transforms: Sequence[Tensor],
    *,
    iterations: int = 10,
    normalization: str | Sequence[str] = "symmetric",
    self_message: bool = True,
    distance: str = "euclidean",
    spatial_dims: int | None = None,
    softmax: bool = True,
) -> Tensor:
    """Mean-field inference by brute force over all pairs of pixels.

    Algorithm 1 of Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with
    Gaussian Edge Potentials" (2011): with k_ij = exp(-|f_i - f_j|^2 / 2) and a kernel's filter
    (F Q)_i = out_i sum_j k_ij in_j Q_j,

        Q = softmax(-U);  repeat:  Q = softmax(-U + sum_k A_k F_k Q).

    The sum holds j = i unless ``self_message`` is false. With the row sums n_i = sum_j k_ij, which
    always hold j = i, the normalisations are ``"none"``: in = out = 1; ``"mean"``: out = 1 over
    the image's mean n; ``"before"``: in = 1 / n; ``"after"``: out = 1 / n; ``"symmetric"``:
    in = out = n^(-1/2). The original algorithm is ``"none"`` without the self-message.

    Time is O(iterations * B * N^2 * L) for N pixels, memory O(B * N^2) until the pairwise
    matrices exceed 1 GiB, from there on 32 MiB. A 48x64 image takes seconds.
    Differentiable in ``unary``, ``kernels`` and ``transforms``, any number of times with the
    Euclidean distance. With the Chebyshev distance, ties between axes share the gradient. Results
    may differ in the last bits with the number of threads (matrix products).

    Args:
        unary: -log(probs), ``(B, L, *spatial)`` with L from 1 to 1000, float32 or float64. N is the
            product of ``spatial``, one or more axes; nothing is special at the border. +inf rules
            a label out, not all of a pixel; NaN and -inf are refused.
        kernels: for each kernel its features, positions and colours divided by their standard
            deviations, ``(B, D, *spatial)``, dtype of ``unary``, finite.
        transforms: for each kernel the linear map A of the labels, ``()``, ``(L,)`` or ``(L, L)``,
            dtype of ``unary``: minus the compatibility times the kernel's weight. +w is the Potts
            model of weight w, but for a constant that softmax removes.
        iterations: 0 to 100; 0 gives softmax(-U).
        normalization: one for all kernels, or one for each.
        self_message: whether a pixel hears itself.
        distance: ``"euclidean"``, or ``"chebyshev"``: |f_i - f_j|^2 of the leading rows of the
            features becomes the square of their largest difference; the other rows are added as
            before.
        spatial_dims: how many rows lead; None means as many as there are axes in ``spatial``. A
            kernel that has fewer rows uses all of them.
        softmax: false leaves out the last one and gives its argument, -U + sum_k A_k F_k Q.

    Returns:
        Q, ``(B, L, *spatial)``, contiguous, dtype of ``unary``. An empty batch gives an empty Q.

    Raises:
        ValueError: a shape, a value or the number of kernels and transforms breaks a rule above.
        TypeError: not a tensor, or a dtype other than those named.
    """
    op = "mean_field_exact"
    normalizations = _check(op, unary, "kernels", kernels, transforms, iterations, normalization)
    check_flag(op, "self_message", self_message)
    check_flag(op, "softmax", softmax)
    if distance not in DISTANCES:
        raise ValueError(f"{op}: distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if spatial_dims is not None and spatial_dims < 0:
        raise ValueError(f"{op}: spatial_dims must be at least 0, got {spatial_dims}")
    batch, labels, *spatial = unary.shape
    points = math.prod(spatial)
    if spatial_dims is None:
        spatial_dims = len(spatial)
    leading = spatial_dims if distance == "chebyshev" else 0
    kept = len(kernels) * batch * points * points * unary.element_size() <= KEPT_BYTES
    filters = [
        ExactFilter(features.flatten(2), kind, self_message, min(leading, features.shape[1]), kept)
        for features, kind in zip(kernels, normalizations, strict=True)
    ]
    q = iterate(unary.reshape(batch, labels, points), filters, transforms, iterations, softmax)
    return q.reshape(unary.shape)


def mean_field(
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    *,
    iterations: int = 10,
    normalization: str | Sequence[str] = "symmetric",
    self_message: bool = True,
) -> Tensor:
    """Same contract as :func:`fastseg.ops.mean_field`, over the float64 reference lattice."""
    normalizations = _check(
        "mean_field", unary, "features", features, transforms, iterations, normalization
    )

    def lattice_filter(points: Tensor, kind: str) -> Callable[[Tensor], Tensor]:
        return lambda values: permutohedral_filter(
            values, points.double(), normalization=kind, self_message=self_message
        )

    filters = [
        lattice_filter(points.flatten(2), kind)
        for points, kind in zip(features, normalizations, strict=True)
    ]
    weights = [transform.double() for transform in transforms]
    q = iterate(unary.double().flatten(2), filters, weights, iterations)
    return q.reshape(unary.shape).to(unary.dtype)


def _check(
    op: str,
    unary: Tensor,
    name: str,
    kernels: Sequence[Tensor],
    transforms: Sequence[Tensor],
    iterations: int,
    normalization: str | Sequence[str],
) -> list[str]:
    """Raises for arguments that break a rule; returns the normalisation of each kernel."""
    check_tensor(op, "unary", unary)
    check_floating(op, "unary", unary)
    tensors_of_each(op, name, kernels, unary)
    tensors_of_each(op, "transforms", transforms, unary)
    check_iterations(op, iterations)
    check_mean_field(op, unary, name, kernels, transforms)
    return normalization_of_each(op, normalization, len(kernels))
