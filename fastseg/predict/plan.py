"""How an image is taken apart so that it fits into the memory that may be used."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from fastseg._bytes import show_bytes
from fastseg.models.deconvnet import DeconvNet
from fastseg.models.input_convention import InputConvention
from fastseg.models.unet import UNet
from fastseg.models.with_crf import WithCRF
from fastseg.nn.receptive_field import without_values
from fastseg.predict.blocks import STEP
from fastseg.predict.forward import run_model, upsamples_bilinearly
from fastseg.predict.memory import (
    CONSTANT,
    FLOAT,
    SLACK,
    CRFBytes,
    Footprint,
    crf_vertices,
)

PAPER_TILE = 572  # of the valid U-Net
PROPOSAL = 224  # side of what DeconvNet was made for
IMAGE_COPIES = 4  # of three channels in single precision: read, resized, ordered, normalised
FEWEST_PIXELS = 64  # side of the smallest window worth running


class Plan(NamedTuple):
    """How one image is segmented; see :meth:`fastseg.Segmenter.plan`."""

    window: int | None
    """Side of the sliding windows or overlap-tiles in pixels of the resized image; None: whole."""
    block: int | None
    """Side of the blocks in pixels of the image, margins included; None: in one piece."""
    memory: int
    """Bytes that this is estimated to need, beside image, model and result."""


class Work(NamedTuple):
    """What is asked for."""

    labels_only: bool
    views: int
    largest_scale: float
    crf_vertices: int
    """Of the CRF after the network, see :func:`fastseg.predict.memory.crf_vertices`; 0 for none."""


@dataclass(frozen=True)
class Planner:
    """The memory of a model, and the sides of windows and blocks that fit into it."""

    convention: InputConvention
    num_classes: int
    footprint: Footprint
    lazy: bool
    """Whether labels follow from the scores without logits at the size of the image."""
    crf_vertices: int
    """Likewise of the CRF that the model ends in."""
    least: int
    """The shortest side that the model takes."""
    offset: int
    """Sides of windows are multiples of STEP and this: 1 where corner samples coincide."""
    budget: int
    """Bytes that there are beside those of :attr:`weights`."""
    weights: int
    """Bytes set aside for weights in other forms."""
    valid_unet: UNet | None
    default_window: int | None

    @staticmethod
    def of(model: nn.Module, convention: InputConvention, budget: int, weights: int) -> "Planner":
        copied = without_values(model)
        network = copied.network if isinstance(copied, WithCRF) else copied
        unet = model if isinstance(model, UNet) and model.padding == "valid" else None
        least = int(getattr(network, "min_size", 1))
        found: list[int] = []

        def run(input: Tensor) -> None:
            if unet is not None:
                found.append(network(input).shape[1])
            else:
                map = run_model(network, input, None)
                found.append(map.map.shape[1])
                if not map.is_logits:  # softmax of the enlarged map, all that follows it
                    return
                map.logits()

        def valid(side: int) -> int:
            return unet.valid_size(side) if unet else max(side, least)

        footprint = Footprint.of(run, convention.num_channels, valid)
        return Planner(
            convention,
            found[0],
            footprint,
            lazy=upsamples_bilinearly(model),
            crf_vertices=crf_vertices(model.crf) if isinstance(model, WithCRF) else 0,
            least=least,
            offset=convention.offset or int(getattr(network, "align_corners", False)),
            budget=budget - weights,
            weights=weights,
            valid_unet=unet,
            default_window=(
                PAPER_TILE if unet else PROPOSAL if isinstance(model, DeconvNet) else None
            ),
        )

    def plan(
        self, height: int, width: int, factor: float, window: int | None, margin: int, work: Work
    ) -> Plan:
        """The first that fits: one pass over the whole image, windows over it, blocks of it.

        Args:
            height, width: of the image.
            factor: from its pixels to those that the network sees, at scale 1.
            window: side of the windows where the user chose it.
            margin: see :class:`fastseg.Segmenter`.
            work: what is to be made.

        Raises:
            ValueError: nothing fits.
        """
        chosen = window or self.default_window
        whole = self.need(height, width, factor, chosen, work)
        if whole <= self.budget:
            return Plan(chosen, None, int(whole))
        if window is None:
            fitting = self.largest(
                lambda side: self.need(height, width, factor, side, work),
                min(chosen or math.inf, max(height, width) * factor * work.largest_scale),
                max(self.least, FEWEST_PIXELS),
            )
            if fitting is not None:
                return Plan(fitting, None, int(self.need(height, width, factor, fitting, work)))
        if work.labels_only:
            block = self.largest_block(height, width, factor, chosen, margin, work)
            if block is not None:
                sides = min(block, height), min(block, width)
                return Plan(chosen, block, int(self.need(*sides, factor, chosen, work)))
        raise ValueError(self._refusal(height, width, factor, chosen, margin, work, whole))

    def largest_block(
        self, height: int, width: int, factor: float, window: int | None, margin: int, work: Work
    ) -> int | None:
        return self.largest(
            lambda side: self.need(min(side, height), min(side, width), factor, window, work),
            max(height, width),
            2 * margin + STEP,
        )

    def need(self, height: int, width: int, factor: float, window: int | None, work: Work) -> float:
        """Bytes for an image of ``height`` x ``width`` in one piece."""
        scale = factor * work.largest_scale
        seen_height, seen_width = self.seen(height * scale), self.seen(width * scale)
        pixels, seen = height * width, seen_height * seen_width
        total: float = 3 * FLOAT * (pixels + IMAGE_COPIES * seen)
        windowed = window is not None and max(seen_height, seen_width) > window
        if window is not None and windowed:
            tile_height, tile_width = native(self.convention).padded_size(
                min(seen_height, window), min(seen_width, window)
            )
        else:
            tile_height, tile_width = self.convention.padded_size(seen_height, seen_width)
        if self.valid_unet is not None:
            unet = self.valid_unet
            tile_height, tile_width = (
                unet.valid_size(min(side + 2 * unet.margin, window or PAPER_TILE))
                for side in (seen_height, seen_width)
            )
        plane = FLOAT * self.num_classes
        lazy = self.lazy and work.labels_only and work.views == 1 and not work.crf_vertices
        if windowed or self.valid_unet is not None:
            total += plane * (seen + tile_height * tile_width)
        elif factor != 1:  # logits at the size that the network saw
            total += plane * seen
        if not lazy or windowed:
            total += plane * pixels * (2 + (work.views > 1))
        # The CRF runs after the network, whose next pass meets the scratch that the CRF left.
        own = CRFBytes.of(self.crf_vertices, self.num_classes, tile_height * tile_width)
        after = CRFBytes.of(work.crf_vertices, self.num_classes, pixels)
        network = SLACK * self.footprint.bytes(tile_height, tile_width) + CONSTANT
        kept = max(own.kept, after.kept)
        peaks = [crf.peak for crf in (own, after) if crf.kept]
        return total + max([network + kept, *peaks])

    def seen(self, length: float) -> int:
        return max(round(length), self.least)

    def largest(self, need: Callable[[int], float], most: float, least: int) -> int | None:
        """The largest side that fits, from ``least`` to ``most``, that suits the network."""
        sides = range(self.suiting(least), max(int(most), least) + STEP + 1, STEP)
        low, high = 0, len(sides)  # sides[low - 1] fits, sides[high] does not
        while low < high:
            middle = (low + high) // 2
            if need(sides[middle]) <= self.budget:
                low = middle + 1
            else:
                high = middle
        return sides[low - 1] if low else None

    def suiting(self, side: int) -> int:
        """The smallest STEP k + offset of at least ``side`` pixels."""
        if self.valid_unet is not None:
            return self.valid_unet.valid_size(side)
        return side + (self.offset - side) % STEP

    def _refusal(
        self,
        height: int,
        width: int,
        factor: float,
        window: int | None,
        margin: int,
        work: Work,
        whole: float,
    ) -> str:
        needs = [whole]
        if window is None:
            side = self.suiting(max(self.least, FEWEST_PIXELS))
            needs.append(self.need(height, width, factor, side, work))
        advice = "labels alone need less"
        if work.labels_only:
            side = self.suiting(2 * margin + STEP)
            needs.append(self.need(side, side, factor, window, work))
            advice = "a smaller tile or margin needs less"
        return (
            f"Segmenter: max_memory must be {show_bytes(min(needs) + self.weights)} or more for an "
            f"image of {height} x {width}, got {show_bytes(self.budget + self.weights)}; {advice}"
        )


def native(convention: InputConvention) -> InputConvention:
    """The same pixels without the rules that look at the whole image: its own scale, no padding."""
    return dataclasses.replace(convention, short_side=None, fit=None, pad_to=None)
