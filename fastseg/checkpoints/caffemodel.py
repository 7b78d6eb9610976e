"""A reader of .caffemodel files, which are protocol buffers: of their layers only what has weights.

The wire format is a row of fields, each a key (number and kind) and a value; field numbers are
those of Caffe's caffe.proto, whose older files hold ``layers`` (V1) and newer ones ``layer``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastseg.checkpoints.plan import Tensors

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NET_LAYERS_V1, NET_LAYER = 2, 100
BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLE_DATA = 5, 7, 8
CONVOLUTION_PAD, CONVOLUTION_DILATION = 3, 18
INNER_PRODUCT = ("InnerProduct", "14")


class Numbers(NamedTuple):
    """Of the fields of a layer message."""

    name: int
    type: int
    blobs: int
    convolution: int


NUMBERS = {
    NET_LAYERS_V1: Numbers(name=4, type=5, blobs=6, convolution=10),
    NET_LAYER: Numbers(name=1, type=2, blobs=7, convolution=106),
}

Value = int | memoryview


@dataclass
class Layer:
    """Of a network."""

    name: str = ""
    type: str = ""
    """The word of newer files, the number of older ones."""
    blobs: list[Tensor] = field(default_factory=list)
    padding: int | None = None
    dilation: int | None = None


def read_caffemodel(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors named ``layer.weight`` and so on, and what the file says of all of its layers.

    BatchNorm layers give ``running_mean`` and ``running_var``, divided by the factor that Caffe
    keeps beside them; layers of other kinds with three blobs or more give ``layer.0`` and so on.

    Raises:
        ValueError: the file is cut off or is no .caffemodel file.
    """
    tensors: Tensors = {}
    paddings: dict[str, int] = {}
    dilations: dict[str, int] = {}
    layers: list[str] = []
    for layer in layers_of(memoryview(path.read_bytes())):
        layers.append(layer.name)
        if layer.padding is not None:
            paddings[layer.name] = layer.padding
        if layer.dilation is not None:
            dilations[layer.name] = layer.dilation
        for word, tensor in named(layer):
            tensors[f"{layer.name}.{word}"] = tensor
    return tensors, {"layers": layers, "paddings": paddings, "dilations": dilations}


def layers_of(message: memoryview) -> Iterator[Layer]:
    for number, value in fields(message):
        if number in NUMBERS and isinstance(value, memoryview):
            yield layer_of(value, NUMBERS[number])


def layer_of(message: memoryview, numbers: Numbers) -> Layer:
    layer = Layer()
    for number, value in fields(message):
        if number == numbers.type:
            layer.type = text(value) if isinstance(value, memoryview) else str(value)
        elif not isinstance(value, memoryview):
            continue
        elif number == numbers.name:
            layer.name = text(value)
        elif number == numbers.blobs:
            layer.blobs.append(blob_of(value))
        elif number == numbers.convolution:
            layer.padding = next(iter(integers(value, CONVOLUTION_PAD)), None)
            layer.dilation = next(iter(integers(value, CONVOLUTION_DILATION)), None)
    return layer


def blob_of(message: memoryview) -> Tensor:
    """A tensor; shapes of older files are four numbers, leading ones included."""
    shape: list[int] | None = None
    old_shape = [1, 1, 1, 1]
    pieces: list[npt.NDArray[np.float32]] = []
    for number, value in fields(message):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            old_shape[number - 1] = value
        elif number == BLOB_SHAPE and isinstance(value, memoryview):
            shape = integers(value, 1)
        elif number in (BLOB_DATA, BLOB_DOUBLE_DATA):
            kind = "<f4" if number == BLOB_DATA else "<f8"
            raw = value if isinstance(value, memoryview) else unpacked(value, kind)
            pieces.append(np.frombuffer(raw, kind).astype(np.float32))
    data = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    if shape is None:
        shape = old_shape
    if math.prod(shape) != data.size:
        raise ValueError(
            f"a blob of shape {tuple(shape)} must have {math.prod(shape)} values, got {data.size}"
        )
    return torch.from_numpy(data.reshape(shape))


def unpacked(value: int, kind: str) -> bytes:
    """The bytes of one number that stands alone."""
    return value.to_bytes(np.dtype(kind).itemsize, "little")


def integers(message: memoryview, number: int) -> list[int]:
    """The values of a repeated integer, one after the other or packed."""
    found: list[int] = []
    for key, value in fields(message):
        if key != number:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            entry, position = varint(value, position)
            found.append(entry)
    return found


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field: an integer, or the bytes of what has a length."""
    position = 0
    while position < len(message):
        key, position = varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = varint(message, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = varint(message, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(
                f"a .caffemodel file must be a protocol buffer, got a field of kind {kind}"
            )
        if position + length > len(message):
            raise cut_off()
        raw = message[position : position + length]
        position += length
        yield number, raw if kind == BYTES else int.from_bytes(raw, "little")


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the last without its eighth bit, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise cut_off()
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a .caffemodel file must hold numbers of 64 bits, got more")


def cut_off() -> ValueError:
    return ValueError("a .caffemodel file must be whole, got one cut off")


def text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", errors="replace")


def named(layer: Layer) -> Iterator[tuple[str, Tensor]]:
    """The blobs of a layer, by the words that PyTorch has for them."""
    blobs = layer.blobs
    if layer.type == "BatchNorm":
        if len(blobs) != 3 or blobs[2].numel() != 1:
            raise ValueError(
                f"the batch norm {layer.name} must have a mean, a variance and a "
                f"factor, got {len(blobs)} blobs"
            )
        factor = blobs[2].item()
        scale = 0.0 if factor == 0 else 1 / factor
        yield "running_mean", blobs[0].flatten() * scale
        yield "running_var", blobs[1].flatten() * scale
    elif len(blobs) > 2:
        yield from ((str(index), without_ones(blob)) for index, blob in enumerate(blobs))
    else:
        for word, blob in zip(("weight", "bias"), blobs, strict=False):
            if word == "bias":
                blob = blob.flatten()
            yield word, without_ones(blob) if layer.type in INNER_PRODUCT else blob


def without_ones(blob: Tensor) -> Tensor:
    """A matrix or vector that an older file holds as four numbers of shape."""
    if blob.dim() == 4 and blob.shape[:2] == (1, 1) and blob.shape[2:] != (1, 1):
        return blob.reshape(blob.shape[2:])
    return blob
