import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fastseg.data import DataError, DataWarning, read_image

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        yield


def save(folder, picture, name="photo.png", **options):
    path = folder / name
    picture.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(PHOTO)))
    assert image.dtype == np.uint8
    assert np.array_equal(image, PHOTO)


def test_grey_has_three_equal_channels(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(PHOTO[..., 0])))
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(PHOTO[..., :1], 3, axis=2))


def test_one_bit(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(PHOTO[..., 0] > 127)))
    assert np.array_equal(image[..., 1], (PHOTO[..., 0] > 127) * 255)


def test_indexed_colours(tmp_path):
    indexed = Image.fromarray(PHOTO).quantize(200)
    image = read_image(save(tmp_path, indexed))
    assert np.array_equal(image, np.asarray(indexed.convert("RGB")))


def test_cmyk(tmp_path):
    image = read_image(save(tmp_path, Image.new("CMYK", (4, 5), (0, 255, 255, 0)), "photo.tif"))
    assert image.shape == (5, 4, 3)
    assert tuple(image[0, 0]) == (255, 0, 0)


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    image = read_image(save(tmp_path, Image.fromarray(pixels)))
    assert (image[0] == (10, 20, 30)).all()
    assert (image[1] == 255).all()


def test_transparent_grey_and_transparent_index(tmp_path):
    image = read_image(save(tmp_path, Image.new("LA", (2, 2), (7, 0)), "a.png"))
    assert (image == 255).all()
    indexed = Image.new("P", (2, 2), 1)
    indexed.putpalette([0, 0, 0, 9, 9, 9])
    assert (read_image(save(tmp_path, indexed, "b.png", transparency=1)) == 255).all()


def test_16_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 257, 65535], [300, 5000, 257 * 100]], np.uint16)
    image = read_image(save(tmp_path, Image.fromarray(values)))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., 2], values / 257, rtol=1e-6)


def test_of_16_bit_colours_the_upper_bits_are_read(tmp_path):
    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2x1, 16 bits, RGB
    row = b"\0" + struct.pack(">6H", 0, 257, 65535, 0x1280, 0x12FF, 0x1300)
    path = tmp_path / "photo.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert read_image(path).tolist() == [[[0, 1, 255], [0x12, 0x12, 0x13]]]


def test_damaged_exif_does_not_spoil_a_photo(tmp_path):
    path = save(tmp_path, Image.fromarray(PHOTO), exif=b"Exif\0\0no exif at all")
    with pytest.warns(DataWarning, match="EXIF data cannot be read, the photo is taken as stored"):
        assert np.array_equal(read_image(path), PHOTO)


def test_12_bit_values_in_16_bits_are_warned_of(tmp_path):
    values = np.array([[0, 4095]], np.uint16)
    with pytest.warns(DataWarning, match=r"photo\.png: the largest of its 16-bit values is 4095"):
        read_image(save(tmp_path, Image.fromarray(values)))


def test_32_bit_integers(tmp_path):
    values = np.array([[0, 65535]], np.int32)
    image = read_image(save(tmp_path, Image.fromarray(values), "photo.tif"))
    assert image.max() == 255
    path = save(tmp_path, Image.fromarray(values * 2), "photo.tif")
    with pytest.raises(DataError, match="32-bit integers must lie in 0 to 65535, got 0 to 131070"):
        read_image(path)


def test_float_tiff_is_taken_as_it_is(tmp_path):
    values = np.array([[0.25, 300.5]], np.float32)
    image = read_image(save(tmp_path, Image.fromarray(values), "photo.tif"))
    assert np.array_equal(image[..., 0], values)
    path = save(tmp_path, Image.fromarray(values * np.nan), "photo.tif")
    with pytest.raises(DataError, match="image must be finite, got 2 values"):
        read_image(path)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path, Image.fromarray(PHOTO), name, exif=exif, **options)
    upright = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.swapaxes(0, 1),
        6: PHOTO[::-1].swapaxes(0, 1),
        7: PHOTO[::-1, ::-1].swapaxes(0, 1),
        8: PHOTO[:, ::-1].swapaxes(0, 1),
    }
    assert np.array_equal(read_image(path), upright[orientation])
    assert np.array_equal(read_image(path, follow_exif=False), PHOTO)


def test_first_frame_of_several(tmp_path):
    frames = [Image.new("L", (3, 2), 10), Image.new("L", (3, 2), 20)]
    path = save(tmp_path, frames[0], "photo.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(DataWarning, match="holds 2 frames; the first one is used"):
        assert (read_image(path) == 10).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.05])
def test_truncated_file(tmp_path, suffix, share):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), f"photo.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=rf"^{path}: "):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_not_an_image(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path}: "):
        read_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "no.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


def test_colour_space_without_a_rule(tmp_path):
    with pytest.raises(DataError, match="image must be grey, RGB, CMYK or indexed, got LAB"):
        read_image(save(tmp_path, Image.new("LAB", (2, 2)), "photo.tif"))


def test_too_many_pixels(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (2000, 1500)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    assert read_image(path).shape == (1500, 2000, 3)  # above Pillow's warning, below its error
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(DataError, match=r"must have at most 2 million pixels.*--max-megapixels"):
        read_image(path)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3), (6, 9, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int32])
def test_arrays(tmp_path, shape, dtype):
    path = tmp_path / "photo.npy"
    full = 65535 if dtype == np.uint16 else 255
    np.save(path, np.full(shape, full, dtype))
    image = read_image(path)
    assert image.shape == (6, 9, 3)
    assert image.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_allclose(image, 255)


def test_transparent_array(tmp_path):
    pixels = np.zeros((1, 2, 4), np.float32)
    pixels[0, 0] = (10, 20, 30, 255)
    np.save(tmp_path / "photo.npy", pixels)
    image = read_image(tmp_path / "photo.npy")
    np.testing.assert_allclose(image[0], [(10, 20, 30), (255, 255, 255)])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 2)), r"image must have shape \(H, W\).*got \(2, 3, 2\)"),
        (np.zeros(5), r"got \(5,\)"),
        (np.zeros((0, 3, 3)), r"got \(0, 3, 3\)"),
        (np.zeros((2, 3), complex), "got complex128"),
        (np.full((2, 3), np.inf), "image must be finite, got 6 values"),
        (np.array([[{}]]), "must hold numbers, got pickled Python objects"),
    ],
    ids=["channels", "rank", "empty", "dtype", "infinite", "pickle"],
)
def test_arrays_that_are_no_image(tmp_path, array, message):
    path = tmp_path / "photo.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=rf"^{path}: .*{message}"):
        read_image(path)
