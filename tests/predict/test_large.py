"""Images larger than memory: parts of TIFF files, blocks, and runs that are interrupted."""

import numpy as np
import pytest
import torch
from test_memory import linux, rise_of_peak
from test_segmenter import Pointwise, photo

from fastseg.data.errors import DataError
from fastseg.models import InputConvention
from fastseg.predict import Segmenter, segment_tiff
from fastseg.predict.tiff import LabelFile, TiffImage

tifffile = pytest.importorskip("tifffile")

HEIGHT, WIDTH = 210, 330
LAYOUTS = {
    "mapped": {},
    "tiled": {"tile": (64, 48), "compression": "zlib"},
    "strips": {"rowsperstrip": 17, "compression": "zlib"},
    "planar": {"tile": (64, 64), "planarconfig": "separate", "compression": "zlib"},
}


def write(path, image, **layout):
    if layout.get("planarconfig") == "separate":
        image = np.moveaxis(image, -1, 0)
    kind = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=kind, **layout)
    return path


@pytest.fixture
def small(randomised):
    """A segmenter whose memory holds blocks of some 200 pixels."""
    model = randomised(Pointwise())
    segmenter = Segmenter(model, margin=32)
    need = segmenter.planner.need(128, 128, 1.0, None, segmenter.work("labels"))
    return Segmenter(model, margin=32, max_memory=segmenter.planner.weights + 1.4 * need)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_parts_of_a_file(name, dtype, tmp_path):
    image = photo(HEIGHT, WIDTH)
    stored = image if dtype == np.uint8 else image.astype(np.uint16) * 257
    with TiffImage(write(tmp_path / "a.tif", stored, **LAYOUTS[name])) as file:
        assert (file.height, file.width) == (HEIGHT, WIDTH)
        assert (file.mapped is not None) == (name == "mapped")
        for rows, columns in (
            (slice(0, HEIGHT), slice(0, WIDTH)),
            (slice(60, 70), slice(40, 300)),
            (slice(HEIGHT - 1, HEIGHT), slice(WIDTH - 1, WIDTH)),
        ):
            assert np.array_equal(file.read(rows, columns), image[rows, columns])


def test_grey_and_transparent_files(tmp_path):
    image = photo(HEIGHT, WIDTH)
    whole = slice(0, HEIGHT), slice(0, WIDTH)
    with TiffImage(write(tmp_path / "grey.tif", image[..., 0])) as file:
        assert np.array_equal(file.read(*whole), np.repeat(image[..., :1], 3, 2))
    for scale in (1, 257):
        opaque = np.dstack([image, np.full(image.shape[:2], 255)]) * scale
        opaque = opaque.astype(np.uint8 if scale == 1 else np.uint16)
        with TiffImage(write(tmp_path / "rgba.tif", opaque, extrasamples=["unassalpha"])) as file:
            np.testing.assert_allclose(file.read(*whole), image, atol=1e-3)


def half_dark(dtype):
    """Values of 0 and 1 but for a corner: what of them is divided by 255 must not vary."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, 100:] = 1
    image[:50, :50] = 200
    return image if dtype == np.uint8 else image.astype(np.uint16) * 257


@pytest.mark.filterwarnings("ignore:.*almost black")
@pytest.mark.parametrize("corner", ["bright", "dark"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_image_is_divided_in_every_part_or_in_none(dtype, corner, small, tmp_path):
    """Class 1 where the three channels sum to more than 1.5; 8-bit images of 0-1 stay as they are,
    as :attr:`InputConvention.divide_if_above_one` says."""
    model = small.model
    with torch.no_grad():
        model.conv.weight.zero_()[1] = 1
        model.conv.bias.copy_(torch.tensor([1.5, 0, -9, -9]))
    model.input_convention = InputConvention(
        "rgb", 1.0, (0.0,) * 3, (1.0,) * 3, divide_if_above_one=True
    )
    image = half_dark(dtype)
    if corner == "dark":
        image[:50, :50] = 0
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    if corner == "bright":
        expected[:50, :50] = 1
    elif dtype == np.uint8:
        expected[:, 100:] = 1
    memory = small.planner.weights + 0.72 * small.planner.budget
    blocks = Segmenter(model, margin=32, tile=10_000, max_memory=memory)
    source = write(tmp_path / "in.tif", image)
    in_blocks = Segmenter(model, margin=32, max_memory=memory / 0.72)
    segment_tiff(in_blocks, source, tmp_path / "out.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), expected)
    assert blocks.plan(HEIGHT, WIDTH).block < WIDTH
    windows = Segmenter(model, tile=64)
    whole = Segmenter(model)
    for segmenter in (whole, windows, blocks):
        assert torch.equal(segmenter.predict(image), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_are_those_of_the_image_in_memory(name, small, tmp_path):
    image = photo(HEIGHT, WIDTH)
    reports = []
    source = write(tmp_path / "in.tif", image, **LAYOUTS[name])
    segment_tiff(small, source, tmp_path / "out.tif", progress=lambda *done: reports.append(done))
    expected = Segmenter(small.model).predict(image).numpy()
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert page.is_tiled and page.photometric.name == "PALETTE" and page.dtype == np.uint8
        assert np.array_equal(page.asarray(), expected)
    total = reports[0][1]
    assert total > 4 and reports == [(done, total) for done in range(total + 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


@linux
def test_memory_does_not_grow_with_the_files(tmp_path):
    """100 megapixels read and written in strips; a mapped page counts once it has been touched."""
    shape, strip = (10000, 10000), 1000
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8))

    def copy_strips():
        labels = LabelFile(tmp_path / "b.tif", shape, np.uint8, "work")
        with TiffImage(tmp_path / "a.tif") as image:
            assert image.mapped is not None
            for top in range(0, shape[0], strip):
                rows, columns = slice(top, top + strip), slice(0, shape[1])
                labels.put(rows, columns, image.read(rows, columns)[..., 0] + 1)
        labels.finish()

    assert rise_of_peak(copy_strips) < 100e6  # a strip as grey and as RGB, and its sum
    assert (tifffile.imread(tmp_path / "b.tif") == 1).all()


def test_goes_on_where_it_was(small, tmp_path):
    image = photo(HEIGHT, WIDTH)
    source = write(tmp_path / "in.tif", image)

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_tiff(small, source, tmp_path / "out.tif", progress=interrupt)
    assert not (tmp_path / "out.tif").exists()
    reports = []
    segment_tiff(small, source, tmp_path / "out.tif", progress=lambda *d: reports.append(d[0]))
    assert reports[0] == 3
    expected = Segmenter(small.model).predict(image).numpy()
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), expected)


def test_another_model_starts_anew(small, tmp_path):
    source = write(tmp_path / "in.tif", photo(HEIGHT, WIDTH))

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_tiff(small, source, tmp_path / "out.tif", progress=interrupt)
    with torch.no_grad():
        small.model.conv.weight.neg_()
    reports = []
    segment_tiff(small, source, tmp_path / "out.tif", progress=lambda *d: reports.append(d[0]))
    assert reports[0] == 0


def test_refused(small, tmp_path):
    source = write(tmp_path / "in.tif", photo(40, 40))
    with pytest.raises(DataError, match=r"must end in \.tif"):
        segment_tiff(small, source, tmp_path / "out.png")
    with pytest.raises(DataError, match="must not replace an input"):
        segment_tiff(small, source, source)
    (tmp_path / "no.tif").write_bytes(b"no picture")
    with pytest.raises(DataError, match="must be a TIFF file"):
        segment_tiff(small, tmp_path / "no.tif", tmp_path / "out.tif")
    write(tmp_path / "float.tif", photo(40, 40).astype(np.float32))
    with pytest.raises(DataError, match="must hold 8 or 16 bits a sample, got float32"):
        segment_tiff(small, tmp_path / "float.tif", tmp_path / "out.tif")
    tiny = Segmenter(small.model, max_memory="1MB")
    with pytest.raises(ValueError, match="segment_tiff: max_memory must be"):
        segment_tiff(tiny, source, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_damaged_tile(small, tmp_path):
    source = write(tmp_path / "in.tif", photo(HEIGHT, WIDTH), tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(source) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(source.read_bytes())
    content[offset : offset + 64] = bytes(64)
    source.write_bytes(content)
    with pytest.raises(DataError, match="tile 3 cannot be decoded"):
        segment_tiff(small, source, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()
