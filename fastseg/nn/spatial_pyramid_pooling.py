"""Spatial pyramid pooling: a vector of fixed length from a map of any size."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg.nn.checked import Counts, OneOf, checked


class SpatialPyramidPooling(nn.Module):
    """Max pooling into n x n bins for several n, flattened and concatenated.

    He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks" (2015), sec. 2.2. Its rule
    for a side of a pixels is windows of ceil(a / n) at a stride of floor(a / n); that does not
    give n bins for every a (for a = 10 and n = 6 it gives nine), and ``mode="paper"`` raises where
    it does not. ``mode="exact"`` cuts bin i from floor(i a / n) to ceil((i + 1) a / n), which is
    always n bins, and the same windows where the rule works with a = 13, the paper's map.

    Args:
        levels: n of each level; the paper's are (6, 3, 2, 1), (4, 2, 1) and (3, 2, 1).
        mode: ``"exact"`` or ``"paper"``.
    """

    @checked
    def __init__(
        self,
        levels: Counts = (6, 3, 2, 1),
        *,
        mode: Annotated[str, OneOf("exact", "paper")] = "exact",
    ) -> None:
        super().__init__()
        self.levels, self.mode = tuple(levels), mode

    @property
    def bins(self) -> int:
        """M, the features of each channel."""
        return sum(level * level for level in self.levels)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C * M)``, level by level in the order of ``levels``.

        Within a level the order is channel, row, column, as ``torch.flatten`` gives it.

        Raises:
            ValueError: a side is shorter than a level, or the paper's rule gives another number
                of bins.
        """
        if input.dim() != 4 or min(input.shape[2:]) < max(self.levels):
            least = max(self.levels)
            raise ValueError(
                "SpatialPyramidPooling: input must have shape (B, C, H, W) with sides of at least "
                f"{least} pixels for {least} bins, got {tuple(input.shape)}"
            )
        return torch.cat([self._pool(input, level).flatten(1) for level in self.levels], dim=1)

    def _pool(self, input: Tensor, level: int) -> Tensor:
        if self.mode == "exact":
            return functional.adaptive_max_pool2d(input, level)
        sides = input.shape[2:]
        window, stride = [-(-side // level) for side in sides], [side // level for side in sides]
        pooled = functional.max_pool2d(input, window, stride)
        if pooled.shape[2:] != (level, level):
            raise ValueError(
                f"SpatialPyramidPooling: input must give {level} x {level} bins under the paper's "
                f"rule, got {pooled.shape[2]} x {pooled.shape[3]} for {sides[0]} x {sides[1]} "
                "pixels; mode='exact' serves every size"
            )
        return pooled

    def extra_repr(self) -> str:
        return f"levels={self.levels}, mode={self.mode!r}"
