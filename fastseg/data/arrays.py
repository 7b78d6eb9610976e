"""Arrays in .npy and .npz files, read without ever running code from them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.data.errors import DataError

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
# The name that `fastseg refine --probabilities` gives to its array.
OWN_KEY = "probabilities"


def read_array(path: Path, key: str | None = None) -> NDArray[Any]:
    """Read the one array of a ``.npy`` or ``.npz`` file, or the one named ``key``.

    Without a ``key`` an archive must hold one array, or one with the name ``probabilities``.

    Raises:
        DataError: not such a file, truncated, pickled Python objects, or no single array.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        magic = file.read(len(NPY_MAGIC))
    try:
        if magic == NPY_MAGIC:
            if key is not None:
                raise DataError(f"a key needs a .npz archive, got the .npy array with key {key!r}")
            mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapped
        if magic.startswith(ZIP_MAGIC):
            return _from_archive(path, key)
        raise DataError("must be a NumPy .npy or .npz file, its first bytes are something else")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except MemoryError as error:
        raise DataError(f"{path}: the array does not fit in memory") from error
    except Exception as error:  # a damaged header or archive ends in any exception
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError(f"{path}: must hold numbers, got pickled Python objects") from error
        raise DataError(f"{path}: the array cannot be read: {error}") from error


def _from_archive(path: Path, key: str | None) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        if key is None and len(names) == 1:
            key = names[0]
        if key is None and OWN_KEY in names:
            key = OWN_KEY
        listing = ", ".join(names) or "none"
        if key is None:
            raise DataError(f"must hold one array, got {listing}; choose one with --key")
        if key not in names:
            raise DataError(f"key must name one of its arrays ({listing}), got {key!r}")
        array: NDArray[Any] = archive[key]
        return array
