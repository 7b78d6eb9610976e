"""Reads arguments as pydensecrf does: the same types of exception, with messages that explain.

``op`` is the function that the user called and ``name`` the argument, as the message shows them.
"""

from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


def integer(op: str, name: str, value: object) -> int:
    """``value`` as an int. As in pydensecrf a float is served and loses its fraction."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}")
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {_kind(value)}") from None
    except (OverflowError, ValueError):
        raise ValueError(f"{op}: {name} must be an integer, got {value!r}") from None


def real(op: str, name: str, value: object) -> float:
    """``value`` as a float, which may be infinite or NaN."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{op}: {name} must be a real number, got {value!r}")
    try:
        return float(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{op}: {name} must be a real number, got {_kind(value)}") from None
    except OverflowError:
        raise ValueError(f"{op}: {name} must be finite in float32, got a larger number") from None


def sigmas(op: str, name: str, value: Any, count: int) -> tuple[float, ...]:
    """``count`` standard deviations from one number or from the first entries of a sequence.

    They are rounded to float32, as pydensecrf does. An infinite one makes its feature constant, and
    is returned as the largest float32.
    """
    if isinstance(value, Number):
        entries = [value] * count
    else:
        wanted = f"{op}: {name} must be a number or {count} of them, got "
        try:
            entries = [value[i] for i in range(count)]
        except IndexError:
            raise IndexError(f"{wanted}{value!r}") from None
        except (KeyError, TypeError):
            raise TypeError(f"{wanted}{_kind(value)}") from None
    numbers = [real(op, name, entry) for entry in entries]
    for number in numbers:
        if not number > FLOAT32_TINY:
            raise ValueError(f"{op}: {name} must be positive in float32, got {number}")
    return tuple(float(np.float32(min(number, FLOAT32_MAX))) for number in numbers)


def array(
    op: str, name: str, value: object, dtype: DTypeLike, dimensions: int, hint: str = ""
) -> NDArray[Any]:
    """``value`` as an array of ``dtype`` over its memory, which may be read-only or strided."""
    values = buffer(op, name, value)
    if values.dtype != dtype:
        raise ValueError(
            f"{op}: {name} must have dtype {np.dtype(dtype)}, got {values.dtype}{hint}"
        )
    if values.ndim != dimensions:
        raise ValueError(
            f"{op}: {name} must have {dimensions} dimension{'s' * (dimensions != 1)}, "
            f"got shape {values.shape}"
        )
    return values


def buffer(op: str, name: str, value: object) -> NDArray[Any]:
    """Anything with ``__array__`` or the buffer protocol, so not a list, as an array."""
    if value is None:
        raise TypeError(f"{op}: {name} must not be None")
    if hasattr(value, "__array__"):
        return np.asarray(value)
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{op}: {name} must be a NumPy array, got {_kind(value)}") from None


def _kind(value: object) -> str:
    return type(value).__name__
