"""A photograph with its labels drawn over it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.data.files import whole_file
from fastseg.data.palette import PALETTE_SIZE, voc_palette


def displayable(image: NDArray[Any]) -> NDArray[np.uint8]:
    """``image (H, W, C)`` as ``(H, W, 3)`` uint8. Floats in [0, 1] are scaled to 0-255."""
    values = np.asarray(image)
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        scale = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        values = np.rint(values * scale).clip(0, 255).astype(np.uint8)
    channels = [0, 1, 2] if values.shape[-1] >= 3 else [0, 0, 0]
    rgb: NDArray[np.uint8] = np.take(values, channels, axis=-1)
    return rgb


def draw_overlay(
    image: NDArray[Any], labels: NDArray[np.integer], opacity: float = 0.55
) -> NDArray[np.uint8]:
    """Tint ``image (H, W, C)`` with the colours of ``labels (H, W)`` and draw white outlines.

    Label 0, the background of PASCAL VOC, is left without a tint. Labels above 255 take the
    colour of their remainder modulo 256.
    """
    photo = displayable(image).astype(np.float32)
    colours = voc_palette()[labels.astype(np.intp) % PALETTE_SIZE].astype(np.float32)
    strength = np.where(labels[..., None] == 0, 0.0, opacity).astype(np.float32)
    tinted = photo + strength * (colours - photo)
    tinted[_outlines(labels)] = 255
    rounded: NDArray[np.uint8] = np.rint(tinted).astype(np.uint8)
    return rounded


def _outlines(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """True where the pixel to the right or below has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB ``picture (H, W, 3)`` as a PNG, whole or not at all."""
    with whole_file(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
