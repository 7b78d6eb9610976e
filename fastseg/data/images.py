"""Reading photographs: every pixel layout becomes (H, W, 3) in 0-255 intensity."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from fastseg.data.arrays import read_array
from fastseg.data.errors import DataError, DataWarning

SUFFIXES = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".npy", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tga", ".tif", ".tiff", ".webp"),
)
# What brings a stored photo of an EXIF orientation upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientation whose turn undoes that of another; the others undo themselves.
TURNED_BACK = {6: 8, 8: 6}
# A 16-bit picture this dark holds fewer bits than its file claims: 12-bit data end at 4095.
DARK_16_BIT = 4096


def read_image(path: Path, *, follow_exif: bool = True) -> NDArray[Any]:
    """Read a photograph as ``(H, W, 3)``, uint8, or float32 in 0-255 where the file holds more.

    - The EXIF orientation is applied, so that the photo stands upright, unless ``follow_exif``
      is False.
    - Grey becomes three equal channels. CMYK, YCbCr and indexed colours become RGB.
    - Transparent pixels are laid over white.
    - 16-bit grey is divided by 257, which maps 65535 to 255, and stays float32. Floats are taken
      as they are. Of 16-bit colours the Pillow library reads the upper 8 bits.
    - Of several frames the first is read, with a warning.
    - ``.npy`` files hold arrays of shape ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``;
      the fourth channel is transparency.

    Raises:
        DataError: not an image, truncated, more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` allows
            (an error above twice that number), not finite, or in a colour space without a rule.
        OSError: the file cannot be opened.
    """
    if path.suffix.lower() == ".npy":
        return _from_array(path)
    with open_picture(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            warn(f"{path}: holds {frames} frames; the first one is used")
        return picture_to_rgb(picture, path, follow_exif=follow_exif)


def picture_to_rgb(
    picture: Image.Image, name: Path | str = "image", *, follow_exif: bool = True
) -> NDArray[Any]:
    """A picture of Pillow's as :func:`read_image` returns it; ``name`` is for messages.

    Raises:
        DataError: not finite, without pixels, or in a colour space without a rule.
    """
    stored = 1 if follow_exif else _orientation(picture, name)
    picture.load()
    turn = None
    if follow_exif:
        turn = TURNS.get(_orientation(picture, name))
    elif stored != 1 and _orientation(picture, name) == 1:
        # Pillow turns a TIFF as it loads it, and takes the orientation away.
        turn = TURNS.get(TURNED_BACK.get(stored, stored))
    return _to_rgb(picture if turn is None else picture.transpose(turn), name)


@contextlib.contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow; what goes wrong inside the block becomes a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open(path, "rb") as file, Image.open(file) as picture:
                yield picture
    except Image.DecompressionBombError as error:
        limit = 2e-6 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{path}: image must have at most {limit:.0f} million pixels, the limit against "
            "files that unpack to more than memory holds; raise it with --max-megapixels, or "
            "PIL.Image.MAX_IMAGE_PIXELS in Python"
        ) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: must be an image in a format that Pillow reads") from error
    except MemoryError as error:
        raise DataError(f"{path}: the image does not fit in memory") from error
    except Exception as error:  # a decoder meets a broken file with any exception it likes
        raise DataError(f"{path}: the image cannot be decoded: {error}") from error


def _orientation(picture: Image.Image, path: Path | str) -> int:
    """The EXIF orientation, 1 (as stored) where there is none."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # damaged EXIF data end in any exception; the pixels are fine
        warn(f"{path}: its EXIF data cannot be read, the photo is taken as stored: {error}")
        return 1


def warn(message: str) -> None:
    """Warn about a file; the message names it or its owner adds the name."""
    warnings.warn(message, DataWarning, stacklevel=3)


def exif_turns_image(path: Path) -> bool:
    """True if the EXIF orientation swaps the height and the width of the photo at ``path``."""
    if path.suffix.lower() == ".npy":
        return False
    with open_picture(path) as picture:
        return _orientation(picture, path) in (5, 6, 7, 8)


def _to_rgb(picture: Image.Image, path: Path | str) -> NDArray[Any]:
    """One picture of any mode, decoded and upright."""
    if picture.width == 0 or picture.height == 0:
        raise DataError(f"image must have pixels, got {picture.width}x{picture.height}")
    if picture.mode.startswith("I;16"):
        return _grey(_from_16_bit(np.asarray(picture).astype(np.float32), path))
    if picture.mode == "I":
        return _grey(_from_32_bit(picture, path))
    if picture.mode == "F":
        return _grey(_finite(np.asarray(picture)))
    if picture.mode in ("LAB", "HSV"):
        raise DataError(f"image must be grey, RGB, CMYK or indexed, got {picture.mode}")
    if picture.has_transparency_data:
        return np.asarray(_over_white(picture.convert("RGBA")))
    return np.asarray(picture.convert("RGB"))


def _over_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _from_16_bit(values: NDArray[np.float32], path: Path | str) -> NDArray[np.float32]:
    if 0 < values.max() < DARK_16_BIT:
        warn(
            f"{path}: the largest of its 16-bit values is {values.max():.0f} of 65535, almost "
            "black; if it holds fewer bits, stretch it first"
        )
    scaled: NDArray[np.float32] = values / np.float32(257)
    return scaled


def _from_32_bit(picture: Image.Image, path: Path | str) -> NDArray[np.float32]:
    values = np.asarray(picture)
    if picture.format == "PNG" or (values.min() >= 0 and 255 < values.max() < 65536):
        return _from_16_bit(values.astype(np.float32), path)
    if values.min() < 0 or values.max() > 255:
        raise DataError(
            f"32-bit integers must lie in 0 to 65535, got {values.min()} to {values.max()}"
        )
    return values.astype(np.float32)


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows is infinite and refused
        floats = values.astype(np.float32)
    if not np.isfinite(floats).all():
        count = floats.size - int(np.isfinite(floats).sum())
        raise DataError(f"image must be finite, got {count} values that are NaN or infinite")
    return floats


def _grey(values: NDArray[Any]) -> NDArray[Any]:
    channels: NDArray[Any] = np.repeat(values[..., None], 3, axis=-1)
    return channels


def _from_array(path: Path) -> NDArray[Any]:
    try:
        return array_to_rgb(read_array(path), path)
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def array_to_rgb(values: NDArray[Any], path: Path | str = "image") -> NDArray[Any]:
    """An array ``(H, W)`` or ``(H, W, 1, 3 or 4)`` as :func:`read_image` returns it.

    Raises:
        DataError: another shape or dtype, or values that are not finite.
    """
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3, 4) or values.size == 0:
        raise DataError(f"image must have shape (H, W), (H, W, 3) or (H, W, 4), got {values.shape}")
    if values.dtype == np.uint16:
        values = _from_16_bit(values.astype(np.float32), path)
    elif values.dtype.kind in "iu" and values.dtype != np.uint8:
        if values.min() < 0 or values.max() > 255:
            raise DataError(
                f"image must lie in 0 to 255 for {values.dtype} (uint16 in 0 to 65535), "
                f"got {values.min()} to {values.max()}"
            )
        values = values.astype(np.float32)
    elif values.dtype.kind == "f":
        values = _finite(values)
        if values.min() < -1 or values.max() > 256:
            warn(
                f"{path}: its values are {values.min():g} to {values.max():g} where 0 to 255, or 0 "
                "to 1, is expected; if they are normalised, give the image as it was before"
            )
    elif values.dtype != np.uint8:
        raise DataError(f"image must be uint8, uint16 or floating-point, got {values.dtype}")
    if values.shape[-1] == 4:
        return _array_over_white(values)
    return _grey(values[..., 0]) if values.shape[-1] == 1 else values


def _array_over_white(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.uint8:
        return np.asarray(_over_white(Image.fromarray(values)))
    white = 1.0 if values.max() <= 1 else 255.0
    share = values[..., 3:] / np.float32(white)
    mixed: NDArray[np.float32] = values[..., :3] * share + np.float32(white) * (1 - share)
    return mixed.astype(np.float32, copy=False)
