"""Matrices and vectors: what NumPy makes of them, and what is refused."""

import copy
import pickle
import sys

import eigen_cases
import numpy as np
import pytest

from fastseg.pydensecrf import eigen


@pytest.mark.parametrize("name", eigen_cases.CASES)
def test_same_as_real(name, same_as_real):
    same_as_real(eigen_cases, name, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.arange(6, dtype="f").reshape(3, 2).T, id="transposed"),
        pytest.param(np.arange(12, dtype="f").reshape(2, 6)[:, ::2], id="strided"),
        pytest.param(memoryview(np.ones((2, 3), "f")), id="memoryview"),
    ],
)
def test_any_float32_memory_is_served(values):
    np.testing.assert_array_equal(eigen.matrixXf(values), np.asarray(values))


def test_read_only_memory_is_served():
    values = np.ones((2, 3), "f")
    values.flags.writeable = False
    matrix = np.asarray(eigen.matrixXf(values))
    matrix[:] = 2
    assert values.sum() == 6


def test_empty_matrices_keep_their_shape():
    for shape in ((3, 0), (0, 3)):
        assert np.array(eigen.matrixXf(np.zeros(shape, "f"))).shape == shape
    assert np.array(eigen.vectorXf(np.zeros(0, "f"))).shape == (0,)


def test_no_copy_is_refused_where_one_is_needed():
    matrix = eigen.matrixXf(np.ones((2, 3), "f"))
    with pytest.raises(ValueError, match="dtype must be float32 where no copy is wanted"):
        matrix.__array__(np.float64, copy=False)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="buffers of Python classes need Python 3.12")
def test_buffer_protocol():
    matrix = eigen.matrixXf(np.ones((2, 3), "f"))
    assert memoryview(matrix).shape == (2, 3)


def test_can_be_copied_and_pickled():
    matrix = eigen.matrixXf(np.arange(6, dtype="f").reshape(2, 3))
    for other in (copy.deepcopy(matrix), pickle.loads(pickle.dumps(matrix))):
        np.testing.assert_array_equal(other, np.asarray(matrix))
        assert not np.shares_memory(np.asarray(other), np.asarray(matrix))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: eigen.MatrixXf(np.ones((2, 2), "f")),
            TypeError,
            r"MatrixXf: must be built without arguments, got 1; eigen.matrixXf\(array\) copies",
        ),
        (
            lambda: eigen.matrixXf(np.ones((2, 2))),
            ValueError,
            "matrixXf: arr must have dtype float32, got float64",
        ),
        (
            lambda: eigen.matrixXf(np.ones(2, "f")),
            ValueError,
            r"matrixXf: arr must have 2 dimensions, got shape \(2,\)",
        ),
        (
            lambda: eigen.vectorXf(np.ones((2, 2), "f")),
            ValueError,
            r"vectorXf: arr must have 1 dimension, got shape \(2, 2\)",
        ),
        (lambda: eigen.matrixXf(None), TypeError, "matrixXf: arr must not be None"),
        (lambda: eigen.vectorXf([1]), TypeError, "vectorXf: arr must be a NumPy array, got list"),
    ],
    ids=["constructor", "dtype", "rank", "vector-rank", "none", "list"],
)
def test_rejects(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
