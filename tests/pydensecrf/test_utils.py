"""Unary energies and features from arrays."""

import numpy as np
import pytest
import utils_cases
from utils_cases import image, probs

from fastseg.pydensecrf import utils


@pytest.mark.filterwarnings("ignore:create_pairwise_bilateral")
@pytest.mark.parametrize("name", utils_cases.CASES)
def test_same_as_real(name, same_as_real):
    # One unit in the last place of an energy near ln(1e-5).
    same_as_real(utils_cases, name, atol=2e-7)


def test_labels_of_known_energy():
    energies = utils.unary_from_labels([[0, 1], [3, 2]], 3, 0.8)
    expected = -np.log([[1 / 3, 0.8, 0.1, 0.1], [1 / 3, 0.1, 0.1, 0.8], [1 / 3, 0.1, 0.8, 0.1]])
    np.testing.assert_allclose(energies, expected, rtol=1e-6)
    assert energies.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64, np.int8])
def test_unsure_labels_of_any_integer_type(dtype):
    labels = np.array([[0, 1, 2], [2, 0, 1]])
    np.testing.assert_array_equal(
        utils.unary_from_labels(labels.astype(dtype), 2, 0.7),
        utils.unary_from_labels(labels, 2, 0.7),
    )


def test_one_label_takes_everything():
    energies = utils.unary_from_labels(np.zeros((2, 3), int), 1, 0.7, zero_unsure=False)
    np.testing.assert_allclose(energies, -np.log(0.7) * np.ones((1, 6)), rtol=1e-6)


def test_softmax_in_awkward_memory_gives_contiguous_energies():
    channels_last = probs(np.float32).transpose(1, 2, 0).copy()
    energies = utils.unary_from_softmax(channels_last.transpose(2, 0, 1))
    assert energies.flags.c_contiguous
    np.testing.assert_array_equal(energies, utils.unary_from_softmax(probs(np.float32)))


def test_arguments_are_not_written_to():
    given = probs(np.float32)
    utils.unary_from_softmax(given, clip=None)
    np.testing.assert_array_equal(given, probs(np.float32))
    picture = image(5, 7, 3).astype(np.float32)
    utils.create_pairwise_bilateral((3, 4), (5, 6, 7), picture, chdim=2)
    np.testing.assert_array_equal(picture, image(5, 7, 3))


def test_features_of_known_value():
    features = utils.create_pairwise_bilateral((2, 4), (5,), np.array([[10, 20], [30, 40]]))
    np.testing.assert_array_equal(features, [[0, 0, 0.5, 0.5], [0, 0.25, 0, 0.25], [2, 4, 6, 8]])


def test_deprecated_names_say_so(caplog):
    utils.compute_unary(np.array([1, 2]), 2)
    utils.softmax_to_unary(probs())
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "use unary_from_labels instead" in caplog.text
    assert "use unary_from_softmax instead" in caplog.text


@pytest.mark.parametrize(
    ("sdims", "schan", "message"),
    [
        ((3, 4), (0.1, 0.1), r"schan must have 3 entries, got \(0.1, 0.1\)"),
        ((3,), (1, 1, 1), r"sdims must have 2 entries, got \(3,\)"),
    ],
    ids=["schan", "sdims"],
)
def test_missing_sigmas_warn(sdims, schan, message):
    with pytest.warns(UserWarning, match=f"create_pairwise_bilateral: {message}"):
        utils.create_pairwise_bilateral(sdims, schan, image(5, 7, 3), chdim=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: utils.unary_from_labels(np.array([0, 4]), 3, 0.7),
            IndexError,
            "unary_from_labels: labels must be 0 to 3 for n_labels 3 and zero_unsure True, got 4",
        ),
        (
            lambda: utils.unary_from_labels(np.array([0, 3]), 3, 0.7, False),
            IndexError,
            "unary_from_labels: labels must be 0 to 2 for n_labels 3 and zero_unsure False, got 3",
        ),
        (
            lambda: utils.unary_from_labels(np.array([0, -1]), 3, 0.7, False),
            IndexError,
            "unary_from_labels: labels must be 0 to 2 .*, got -1",
        ),
        (
            lambda: utils.unary_from_labels(np.array([0.5]), 3, 0.7),
            IndexError,
            "unary_from_labels: labels must be integers, got dtype float64",
        ),
        (
            lambda: utils.unary_from_labels(np.array([1]), 3, 1),
            AssertionError,
            r"unary_from_labels: gt_prob must be within \(0, 1\), got 1",
        ),
        (
            lambda: utils.unary_from_softmax(probs(), scale=2),
            AssertionError,
            r"unary_from_softmax: scale must be within \(0, 1\], got 2",
        ),
        (
            lambda: utils.create_pairwise_gaussian((1,), (5, 7)),
            ValueError,
            r"create_pairwise_gaussian: sdims must have 2 entries, got \(1,\)",
        ),
        (
            lambda: utils.create_pairwise_gaussian((1, 2, 3), (5, 7)),
            IndexError,
            r"create_pairwise_gaussian: sdims must have 2 entries, got \(1, 2, 3\)",
        ),
        (
            lambda: utils.create_pairwise_gaussian(3, (5, 7)),
            TypeError,
            "create_pairwise_gaussian: sdims must be a sequence of numbers, got 3",
        ),
        (
            lambda: utils.unary_from_softmax(0.5),
            IndexError,
            r"unary_from_softmax: sm must have shape \(L, ...\), got 0.5",
        ),
        (
            lambda: utils.create_pairwise_gaussian((1, 0), (5, 7)),
            ValueError,
            "create_pairwise_gaussian: sdims must not be zero or NaN, got 0",
        ),
        (
            lambda: utils.create_pairwise_bilateral((1, 1), float("nan"), image(5, 7)),
            ValueError,
            "create_pairwise_bilateral: schan must not be zero or NaN, got nan",
        ),
    ],
    ids=[
        *("label", "label-no-unsure", "label-negative", "label-float", "gt-prob", "scale"),
        *("sdims-few", "sdims-many", "sdims-number", "softmax-number", "sdims-zero", "schan-nan"),
    ],
)
def test_rejects(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
