"""Reading per-pixel scores: which axis holds the labels, and what the numbers mean.

Both are taken from the file when it leaves no doubt and asked for when it does.
"""

import operator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.data.arrays import read_array
from fastseg.data.errors import DataError
from fastseg.data.images import open_picture, warn
from fastseg.data.palette import labels_from_colours

Kind = Literal["logits", "probabilities", "labels"]
Layout = Literal["lhw", "hwl"]
Size = tuple[int, int]  # (H, W)

KINDS: tuple[Kind, ...] = ("logits", "probabilities", "labels")
LAYOUTS: tuple[Layout, ...] = ("lhw", "hwl")
ARRAY_SUFFIXES = (".npy", ".npz")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
SUFFIXES = ARRAY_SUFFIXES + PICTURE_SUFFIXES
# Sums of probabilities over the labels, rounded to half precision and to single precision.
SUM_TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-3}
# A grey picture with more values than this is rather a map of one probability than of labels.
MANY_LABELS = 64


class Scores(NamedTuple):
    """What a file says about each pixel.

    values: float32 ``(L, H, W)`` logits or probabilities, or int64 ``(H, W)`` labels.
    """

    values: NDArray[Any]
    kind: Kind


def read_scores(
    path: Path,
    size: Size,
    *,
    key: str | None = None,
    kind: Kind | None = None,
    layout: Layout | None = None,
    stretch: bool = False,
) -> Scores:
    """Read the scores for a photo of ``size (H, W)``; they may be smaller or larger than it.

    Args:
        path: a ``.npy`` or ``.npz`` array, or a lossless picture of labels.
        size: height and width of the photo, which decide the layout.
        key: name of the array in an ``.npz`` archive of several.
        kind: what the numbers are; None to detect it.
        layout: where the axis of the labels is; None to detect it.
        stretch: accept scores of another aspect ratio than the photo's.

    Raises:
        DataError: the file cannot be read or used, or two readings are possible; the message says
            which flag decides.
    """
    try:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            if key is not None:
                raise DataError(f"a key needs a .npz archive, got a picture with key {key!r}")
            values, kind = _read_picture(path, kind)
        else:
            values = read_array(path, key)
        return arrange_scores(values, size, kind=kind, layout=layout, stretch=stretch)
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def arrange_scores(
    values: NDArray[Any],
    size: Size,
    *,
    kind: Kind | None = None,
    layout: Layout | None = None,
    stretch: bool = False,
) -> Scores:
    """Bring an array of scores into the one layout that everything after it reads.

    A leading axis of length one (a batch) is dropped. Integers ``(H, W)`` are labels. Floats
    ``(H, W)``, or with one label, are the logit or the probability of the foreground against a
    background and need ``kind``.

    Layout: the axis order whose height and width are the photo's, else those of the photo reduced
    by one factor and rounded, else of its aspect ratio to one sample. Where both orders fit, the
    labels are on the axis along which probabilities sum to one.
    Kind: values in [0, 1] that sum to one are probabilities; values of which some are negative
    are logits.
    """
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.size == 0:
        raise DataError(f"scores must not be empty, got shape {values.shape}")
    if values.ndim not in (2, 3):
        raise DataError(
            f"scores must have shape (L, H, W), (H, W, L) or (H, W), got {values.shape}"
        )
    _check_numbers(values, kind)
    if layout is None and (axis := _axis_of_one_label(values, size)) is not None:
        values = np.squeeze(values, axis)
    if values.ndim == 3 and kind == "labels":
        raise DataError(f"labels must have shape (H, W), got {values.shape}")
    if values.ndim == 2:
        _check_aspect((values.shape[0], values.shape[1]), size, stretch)
        return _from_plane(values, kind)
    layout = layout or _detect_layout(values, size, stretch)
    planes = np.moveaxis(values, 2, 0) if layout == "hwl" else values
    _check_aspect((planes.shape[1], planes.shape[2]), size, stretch)
    if planes.shape[0] == 1:
        return _from_plane(planes[0], kind)
    kind = kind or _detect_kind(planes)
    planes = np.ascontiguousarray(planes, np.float32)
    if kind == "probabilities":
        _check_probabilities(planes)
    return Scores(planes, kind)


def fit_scores(scores: Scores, size: Size) -> Scores:
    """Resize to ``size (H, W)``: bilinear with half-pixel centres, labels by nearest neighbour.

    Enlarging equals ``F.interpolate(..., mode="bilinear", align_corners=False)`` to rounding;
    reducing averages over the samples that a pixel covers, and warns.
    """
    height, width = size
    have = scores.values.shape[-2:]
    if have == size:
        return scores
    if have[0] > height or have[1] > width:
        warn(
            f"scores of {have[0]}x{have[1]} are larger than the photo's {height}x{width} "
            "and are reduced to it"
        )
    if scores.kind == "labels":
        rows = ((np.arange(height) + 0.5) * have[0] / height).astype(np.int64)
        columns = ((np.arange(width) + 0.5) * have[1] / width).astype(np.int64)
        return Scores(scores.values[rows[:, None], columns], scores.kind)
    planes = np.empty((scores.values.shape[0], height, width), np.float32)
    for plane, values in zip(planes, scores.values, strict=True):
        resized = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
        plane[...] = np.asarray(resized)
    return Scores(planes, scores.kind)


def _check_numbers(values: NDArray[Any], kind: Kind | None) -> None:
    if values.dtype.kind not in "biuf":
        raise DataError(f"scores must be real numbers, got dtype {values.dtype}")
    if kind == "labels" and values.dtype.kind == "f":
        raise DataError(f"labels must be integers, got dtype {values.dtype}")
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows is infinite and refused
            bad = ~np.isfinite(values.astype(np.float32, copy=False))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataError(
                f"scores must be finite in float32, got {int(bad.sum())} values that are not, the "
                f"first at {first}"
            )


def _axis_of_one_label(values: NDArray[Any], size: Size) -> int | None:
    """The first or last axis, where its length is 1 and that is the number of labels.

    Unless the photo is one pixel wide or high, and the axis order with several labels is its size.
    """
    if values.ndim != 3 or 1 not in (values.shape[0], values.shape[2]):
        return None
    axis = 0 if values.shape[0] == 1 else 2
    several_labels = values.shape[1:] if axis == 2 else values.shape[:2]
    one_label = values.shape[:2] if axis == 2 else values.shape[1:]
    return None if several_labels == size and one_label != size else axis


def _fits(have: Size, size: Size) -> bool:
    """True if the two aspect ratios are equal when each length of ``have`` may be off by one."""
    return abs(have[0] * size[1] - have[1] * size[0]) <= size[0] + size[1]


def _is_reduced(have: Size, size: Size) -> bool:
    """True if one factor and one way of rounding (up, down, nearest) make ``have`` of ``size``."""
    for below in (1.0, 0.0, 0.5):  # a length n came from the range n - below to n - below + 1
        low = max((n - below) / full for n, full in zip(have, size, strict=True))
        high = min((n - below + 1) / full for n, full in zip(have, size, strict=True))
        if low < high:
            return True
    return False


def _check_aspect(have: Size, size: Size, stretch: bool) -> None:
    if stretch or _fits(have, size):
        return
    advice = "if the network saw the photo squeezed to another shape, add --stretch"
    if _fits((have[1], have[0]), size):
        advice = "its rows and columns may be swapped"
    raise DataError(
        f"scores must have the aspect ratio of the photo, got {have[0]}x{have[1]} for a photo "
        f"of {size[0]}x{size[1]}; {advice}"
    )


def _detect_layout(values: NDArray[Any], size: Size, stretch: bool) -> Layout:
    first, second, third = values.shape
    planes: dict[Layout, Size] = {"lhw": (second, third), "hwl": (first, second)}
    for fits in (operator.eq, _is_reduced, _fits):
        found = [layout for layout in LAYOUTS if fits(planes[layout], size)]
        if len(found) == 1:
            return found[0]
    sums: dict[Layout, bool] = {
        "lhw": _sums_to_one(values),
        "hwl": _sums_to_one(np.moveaxis(values, 2, 0)),
    }
    candidates = found or (list(LAYOUTS) if stretch else [])
    found = [layout for layout in candidates if sums[layout]]
    if len(found) == 1:
        return found[0]
    shape = "x".join(str(length) for length in values.shape)
    if candidates:
        raise DataError(
            f"scores of shape {shape} can be read as labels first or labels last; say which with "
            "--layout lhw or --layout hwl"
        )
    raise DataError(
        f"scores must have the aspect ratio of the photo, got shape {shape} for a photo of "
        f"{size[0]}x{size[1]}; if the network saw the photo squeezed to another shape, add "
        "--stretch"
    )


def _sums_to_one(planes: NDArray[Any]) -> bool:
    """True if the planes are probabilities, to the rounding of their dtype."""
    if planes.dtype.kind != "f":
        return False
    tolerance = SUM_TOLERANCE.get(planes.dtype.itemsize, 1e-3)
    if planes.min() < -tolerance or planes.max() > 1 + tolerance:
        return False
    sums = planes.sum(axis=0, dtype=np.float64)
    return bool(np.abs(sums - 1).max() <= tolerance)


def _detect_kind(planes: NDArray[Any]) -> Kind:
    if _sums_to_one(planes):
        return "probabilities"
    low, high = float(planes.min()), float(planes.max())
    if planes.dtype.kind == "f" and low < 0:
        return "logits"
    finding = f"values from {low:.4g} to {high:.4g} that do not sum to one over the labels"
    if planes.dtype.kind == "f" and low >= 0 and _sums_to_one(np.exp(-planes.astype(np.float64))):
        finding = "what looks like energies (-log p); negate them to get logits"
    raise DataError(
        f"scores must say what they are, got {finding}; add --kind logits or --kind probabilities"
    )


def _check_probabilities(values: NDArray[np.float32]) -> None:
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise DataError(f"probabilities must lie in [0, 1], got {low:.4g} to {high:.4g}")


def _from_plane(values: NDArray[Any], kind: Kind | None) -> Scores:
    """A ``(H, W)`` array: labels, or one score for the foreground."""
    if kind == "labels" or (kind is None and values.dtype.kind in "biu"):
        if values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
            raise DataError(f"labels must fit in int64, got {values.max()}")
        return Scores(values.astype(np.int64), "labels")
    if kind is None:
        raise DataError(
            "scores must say what they are, got one float per pixel; --kind probabilities or "
            "--kind logits reads it as the foreground's"
        )
    plane = values.astype(np.float32)
    if kind == "probabilities":
        _check_probabilities(plane)
        return Scores(np.stack([1 - plane, plane]), kind)
    return Scores(np.stack([np.zeros_like(plane), plane]), kind)


def _read_picture(path: Path, kind: Kind | None) -> tuple[NDArray[Any], Kind]:
    """Pixel values of a picture of labels, or a grey picture of the foreground's probability."""
    with open_picture(path) as picture:
        picture.load()
        if picture.format == "JPEG":
            raise DataError("labels must be stored without loss, got a JPEG")
        mode = picture.mode
        if mode in ("RGB", "RGBA"):
            values = labels_from_colours(np.asarray(picture.convert("RGB")))
        elif mode in ("1", "L", "P", "I") or mode.startswith("I;16"):
            values = np.asarray(picture).astype(np.int64)
        else:
            raise DataError(f"labels must be an indexed or grey picture, got mode {mode}")
    if kind == "logits":
        raise DataError("a picture must be of kind labels or probabilities, got logits")
    if kind == "probabilities":
        if mode != "L":
            raise DataError(f"probabilities must be an 8-bit grey picture, got mode {mode}")
        return values.astype(np.float32) / np.float32(255), kind
    if mode == "L" and kind is None and len(np.unique(values)) > MANY_LABELS:
        raise DataError(
            f"a grey picture must say what it is, got {len(np.unique(values))} different values; "
            "add --kind labels, or --kind probabilities for the foreground's from 0 to 255"
        )
    return values, "labels"
