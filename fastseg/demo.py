"""The photograph and the coarse scores that come with the package, refined and drawn."""

import dataclasses
import time
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fastseg.crf.presets import PRESETS
from fastseg.data.files import whole_file
from fastseg.data.images import read_image
from fastseg.data.overlay import draw_overlay, write_picture
from fastseg.data.palette import PALETTE_SIZE, write_labels
from fastseg.data.scores import Size, fit_scores, read_scores
from fastseg.refine import refine

SETTINGS = dataclasses.replace(
    PRESETS["default"], sigma_xy=50.0, sigma_rgb=8.0, position_weight=4.5
)
LABELS = ("table", "floor", "cup and saucer", "spoon", "coffee")
# The sheet has a title above each picture and white between them, in pixels.
TITLE_HEIGHT = 30
GAP = 8


class Result(NamedTuple):
    """What the demo did: size of the photo, number of labels, iterations, seconds, files."""

    size: Size
    labels: int
    iterations: int
    seconds: float
    files: list[Path]


def run(folder: Path) -> Result:
    """Refine the bundled photograph and write five PNG files to ``folder``, over older ones.

    input.png is the photo; before.png and after.png are label maps, the largest score of each
    pixel without and with the CRF; overlay.png is the photo with the labels of after.png over
    it; demo.png shows the photo, before and after side by side.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: the demo must write to a folder, got a file")
    bundled = resources.files("fastseg") / "data" / "demo"
    with (
        resources.as_file(bundled / "coffee.jpg") as photo,
        resources.as_file(bundled / "coffee_scores.npz") as coarse,
    ):
        image = read_image(photo)
        size = (image.shape[0], image.shape[1])
        scores = fit_scores(read_scores(coarse, size), size)

    start = time.perf_counter()
    result = refine(image, scores.values, SETTINGS, kind=scores.kind)
    seconds = time.perf_counter() - start

    before = scores.values.argmax(axis=0)
    after = draw_overlay(image, result.labels)
    pictures = {"input.png": image, "overlay.png": after}
    files = [folder / f"{name}.png" for name in ("input", "before", "after", "overlay", "demo")]
    for name, picture in pictures.items():
        write_picture(folder / name, picture.astype(np.uint8))
    write_labels(folder / "before.png", before)
    write_labels(folder / "after.png", result.labels)
    _write_sheet(
        folder / "demo.png",
        {
            "input": image.astype(np.uint8),
            "before: coarse scores": draw_overlay(image, before),
            f"after: fastseg, {SETTINGS.iterations} iterations": after,
        },
    )
    return Result(size, len(result.names), SETTINGS.iterations, seconds, files)


def _write_sheet(path: Path, pictures: dict[str, NDArray[np.uint8]]) -> None:
    """Write ``pictures`` beside one another under their titles, in 256 colours for a small file."""
    height, width = next(iter(pictures.values())).shape[:2]
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, TITLE_HEIGHT + height), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (title, picture) in enumerate(pictures.items()):
        left = column * (width + GAP)
        pen.text((left + 2, 6), title, fill="black", font=ImageFont.load_default(size=18))
        sheet.paste(Image.fromarray(picture), (left, TITLE_HEIGHT))
    with whole_file(path) as file:
        few = sheet.quantize(PALETTE_SIZE)
        sheet.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(
            file, format="PNG", optimize=True
        )
