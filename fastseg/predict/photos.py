"""Images in every form that people have them in, as arrays ``(H, W, 3)`` of 0-255."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg._arguments import dtype_name
from fastseg.data.images import array_to_rgb, picture_to_rgb, read_image

Photo: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor"
"""One image."""

Photos: TypeAlias = "Photo | Iterable[Photo]"
"""One image, a list of them, or an array or tensor with a batch axis."""

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def is_batch(images: Photos) -> bool:
    """Whether several images are given, if only by the form: a list, or an array of four axes."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return False
    return images.ndim == 4 if isinstance(images, np.ndarray | Tensor) else True


def read_photo(image: Photo) -> NDArray[Any]:
    """``(H, W, 3)``, uint8, or float32 in 0-255.

    - Paths are read as :func:`fastseg.data.read_image` does: turned upright by EXIF, grey and
      16-bit scaled, transparent pixels over white. Pictures of Pillow likewise.
    - Arrays are ``(H, W)`` or ``(H, W, C)``, tensors ``(H, W)`` or ``(C, H, W)``, C of 1, 3 or 4.
    - Floats that all lie in [0, 1] are taken for that range, and scaled to 0-255.

    Raises:
        DataError: a file, shape or dtype that is not an image, or values that are not finite.
        TypeError: none of these forms.
        OSError: the file cannot be opened.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return picture_to_rgb(image)
    if isinstance(image, Tensor):
        image = array_of(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "Segmenter: image must be a path, a picture of Pillow, an array, a tensor or a list "
            f"of these, got {type(image).__name__}"
        )
    rgb = array_to_rgb(image)
    if image.dtype.kind == "f" and rgb.min() >= 0 and rgb.max() <= 1:
        rgb = rgb * np.float32(255)
    return rgb


def above_one(image: NDArray[Any]) -> bool:
    """Whether a value exceeds 1, for :meth:`InputConvention.normalise`.

    Of a whole image as it was read, for a dark part of it says nothing. Images of 0-1 are bytes:
    floats and wider integers were scaled to 0-255 when they were read.
    """
    return image.dtype != np.uint8 or bool(image.max() > 1)


def array_of(image: Tensor) -> NDArray[Any]:
    """``(H, W)`` or ``(C, H, W)`` as an array with the channels last."""
    if image.layout != torch.strided or image.is_complex() or image.dim() not in (2, 3):
        raise TypeError(
            "Segmenter: image must be a dense tensor (H, W) or (C, H, W) of real numbers, "
            f"got {dtype_name(image)} {tuple(image.shape)}"
        )
    if image.is_meta:
        raise ValueError("Segmenter: image must have values, got a tensor on the meta device")
    if image.dim() == 3 and image.shape[0] not in (1, 3, 4):
        raise ValueError(
            "Segmenter: image must be a tensor (C, H, W) with 1, 3 or 4 channels, "
            f"got {tuple(image.shape)}"
        )
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()
    array = image.detach().cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(array, 0, -1) if array.ndim == 3 else array)


def resize(image: NDArray[Any], size: tuple[int, int], resample: str) -> NDArray[Any]:
    """``image (H, W, C)`` at another size, antialiased as Pillow does it; the dtype stays."""
    height, width = size
    if image.shape[:2] == size:
        return image
    method = RESAMPLING[resample]
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize((width, height), method))
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), method))
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, -1)
