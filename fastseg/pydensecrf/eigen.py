"""pydensecrf's matrix and vector of float32, over memory that NumPy shares."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastseg.pydensecrf import arguments

__all__ = ["MatrixXf", "VectorXf", "matrixXf", "vectorXf"]


class _Dense:
    """A float32 array that shows itself through ``np.asarray`` only, as pydensecrf's does.

    ``np.asarray`` gives a view that can be written through, ``np.array`` a copy; every function of
    NumPy takes it and returns a plain array. From Python 3.12 on it has the buffer protocol too
    (``memoryview``, ``bytes``), where pydensecrf has it in every version.
    """

    __slots__ = ("_values",)
    _dimensions: int

    def __init__(self, *arguments: object) -> None:
        if arguments:
            kind = type(self).__name__
            raise TypeError(
                f"{kind}: must be built without arguments, got {len(arguments)}; "
                f"eigen.{kind[0].lower()}{kind[1:]}(array) copies an array"
            )
        self._values: NDArray[np.float32] = np.empty((0,) * self._dimensions, np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        values = self._values
        if dtype is None or np.dtype(dtype) == values.dtype:
            return values.copy() if copy else values
        if copy is False:
            raise ValueError(
                f"{type(self).__name__}: dtype must be float32 where no copy is wanted, "
                f"got {np.dtype(dtype)}"
            )
        return values.astype(dtype)

    def __buffer__(self, flags: int, /) -> memoryview:
        return self._values.data


class MatrixXf(_Dense):
    """A float32 matrix; ``MatrixXf()`` has shape ``(0, 0)``."""

    __slots__ = ()
    _dimensions = 2


class VectorXf(_Dense):
    """A float32 vector; ``VectorXf()`` has shape ``(0,)``."""

    __slots__ = ()
    _dimensions = 1


def wrap_matrix(values: NDArray[np.float32]) -> MatrixXf:
    """A matrix over the memory of ``values``, which is 2-D; nothing is copied."""
    matrix = MatrixXf()
    matrix._values = values
    return matrix


def matrixXf(arr: object) -> MatrixXf:
    """A copy of the float32 array ``arr``, of two dimensions."""
    return wrap_matrix(arguments.array("matrixXf", "arr", arr, np.float32, 2).copy())


def vectorXf(arr: object) -> VectorXf:
    """A copy of the float32 array ``arr``, of one dimension."""
    vector = VectorXf()
    vector._values = arguments.array("vectorXf", "arr", arr, np.float32, 1).copy()
    return vector
