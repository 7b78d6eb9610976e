"""TIFF files larger than memory: parts of them read, and label maps written block by block."""

import json
import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.data.errors import DataError
from fastseg.data.files import whole_file
from fastseg.data.images import array_to_rgb
from fastseg.data.palette import PALETTE_SIZE, voc_palette

CACHE = 64 * 10**6  # bytes of decoded tiles that are kept
LARGEST_SEGMENT = 256 * 10**6  # bytes of one tile or strip
OUTPUT_TILE = 512


def tifffile() -> Any:
    try:
        import tifffile as module
    except ImportError as error:
        raise ImportError(
            'large TIFF files need tifffile: pip install "fastseg-kernels[tiff]"'
        ) from error
    return module


class TiffImage:
    """The first picture of a TIFF file, read in parts: mapped into memory, or by tiles or strips.

    Raises:
        DataError: no TIFF, a damaged one, or one in a form without a rule.
        ImportError: tifffile is not installed, or imagecodecs where the compression needs it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        module = tifffile()
        try:
            self.file = module.TiffFile(path)
            self.page = self.file.pages[0]
        except (module.TiffFileError, IndexError, ValueError) as error:
            raise DataError(f"{path}: must be a TIFF file, got {error}") from error
        self._check()
        self.height, self.width = int(self.page.imagelength), int(self.page.imagewidth)
        self.mapped: NDArray[Any] | None = None
        self.cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self.cached = 0
        if self.page.is_memmappable and not self.planar:
            self.mapped = module.memmap(path, page=0, mode="r").reshape(
                self.height, self.width, self.samples
            )
        elif self._segment_bytes() > LARGEST_SEGMENT:
            raise DataError(
                f"{path}: its strips or tiles must hold at most {LARGEST_SEGMENT // 10**6} MB, got "
                f"{self._segment_bytes() / 1e6:.0f}; save it tiled or uncompressed"
            )

    def _check(self) -> None:
        page = self.page
        self.samples = int(page.samplesperpixel)
        self.planar = self.samples > 1 and int(page.planarconfig) == 2
        kind = getattr(page.photometric, "name", str(page.photometric))
        if page.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise DataError(f"{self.path}: must hold 8 or 16 bits a sample, got {page.dtype}")
        if self.samples not in (1, 3, 4) or kind not in ("MINISBLACK", "RGB", "YCBCR"):
            raise DataError(
                f"{self.path}: must be grey, RGB or RGBA, got {self.samples} samples of {kind}"
            )
        if int(page.imagedepth) != 1:
            raise DataError(f"{self.path}: must be flat, got a depth of {page.imagedepth}")

    @property
    def _segment(self) -> tuple[int, int]:
        """Rows and columns of a tile or strip."""
        if self.page.is_tiled:
            return int(self.page.tilelength), int(self.page.tilewidth)
        return min(int(self.page.rowsperstrip), self.height), self.width

    def _segment_bytes(self) -> int:
        rows, columns = self._segment
        samples = 1 if self.planar else self.samples
        return rows * columns * samples * int(self.page.dtype.itemsize)

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """``(h, w, 3)``: uint8, or float32 in 0-255 where the file holds 16 bits."""
        if self.mapped is not None:
            values = np.array(self.mapped[rows, columns])
            release(self.mapped)
        else:
            values = self._gather(rows, columns)
        if values.dtype == np.uint16:
            values = values / np.float32(257)
            if self.samples == 4:
                values = values / np.float32(255)  # the rule for transparency of floats in 0-1
                opaque: NDArray[Any] = array_to_rgb(values, self.path) * np.float32(255)
                return opaque
        return array_to_rgb(values, self.path)

    def _gather(self, rows: slice, columns: slice) -> NDArray[Any]:
        high, wide = self._segment
        across = math.ceil(self.width / wide)
        planes = range(self.samples if self.planar else 1)
        per_plane = across * math.ceil(self.height / high)
        shape = (rows.stop - rows.start, columns.stop - columns.start, self.samples)
        values = np.zeros(shape, self.page.dtype)
        for plane in planes:
            for row in range(rows.start // high, math.ceil(rows.stop / high)):
                for column in range(columns.start // wide, math.ceil(columns.stop / wide)):
                    tile = self._decoded(plane * per_plane + row * across + column)
                    top, left = row * high, column * wide
                    y = slice(max(rows.start, top), min(rows.stop, top + tile.shape[0]))
                    x = slice(max(columns.start, left), min(columns.stop, left + tile.shape[1]))
                    part = tile[y.start - top : y.stop - top, x.start - left : x.stop - left]
                    channels = slice(plane, plane + 1) if self.planar else slice(None)
                    values[
                        y.start - rows.start : y.stop - rows.start,
                        x.start - columns.start : x.stop - columns.start,
                        channels,
                    ] = part
        return values

    def _decoded(self, index: int) -> NDArray[Any]:
        """One tile or strip, ``(rows, columns, samples)``."""
        if index in self.cache:
            self.cache.move_to_end(index)
            return self.cache[index]
        handle = self.file.filehandle
        handle.seek(self.page.dataoffsets[index])
        content = handle.read(self.page.databytecounts[index])
        try:
            decoded, *_ = self.page.decode(content, index, jpegtables=self.page.jpegtables)
        except Exception as error:  # a decoder meets a broken file with any exception it likes
            raise DataError(f"{self.path}: tile {index} cannot be decoded: {error}") from error
        if decoded is None:  # an empty tile of a sparse file
            rows, columns = self._segment
            decoded = np.zeros((1, rows, columns, 1 if self.planar else self.samples),
                               self.page.dtype)  # fmt: skip
        tile: NDArray[Any] = decoded.reshape(decoded.shape[-3:])
        self.cache[index] = tile
        self.cached += tile.nbytes
        while self.cached > CACHE and len(self.cache) > 1:
            self.cached -= self.cache.popitem(last=False)[1].nbytes
        return tile

    def close(self) -> None:
        self.mapped = None
        self.file.close()

    def __enter__(self) -> "TiffImage":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LabelFile:
    """A label map on its way to a TIFF file: a file of plain numbers beside it, and a note of how
    many blocks of which work are done, so that an interrupted run goes on where it was.

    Args:
        path: of the TIFF file.
        shape: (H, W).
        dtype: of the labels, uint8 or uint16.
        work: says what is computed; what another work has left is not continued.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any, work: str) -> None:
        self.path, self.shape, self.dtype, self.work = path, shape, np.dtype(dtype), work
        self.part = path.with_name(f".{path.name}.part")
        self.note = path.with_name(f".{path.name}.part.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = self._found()
        mode: Any = "r+" if self.done else "w+"
        if not self.done:
            self._write_note(0)
        self.labels: np.memmap[Any, Any] | None = np.memmap(self.part, self.dtype, mode, 0, shape)

    def _found(self) -> int:
        try:
            note = json.loads(self.note.read_text())
            size = self.part.stat().st_size
            fits = size == math.prod(self.shape) * self.dtype.itemsize
            return int(note["done"]) if fits and note["work"] == self.work else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _write_note(self, done: int) -> None:
        with whole_file(self.note) as file:
            file.write(json.dumps({"work": self.work, "done": done}).encode())

    def put(self, rows: slice, columns: slice, labels: NDArray[Any]) -> None:
        assert self.labels is not None
        self.labels[rows, columns] = labels
        release(self.labels)
        self.done += 1
        self._write_note(self.done)

    def finish(self) -> None:
        """Write the tiled, compressed TIFF, whole or not at all, and remove what led to it."""
        assert self.labels is not None
        size = math.prod(self.shape) * self.dtype.itemsize
        colours: dict[str, Any] = {"photometric": "minisblack"}
        if self.dtype == np.uint8:
            table = voc_palette().T.astype(np.uint16) * 257
            colours = {"photometric": "palette", "colormap": table}
        with whole_file(self.path) as file:
            tifffile().imwrite(
                file,
                self._tiles(),
                shape=self.shape,
                dtype=self.dtype,
                tile=(OUTPUT_TILE, OUTPUT_TILE),
                compression="zlib",
                bigtiff=size > 2**31,
                metadata=None,
                **colours,
            )
        self.labels = None
        self.note.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _tiles(self) -> Iterator[NDArray[Any]]:
        assert self.labels is not None
        for top in range(0, self.shape[0], OUTPUT_TILE):
            for left in range(0, self.shape[1], OUTPUT_TILE):
                part = self.labels[top : top + OUTPUT_TILE, left : left + OUTPUT_TILE]
                rows, columns = part.shape
                yield np.pad(part, ((0, OUTPUT_TILE - rows), (0, OUTPUT_TILE - columns)))
            release(self.labels)


def release(mapped: NDArray[Any]) -> None:
    """Give back the pages of a mapped file, which the system would count as the process's memory.

    What was written to them is in the file.
    """
    pages = getattr(mapped, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def label_file_dtype(labels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if labels <= PALETTE_SIZE else np.uint16


def pixels_of(path: Path) -> int:
    """Pixels of the first picture; 0 where that cannot be said."""
    try:
        with tifffile().TiffFile(path) as file:
            page = file.pages[0]
            return int(page.imagelength) * int(page.imagewidth)
    except Exception:  # whoever reads the file says what is wrong with it
        return 0


def fingerprint(path: Path) -> list[Any]:
    """What tells a file from its later self."""
    found = os.stat(path)
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]
