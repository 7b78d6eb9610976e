"""The energy of a labelling in a fully connected CRF, by brute force over all pairs of pixels."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg._arguments import check_tensor, dtype_name
from fastseg.crf.dense_crf import (
    check_distance,
    checked_kernels,
    checked_weight,
    compatibility_matrix,
    embed,
    unary_energy,
)
from fastseg.crf.kernels import PairwiseKernel, Values, warn_of_unit_range

KINDS = ("probabilities", "logits", "unary")
LOGS = {"natural": 1.0, "log10": math.log(10.0)}
BLOCK_VALUES = 1 << 22  # values of the pairwise matrix held at a time: 32 MiB


class Energy(NamedTuple):
    """The two sums of the energy, float64 ``(B,)`` each."""

    unary: Tensor
    pairwise: Tensor

    @property
    def total(self) -> Tensor:
        return self.unary + self.pairwise


def energy(
    labels: Tensor,
    scores: Tensor,
    kernels: Iterable[PairwiseKernel],
    image: Tensor | None = None,
    compatibility: Values | None = None,
    *,
    features: Tensor | Sequence[Tensor] | None = None,
    kind: str = "probabilities",
    distance: str = "euclidean",
    log: str = "natural",
) -> Energy:
    """Energy of ``labels``: how badly they fit the scores, and each other.

        E(x) = sum_i theta_i(x_i) + sum_{i<j} mu(x_i, x_j) sum_k w_k exp(-|f_i - f_j|^2 / 2)

    with theta_i = -log P_i(x_i); eqs. 1 to 3 of Kraehenbuehl and Koltun (2011), eq. 1 of DeepLab
    (Chen et al. 2015, section 3.2). Each unordered pair counts once and a pixel does not pair with
    itself. The kernels are not normalised, whatever normalisation they carry: mean-field
    inference descends towards this energy only under ``normalization="none"``.

    Time is O(B N^2 D) for N pixels, in float64 whatever the dtypes, memory 32 MiB a block: for
    crops and thumbnails, not for photographs. Differentiable in scores, image, weights and widths.

    Args:
        labels: x, ``(B, *spatial)``, integers in [0, L). An ignored pixel has no energy: there is
            no ignore index.
        scores: P, ``(B, L, *spatial)``, two or three spatial axes, floating.
        kernels: as for :class:`DenseCRF`. A weight that is a vector or a matrix W makes the price
            of a pair (mu W)(x_i, x_j); where that is not symmetric, the mean of both orders.
        image: ``(B, C, *spatial)``, where a kernel looks at it.
        compatibility: mu: None for Potts, ``(L,)`` for a diagonal, ``(L, L)``.
        features: ``(B, D, *spatial)`` for the :class:`FeatureKernel`, or one for each of them.
        kind: ``"probabilities"``: theta = -log P, clipped at 1e-5 like :class:`DenseCRF`'s;
            ``"logits"``: theta = -log softmax; ``"unary"``: theta as it is.
        distance: ``"euclidean"``, or ``"chebyshev"``: between positions the largest difference
            along an axis counts; colours stay Euclidean.
        log: ``"natural"`` or ``"log10"``, the logarithm of the unary.

    Returns:
        ``Energy(unary, pairwise)``, float64 ``(B,)``, and their sum as ``.total``. The last bits
        may differ with the number of threads.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
    """
    theta = _unary(scores, kind, log)
    _check_labels(labels, theta)
    check_distance("energy", distance, exact=True)
    kernels = checked_kernels("energy", kernels)
    warn_of_unit_range("energy", image, kernels, stacklevel=2)
    matrix = compatibility_matrix("energy", compatibility, theta.shape[1])
    chosen = labels.flatten(1).to(torch.int64)
    unary = theta.flatten(2).gather(1, chosen[:, None]).sum((1, 2))
    pairwise = torch.zeros_like(unary)
    leading = theta.dim() - 2 if distance == "chebyshev" else 0
    for i, embedded in enumerate(embed("energy", kernels, theta, image, features)):
        if not bool(torch.isfinite(embedded).all()):
            raise ValueError(
                f"energy: image and features must be finite, got NaN or infinity in the features "
                f"of kernels[{i}], {kernels[i]!r}"
            )
        price = _prices(matrix, checked_weight("energy", i, kernels[i], theta), theta.shape[1])
        sums = [
            _pair_sum(points, x, price, leading)
            for points, x in zip(embedded.flatten(2), chosen, strict=True)
        ]
        if sums:
            pairwise = pairwise + torch.stack(sums)
    return Energy(unary, pairwise)


def _prices(compatibility: Tensor | None, weight: Tensor, labels: int) -> Tensor:
    """Price ``(L, L)`` of a pair of labels at distance zero, symmetric."""
    identity = torch.eye(labels, dtype=weight.dtype, device=weight.device)
    if compatibility is None:
        mu = 1 - identity
    else:
        mu = compatibility.to(weight)
        mu = mu.diag() if mu.dim() == 1 else mu
    price = mu @ weight if weight.dim() == 2 else mu * weight
    return (price + price.T) / 2


def _pair_sum(points: Tensor, x: Tensor, price: Tensor, leading: int) -> Tensor:
    """Sum over i < j of price[x_i, x_j] k_ij; points ``(D, N)``, x ``(N,)``."""
    count = points.shape[1]
    rows = max(1, BLOCK_VALUES // count)
    total = points.new_zeros(())
    index = torch.arange(count, device=points.device)
    for start in range(0, count, rows):
        block = index[start : start + rows]
        squares = (points[:, block, None] - points[:, None, :]).square()
        apart = squares[leading:].sum(0)
        if leading:
            apart = apart + squares[: min(leading, len(squares))].amax(0)
        pairs = price[x[block][:, None], x] * torch.exp(-apart / 2)
        total = total + pairs.masked_fill(index <= block[:, None], 0).sum()
    return total


def _unary(scores: Tensor, kind: str, log: str) -> Tensor:
    """theta ``(B, L, *spatial)`` in float64."""
    if kind not in KINDS:
        raise ValueError(f"energy: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if log not in LOGS:
        raise ValueError(f"energy: log must be one of {', '.join(LOGS)}, got {log!r}")
    if kind == "unary" and log != "natural":
        raise ValueError(f"energy: log must be 'natural' where kind is 'unary', got {log!r}")
    check_tensor("energy", "scores", scores)
    if not scores.is_floating_point():
        raise TypeError(f"energy: scores must have a floating dtype, got {dtype_name(scores)}")
    if scores.dim() not in (4, 5) or 0 in scores.shape[1:]:
        raise ValueError(
            "energy: scores must have shape (B, L, H, W) or (B, L, D, H, W) with at least one "
            f"label and one pixel, got {tuple(scores.shape)}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(
            f"energy: scores must be finite, got {int((~torch.isfinite(scores)).sum())} values "
            "that are NaN or infinite"
        )
    working = scores.double()
    if kind == "unary":
        return working
    if kind == "logits":
        return -torch.log_softmax(working, 1) / LOGS[log]
    return unary_energy("energy", working, kind) / LOGS[log]


def _check_labels(labels: Tensor, theta: Tensor) -> None:
    check_tensor("energy", "labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"energy: labels must have an integer dtype, got {dtype_name(labels)}")
    wanted = (theta.shape[0], *theta.shape[2:])
    if tuple(labels.shape) != wanted:
        raise ValueError(
            f"energy: labels must have shape {wanted} like scores, got {tuple(labels.shape)}"
        )
    if labels.device != theta.device:
        raise ValueError(
            f"energy: labels must be on the device of scores, {theta.device}, got {labels.device}"
        )
    if labels.numel() == 0:
        return
    values = labels.to(torch.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= theta.shape[1]:
        raise ValueError(
            f"energy: labels must lie in [0, {theta.shape[1]}), got values from {low} to {high}"
        )
