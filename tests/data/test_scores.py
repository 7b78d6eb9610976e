import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from fastseg.data import DataError, DataWarning, fit_scores, read_scores, voc_palette
from fastseg.data.scores import Scores, arrange_scores

SIZE = (30, 40)
RNG = np.random.default_rng(0)


def random_logits(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def random_probabilities(labels, height, width):
    shares = RNG.random((labels, height, width)) + 0.1
    return shares / shares.sum(axis=0)


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        yield


class TestLayout:
    @pytest.mark.parametrize("size", [(30, 40), (15, 20), (8, 10), (4, 5), (60, 80), (31, 41)])
    @pytest.mark.parametrize("labels", [5, 21, 150])
    def test_is_detected_both_ways(self, size, labels):
        logits = random_logits(labels, *size)
        assert np.array_equal(arrange_scores(logits, SIZE).values, logits)
        last = np.moveaxis(logits, 0, 2)
        scores = arrange_scores(last, SIZE)
        assert np.array_equal(scores.values, logits)
        assert scores.values.flags.c_contiguous

    def test_exact_size_beats_aspect_ratio(self):
        # (20, 19) has the photo's aspect ratio to one sample, (20, 20) is its size.
        scores = arrange_scores(random_logits(20, 20, 19), (20, 20))
        assert scores.values.shape == (19, 20, 20)

    def test_cube_must_be_told(self):
        with pytest.raises(DataError, match=r"20x20x20 can be read.*--layout lhw or --layout hwl"):
            arrange_scores(random_logits(20, 20, 20), (20, 20))
        logits = random_logits(20, 20, 20)
        told = arrange_scores(logits, (20, 20), layout="hwl").values
        assert np.array_equal(told, np.moveaxis(logits, 2, 0))

    def test_cube_of_probabilities_tells_itself(self):
        cube = random_probabilities(20, 20, 20)
        np.testing.assert_allclose(arrange_scores(cube, (20, 20)).values, cube, rtol=1e-6)
        last = np.moveaxis(cube, 0, 2)
        np.testing.assert_allclose(arrange_scores(last, (20, 20)).values, cube, rtol=1e-6)

    def test_batch_of_one_is_dropped(self):
        assert arrange_scores(random_logits(1, 5, 30, 40), SIZE).values.shape == (5, 30, 40)

    @pytest.mark.parametrize("size", [(30, 1), (1, 40), (1, 1)])
    def test_photo_of_one_row_or_column(self, size):
        logits = random_logits(5, *size)
        assert np.array_equal(arrange_scores(logits, size).values, logits)
        last = np.moveaxis(logits, 0, 2)
        assert np.array_equal(arrange_scores(last, size).values, logits)

    def test_one_label_of_one_row(self):
        foreground = random_logits(1, 1, 40)
        scores = arrange_scores(foreground, (1, 40), kind="logits")
        assert np.array_equal(scores.values[1], foreground[0])

    def test_other_aspect_ratio_is_refused(self):
        message = r"must have the aspect ratio of the photo, got shape 5x32x32.*30x40.*--stretch"
        with pytest.raises(DataError, match=message):
            arrange_scores(random_logits(5, 32, 32), SIZE)
        with pytest.raises(DataError, match=r"got 32x32 for a photo of 30x40"):
            arrange_scores(random_logits(5, 32, 32), SIZE, layout="lhw")

    def test_swapped_rows_and_columns_are_named(self):
        with pytest.raises(DataError, match="rows and columns may be swapped"):
            arrange_scores(random_logits(5, 40, 30), SIZE, layout="lhw")

    def test_stretch(self):
        logits = random_logits(5, 32, 32)
        assert arrange_scores(logits, SIZE, layout="lhw", stretch=True).values.shape == (5, 32, 32)
        with pytest.raises(DataError, match="--layout"):
            arrange_scores(logits, SIZE, stretch=True)
        shares = random_probabilities(5, 32, 32)
        assert arrange_scores(shares, SIZE, stretch=True).values.shape == (5, 32, 32)

    @pytest.mark.parametrize("shape", [(5,), (2, 5, 30, 40), (1, 1, 5, 30, 40)])
    def test_wrong_rank(self, shape):
        with pytest.raises(DataError, match=r"shape \(L, H, W\), \(H, W, L\) or \(H, W\)"):
            arrange_scores(random_logits(*shape), SIZE)

    @pytest.mark.parametrize("shape", [(0, 30, 40), (5, 0, 40), (0,)])
    def test_empty(self, shape):
        with pytest.raises(DataError, match="must not be empty"):
            arrange_scores(random_logits(*shape), SIZE)


class TestKind:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_probabilities_sum_to_one(self, dtype):
        scores = arrange_scores(random_probabilities(5, 30, 40).astype(dtype), SIZE)
        assert scores.kind == "probabilities"
        assert scores.values.dtype == np.float32

    def test_negative_values_are_logits(self):
        assert arrange_scores(random_logits(5, 30, 40), SIZE).kind == "logits"

    def test_log_probabilities_are_logits(self):
        assert arrange_scores(np.log(random_probabilities(5, 30, 40)), SIZE).kind == "logits"

    @pytest.mark.parametrize(
        ("values", "finding"),
        [
            (RNG.random((5, 30, 40)), "do not sum to one"),
            (RNG.random((5, 30, 40)) * 9, "do not sum to one"),
            (RNG.integers(0, 256, (5, 30, 40)), "do not sum to one"),
            (-np.log(random_probabilities(5, 30, 40)), r"energies \(-log p\); negate"),
        ],
        ids=["sigmoids", "positive", "integers", "energies"],
    )
    def test_doubt_asks(self, values, finding):
        with pytest.raises(DataError, match=f"{finding}.*--kind logits or --kind probabilities"):
            arrange_scores(values, SIZE)
        assert arrange_scores(values, SIZE, kind="logits").kind == "logits"

    def test_independent_probabilities_are_taken_when_told(self):
        sigmoids = RNG.random((5, 30, 40))
        assert arrange_scores(sigmoids, SIZE, kind="probabilities").kind == "probabilities"

    def test_logits_called_probabilities_are_refused(self):
        with pytest.raises(DataError, match=r"probabilities must lie in \[0, 1\], got -"):
            arrange_scores(random_logits(5, 30, 40), SIZE, kind="probabilities")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
    def test_not_finite(self, bad):
        logits = random_logits(5, 30, 40).astype(float)
        logits[1, 2, 3] = bad
        with pytest.raises(DataError, match=r"finite in float32, got 1 values.*\(1, 2, 3\)"):
            arrange_scores(logits, SIZE)

    @pytest.mark.parametrize("dtype", [complex, "U3"])
    def test_not_numbers(self, dtype):
        with pytest.raises(DataError, match="scores must be real numbers, got dtype"):
            arrange_scores(np.zeros((5, 30, 40), dtype), SIZE)


@given(
    values=arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int64, np.bool_]),
        array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6),
    ),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kind=st.sampled_from([None, "logits", "probabilities", "labels"]),
    layout=st.sampled_from([None, "lhw", "hwl"]),
    stretch=st.booleans(),
)
def test_any_array_is_served_or_refused(values, size, kind, layout, stretch):
    try:
        scores = arrange_scores(values, size, kind=kind, layout=layout, stretch=stretch)
    except DataError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        fitted = fit_scores(scores, size)
    assert fitted.values.shape[-2:] == size
    assert kind in (None, scores.kind)
    if scores.kind == "labels":
        assert fitted.values.ndim == 2 and fitted.values.dtype == np.int64
    else:
        assert fitted.values.ndim == 3 and fitted.values.dtype == np.float32
        assert len(fitted.values) >= 2
        assert np.isfinite(fitted.values).all()


class TestOneScorePerPixel:
    def test_floats_must_say_what_they_are(self):
        with pytest.raises(DataError, match="one float per pixel; --kind probabilities"):
            arrange_scores(RNG.random((30, 40)), SIZE)

    @pytest.mark.parametrize("shape", [(30, 40), (1, 30, 40), (30, 40, 1), (1, 1, 30, 40)])
    def test_foreground_probability(self, shape):
        share = RNG.random(shape)
        scores = arrange_scores(share, SIZE, kind="probabilities")
        assert scores.values.shape == (2, 30, 40)
        np.testing.assert_allclose(scores.values[1], share.reshape(30, 40), rtol=1e-6)
        np.testing.assert_allclose(scores.values.sum(axis=0), 1, rtol=1e-6)

    def test_foreground_logit(self):
        scores = arrange_scores(np.full((30, 40), 2.5), SIZE, kind="logits")
        assert (scores.values[0] == 0).all()
        assert (scores.values[1] == 2.5).all()

    def test_one_label_with_its_layout_told(self):
        scores = arrange_scores(RNG.random((1, 30, 40)), SIZE, kind="probabilities", layout="lhw")
        assert scores.values.shape == (2, 30, 40)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
    def test_integers_are_labels(self, dtype):
        labels = RNG.integers(0, 2, (30, 40)).astype(dtype)
        scores = arrange_scores(labels, SIZE)
        assert scores.kind == "labels"
        assert np.array_equal(scores.values, labels)

    def test_labels_of_another_shape(self):
        with pytest.raises(DataError, match=r"got 40x30 for a photo of 30x40.*swapped"):
            arrange_scores(np.zeros((40, 30), int), SIZE)
        with pytest.raises(DataError, match=r"labels must have shape \(H, W\), got \(5, 30, 40\)"):
            arrange_scores(np.zeros((5, 30, 40), int), SIZE, kind="labels")
        with pytest.raises(DataError, match="labels must be integers, got dtype float64"):
            arrange_scores(np.zeros((30, 40)), SIZE, kind="labels")


def bilinear_at(values, height, width):
    """Half-pixel centres, clamped at the border, as two matrix products."""

    def weights(have, want):
        centre = ((np.arange(want) + 0.5) * have / want - 0.5).clip(0, have - 1)
        return (1 - abs(centre[:, None] - np.arange(have))).clip(min=0)

    return weights(values.shape[0], height) @ values @ weights(values.shape[1], width).T


class TestFit:
    @pytest.mark.parametrize("have", [(1, 1), (3, 4), (8, 10), (29, 39), (30, 40)])
    def test_enlarging_is_bilinear_with_half_pixel_centres(self, have):
        logits = random_logits(3, *have)
        fitted = fit_scores(Scores(logits, "logits"), SIZE)
        expected = [bilinear_at(plane.astype(float), *SIZE) for plane in logits]
        np.testing.assert_allclose(fitted.values, expected, atol=1e-6)
        assert fitted.kind == "logits"

    def test_reducing_keeps_the_mean_and_warns(self):
        logits = random_logits(2, 60, 80)
        with pytest.warns(DataWarning, match="60x80 are larger than the photo's 30x40"):
            fitted = fit_scores(Scores(logits, "logits"), SIZE)
        np.testing.assert_allclose(fitted.values.mean(), logits.mean(), atol=0.01)
        assert fitted.values.std() < 0.7 * logits.std()

    def test_labels_take_the_nearest(self):
        labels = np.array([[1, 2], [3, 255]])
        fitted = fit_scores(Scores(labels, "labels"), (4, 6))
        expected = np.repeat(np.repeat(labels, 2, axis=0), 3, axis=1)
        assert np.array_equal(fitted.values, expected)


class TestFiles:
    def test_npy_and_npz(self, tmp_path):
        logits = random_logits(5, 30, 40)
        np.save(tmp_path / "a.npy", logits)
        np.savez(tmp_path / "a.npz", anything=logits)
        for name in ("a.npy", "a.npz"):
            scores = read_scores(tmp_path / name, SIZE)
            assert np.array_equal(scores.values, logits)

    def test_several_arrays_need_a_key(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, first=random_logits(5, 30, 40), second=random_logits(7, 30, 40))
        with pytest.raises(DataError, match="one array, got first, second; choose one with --key"):
            read_scores(path, SIZE)
        assert len(read_scores(path, SIZE, key="second").values) == 7
        with pytest.raises(DataError, match=r"one of its arrays \(first, second\), got 'third'"):
            read_scores(path, SIZE, key="third")

    def test_key_without_archive(self, tmp_path):
        np.save(tmp_path / "a.npy", random_logits(5, 30, 40))
        with pytest.raises(DataError, match=r"needs a \.npz archive, got the \.npy array"):
            read_scores(tmp_path / "a.npy", SIZE, key="x")
        Image.new("L", (40, 30)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"needs a \.npz archive, got a picture"):
            read_scores(tmp_path / "a.png", SIZE, key="x")

    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_pickled_objects_are_never_loaded(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        objects = np.array([[Bomb()]], object)
        if suffix == "npy":
            np.save(path, objects, allow_pickle=True)
        else:
            np.savez(path, a=objects)
        with pytest.raises(DataError, match=rf"^{path}: must hold numbers, got pickled"):
            read_scores(path, SIZE)

    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    @pytest.mark.parametrize("share", [0.9, 0.3, 0.001, 0])
    def test_truncated(self, tmp_path, suffix, share):
        path = tmp_path / f"a.{suffix}"
        (np.save if suffix == "npy" else np.savez_compressed)(path, random_logits(5, 30, 40))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=rf"^{path}: "):
            read_scores(path, SIZE)

    def test_damaged_archive(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez_compressed(path, a=random_logits(5, 30, 40))
        content = bytearray(path.read_bytes())
        content[2000:2010] = bytes(10)
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{path}: "):
            read_scores(path, SIZE)

    def test_header_that_claims_more_than_there_is(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, random_logits(5, 30, 40))
        content = path.read_bytes()
        claim = content.replace(b"(5, 30, 40), }        ", b"(99999, 99999, 99), } ")
        assert len(claim) == len(content) and claim != content
        path.write_bytes(claim)
        with pytest.raises(DataError, match=rf"^{path}: "):
            read_scores(path, SIZE)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_scores(tmp_path / "a.npy", SIZE)

    def test_error_names_the_file_once(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, random_logits(5, 32, 32))
        with pytest.raises(DataError) as caught:
            read_scores(path, SIZE)
        assert str(caught.value).count(str(path)) == 1


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


class TestPictures:
    LABELS = RNG.integers(0, 21, SIZE).astype(np.uint8)

    def read(self, folder, picture, name="a.png", **options):
        picture.save(folder / name)
        return read_scores(folder / name, SIZE, **options)

    def test_indices_not_colours_are_read(self, tmp_path):
        picture = Image.fromarray(self.LABELS)
        picture.putpalette(bytes(range(256)) * 3)
        scores = self.read(tmp_path, picture)
        assert scores.kind == "labels"
        assert np.array_equal(scores.values, self.LABELS)

    def test_grey_and_16_bit(self, tmp_path):
        assert np.array_equal(self.read(tmp_path, Image.fromarray(self.LABELS)).values, self.LABELS)
        many = self.LABELS.astype(np.uint16) * 100
        assert np.array_equal(self.read(tmp_path, Image.fromarray(many)).values, many)

    def test_one_bit(self, tmp_path):
        scores = self.read(tmp_path, Image.fromarray(self.LABELS > 10))
        assert np.array_equal(scores.values, self.LABELS > 10)

    def test_colours_of_voc(self, tmp_path):
        picture = Image.fromarray(voc_palette()[self.LABELS])
        assert np.array_equal(self.read(tmp_path, picture).values, self.LABELS)

    def test_other_colours(self, tmp_path):
        with pytest.raises(DataError, match=r"must be those of PASCAL VOC, got \(1, 2, 3\)"):
            self.read(tmp_path, Image.new("RGB", (40, 30), (1, 2, 3)))

    def test_grey_with_many_values_asks(self, tmp_path):
        picture = Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(SIZE))
        with pytest.raises(DataError, match="got 256 different values; add --kind labels, or"):
            self.read(tmp_path, picture)
        assert self.read(tmp_path, picture, kind="labels").kind == "labels"
        scores = self.read(tmp_path, picture, kind="probabilities")
        assert scores.values.shape == (2, 30, 40)
        assert scores.values[1].max() == 1

    def test_kinds_that_a_picture_is_not(self, tmp_path):
        with pytest.raises(DataError, match="labels or probabilities, got logits"):
            self.read(tmp_path, Image.fromarray(self.LABELS), kind="logits")
        with pytest.raises(DataError, match="must be an 8-bit grey picture, got mode RGB"):
            self.read(tmp_path, Image.new("RGB", (40, 30)), kind="probabilities")
        with pytest.raises(DataError, match="must be an indexed or grey picture, got mode CMYK"):
            self.read(tmp_path, Image.new("CMYK", (40, 30)), name="a.tif")

    def test_jpeg_under_another_name(self, tmp_path):
        with open(tmp_path / "a.png", "wb") as file:
            Image.fromarray(self.LABELS).save(file, format="JPEG")
        with pytest.raises(DataError, match="must be stored without loss, got a JPEG"):
            read_scores(tmp_path / "a.png", SIZE)

    def test_broken(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"nothing")
        with pytest.raises(DataError, match="must be an image in a format that Pillow reads"):
            read_scores(tmp_path / "a.png", SIZE)
