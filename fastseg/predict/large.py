"""Images larger than memory: TIFF in, TIFF out, block by block."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from fastseg._bytes import show_bytes
from fastseg.data.errors import DataError
from fastseg.predict.blocks import blocks
from fastseg.predict.forward import finite_scores
from fastseg.predict.photos import above_one
from fastseg.predict.segmenter import Segmenter
from fastseg.predict.tiff import LabelFile, TiffImage, fingerprint, label_file_dtype

LARGEST_BLOCK = 4096  # pixels of a side: more would neither be faster nor resume as closely
BLOCK_SHARE = 0.75  # of the memory: hundreds of blocks leave gaps in the heap
NUMBERS = 1024  # of each tensor that tell one model from another
SUFFIXES = (".tif", ".tiff")


def segment_tiff(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Segment a TIFF of any size into a TIFF of labels, within the segmenter's ``max_memory``.

    The image is read in parts (mapped into memory where it is uncompressed, else by its tiles or
    strips) and segmented in blocks, each with ``segmenter.margin`` pixels around it; labels are
    written as they come. Two approximations follow, and are none for a network whose pixels see no
    further than the margin: nothing crosses it, neither the network's view nor the CRF's; and the
    network sees the pixels at their own scale, for rules about the size of the whole image
    (``short_side``, ``fit``, ``pad_to``) mean nothing here. ``scale`` of the convention holds.

    An interrupted run leaves ``.<name>.part`` beside ``out``, and the same call goes on after the
    last block that was done.

    Args:
        segmenter: its ``max_memory`` decides the size of the blocks.
        path: grey, RGB or RGBA of 8 or 16 bits; the first picture of the file.
        out: ``.tif`` or ``.tiff``, tiled and compressed; up to 256 classes as an indexed image in
            the colours of PASCAL VOC.
        progress: called with the number of blocks done and of all, first before any is.

    Returns:
        ``out``.

    Raises:
        DataError: the file cannot be read in parts, or ``out`` is it.
        ValueError: ``max_memory`` is too small for the smallest block, or the network gives NaN.
        ImportError: tifffile is not installed.
    """
    path, out = Path(path), Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: the output must end in .tif or .tiff")
    if out.exists() and os.path.samefile(path, out):
        raise DataError(f"{out}: the output must not replace an input")
    with TiffImage(path) as image:
        height, width = image.height, image.width
        side = block_side(segmenter, height, width)
        parts = list(blocks(height, width, side, segmenter.margin))
        work = json.dumps([fingerprint(path), side, digest(segmenter)])
        labels = LabelFile(out, (height, width), label_file_dtype(segmenter.num_classes), work)
        report = progress or (lambda done, total: None)
        report(labels.done, len(parts))
        bright = not segmenter.convention.divide_if_above_one or any(
            above_one(image.read(part.rows, part.columns)) for part in parts
        )
        for part in parts[labels.done :]:
            place = f"rows {part.rows.start} to {part.rows.stop} of {path}"
            with finite_scores(place):
                values = segmenter.labels_of_block(
                    part, image.read, segmenter.convention.scale, bright
                )
            labels.put(part.rows, part.columns, values)
            report(labels.done, len(parts))
        labels.finish()
    return out


def block_side(segmenter: Segmenter, height: int, width: int) -> int:
    window = segmenter.tile or segmenter.planner.default_window
    share = int(BLOCK_SHARE * segmenter.planner.budget)
    planner = dataclasses.replace(segmenter.planner, budget=share)
    work = segmenter.work("labels")
    factor = segmenter.convention.scale
    side = planner.largest_block(
        min(height, LARGEST_BLOCK),
        min(width, LARGEST_BLOCK),
        factor,
        window,
        segmenter.margin,
        work,
    )
    if side is None:
        given = segmenter.planner.budget + planner.weights
        least = 2 * segmenter.margin + 64
        need = planner.weights + planner.need(least, least, factor, window, work) / BLOCK_SHARE
        raise ValueError(
            f"segment_tiff: max_memory must be {show_bytes(need)} or more for blocks of {least} "
            f"pixels, got {show_bytes(given)}; a smaller margin or "
            "tile needs less"
        )
    return side


def digest(segmenter: Segmenter) -> str:
    """Of all that decides the labels: settings, and some numbers of each tensor of the model."""
    settings = [
        segmenter.scales,
        segmenter.flip,
        segmenter.tile,
        segmenter.overlap,
        segmenter.blend,
        segmenter.margin,
        str(segmenter.amp),
        segmenter.convention.to_dict(),
        str(segmenter.crf),
    ]
    summary = hashlib.blake2b(json.dumps(settings, default=str).encode())
    modules = [segmenter.model] + ([] if segmenter.crf is None else [segmenter.crf])
    for module in modules:
        for name, tensor in module.state_dict().items():
            numbers = tensor.flatten()[:NUMBERS].double().cpu().numpy()
            summary.update(name.encode() + numbers.tobytes())
    return summary.hexdigest()
