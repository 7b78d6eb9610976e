"""Writes .caffemodel files: a protocol buffer of layers, in the older and the newer form."""

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    name: str
    type: str
    blobs: tuple = ()
    dilation: int = 0


def varint(value):
    result = bytearray()
    while value > 0x7F:
        result.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*result, value])


def with_length(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def integer(number, value):
    return varint(number << 3) + varint(value)


def blob(array, old, packed=True):
    values = np.ascontiguousarray(array, "<f4")
    if packed:
        data = with_length(5, values.tobytes())
    else:
        data = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in values.flatten())
    if not old:
        return with_length(7, with_length(1, b"".join(map(varint, values.shape)))) + data
    shape = (1,) * (4 - values.ndim) + values.shape
    return b"".join(integer(i + 1, side) for i, side in enumerate(shape)) + data


def caffemodel(layers, *, old=False, packed=True):
    """The bytes of a file with these layers, ``old`` for its first form."""
    content = with_length(1, b"a network")
    for layer in layers:
        blobs = [blob(array, old, packed) for array in layer.blobs]
        dilation = integer(18, layer.dilation) if layer.dilation else b""
        if old:
            numbers = {"CONVOLUTION": 4, "INNER_PRODUCT": 14}
            message = with_length(4, layer.name.encode())
            message += integer(5, numbers.get(layer.type.upper(), 1))
            message += b"".join(with_length(6, piece) for piece in blobs)
            content += with_length(2, message)
        else:
            message = with_length(1, layer.name.encode()) + with_length(2, layer.type.encode())
            message += b"".join(with_length(7, piece) for piece in blobs)
            message += with_length(106, dilation) if dilation else b""
            content += with_length(100, message)
    return content
