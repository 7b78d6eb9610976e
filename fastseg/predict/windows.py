"""Sliding windows: where they lie, and how what they say is joined."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLENDS = ("average", "gaussian")
# The standard deviation of the Gaussian weights, of the window's side; and their least value, so
# that no pixel is without weight.
GAUSSIAN_WIDTH = 1 / 8
LEAST_WEIGHT = 1e-3


class Grid(NamedTuple):
    """Windows of ``side`` pixels along one axis."""

    length: int
    side: int
    starts: list[int]

    @staticmethod
    def of(length: int, side: int, overlap: float) -> "Grid":
        """As few as overlap by ``overlap`` of their side or more, evenly spaced to the pixel.

        An axis shorter than ``side`` is one window.
        """
        side = min(side, length)
        stride = max(int(side * (1 - overlap)), 1)
        count = math.ceil((length - side) / stride) + 1
        starts = [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
        return Grid(length, side, starts)

    def weights(self, blend: str) -> Tensor:
        """Weight of each sample of a window, ``(side,)`` float32."""
        if blend == "average":
            return torch.ones(self.side)
        place = torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2
        bell = torch.exp(-0.5 * (place / (GAUSSIAN_WIDTH * self.side)) ** 2)
        return bell.clamp_min(LEAST_WEIGHT).float()

    def total_weight(self, blend: str) -> Tensor:
        """Sum of the weights at each sample of the axis, ``(length,)`` float32."""
        total, weights = torch.zeros(self.length), self.weights(blend)
        for start in self.starts:
            total[start : start + self.side] += weights
        return total


class Windows(NamedTuple):
    """Windows over an image, and the mean of the maps that they give.

    Weights are products of one of the row and one of the column, and so are their sums.
    """

    rows: Grid
    columns: Grid
    blend: str

    def __iter__(self) -> Iterator[tuple[slice, slice]]:  # type: ignore[override]
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield (
                    slice(top, top + self.rows.side),
                    slice(left, left + self.columns.side),
                )

    def empty(self, channels: int) -> Tensor:
        return torch.zeros(channels, self.rows.length, self.columns.length)

    def add(self, total: Tensor, place: tuple[slice, slice], values: Tensor) -> None:
        """Add what the window at ``place`` says, ``(K, h, w)``, to ``total (K, H, W)``."""
        rows, columns = self.rows.weights(self.blend), self.columns.weights(self.blend)
        total[:, place[0], place[1]] += values * rows[:, None] * columns

    def normalise(self, total: Tensor) -> Tensor:
        total /= self.rows.total_weight(self.blend)[:, None]
        total /= self.columns.total_weight(self.blend)
        return total
