"""The overlap-tile strategy of U-Net (Ronneberger et al. 2015, fig. 2): images of any size."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.models.network import check_image
from fastseg.models.unet import UNet
from fastseg.nn.checked import Instance, Integer


class Tile(NamedTuple):
    """One tile: where its logits go, and which part of the image, beyond its borders, it sees."""

    rows: slice
    columns: slice
    source_rows: Tensor
    """Indices of the image's rows, int64, mirrored where they leave it."""
    source_columns: Tensor


def overlap_tile(
    network: UNet, image: Tensor, *, tile: int = 572, device: torch.device | None = None
) -> Tensor:
    """Logits of a whole image from a network that leaves out its borders, tile by tile.

    Beyond the border the image is mirrored, without the border pixel itself, and again where it is
    shorter than the margin. Tiles begin at multiples of 2^depth (16), so that the poolings of all
    of them are in phase: the result is that of the whole mirrored image in one piece. At the
    paper's own offset, 388 pixels for tiles of 572, it would not be.

    Args:
        network: of valid convolutions, in the mode in which it is to run; gradients are as outside.
            One that pads takes images up to a tile: a larger one's tiles would see zeros where
            their neighbours are, and :class:`fastseg.Segmenter` runs it in sliding windows.
        image: ``(B, C, H, W)``, any H, W >= 1.
        tile: side of the tiles; of the network's valid sizes, the largest up to it is taken.
        device: where the tiles are computed; None for the image's. The result is on the image's.

    Returns:
        ``(B, K, H, W)``.

    Raises:
        ValueError: the tile's logits are shorter than 2^depth, the image is empty, or larger than a
            tile for a network that pads.
    """
    Instance((UNet,))("overlap_tile: network", network)
    check_image("overlap_tile", image)
    result: Tensor | None = None
    for part in tiles(network, image.shape[2], image.shape[3], tile=tile):
        source = image.index_select(2, part.source_rows.to(image.device))
        source = source.index_select(3, part.source_columns.to(image.device))
        logits = network(source if device is None else source.to(device))
        if result is None:
            result = image.new_empty(
                len(image), logits.shape[1], *image.shape[2:], dtype=logits.dtype
            )
        height, width = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
        result[:, :, part.rows, part.columns] = logits[:, :, :height, :width].to(result.device)
    assert result is not None
    return result


def tiles(network: UNet, height: int, width: int, *, tile: int = 572) -> Iterator[Tile]:
    """The tiles of an image of ``height`` x ``width``, row by row; see :func:`overlap_tile`.

    An image smaller than a tile is one tile, no larger than it needs to be.
    """
    if min(height, width) < 1:
        raise ValueError(f"overlap_tile: image must hold a pixel, got {height} x {width}")
    rows, columns = axis(network, height, tile), axis(network, width, tile)
    for row, source_rows in rows():
        for column, source_columns in columns():
            yield Tile(row, column, source_rows, source_columns)


def axis(network: UNet, length: int, tile: int) -> Callable[[], Iterator[tuple[slice, Tensor]]]:
    """The spans of one axis: where the logits go, and the mirrored indices of what they need."""
    tile = Integer()("overlap_tile: tile", tile)
    step, margin = 1 << network.depth, network.margin
    smallest = network.valid_size(2 * margin + step)  # whose logits hold one step of the tiles
    if tile < smallest:
        raise ValueError(f"overlap_tile: tile must be at least {smallest} pixels, got {tile}")
    whole = network.valid_size(length + 2 * margin)
    size = min(whole, smallest + (tile - smallest) // step * step)
    if network.padding == "same" and size < length:
        raise ValueError(
            "overlap_tile: network must have padding='valid' for sides longer than a tile of "
            f"{size} pixels, got padding='same' and {length}; Segmenter runs it in sliding windows"
        )
    inner = size - 2 * margin
    stride = inner // step * step

    def spans() -> Iterator[tuple[slice, Tensor]]:
        start = 0
        while True:
            stop = min(start + inner, length)
            yield slice(start, stop), mirrored(start - margin, size, length)
            if stop == length:
                return
            start += stride

    return spans


def mirrored(start: int, count: int, length: int) -> Tensor:
    """Indices ``start`` to ``start + count - 1`` of an axis reflected at both ends, int64."""
    if length == 1:
        return torch.zeros(count, dtype=torch.int64)
    period = 2 * (length - 1)
    place = torch.arange(start, start + count).remainder(period)
    return torch.minimum(place, period - place)
