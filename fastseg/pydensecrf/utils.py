"""pydensecrf's helpers: unary energies and kernel features from NumPy arrays."""

# As in pydensecrf a star import brings np, Number and warning with it: there is no __all__.
import math
import warnings
from collections.abc import Sequence
from logging import warning
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> NDArray[np.float32]:
    """Energies of a labelling that is right with probability ``gt_prob``.

    Args:
        labels: integers of any shape with N entries.
        n_labels: L; with ``zero_unsure`` the 0 is not counted, since it is not a label.
        gt_prob: within (0, 1); the other labels share the rest.
        zero_unsure: a 0 means "could be anything", and the labels are 1 to L; otherwise they are
            0 to L - 1.

    Returns:
        ``(L, N)`` float32.

    Raises:
        AssertionError: ``gt_prob`` is not within (0, 1).
        IndexError: a label out of range, or labels that are not integers.
    """
    if not 0 < gt_prob < 1:
        raise AssertionError(f"unary_from_labels: gt_prob must be within (0, 1), got {gt_prob}")
    flat = np.asarray(labels).ravel()
    first = 1 if zero_unsure else 0
    if flat.dtype.kind not in "iu":
        raise IndexError(f"unary_from_labels: labels must be integers, got dtype {flat.dtype}")
    flat = flat.astype(np.int64)
    wrong = (flat < 0) | (flat >= n_labels + first)
    if wrong.any():
        raise IndexError(
            f"unary_from_labels: labels must be 0 to {n_labels - 1 + first} for n_labels "
            f"{n_labels} and zero_unsure {zero_unsure}, got {flat[wrong][0]}"
        )
    # One label takes everything, and there is no other to share the rest.
    other = -np.log((1.0 - gt_prob) / (n_labels - 1)) if n_labels > 1 else 0.0
    energies = np.full((n_labels, flat.size), other, np.float32)
    known = np.flatnonzero(flat >= first)
    energies[flat[known] - first, known] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, flat == 0] = -np.log(1.0 / n_labels)
    return energies


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> NDArray[np.float32]:
    """Deprecated: use :func:`unary_from_labels`."""
    warning("pydensecrf.compute_unary is deprecated, use unary_from_labels instead.")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(
    sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5
) -> NDArray[np.float32]:
    """Energies of probabilities: -ln of each.

    Args:
        sm: probabilities ``(L, ...)`` with N entries for each label.
        scale: within (0, 1]; ``sm`` is mixed with the uniform distribution, of which it leaves
            ``1 - scale``.
        clip: the least probability; the largest is 1. With ``None`` nothing is clipped.

    Returns:
        ``(L, N)`` float32, contiguous.

    Raises:
        AssertionError: ``scale`` is not within (0, 1].
    """
    probs = np.asarray(sm)
    if probs.ndim == 0:
        raise IndexError(f"unary_from_softmax: sm must have shape (L, ...), got {sm!r}")
    labels = probs.shape[0]
    if scale is not None:
        if not 0 < scale <= 1:
            raise AssertionError(f"unary_from_softmax: scale must be within (0, 1], got {scale}")
        probs = np.add(scale * probs, (1 - scale) * (1.0 / labels), dtype=np.float64)
    if clip is not None:
        probs = np.clip(probs, clip, 1.0)
    logarithm = np.log(probs)
    energies = np.negative(logarithm, out=logarithm).reshape(labels, -1)
    return np.ascontiguousarray(energies, np.float32)


def softmax_to_unary(sm: ArrayLike, GT_PROB: float = 1) -> NDArray[np.float32]:
    """Deprecated: use :func:`unary_from_softmax`. Nothing is clipped here."""
    warning("pydensecrf.softmax_to_unary is deprecated, use unary_from_softmax instead.")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> NDArray[np.float32]:
    """Features of the position, for ``addPairwiseEnergy``.

    Args:
        sdims: standard deviation for each dimension of ``shape``, in its order: first y, then x.
        shape: sizes of the image or volume.

    Returns:
        ``(len(shape), N)`` float32.
    """
    op = "create_pairwise_gaussian"
    missing = len(shape) - _count(op, "sdims", sdims)
    if missing:
        wrong = IndexError if missing < 0 else ValueError
        raise wrong(_wrong_count(op, "sdims", sdims, len(shape)))
    features = np.empty((len(shape), *shape), np.float32)
    _fill_positions(op, features, sdims)
    return features.reshape(len(sdims), -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> NDArray[np.float32]:
    """Features of position and channels, for ``addPairwiseEnergy``.

    Args:
        sdims: standard deviation for each spatial dimension of ``img``, in its order.
        schan: standard deviation of the channels: one number for all, or one for each.
        img: image or volume of any number of channels.
        chdim: which dimension of ``img`` is the channels; -1 if it has none.

    Returns:
        ``(spatial dimensions + channels, N)`` float32.

    As in pydensecrf dimensions and channels for which there is no standard deviation keep their
    scale; a warning says so.
    """
    op = "create_pairwise_bilateral"
    image = np.asarray(img)
    channels = image[np.newaxis] if chdim == -1 else np.moveaxis(image, chdim, 0)
    dimensions = channels.ndim - 1
    features = np.empty((dimensions + len(channels), *channels.shape[1:]), np.float32)
    features[dimensions:] = channels
    sigmas: Any = [schan] * len(channels) if isinstance(schan, Number) else schan
    for name, given, wanted in (("sdims", sdims, dimensions), ("schan", sigmas, len(channels))):
        count = _count(op, name, given)
        if count > wanted:
            raise IndexError(_wrong_count(op, name, given, wanted))
        if count < wanted:
            warnings.warn(_wrong_count(op, name, given, wanted), stacklevel=2)
    for plane, sigma in zip(features[dimensions:], sigmas, strict=False):
        plane /= _sigma(op, "schan", sigma)
    _fill_positions(op, features[:dimensions], sdims)
    return features.reshape(len(features), -1)


def _fill_positions(op: str, planes: NDArray[np.float32], sdims: Sequence[float]) -> None:
    """Writes into plane i the coordinate along dimension i, over the i-th standard deviation."""
    for axis, plane in enumerate(planes):
        coordinate = np.arange(plane.shape[axis], dtype=np.float32)
        if axis < len(sdims):
            coordinate /= _sigma(op, "sdims", sdims[axis])
        plane[...] = coordinate.reshape(-1, *[1] * (plane.ndim - 1 - axis))


def _sigma(op: str, name: str, sigma: Any) -> Any:
    if math.isnan(sigma) or sigma == 0:
        raise ValueError(f"{op}: {name} must not be zero or NaN, got {sigma}")
    return sigma


def _count(op: str, name: str, given: Sequence[Any]) -> int:
    try:
        return len(given)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a sequence of numbers, got {given!r}") from None


def _wrong_count(op: str, name: str, given: Sequence[Any], wanted: int) -> str:
    return f"{op}: {name} must have {wanted} entries, got {given!r}"


def _create_pairwise_gaussian_2d(sx: float, sy: float, shape: Sequence[int]) -> NDArray[np.float32]:
    """:func:`create_pairwise_gaussian` of two dimensions; ``sx`` belongs to the first."""
    return create_pairwise_gaussian((sx, sy), shape[:2])


def _create_pairwise_bilateral_2d(
    sx: float, sy: float, sr: float, sg: float, sb: float, img: ArrayLike
) -> NDArray[np.float32]:
    """:func:`create_pairwise_bilateral` of an RGB image; ``sx`` belongs to the first dimension."""
    return create_pairwise_bilateral((sx, sy), (sr, sg, sb), np.asarray(img)[..., :3], chdim=2)
