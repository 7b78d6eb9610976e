"""How a network wants its image: order of the channels, range, mean, and what to resize or pad."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg.nn.checked import Integer, Number, OneOf, Rule, Several, flag

CHANNELS = ("rgb", "bgr", "grey")
PADDINGS = ("zeros", "mirror")
RESAMPLINGS = ("bilinear", "bicubic")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


POSITIVE = Number("be a positive number", math.ulp(0))
FINITE = Several(Number("be a finite number", -math.inf))
RULES: dict[str, Rule] = {
    "channels": OneOf(*CHANNELS),
    "max_value": POSITIVE,
    "mean": FINITE,
    "std": FINITE,
    "divide_if_above_one": flag,
    "scale": POSITIVE,
    "short_side": Integer(),
    "fit": Integer(),
    "resample": OneOf(*RESAMPLINGS),
    "pad_to": Integer(),
    "multiple": Integer(),
    "offset": Integer(0),
    "padding": OneOf(*PADDINGS),
}


@dataclass(frozen=True)
class InputConvention:
    """The pixels that a network was trained on, as ``model.input_convention``.

    A value v of 0-255 becomes (v max_value / 255 - mean) / std. Sizes follow in the order of the
    fields: ``scale``, ``short_side`` or ``fit`` resize the image before it is normalised;
    ``pad_to`` and ``multiple`` say to which size it is then padded, at the bottom and the right
    for ``"zeros"``, on all sides for ``"mirror"``.

    Attributes:
        channels: ``"rgb"``, ``"bgr"`` or ``"grey"``.
        max_value: what white is before the mean is subtracted, 255 or 1.
        mean, std: of each channel in the order of ``channels``, on the scale of ``max_value``.
        divide_if_above_one: divide by 255 only where a value of the image exceeds 1, as one
            published U-Net does: images that are 0-1 already stay as they are.
        scale: factor of both sides.
        short_side: length of the shorter side in pixels; the longer keeps the proportions.
        fit: side of the square that the image is enlarged or shrunk to fit into.
        resample: ``"bilinear"`` or ``"bicubic"``.
        pad_to: each side is at least this long after padding.
        multiple: each side, less ``offset``, is a multiple of this after padding.
        offset: see ``multiple``; DeepLab's sides are 8 k + 1, with poolings of 2x2 8 k + 2.
        padding: ``"zeros"`` after normalisation, or ``"mirror"``.

    Raises:
        ValueError: a word that is not listed, means or deviations of another number than channels
            or not finite, a deviation of 0, a size that is not positive.
    """

    channels: str = "rgb"
    max_value: float = 1.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    divide_if_above_one: bool = False
    scale: float = 1.0
    short_side: int | None = None
    fit: int | None = None
    resample: str = "bilinear"
    pad_to: int | None = None
    multiple: int = 1
    offset: int = 0
    padding: str = "zeros"

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, rule(f"InputConvention: {name}", value))
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.num_channels:
                raise ValueError(
                    f"InputConvention: {name} must hold {self.num_channels} finite numbers for "
                    f"channels={self.channels!r}, got {values}"
                )
        if 0 in self.std:
            raise ValueError(f"InputConvention: std must not be 0, got {self.std}")

    @property
    def num_channels(self) -> int:
        """Of the tensor that the network takes."""
        return 1 if self.channels == "grey" else 3

    def pixels(self) -> str:
        """Channels, range, mean and deviation in words."""
        mean, std = (", ".join(f"{value:g}" for value in of) for of in (self.mean, self.std))
        return f"{self.channels.upper()} 0-{self.max_value:g} less ({mean}) over ({std})"

    def same_pixels(self, other: "InputConvention") -> bool:
        """Whether both mean the same pixels, whatever the sizes; means may differ by 2 in 255."""
        return (self.channels, self.max_value, self.std) == (
            other.channels,
            other.max_value,
            other.std,
        ) and all(
            abs(ours - theirs) <= self.max_value / 127
            for ours, theirs in zip(self.mean, other.mean, strict=True)
        )

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image of ``height`` x ``width`` after resizing and before padding."""
        if self.fit is not None:
            factor = min(self.fit / height, self.fit / width)
            height, width = int(height * factor), int(width * factor)
        elif self.short_side is not None:
            short, long = sorted((height, width))
            other = int(self.short_side * long / short)
            height, width = (
                (self.short_side, other) if height == short else (other, self.short_side)
            )
        else:
            height, width = int(height * self.scale), int(width * self.scale)
        return max(height, 1), max(width, 1)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that a resized image of ``height`` x ``width`` is padded to."""
        return self._padded(height), self._padded(width)

    def _padded(self, side: int) -> int:
        side = max(side, self.pad_to or 0, self.fit or 0)
        return side + (self.offset - side) % self.multiple

    def normalise(
        self, image: Any, *, dtype: torch.dtype = torch.float32, above_one: bool | None = None
    ) -> Tensor:
        """The tensor that the network takes, of an image that already has its size.

        Args:
            image: ``(H, W, 3)`` in the order red, green, blue, or ``(H, W)`` or ``(H, W, 1)`` grey;
                array or tensor, any integer or floating dtype, values 0-255. Grey is repeated for
                a network of three channels; colour is weighted (BT.601) for one of grey images.
            dtype: of the result.
            above_one: for ``divide_if_above_one``: whether a value of the image that this is a part
                of exceeds 1; None if it is no part.

        Returns:
            ``(C, H, W)``, contiguous, on the device of ``image``.

        Raises:
            ValueError: another shape, or values that are not finite.
            TypeError: no array or tensor of real numbers.
        """
        pixels = self._pixels(image)
        if self.divide_if_above_one and above_one is None:
            above_one = bool((pixels > 1).any())
        if not self.divide_if_above_one or above_one:
            pixels = pixels * (self.max_value / 255)
        pixels = self._ordered(pixels)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((pixels - mean) / std).to(dtype).contiguous()

    def _pixels(self, image: Any) -> Tensor:
        """``(C, H, W)`` with C of 1 or 3, at least float32."""
        if isinstance(image, np.ndarray) and image.dtype.kind in "uif":
            # torch has no arithmetic on most unsigned integers, nor arrays of negative stride
            wide = np.float64 if image.dtype.itemsize > 2 else np.float32
            image = torch.from_numpy(np.ascontiguousarray(image, dtype=wide))
        if not isinstance(image, Tensor) or image.is_complex() or image.dtype == torch.bool:
            found = getattr(image, "dtype", type(image).__name__)
            raise TypeError(
                f"InputConvention: image must be an array or tensor of real numbers, got {found}"
            )
        pixels = image.float() if image.dtype != torch.float64 else image
        pixels = pixels[..., None] if pixels.dim() == 2 else pixels
        if pixels.dim() != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(
                "InputConvention: image must have shape (H, W), (H, W, 1) or (H, W, 3), "
                f"got {tuple(image.shape)}"
            )
        if not bool(torch.isfinite(pixels).all()):
            raise ValueError("InputConvention: image must be finite, got NaN or infinity")
        return pixels.permute(2, 0, 1)

    def _ordered(self, pixels: Tensor) -> Tensor:
        if self.channels == "grey":
            if len(pixels) == 1:
                return pixels
            return (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
        if len(pixels) == 1:
            return pixels.expand(3, -1, -1)
        return pixels.flip(0) if self.channels == "bgr" else pixels

    def unscaled(self, input: Tensor) -> Tensor:
        """The network's input in units of 0-255, still less the mean and in its own order.

        A CRF compares differences of pixels, for which that is enough; the published CRF-RNNs
        take such an image too.

        Args:
            input: ``(B, C, H, W)`` or ``(C, H, W)`` in this convention, floating.

        Raises:
            ValueError: another number of channels.
        """
        if input.dim() < 3 or input.shape[-3] != self.num_channels:
            raise ValueError(
                f"InputConvention: input must have {self.num_channels} channels for "
                f"channels={self.channels!r}, got shape {tuple(input.shape)}"
            )
        return input * (input.new_tensor(self.std)[:, None, None] * (255 / self.max_value))

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for JSON."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name == "channels"
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "InputConvention":
        """The opposite of :meth:`to_dict`.

        Raises:
            ValueError: a field that there is not.
        """
        unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(
                f"InputConvention: fields must be known, got {', '.join(sorted(unknown))}"
            )
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**arguments)


def bgr(mean: tuple[float, float, float], **sizes: Any) -> InputConvention:
    """0-255 in the order blue, green, red, less a mean: what Caffe's networks take."""
    return InputConvention("bgr", 255.0, mean, (1.0, 1.0, 1.0), **sizes)


IMAGENET = InputConvention()
"""torchvision's: RGB in 0-1, less the mean of ImageNet, over its deviation."""
FCN = bgr((104.00698793, 116.66876762, 122.67891434))
DEEPLAB = bgr((104.008, 116.669, 122.675), pad_to=513, multiple=8, offset=1)
"""At 8 k + 1 pixels the corner samples of the scores lie on those of the image."""
DEEPLAB_EVEN_POOLS = dataclasses.replace(DEEPLAB, pad_to=514, offset=2)
"""With poolings of 2x2 they lie half a pixel further in, at 8 k + 2 pixels."""
VGG = bgr((103.939, 116.779, 123.68))
"""That of VGG-16 as first released, for Caffe."""
UNIT_RGB = InputConvention("rgb", 1.0, (0.0,) * 3, (1.0,) * 3)
UNIT_GREY = InputConvention("grey", 1.0, (0.0,), (1.0,))
