"""Images brought to the size that a network takes."""

import torch
from torch import Tensor
from torch.nn import functional

from fastseg.models.input_convention import InputConvention
from fastseg.models.overlap_tile import mirrored


def pad(image: Tensor, size: tuple[int, int], padding: str, colour: Tensor | None = None) -> Tensor:
    """``(1, C, *size)``: zeros or ``colour`` at the bottom and the right, or mirrored borders."""
    height, width = image.shape[2:]
    rows, columns = size[0] - height, size[1] - width
    if padding == "mirror":
        for axis, length, more in ((2, height, rows), (3, width, columns)):
            places = mirrored(-(more // 2), length + more, length)
            image = image.index_select(axis, places.to(image.device))
        return image
    padded = functional.pad(image, (0, columns, 0, rows))
    if colour is not None:
        colour = colour.to(image)[None, :, None, None]
        padded[:, :, height:] = colour
        padded[:, :, :, width:] = colour
    return padded


def mean_colour(convention: InputConvention) -> Tensor:
    """Red, green and blue in 0-255 of what is zero after normalisation."""
    mean = torch.tensor(convention.mean) * (255 / convention.max_value)
    if convention.channels == "bgr":
        mean = mean.flip(0)
    return mean.expand(3)
