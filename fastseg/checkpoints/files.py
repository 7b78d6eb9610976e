"""Files of weights: which kind one is, by its first bytes, and the tensors in it."""

import errno
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastseg._bytes import show_bytes
from fastseg.checkpoints.caffemodel import read_caffemodel
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Tensors

HDF5 = b"\x89HDF\r\n\x1a\n"
CAFFE_STARTS = (b"\x0a", b"\x12", b"\xa2\x06")
"""Keys of the first field of a .caffemodel file: the network's name, or a layer."""
NO_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS, whose file `git lfs pull` fetches",
    b"<": "a web page (HTML or XML), such as servers send in place of a file; download it again",
}
"""How files start that are often met under the name of one with weights."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In a folder, beside ``config.json``."""
NESTS = ("state_dict", "model_state_dict", "model_state", "model")
"""Keys under which a training checkpoint keeps its tensors."""
AMBIGUOUS = {"features.0.weight", "upscore8.weight"}
"""Names of files whose origin their sum may settle."""
PREFIXES = ("module.", "_orig_mod.", "model.")


def read(path: Path) -> Contents:
    """The tensors of a file or folder, without the wrapping of training programs.

    Raises:
        CheckpointError: the file is damaged, would run code, or is no file of weights.
        FileNotFoundError: there is no such file.
    """
    metadata: dict[str, Any] = {}
    if path.is_dir():
        path, metadata = _in_folder(path)
    with open(path, "rb") as file:
        start = file.read(64)
    kind, reader = _reader(path, start)
    try:
        tensors, found = reader(path)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(
            f"load_weights: {path} must hold tensors that fit into memory, got a {kind} file of "
            f"{show_bytes(path.stat().st_size)} that asks for more: {error}"
        ) from error
    except Exception as error:
        # What a damaged file makes its reader raise is anybody's guess; a disk that fails has
        # its own number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise CheckpointError(
            f"load_weights: {path} must be a whole {kind} file, got one that is damaged or cut "
            f"off: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    tensors = without_prefixes(tensors)
    if not tensors:
        raise CheckpointError(f"load_weights: {path} must hold tensors, got none")
    sums = _sums(path) if AMBIGUOUS & tensors.keys() else ("", "")
    return Contents(tensors, {**found, **metadata}, kind, *sums)


def _in_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    config = folder / "config.json"
    metadata: dict[str, Any] = {}
    if config.is_file():
        try:
            metadata["config"] = json.loads(config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"load_weights: {config} must be JSON, got {error}") from error
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name, metadata
    raise CheckpointError(
        f"load_weights: a folder must hold {' or '.join(WEIGHTS)}, got {folder} without"
    )


def _reader(path: Path, start: bytes) -> tuple[str, Callable[[Path], tuple[Tensors, Any]]]:
    if not start:
        raise CheckpointError(f"load_weights: {path} must hold tensors, got an empty file")
    for no_weights, finding in NO_WEIGHTS.items():
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(no_weights):
            raise CheckpointError(f"load_weights: {path} must hold tensors, got {finding}")
    if start.startswith(HDF5):
        return "HDF5", _read_hdf5
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors", _read_safetensors
    if start.startswith(b"PK\x03\x04"):
        # torch writes its zip files with a pickle in them, NumPy with arrays only.
        try:
            with zipfile.ZipFile(path) as archive:
                if all(name.endswith(".npy") for name in archive.namelist()):
                    return "npz", _read_npz
        except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError):
            pass  # the reader says what is wrong
        return "PyTorch", _read_pth
    if start[:1] == b"\x80":
        return "PyTorch", _read_pth
    if path.suffix == ".caffemodel" or start.startswith(CAFFE_STARTS):
        return "caffemodel", read_caffemodel
    raise CheckpointError(
        f"load_weights: {path} must be a .pth, .safetensors, .npz, .h5 or .caffemodel file, "
        f"got one that starts with {start[:8]!r}"
    )


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"load_weights: {path} must be a whole safetensors file, got one that is damaged or "
            f"cut off: {error}"
        ) from error
    return tensors, metadata


def _numpy_scalars() -> list[Any]:
    """What a training checkpoint needs beside tensors: a NumPy number, such as the best score."""
    dtypes = [type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "u1", "b1")]
    core: Any = getattr(np, "_core", None) or np.core  # NumPy before 2.0
    scalar = core.multiarray.scalar
    # NumPy before 2.0 wrote the function under its older name.
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]


def _read_pth(path: Path) -> tuple[Tensors, dict[str, Any]]:
    try:
        # Opened here: torch.load goes by the name where it is given one.
        with open(path, "rb") as file, torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "global" in reason.lower():
            found = "a pickle that would run code"
        elif "Unsupported operand" in reason:
            found = "a pickle that torch.save did not write and that may run code"
        else:
            raise
        raise CheckpointError(
            f"load_weights: {path} must hold nothing but tensors, numbers and words, got {found}; "
            "load it where you trust it and save its state_dict() alone"
        ) from error
    return _unwrapped(path, content)


def _unwrapped(path: Path, content: Any) -> tuple[Tensors, dict[str, Any]]:
    metadata: dict[str, Any] = {}
    seen: set[int] = set()
    while isinstance(content, Mapping):
        if id(content) in seen:
            raise CheckpointError(
                f"load_weights: {path} must hold a dictionary of tensors, got one that holds itself"
            )
        seen.add(id(content))
        nest = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        metadata |= {
            key: value
            for key, value in content.items()
            if isinstance(value, bool | int | float | str)
        }
        content = content[nest]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"load_weights: {path} must hold a dictionary of tensors, got {type(content).__name__}"
        )
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    for name in tensors:
        if not isinstance(name, str):
            raise CheckpointError(
                f"load_weights: {path} must hold tensors under names, got one under {name!r}"
            )
    metadata |= {key: value for key, value in content.items() if key not in tensors}
    return tensors, metadata


def _read_npz(path: Path) -> tuple[Tensors, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive[name]) for name in archive.files}, {}


def _read_hdf5(path: Path) -> tuple[Tensors, dict[str, Any]]:
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"load_weights: {path} is an HDF5 file, which needs h5py: pip install h5py"
        ) from error
    tensors: Tensors = {}

    def take(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset) and entry.dtype.kind in "fiu":
            tensors[name] = _tensor(entry[()])

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return tensors, {}


def _tensor(array: Any) -> Tensor:
    array = np.asarray(array)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def without_prefixes(tensors: Tensors) -> Tensors:
    """Names without what ``DistributedDataParallel`` and ``torch.compile`` put before them."""
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _sums(path: Path) -> tuple[str, str]:
    """MD5 and SHA-256."""
    sums = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for each in sums:
                each.update(block)
    return sums[0].hexdigest(), sums[1].hexdigest()
