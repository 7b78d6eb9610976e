import os

import numpy as np
import pytest
from PIL import Image

from fastseg.data import DataError, draw_overlay, voc_palette, whole_file, write_labels
from fastseg.data.palette import labels_from_colours


def test_palette_is_the_one_of_voc():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for label, colour in known.items():
        assert tuple(voc_palette()[label]) == colour
    assert len({tuple(colour) for colour in voc_palette()}) == 256


def test_palette_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        voc_palette()[0] = 1


def test_labels_survive_the_file(tmp_path):
    labels = np.arange(256).reshape(8, 32)
    write_labels(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), labels)
        assert picture.convert("RGB").getpixel((15, 0)) == (192, 128, 128)


def test_more_than_256_labels_become_16_bit_grey(tmp_path):
    labels = np.array([[0, 255, 256], [999, 40000, 65535]])
    write_labels(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode.startswith("I")
        assert np.array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize("label", [-1, 65536])
def test_labels_that_no_png_holds(tmp_path, label):
    with pytest.raises(DataError, match="labels must lie in 0 to 65535, got"):
        write_labels(tmp_path / "a.png", np.array([[0, label]]))
    assert list(tmp_path.iterdir()) == []


def test_labels_from_colours_inverts_the_palette():
    labels = np.arange(256).reshape(16, 16)
    assert np.array_equal(labels_from_colours(voc_palette()[labels]), labels)


def test_foreign_colour_is_named_with_its_place():
    colours = voc_palette()[np.zeros((3, 4), int)].copy()
    colours[1, 2] = (1, 2, 3)
    with pytest.raises(DataError, match=r"got \(1, 2, 3\) at row 1, column 2"):
        labels_from_colours(colours)


class TestWholeFile:
    def test_failure_leaves_nothing(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a" / "b.bin") as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert list((tmp_path / "a").iterdir()) == []

    def test_failure_keeps_the_old_file(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        with pytest.raises(RuntimeError), whole_file(path) as file:
            file.write(b"new, half")
            raise RuntimeError
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_success_replaces(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        with whole_file(path) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new"

    def test_unwritable_folder_is_named_by_the_file_the_user_asked_for(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with (
            pytest.raises(NotADirectoryError, match=r"Not a directory: '.*file'"),
            whole_file(tmp_path / "file" / "a.bin"),
        ):
            pass
        name = "x" * 240 + ".png"
        with pytest.raises(OSError) as caught, whole_file(tmp_path / (name * 2)) as file:
            file.write(b"")
        assert name in str(caught.value)

    def test_a_folder_or_a_pipe_is_not_replaced(self, tmp_path):
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("folder", "pipe", "."):
            with pytest.raises(OSError, match=name), whole_file(tmp_path / name) as file:
                file.write(b"")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_overlay_tints_labels_and_leaves_the_background():
    image = np.full((6, 8, 3), 100, np.uint8)
    labels = np.zeros((6, 8), int)
    labels[:, 4:] = 1
    picture = draw_overlay(image, labels, opacity=0.5)
    assert tuple(picture[3, 0]) == (100, 100, 100)
    assert tuple(picture[3, 7]) == (114, 50, 50)
    assert tuple(picture[3, 3]) == (255, 255, 255)


@pytest.mark.parametrize(
    "image",
    [
        np.full((2, 3, 1), 51, np.uint8),
        np.full((2, 3, 3), 0.2, np.float32),
        np.full((2, 3, 5), 51.0),
    ],
    ids=["one-channel", "unit-range", "five-channels"],
)
def test_overlay_shows_any_image(image):
    assert (draw_overlay(image, np.zeros((2, 3), int)) == 51).all()
