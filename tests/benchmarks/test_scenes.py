import numpy as np
import pytest

from benchmarks import scenes


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_default_photograph_is_in_the_repository():
    photograph = scenes.read_photograph(scenes.default_photograph())
    assert photograph.dtype == np.uint8 and photograph.shape[2] == 3


def test_mirrored_indices():
    assert scenes.mirrored(3, 8).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert scenes.mirrored(1, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [(8, 9), (20, 30), (5, 30), (20, 7), (41, 67)])
def test_fit_gives_the_size_asked_for(size):
    fitted = scenes.fit(noise(20, 30), *size)
    assert fitted.shape == (*size, 3) and fitted.flags.c_contiguous


def test_fit_mirrors_rather_than_enlarges():
    photograph = noise(6, 5)
    fitted = scenes.fit(photograph, 14, 12)
    np.testing.assert_array_equal(fitted[:6, :5], photograph)
    np.testing.assert_array_equal(fitted[6:12, 5:10], photograph[::-1, ::-1])
    np.testing.assert_array_equal(fitted[12:, 10:], photograph[:2, :2])


def test_fit_cuts_the_middle_of_a_larger_photograph():
    photograph = np.zeros((20, 40, 3), np.uint8)
    photograph[:, 10:30] = 200
    fitted = scenes.fit(photograph, 10, 10)
    assert fitted[:, 1:-1].min() >= 190


@pytest.mark.parametrize("labels", [1, 2, 21])
def test_energies_are_those_of_probabilities(labels):
    image = scenes.fit(scenes.read_photograph(scenes.default_photograph()), 60, 81)
    energies = scenes.energies_of_photograph(image, labels)
    assert energies.shape == (labels, 60 * 81) and energies.dtype == np.float32
    assert energies.flags.c_contiguous
    np.testing.assert_allclose(np.exp(-energies).sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(energies, scenes.energies_of_photograph(image, labels))
    if labels > 1:
        shares = np.bincount(energies.argmin(axis=0), minlength=labels) / energies.shape[1]
        assert (shares > 0.01).sum() >= 2  # more than one label to be seen


def test_volume_has_two_tissues_and_noise():
    scan, energies = scenes.volume(9, 20, 17)
    assert scan.shape == (9, 20, 17) and scan.dtype == np.float32
    assert scan.min() >= 0 and scan.max() <= 255 and scan.std() > 10
    assert energies.shape == (2, scan.size) and energies.dtype == np.float32
    np.testing.assert_allclose(np.exp(-energies).sum(axis=0), 1, rtol=1e-5)
    assert 0.1 < (energies[0] < energies[1]).mean() < 0.9


def test_enlarge_is_linear_and_keeps_corners():
    grid = np.array([[0.0, 2.0], [4.0, 6.0]])
    enlarged = scenes.enlarge(grid, (3, 5))
    np.testing.assert_allclose(enlarged[0], [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(enlarged[:, 0], [0, 2, 4])
    assert enlarged[-1, -1] == 6
