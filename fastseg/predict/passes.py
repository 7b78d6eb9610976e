"""One size of an image through the network: whole, in sliding windows or in overlap-tiles."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastseg.inference import compile_for_inference
from fastseg.models.input_convention import InputConvention
from fastseg.models.overlap_tile import overlap_tile
from fastseg.models.with_crf import WithCRF
from fastseg.predict.forward import Enlarged, checked_scores, run_model
from fastseg.predict.padding import mean_colour, pad
from fastseg.predict.photos import resize
from fastseg.predict.plan import PAPER_TILE, Planner, native
from fastseg.predict.windows import Grid, Windows


@dataclass
class Passes:
    """A model in evaluation mode and how it is run; see :class:`fastseg.Segmenter`."""

    model: nn.Module
    convention: InputConvention
    planner: Planner
    device: torch.device
    amp: torch.dtype | None
    overlap: float | None
    blend: str
    most_sizes: int
    """Of inputs whose compiled weights are kept; 0 of a model that is not compiled."""
    sizes: set[torch.Size] = field(default_factory=set)

    def view(
        self,
        image: NDArray[Any],
        size: tuple[int, int],
        flip: bool,
        window: int | None,
        above_one: bool,
        whole: bool,
    ) -> Enlarged:
        """One size of the image, upright or mirrored, at that size."""
        image = resize(image, size, self.convention.resample)
        if flip:
            image = image[:, ::-1]
        input = self.convention.normalise(np.ascontiguousarray(image), above_one=above_one)
        input = input[None].to(self.device)
        if self.planner.valid_unet is not None:
            with self._autocast():
                logits = overlap_tile(self.planner.valid_unet, input, tile=window or PAPER_TILE)
            return Enlarged(checked_scores(logits.float()), size, False)
        pixels = pixels_of(image, self.device).float() if isinstance(self.model, WithCRF) else None
        if window is not None and max(size) > window:
            return self._windows(input, pixels, window)
        return self._padded(input, pixels, self.convention if whole else native(self.convention))

    def _windows(self, input: Tensor, pixels: Tensor | None, side: int) -> Enlarged:
        height, width = input.shape[2:]
        overlap = self.overlap
        if overlap is None:
            overlap = 0.5 if side == self.planner.default_window else 0.25
        windows = Windows(Grid.of(height, side, overlap), Grid.of(width, side, overlap), self.blend)
        total = windows.empty(self.planner.num_classes)
        for rows, columns in windows:
            part = None if pixels is None else pixels[..., rows, columns]
            view = self._padded(input[..., rows, columns], part, native(self.convention))
            windows.add(total, (rows, columns), view.probabilities()[0].cpu())
        return Enlarged.of_probabilities(windows.normalise(total)[None].to(self.device))

    def _padded(
        self, input: Tensor, pixels: Tensor | None, convention: InputConvention
    ) -> Enlarged:
        """One pass, padded to what the network takes; the logits are those of ``input`` again."""
        height, width = input.shape[2:]
        least = self.planner.least
        padded = convention.padded_size(max(height, least), max(width, least))
        if padded != (height, width):
            input = pad(input, padded, convention.padding)
            if pixels is not None:
                pixels = pad(pixels, padded, convention.padding, mean_colour(convention))
        self._forget_weights(input.shape)
        with self._autocast():
            result = run_model(self.model, input, pixels)
        checked_scores(result.map)
        top, left = (
            ((padded[0] - height) // 2, (padded[1] - width) // 2)
            if convention.padding == "mirror"
            else (0, 0)
        )
        return result.cut(slice(top, top + height), slice(left, left + width))

    def _forget_weights(self, size: torch.Size) -> None:
        """Compiled weights are kept for as many sizes of input as there is memory for."""
        if not self.most_sizes or size in self.sizes:
            return
        if len(self.sizes) == self.most_sizes:
            compile_for_inference(self.model)
            self.sizes.clear()
        self.sizes.add(size)

    def _autocast(self) -> torch.autocast:
        dtype = self.amp or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.amp is not None)


def pixels_of(image: NDArray[Any], device: torch.device) -> Tensor:
    """``(1, 3, H, W)`` in 0-255, for a CRF."""
    pixels = torch.tensor(np.ascontiguousarray(image), device=device)
    return pixels.permute(2, 0, 1)[None]
