"""Label maps as indexed PNG files in the colours of PASCAL VOC."""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.data.errors import DataError
from fastseg.data.files import whole_file

PALETTE_SIZE = 256
GREY_SIZE = 65536


@functools.cache
def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours of PASCAL VOC, ``(256, 3)`` uint8, read-only.

    Bits 0, 3, 6 of a label are the highest bits of red, from the top down; bits 1, 4, 7 those of
    green and bits 2, 5 those of blue. Label 0 is black, 15 (person) is (192, 128, 128), and 255
    (unknown) is (224, 224, 192).
    """
    labels = np.arange(PALETTE_SIZE)
    colours = np.zeros((PALETTE_SIZE, 3), np.uint8)
    for channel in range(3):
        for place in range(3):
            bit = (labels >> (3 * place + channel)) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def labels_from_colours(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Label of each pixel of an RGB picture ``(H, W, 3)`` drawn in the colours of VOC.

    Raises:
        DataError: a colour is not one of the 256.
    """
    packed = colours.astype(np.int64) @ np.array([65536, 256, 1])
    palette = voc_palette().astype(np.int64) @ np.array([65536, 256, 1])
    order = np.argsort(palette)
    place = np.searchsorted(palette[order], packed).clip(max=PALETTE_SIZE - 1)
    labels: NDArray[np.int64] = order[place]
    foreign = np.argwhere(palette[labels] != packed)
    if len(foreign):
        row, column = foreign[0]
        colour = tuple(int(c) for c in colours[row, column])
        raise DataError(
            f"the colours of a label picture must be those of PASCAL VOC, got {colour} "
            f"at row {row}, column {column}; save the labels as an indexed or grey PNG"
        )
    return labels


def label_image(labels: NDArray[np.integer]) -> Image.Image:
    """An indexed picture of ``labels (H, W)``; grey with 16 bits where a label is above 255."""
    largest = int(labels.max(initial=0))
    if labels.min(initial=0) < 0 or largest >= GREY_SIZE:
        raise DataError(f"labels must lie in 0 to {GREY_SIZE - 1}, got {labels.min()} to {largest}")
    if largest >= PALETTE_SIZE:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(voc_palette().tobytes())
    return picture


def write_labels(path: Path, labels: NDArray[np.integer]) -> None:
    """Write ``labels (H, W)`` as a PNG whose pixel values are the labels.

    Up to label 255 the file is indexed and shows the colours of PASCAL VOC; with larger labels
    it is grey with 16 bits. The file is written whole or not at all.
    """
    with whole_file(path) as file:
        label_image(labels).save(file, format="PNG", optimize=True)
