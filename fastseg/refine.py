"""From a photograph and per-pixel scores to sharp labels: what ``fastseg refine`` runs.

Works on NumPy arrays through ``fastseg._numpy`` and never loads torch. For tensors, batches and
gradients there is :class:`fastseg.crf.DenseCRF`, which computes the same.
"""

import functools
import math
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg import _numpy
from fastseg._limits import MAX_ITERATIONS, MAX_LABELS, NORMALIZATIONS, PROBABILITY_FLOOR
from fastseg.crf.presets import PRESETS, Preset
from fastseg.data.errors import DataError, DataWarning
from fastseg.data.scores import KINDS, Kind

INT64_MAX = np.iinfo(np.int64).max
FLOAT32_MAX = float(np.finfo(np.float32).max)
UNKNOWN = 255
# Arrays of L x N floats alive at once: scores, unary, result.
SCORE_ARRAYS = 3


class Refined(NamedTuple):
    """The result of :func:`refine`.

    labels: int64 ``(H, W)``, the most probable label of each pixel.
    probabilities: float32 ``(L, H, W)``, contiguous; they sum to one over the labels.
    names: int64 ``(L,)``, the label that each plane of ``probabilities`` stands for.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    names: NDArray[np.int64]


def refine(
    image: NDArray[Any],
    scores: NDArray[Any],
    settings: Preset = PRESETS["default"],
    *,
    kind: Kind = "logits",
    confidence: float = 0.7,
    unknown: int | None = None,
) -> Refined:
    """Mean-field inference in a fully connected CRF (Kraehenbuehl and Koltun 2011) on one photo.

    Args:
        image: ``(H, W, C)`` in 0-255 intensity, any real dtype, any number of channels.
        scores: logits or probabilities ``(L, H, W)``, or integer labels ``(H, W)``.
        settings: weights and widths of the two kernels; one of ``fastseg.crf.PRESETS``, or a
            copy with your own numbers by ``dataclasses.replace``.
        kind: what ``scores`` are. Probabilities are cut at 1e-5 before the logarithm. Labels
            become probabilities of ``confidence`` for the label and equal shares of the rest for
            the other labels that occur.
        confidence: probability in (0, 1) that a label is right; used with labels alone.
        unknown: value that marks a pixel without a label; None means 255, and refuses
            maps of nothing but 0 and 255, where it might be the foreground. Used with labels alone.

    Raises:
        ValueError: an argument's shape, size or range is wrong, or not finite; the message names
            the argument, the rule and the finding.
    """
    image, scores = np.asarray(image), np.asarray(scores)
    check_settings(settings)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must have shape (H, W, C) and pixels, got {image.shape}")
    if scores.shape[-2:] != image.shape[:2]:
        raise ValueError(
            f"scores must have the photo's height and width {image.shape[:2]}, got {scores.shape}"
        )
    if image.dtype.kind not in "uif":
        raise ValueError(f"image must be of a real number type, got {image.dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("image must be finite, got NaN or infinite values")
    _warn_of_unit_range(image, settings)
    if kind == "labels":
        unary, names = _unary_from_labels(scores, confidence, unknown)
    else:
        unary = _unary_from_scores(scores, kind)
        names = np.arange(len(unary))
    probabilities = _infer(image, unary, settings)
    rows = probabilities.argmax(axis=0)
    return Refined(names[rows], probabilities, names)


def check_settings(settings: Preset) -> None:
    """Raise ValueError unless widths are positive, weights finite and the rest in range.

    Messages begin with the name of the field.
    """
    for name in ("sigma_xy", "sigma_rgb", "position_sigma_xy"):
        width = getattr(settings, name)
        if not (width > 0 and math.isfinite(width)):
            raise ValueError(f"{name} must be positive and finite, got {width:g}")
    for name in ("weight", "position_weight"):
        if not abs(getattr(settings, name)) <= FLOAT32_MAX:
            raise ValueError(f"{name} must be finite in float32, got {getattr(settings, name):g}")
    if not 0 <= settings.iterations <= MAX_ITERATIONS:
        raise ValueError(
            f"iterations must be between 0 and {MAX_ITERATIONS}, got {settings.iterations}"
        )
    if settings.normalization not in NORMALIZATIONS:
        raise ValueError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}, "
            f"got {settings.normalization!r}"
        )


def check_memory(labels: int, pixels: int) -> None:
    """Raise DataError if arrays of ``labels`` planes of ``pixels`` exceed the machine's memory."""
    need = SCORE_ARRAYS * labels * pixels * np.dtype(np.float32).itemsize
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not told by this system
        return
    if need > have:
        raise DataError(
            f"{labels} labels on {pixels / 1e6:.1f} million pixels must fit in memory, got a need "
            f"of {need / 2**30:.0f} GiB for {have / 2**30:.0f} GiB; refine the photo in parts"
        )


def _warn_of_unit_range(image: NDArray[Any], settings: Preset) -> None:
    if image.dtype.kind != "f" or settings.weight == 0 or settings.sigma_rgb < 1:
        return
    if image.min() >= 0 and image.max() <= 1:
        warnings.warn(
            f"image holds floats in [0, 1] while sigma_rgb {settings.sigma_rgb:g} is in 0-255 "
            "units, so all colours look alike to the CRF; multiply the image by 255, or divide "
            "sigma_rgb by it",
            DataWarning,
            stacklevel=3,
        )


def _unary_from_scores(scores: NDArray[Any], kind: Kind) -> NDArray[np.float32]:
    if scores.ndim != 3 or scores.shape[0] == 0:
        raise ValueError(f"scores must have shape (L, H, W), got {scores.shape}")
    if len(scores) > MAX_LABELS:
        raise DataError(f"scores must have 1 to {MAX_LABELS} labels, got {len(scores)}")
    if scores.dtype.kind not in "iuf":
        raise ValueError(f"scores must be of a real number type, got {scores.dtype}")
    with np.errstate(over="ignore"):  # what overflows is infinite and refused
        values = scores.astype(np.float32, order="C")  # a copy: the rest happens in place
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite, got NaN or infinite values")
    if kind == "probabilities":
        if values.min() < -1e-3 or values.max() > 1 + 1e-3:
            raise ValueError(
                f"probabilities must lie in [0, 1], got {values.min():.4g} to {values.max():.4g}"
            )
        np.log(values.clip(PROBABILITY_FLOOR, 1, out=values), out=values)
    return np.negative(values, out=values)


def _unary_from_labels(
    labels: NDArray[Any], confidence: float, unknown: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Energies of the labels that occur, and which labels those are."""
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise ValueError(
            f"labels must be integers of shape (H, W), got {labels.dtype} {labels.shape}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")
    present = np.unique(labels)
    if unknown is None and present.tolist() == [0, UNKNOWN]:
        raise DataError(
            "labels must say what 255 means, got a map of 0 and 255 alone; add --unknown -1 if it "
            "is the foreground, --unknown 255 if it marks pixels without a label"
        )
    void = UNKNOWN if unknown is None else unknown
    present = present[present != void]
    if len(present) and present[-1] > INT64_MAX:
        raise DataError(f"labels must fit in int64, got {present[-1]}")
    names = present.astype(np.int64)
    if len(names) == 0:
        raise DataError(f"labels must label some pixel, got {void} (unknown) everywhere")
    if names[0] < 0:
        raise DataError(f"labels must not be negative, got {names[0]}")
    if len(names) > MAX_LABELS:
        raise DataError(f"labels must have at most {MAX_LABELS} values, got {len(names)}")
    check_memory(len(names), labels.size)
    right = -math.log(confidence) if len(names) > 1 else 0.0
    wrong = -math.log((1 - confidence) / (len(names) - 1)) if len(names) > 1 else 0.0
    # A pixel without a label finds every label equally wrong: it starts from a uniform Q.
    unary = np.where(labels == names[:, None, None], np.float32(right), np.float32(wrong))
    return unary, names


def _infer(
    image: NDArray[Any], unary: NDArray[np.float32], settings: Preset
) -> NDArray[np.float32]:
    """Potts model: agreeing with similar pixels is worth ``weight``, a constant apart."""
    height, width, channels = image.shape
    crf = _numpy.MeanField((height, width), len(unary))
    add = functools.partial(_add_kernel, crf, settings)
    # The features, as large as the image, are not kept: the lattice has what it needs.
    if settings.position_weight != 0:
        sigma = (settings.position_sigma_xy,) * 2
        add(
            settings.position_weight,
            _numpy.image_features((height, width), sigma),
            "position_sigma_xy",
        )
    if settings.weight != 0:
        sigma = (settings.sigma_xy,) * 2
        colours = (settings.sigma_rgb,) * channels
        add(
            settings.weight,
            _numpy.image_features((height, width), sigma, image, colours),
            *("sigma_xy", "sigma_rgb"),
        )
    result = crf.run(unary.reshape(len(unary), -1), settings.iterations)
    probabilities: NDArray[np.float32] = result.reshape(unary.shape)
    return probabilities


def _add_kernel(
    crf: _numpy.MeanField,
    settings: Preset,
    weight: float,
    features: NDArray[np.float32],
    *widths: str,
) -> None:
    try:
        crf.add_kernel(features, np.float32(weight), settings.normalization)
    except ValueError as error:
        named = " and ".join(f"{name} {getattr(settings, name):g}" for name in widths)
        raise ValueError(f"{named} must suit the photo: {error}") from error
