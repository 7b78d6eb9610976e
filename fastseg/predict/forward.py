"""One pass of any model over one tensor, with its logits not yet made where they need not be."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastseg.models.multi_scale import MultiScale
from fastseg.models.network import Network
from fastseg.models.with_crf import WithCRF
from fastseg.ops import bilinear_upsample, upsample_argmax, upsample_softmax

MOST_BYTE_LABELS = 256


class Enlarged(NamedTuple):
    """Logits as they follow from a map: enlarged to ``size``, then cut to some rows and columns.

    map: ``(1, K, h, w)``, float32 or float64.
    """

    map: Tensor
    size: tuple[int, int]
    align_corners: bool
    rows: slice = slice(None)
    columns: slice = slice(None)

    @property
    def is_logits(self) -> bool:
        return tuple(self.map.shape[2:]) == self.size

    @staticmethod
    def of_probabilities(probs: Tensor) -> "Enlarged":
        """The logarithms of ``probs (1, K, H, W)``, which are logits of theirs."""
        tiny = torch.finfo(probs.dtype).tiny
        return Enlarged(probs.clamp_min(tiny).log_(), (probs.shape[2], probs.shape[3]), False)

    def cut(self, rows: slice, columns: slice) -> "Enlarged":
        return self._replace(rows=rows, columns=columns)

    def resized(self, size: tuple[int, int]) -> "Enlarged":
        """The logits brought to ``size``; unchanged where they have it."""
        logits_size = tuple(self._inside(torch.empty(self.size, device="meta")).shape)
        return self if logits_size == size else Enlarged(self.logits(), size, False)

    def _inside(self, values: Tensor) -> Tensor:
        return values[..., self.rows, self.columns]

    def logits(self) -> Tensor:
        """``(1, K, H, W)``."""
        if self.is_logits:
            return self._inside(self.map)
        return self._inside(bilinear_upsample(self.map, self.size, self.align_corners))

    def probabilities(self) -> Tensor:
        """``(1, K, H, W)``, without the logits in between."""
        if self.is_logits:
            return self._inside(self.map).softmax(1)
        return self._inside(upsample_softmax(self.map, self.size, self.align_corners))

    def labels(self) -> Tensor:
        """``(1, H, W)``, without the logits in between."""
        dtype = label_dtype(self.map.shape[1])
        if self.is_logits:
            return self._inside(self.map).argmax(1).to(dtype)
        return self._inside(upsample_argmax(self.map, self.size, self.align_corners, dtype=dtype))


def label_dtype(labels: int) -> torch.dtype:
    """uint8 where the labels fit into it."""
    return torch.uint8 if labels <= MOST_BYTE_LABELS else torch.int64


def upsamples_bilinearly(model: nn.Module) -> bool:
    """Whether the logits are the bilinear enlargement of ``model.scores``."""
    if isinstance(model, MultiScale):
        return not model.fuse_logits and upsamples_bilinearly(model.network)
    return isinstance(model, Network) and type(model).upsample is Network.upsample


def run_model(model: nn.Module, input: Tensor, image: Tensor | None) -> Enlarged:
    """``model`` on ``input (1, C, H, W)``.

    Args:
        model: in evaluation mode.
        input: as the model takes it.
        image: ``(1, 3, H, W)`` in 0-255, for models that end in a CRF.

    Raises:
        ValueError: the model returns something else than logits at the size of the input.
    """
    size = (input.shape[2], input.shape[3])
    if isinstance(model, WithCRF):
        output: Any = model(input, image)
    elif upsamples_bilinearly(model):
        output = model.scores(input)  # type: ignore[operator]
    else:
        output = model(input)
    if isinstance(output, dict):  # torchvision's
        output = output.get("out")
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[1] == 0:
        found = type(output).__name__ if not isinstance(output, Tensor) else tuple(output.shape)
        raise ValueError(
            f"Segmenter: model must return logits (B, K, H, W) of one class or more, got {found}"
        )
    if tuple(output.shape[2:]) != size and not upsamples_bilinearly(model):
        height, width = output.shape[2:]
        raise ValueError(
            "Segmenter: model must return logits at the size of its input, got "
            f"{height} x {width} for {size[0]} x {size[1]}; enlarge them in its forward, as its "
            "authors did"
        )
    return Enlarged(widened(output), size, bool(getattr(model, "align_corners", False)))


def checked_scores(scores: Tensor) -> Tensor:
    """``scores (1, K, h, w)``, if there is a largest one at each place that is a number.

    Raises:
        FloatingPointError: there is not; see :func:`finite_scores`.
    """
    if not bool(torch.isfinite(scores.amax(1)).all()):
        raise FloatingPointError
    return scores


@contextlib.contextmanager
def finite_scores(image: str) -> Iterator[None]:
    """Scores that are no numbers end in a ValueError that names the image."""
    try:
        yield
    except FloatingPointError:
        raise ValueError(
            f"Segmenter: model must give scores that are numbers, got NaN or infinity for {image}; "
            "its weights may have diverged in training, or amp may exceed the range of float16"
        ) from None


def widened(map: Tensor) -> Tensor:
    """Half precision as float32: sums and exponentials of scores need it."""
    return map.float() if map.dtype in (torch.float16, torch.bfloat16) else map
