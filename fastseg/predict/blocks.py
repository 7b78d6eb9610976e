"""An image in blocks that see a margin around what is theirs."""

from collections.abc import Iterator
from typing import NamedTuple

STEP = 32  # of the sides and the places of blocks: poolings keep their phase


class Block(NamedTuple):
    """One block: which pixels are its own, and which of the image it sees."""

    rows: slice
    columns: slice
    source_rows: slice
    source_columns: slice

    @property
    def inner_rows(self) -> slice:
        """Its own rows among those that it sees."""
        return within(self.rows, self.source_rows)

    @property
    def inner_columns(self) -> slice:
        return within(self.columns, self.source_columns)


def within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def blocks(height: int, width: int, side: int, margin: int) -> Iterator[Block]:
    """Blocks that see up to ``side`` pixels, ``margin`` on each side included, row by row.

    They begin at multiples of 32, so that the poolings and strides of a network are in phase with
    those over the whole image.
    """
    for rows, source_rows in spans(height, side, margin):
        for columns, source_columns in spans(width, side, margin):
            yield Block(rows, columns, source_rows, source_columns)


def spans(length: int, side: int, margin: int) -> list[tuple[slice, slice]]:
    """What each block has of an axis, and what it sees."""
    if side >= length:
        return [(slice(0, length), slice(0, length))]
    own = max((side - 2 * margin) // STEP * STEP, STEP)
    return [
        (
            slice(start, min(start + own, length)),
            slice(max(start - margin, 0), min(start + own + margin, length)),
        )
        for start in range(0, length, own)
    ]
