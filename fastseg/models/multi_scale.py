"""MSC: one network on several sizes of the image, fused by the maximum (DeepLab v2, sec. 4.1)."""

import math
from typing import Any

import torch
from torch import Tensor

from fastseg.models.network import Network, TrainingOutput
from fastseg.nn.checked import Scales, checked
from fastseg.ops import bilinear_upsample
from fastseg.ops.bilinear_upsample import scaled


class MultiScale(Network):
    """Scores of the image and of smaller copies, resized to the image's and fused by their maximum.

    In training mode the model returns :class:`TrainingOutput`; its ``aux`` holds the score maps of
    the paper's losses: that of the image, those of the copies in their own sizes, and the fused;
    then those of the network's auxiliary heads, of the image and of the copies.

    Args:
        network: shared by all sizes. Its ``align_corners`` holds for every resizing: true gives
            copies of floor((n - 1) s) + 1 pixels, as in Caffe, false floor(n s).
        scales: of the copies.
        fuse_logits: fuse the network's logits at the size of the image, not its scores.
        add_one: with ``align_corners``, copies of floor(n s) + 1 pixels, as one port of the
            release has; one more than above where n s is whole.
    """

    @checked
    def __init__(
        self,
        network: Network,
        *,
        scales: Scales = (0.5, 0.75),
        fuse_logits: bool = False,
        add_one: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.scales, self.fuse_logits = network, tuple(scales), fuse_logits
        self.add_one = add_one
        self.num_classes, self.align_corners = network.num_classes, network.align_corners
        self.crf_preset, self.input_convention = network.crf_preset, network.input_convention

    @property
    def min_size(self) -> int:
        least, scale = self.network.min_size, min(*self.scales, 1)
        return (
            math.ceil((least - 1) / scale) + 1 if self.align_corners else math.ceil(least / scale)
        )

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)``: the maximum over all sizes."""
        return self._maps(input)[0][-1]

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        return scores if self.fuse_logits else self.network.upsample(scores, input)

    def forward(self, input: Tensor) -> Any:
        """Logits, or :class:`TrainingOutput` in training mode."""
        maps, aux = self._maps(input)
        logits = self.upsample(maps[-1], input)
        return TrainingOutput(logits, (*maps, *aux)) if self.training else logits

    def _maps(self, input: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the image and its copies, and the fused; those of auxiliary heads."""
        self.check_size(input)
        copies = [input, *(self._shrunk(input, scale) for scale in self.scales)]
        maps, heads = zip(*map(self._heads, copies), strict=True)
        fused: Tensor = maps[0]
        for scores in maps[1:]:
            resized = bilinear_upsample(scores, tuple(fused.shape[2:]), self.align_corners)
            fused = torch.maximum(fused, resized)
        return [*maps, fused], [scores for aux in heads for scores in aux]

    def _heads(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.fuse_logits:
            return self.network.heads(input)
        output = self.network(input)
        return output if isinstance(output, TrainingOutput) else (output, ())

    def _shrunk(self, input: Tensor, scale: float) -> Tensor:
        if self.align_corners:
            less = 0 if self.add_one else 1
            height, width = (scaled(side - less, scale) + 1 for side in input.shape[2:])
            return bilinear_upsample(input, (height, width), align_corners=True)
        return bilinear_upsample(input, scale=scale)
