import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastseg import _numpy
from fastseg.cli import app
from fastseg.crf.presets import PRESETS
from fastseg.refine import check_memory, refine

HEIGHT, WIDTH = 30, 40
RNG = np.random.default_rng(0)


@pytest.fixture
def disc():
    """A photo of a bright disc, the true labels, and logits three pixels beside them."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    truth = ((rows - 15) ** 2 + (columns - 20) ** 2 < 100).astype(int)
    wrong = np.roll(truth, 3, axis=1)
    photo = np.where(truth[..., None], [200, 180, 40], [40, 60, 90]).astype(np.uint8)
    photo += RNG.integers(0, 8, photo.shape, dtype=np.uint8)
    logits = np.stack([1 - 2 * wrong, 2 * wrong - 1]).astype(np.float32)
    return photo, truth, logits


@pytest.fixture
def files(tmp_path, disc):
    photo, _, logits = disc
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.save(tmp_path / "scores.npy", logits)
    return tmp_path


@pytest.fixture
def folders(tmp_path, disc):
    photo, _, logits = disc
    for name in ("photos", "scores"):
        (tmp_path / name).mkdir()
    for stem in ("a", "b", "c"):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{stem}.png")
        np.save(tmp_path / "scores" / f"{stem}.npy", logits)
    return tmp_path


def run(folder, *arguments):
    """The command in ``folder``: its exit code, and all that it prints."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestOnePhoto:
    def test_labels_follow_the_photo(self, files, disc):
        code, output = run(files, "refine", "photo.png", "scores.npy", "-o", "out.png")
        assert code == 0, output
        assert re.fullmatch(r"30x40 pixels, 2 labels, \d+ ms: out\.png\n", output)
        _, truth, logits = disc
        assert (read(files / "out.png") == truth).mean() > 0.99
        assert (logits.argmax(axis=0) == truth).mean() < 0.95
        with Image.open(files / "out.png") as picture:
            assert picture.mode == "P"

    def test_is_the_python_function(self, files, disc):
        photo, _, logits = disc
        run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", "--probabilities", "p.npy")
        result = refine(photo, logits)
        assert np.array_equal(read(files / "o.png"), result.labels)
        assert np.array_equal(np.load(files / "p.npy"), result.probabilities)

    def test_all_outputs(self, files):
        code, _ = run(
            *(files, "refine", "photo.png", "scores.npy", "-o", "new/out.png"),
            *("--overlay", "over.png", "--probabilities", "p.npz"),
        )
        assert code == 0
        assert read(files / "over.png").shape == (HEIGHT, WIDTH, 3)
        with np.load(files / "p.npz") as archive:
            assert archive["probabilities"].shape == (2, HEIGHT, WIDTH)
            assert archive["labels"].tolist() == [0, 1]
            labels = archive["probabilities"].argmax(axis=0)
        assert np.array_equal(labels, read(files / "new" / "out.png"))

    def test_probabilities_can_be_refined_again(self, files):
        run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", "--probabilities", "p.npz")
        code, output = run(files, "refine", "photo.png", "p.npz", "-o", "again.png")
        assert code == 0, output
        assert np.array_equal(read(files / "o.png"), read(files / "again.png"))

    def test_outputs_named_after_the_photo_in_folders(self, files):
        (files / "out").mkdir()
        (files / "over").mkdir()
        code, _ = run(files, "refine", "photo.png", "scores.npy", "-o", "out", "--overlay", "over")
        assert code == 0
        assert names(files / "out") == names(files / "over") == ["photo.png"]

    def test_existing_output_is_kept(self, files):
        (files / "out.png").write_bytes(b"mine")
        code, output = run(files, "refine", "photo.png", "scores.npy", "-o", "out.png")
        assert code == 1
        assert output == "error: out.png: exists already; replace it with --overwrite\n"
        assert (files / "out.png").read_bytes() == b"mine"
        code, _ = run(files, "refine", "photo.png", "scores.npy", "-o", "out.png", "--overwrite")
        assert code == 0
        assert read(files / "out.png").shape == (HEIGHT, WIDTH)

    @pytest.mark.parametrize("out", ["photo.png", "labels.png", "./photo.png", "link.png"])
    def test_an_input_is_never_replaced(self, files, disc, out):
        Image.fromarray(disc[1].astype(np.uint8)).save(files / "labels.png")
        (files / "link.png").symlink_to("photo.png")
        content = (files / out).read_bytes()
        code, output = run(files, "refine", "photo.png", "labels.png", "-o", out, "--overwrite")
        assert code == 1
        assert "the output must not replace an input" in output
        assert (files / out).read_bytes() == content

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-o", "out.jpg"], r"out\.jpg: the output must end in \.png"),
            (["-o", "labels/"], r"labels: the output must end in \.png, or be an existing folder"),
            (["-o", "a.png", "--overlay", "b.jpg"], r"b\.jpg: the output must end in \.png"),
            (["-o", "a.png", "--probabilities", "b.png"], r"b\.png: the output must end in \.npz"),
            (["-o", "a.png", "--overlay", "./a.png"], "the outputs must be different files"),
            (["-o", "photo.png/a.png"], r"photo\.png"),
        ],
        ids=["jpeg", "folder", "overlay", "probabilities", "twice", "file-as-folder"],
    )
    def test_outputs_that_cannot_be(self, files, options, message):
        before = names(files)
        code, output = run(files, "refine", "photo.png", "scores.npy", *options)
        assert code == 1
        assert re.match(rf"error: .*{message}", output)
        assert names(files) == before

    def test_failed_write_leaves_no_file(self, files, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", fail)
        before = names(files)
        code, output = run(files, "refine", "photo.png", "scores.npy", "-o", "out.png")
        assert code == 1
        assert output == "error: out.png: No space left on device\n"
        assert names(files) == before


class TestScores:
    def test_every_layout_and_kind_gives_the_same(self, files, disc):
        logits = disc[2].astype(float)
        shares = np.exp(logits) / np.exp(logits).sum(axis=0)
        variants = {
            "lhw": logits,
            "hwl": np.moveaxis(logits, 0, 2),
            "batch": logits[None],
            "log": np.log(shares),
            "probabilities": shares,
            "half": shares.astype(np.float16),
        }
        found = {}
        for name, values in variants.items():
            np.save(files / f"{name}.npy", values)
            code, output = run(files, "refine", "photo.png", f"{name}.npy", "-o", f"{name}.png")
            assert code == 0, output
            found[name] = read(files / f"{name}.png")
        for labels in found.values():
            assert np.array_equal(labels, found["lhw"])

    def test_doubt_is_resolved_by_flags(self, files):
        np.save(files / "s.npy", RNG.random((2, HEIGHT, WIDTH)))
        code, output = run(files, "refine", "photo.png", "s.npy", "-o", "o.png")
        assert code == 1
        assert output.startswith("error: s.npy: scores must say what they are")
        assert not (files / "o.png").exists()
        code, _ = run(files, "refine", "photo.png", "s.npy", "-o", "o.png", "--kind", "logits")
        assert code == 0

    def test_layout_key_and_stretch(self, files):
        cube = RNG.standard_normal((9, 9, 9))
        np.savez(files / "s.npz", first=cube, second=cube)
        options = ("refine", "photo.png", "s.npz", "-o", "o.png", "--key", "second")
        assert run(files, *options)[0] == 1
        assert run(files, *options, "--layout", "hwl")[0] == 1
        assert run(files, *options, "--layout", "hwl", "--stretch")[0] == 0

    def test_small_scores_are_enlarged(self, files, disc):
        coarse = disc[2][:, ::5, ::5]
        np.save(files / "s.npy", coarse)
        code, _ = run(files, "refine", "photo.png", "s.npy", "-o", "o.png")
        assert code == 0
        assert (read(files / "o.png") == disc[1]).mean() > 0.97

    def test_large_scores_are_reduced_with_a_warning(self, files, disc):
        np.save(files / "s.npy", np.repeat(np.repeat(disc[2], 2, axis=1), 2, axis=2))
        code, output = run(files, "refine", "photo.png", "s.npy", "-o", "o.png")
        assert code == 0
        assert "warning: photo.png: scores of 60x80 are larger than the photo's 30x40" in output

    def test_labels_with_confidence(self, files, disc):
        labels = np.roll(disc[1], 3, axis=1) * 15
        labels[:4] = 255
        Image.fromarray(labels.astype(np.uint8)).save(files / "l.png")
        options = ("--confidence", "0.6", "--probabilities", "p.npz")
        code, _ = run(files, "refine", "photo.png", "l.png", "-o", "o.png", *options)
        assert code == 0
        found = read(files / "o.png")
        assert np.unique(found).tolist() == [0, 15]
        assert (found == 15 * disc[1]).mean() > 0.99
        with np.load(files / "p.npz") as archive:
            assert archive["labels"].tolist() == [0, 15]

    def test_confidence_decides_how_much_may_change(self, files, disc):
        wrong = np.roll(disc[1], 3, axis=1).astype(np.uint8)
        Image.fromarray(wrong).save(files / "l.png")
        sure = ("--confidence", "0.9999999999")
        run(files, "refine", "photo.png", "l.png", "-o", "o.png", *sure)
        assert np.array_equal(read(files / "o.png"), wrong)

    def test_0_and_255_alone_must_be_told(self, files, disc):
        Image.fromarray((255 * disc[1]).astype(np.uint8)).save(files / "l.png")
        code, output = run(files, "refine", "photo.png", "l.png", "-o", "o.png")
        assert code == 1
        assert re.match(r"error: .*--unknown -1 .*--unknown 255", output)
        run(files, "refine", "photo.png", "l.png", "-o", "o.png", "--unknown", "-1")
        assert np.unique(read(files / "o.png")).tolist() == [0, 255]
        run(files, "refine", "photo.png", "l.png", "-o", "q.png", "--unknown", "255")
        assert (read(files / "q.png") == 0).all()

    def test_nothing_but_unknown(self, files):
        Image.new("L", (WIDTH, HEIGHT), 255).save(files / "l.png")
        code, output = run(files, "refine", "photo.png", "l.png", "-o", "o.png")
        assert code == 1
        assert "labels must label some pixel, got 255 (unknown) everywhere" in output

    def test_confidence_without_labels_is_said(self, files):
        options = ("-o", "o.png", "--confidence", "0.6")
        code, output = run(files, "refine", "photo.png", "scores.npy", *options)
        assert code == 0
        assert "warning: scores.npy: --confidence and --unknown are for labels" in output


class TestPhotos:
    def turned(self, files, disc):
        """The photo stored on its side, upright by its EXIF orientation."""
        exif = Image.Exif()
        exif[0x0112] = 8
        stored = np.rot90(disc[0], -1)
        Image.fromarray(stored.copy()).save(files / "turned.png", exif=exif)

    def test_exif_orientation_is_followed(self, files, disc):
        self.turned(files, disc)
        run(files, "refine", "photo.png", "scores.npy", "-o", "a.png")
        code, output = run(files, "refine", "turned.png", "scores.npy", "-o", "b.png")
        assert code == 0, output
        assert np.array_equal(read(files / "a.png"), read(files / "b.png"))

    def test_scores_of_the_stored_photo(self, files, disc):
        self.turned(files, disc)
        np.save(files / "s.npy", np.rot90(disc[2], -1, axes=(1, 2)))
        code, output = run(files, "refine", "turned.png", "s.npy", "-o", "o.png")
        assert code == 1
        assert "EXIF" in output and "--no-exif" in output
        code, _ = run(files, "refine", "turned.png", "s.npy", "-o", "o.png", "--no-exif")
        assert code == 0
        assert read(files / "o.png").shape == (WIDTH, HEIGHT)

    def test_unit_range_is_warned_of(self, files, disc):
        np.save(files / "p.npy", disc[0] / 255)
        code, output = run(files, "refine", "p.npy", "scores.npy", "-o", "o.png")
        assert code == 0
        assert "warning: p.npy: image holds floats in [0, 1] while sigma_rgb 13" in output
        code, output = run(
            files, "refine", "p.npy", "scores.npy", "-o", "q.png", "--sigma-rgb", 13 / 255
        )
        assert code == 0 and "warning" not in output
        assert (read(files / "q.png") == disc[1]).mean() > 0.99

    @pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16"])
    def test_modes(self, files, disc, mode):
        if mode == "I;16":
            photo = Image.fromarray(disc[0][..., 0].astype(np.uint16) * 257)
        else:
            photo = Image.fromarray(disc[0]).convert(mode)
        photo.save(files / "photo.tif")
        code, output = run(files, "refine", "photo.tif", "scores.npy", "-o", "o.png")
        assert code == 0, output
        assert (read(files / "o.png") == disc[1]).mean() > 0.99

    @pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut short"])
    def test_broken(self, files, content):
        (files / "broken.jpg").write_bytes(content)
        before = names(files)
        code, output = run(files, "refine", "broken.jpg", "scores.npy", "-o", "o.png")
        assert code == 1
        assert re.fullmatch(r"error: broken\.jpg: .*\n", output)
        assert names(files) == before

    def test_too_large(self, files):
        Image.new("L", (1500, 1000)).save(files / "large.png")
        options = ("--max-megapixels", "1")
        code, output = run(files, "refine", "large.png", "scores.npy", "-o", "o.png", *options)
        assert code == 1
        assert "large.png: image must have at most 1 million pixels" in output

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
    def test_tiny(self, files, size):
        Image.new("RGB", size, (9, 9, 9)).save(files / "p.png")
        np.save(files / "s.npy", RNG.standard_normal((3, size[1], size[0])))
        options = ("--layout", "lhw", "--kind", "logits")
        code, output = run(files, "refine", "p.png", "s.npy", "-o", "o.png", *options)
        assert code == 0, output
        assert read(files / "o.png").shape == (size[1], size[0])


class TestSettings:
    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--sigma-xy", "0", "--sigma-xy must be positive and finite, got 0"),
            ("--sigma-xy", "-3", "--sigma-xy must be positive and finite, got -3"),
            ("--sigma-rgb", "nan", "--sigma-rgb must be positive and finite, got nan"),
            ("--position-sigma-xy", "inf", "--position-sigma-xy must be positive and finite"),
            ("--weight", "nan", "--weight must be finite in float32, got nan"),
            ("--weight", "1e39", "--weight must be finite in float32, got 1e+39"),
            ("--position-weight", "-inf", "--position-weight must be finite in float32, got -inf"),
            ("--iterations", "-1", "--iterations must be between 0 and 100, got -1"),
            ("--iterations", "101", "--iterations must be between 0 and 100, got 101"),
            ("--confidence", "1", "--confidence must lie between 0 and 1, got 1"),
            ("--confidence", "nan", "--confidence must lie between 0 and 1, got nan"),
            ("--preset", "deeplab", "--preset must be one of default, "),
        ],
    )
    def test_out_of_range_is_a_usage_error(self, files, option, value, message):
        before = names(files)
        code, output = run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", option, value)
        assert code == 2
        assert output.startswith(f"error: {message}")
        assert output.count("\n") == 1
        assert names(files) == before

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--kind", "wish"],
            ["--layout", "whl"],
            ["--normalization", "some"],
            ["--threads", "0"],
            ["--threads", "1025"],
            ["--sigma-xy", "wide"],
            ["--no-such-option"],
            [],
        ],
    )
    def test_wrong_command_line(self, files, arguments):
        out = ["-o", "o.png"] if arguments else []
        code, _ = run(files, "refine", "photo.png", "scores.npy", *out, *arguments)
        assert code == 2
        assert not (files / "o.png").exists()

    @pytest.mark.parametrize("option", ["--sigma-xy", "--sigma-rgb", "--position-sigma-xy"])
    def test_width_too_small_for_the_lattice_is_named(self, files, option):
        code, output = run(
            files, "refine", "photo.png", "scores.npy", "-o", "o.png", option, "1e-20"
        )
        assert code == 1
        assert option.lstrip("-").replace("-", "_") + " 1e-20" in output
        assert not (files / "o.png").exists()

    def test_enormous_widths_are_served(self, files):
        widths = [f for name in ("--sigma-xy", "--sigma-rgb") for f in (name, "1e8")]
        code, _ = run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", *widths)
        assert code == 0

    def test_no_iteration_is_the_largest_score(self, files, disc):
        options = ("-o", "o.png", "--iterations", "0")
        code, _ = run(files, "refine", "photo.png", "scores.npy", *options)
        assert code == 0
        assert np.array_equal(read(files / "o.png"), disc[2].argmax(axis=0))

    @pytest.mark.parametrize("preset", PRESETS)
    def test_preset_is_its_numbers(self, files, preset):
        numbers = PRESETS[preset]
        fields = (
            "weight sigma_xy sigma_rgb position_weight position_sigma_xy iterations normalization"
        )
        spelt = []
        for field in fields.split():
            spelt += [f"--{field.replace('_', '-')}", getattr(numbers, field)]
        base = ("refine", "photo.png", "scores.npy", "-o")
        assert run(files, *base, "a.png", "--probabilities", "a.npy", "--preset", preset)[0] == 0
        assert run(files, *base, "b.png", "--probabilities", "b.npy", *spelt)[0] == 0
        assert np.array_equal(np.load(files / "a.npy"), np.load(files / "b.npy"))

    def test_option_overrides_preset(self, files, disc):
        options = ("--preset", "deeplab-resnet", "--iterations", "0")
        run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", *options)
        assert np.array_equal(read(files / "o.png"), disc[2].argmax(axis=0))

    def test_without_kernels_nothing_changes(self, files, disc):
        options = ("--weight", "0", "--position-weight", "0")
        code, _ = run(files, "refine", "photo.png", "scores.npy", "-o", "o.png", *options)
        assert code == 0
        assert np.array_equal(read(files / "o.png"), disc[2].argmax(axis=0))

    def test_threads_do_not_change_the_result(self, files):
        threads = _numpy.get_num_threads()
        try:
            for count in ("1", "3"):
                options = ("--threads", count, "--probabilities", f"{count}.npy")
                code, _ = run(
                    files, "refine", "photo.png", "scores.npy", "-o", f"{count}.png", *options
                )
                assert code == 0
                assert _numpy.get_num_threads() == int(count)
        finally:
            _numpy.set_num_threads(threads)
        assert np.array_equal(np.load(files / "1.npy"), np.load(files / "3.npy"))


class TestFolders:
    def test_every_photo(self, folders):
        code, output = run(
            *(folders, "refine", "photos", "scores", "-o", "out"),
            *("--overlay", "over", "--probabilities", "shares"),
        )
        assert code == 0, output
        assert output == "3 refined, 0 done before, 0 failed\n"
        assert names(folders / "out") == names(folders / "over") == ["a.png", "b.png", "c.png"]
        assert names(folders / "shares") == ["a.npz", "b.npz", "c.npz"]

    def test_done_is_skipped(self, folders):
        run(folders, "refine", "photos", "scores", "-o", "out")
        (folders / "out" / "b.png").unlink()
        (folders / "out" / "c.png").write_bytes(b"mine")
        code, output = run(folders, "refine", "photos", "scores", "-o", "out")
        assert (code, output) == (0, "1 refined, 2 done before, 0 failed\n")
        assert (folders / "out" / "c.png").read_bytes() == b"mine"
        code, output = run(folders, "refine", "photos", "scores", "-o", "out", "--overwrite")
        assert (code, output) == (0, "3 refined, 0 done before, 0 failed\n")
        assert read(folders / "out" / "c.png").shape == (HEIGHT, WIDTH)

    def test_a_missing_overlay_is_added_and_labels_are_kept(self, folders):
        run(folders, "refine", "photos", "scores", "-o", "out")
        (folders / "out" / "c.png").write_bytes(b"mine")
        code, output = run(folders, "refine", "photos", "scores", "-o", "out", "--overlay", "over")
        assert (code, output) == (0, "3 refined, 0 done before, 0 failed\n")
        assert (folders / "out" / "c.png").read_bytes() == b"mine"
        assert names(folders / "over") == ["a.png", "b.png", "c.png"]

    def test_an_overlay_is_kept_while_labels_are_added(self, folders):
        (folders / "over").mkdir()
        (folders / "over" / "a.png").write_bytes(b"mine")
        run(folders, "refine", "photos", "scores", "-o", "out", "--overlay", "over")
        assert (folders / "over" / "a.png").read_bytes() == b"mine"
        assert read(folders / "out" / "a.png").shape == (HEIGHT, WIDTH)

    def test_bad_files_are_listed_and_the_others_refined(self, folders):
        (folders / "photos" / "a.png").write_bytes(b"broken")
        (folders / "scores" / "b.npy").write_bytes(b"broken")
        code, output = run(folders, "refine", "photos", "scores", "-o", "out")
        assert code == 1
        lines = output.splitlines()
        assert lines[0] == "1 refined, 0 done before, 2 failed"
        assert lines[1].startswith("failed: photos/a.png: must be an image")
        assert lines[2].startswith("failed: b.png: scores/b.npy: must be a NumPy")
        assert names(folders / "out") == ["c.png"]

    def test_missing_partners_are_listed(self, folders):
        (folders / "scores" / "a.npy").unlink()
        (folders / "photos" / "b.png").unlink()
        Image.new("RGB", (WIDTH, HEIGHT)).save(folders / "photos" / "c.jpg")
        code, output = run(folders, "refine", "photos", "scores", "-o", "out")
        assert code == 1
        assert output.splitlines() == [
            "0 refined, 0 done before, 3 failed",
            "failed: a.png: no scores of this name in scores",
            "failed: b.npy: no photo of this name in photos",
            "failed: c.jpg, c.png, c.npy: 2 photos of one name; keep one",
        ]

    def test_two_files_of_scores(self, folders):
        np.savez(folders / "scores" / "a.npz", np.zeros(3))
        code, output = run(folders, "refine", "photos", "scores", "-o", "out")
        assert code == 1
        assert "failed: a.png, a.npy, a.npz: 2 files of scores for one photo" in output

    def test_warnings_name_the_photo(self, folders, disc):
        (folders / "photos" / "a.png").unlink()
        np.save(folders / "photos" / "a.npy", disc[0] / 255)
        code, output = run(folders, "refine", "photos", "scores", "-o", "out")
        assert code == 0
        assert "warning: photos/a.npy: image holds floats in [0, 1]" in output

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("photos", "photos: the output must not go to a folder of inputs"),
            ("./scores", "scores: the output must not go to a folder of inputs"),
            ("out.png", "out.png: the output of a folder must be a folder"),
            ("photos/a.png", "photos/a.png: the output of a folder must be a folder"),
        ],
    )
    def test_outputs_that_cannot_be(self, folders, out, message):
        code, output = run(folders, "refine", "photos", "scores", "-o", out)
        assert (code, output) == (1, f"error: {message}\n")
        assert names(folders) == ["photos", "scores"]

    def test_one_folder_for_labels_and_overlays(self, folders):
        options = ("-o", "out", "--overlay", "./out")
        code, output = run(folders, "refine", "photos", "scores", *options)
        assert code == 1
        assert "labels and overlays must go to different folders" in output

    def test_empty_folder(self, folders):
        (folders / "nothing").mkdir()
        code, output = run(folders, "refine", "nothing", "scores", "-o", "out")
        assert code == 1
        assert output.startswith("error: nothing: must hold files that end in .bmp")

    @pytest.mark.parametrize(
        ("photo", "scores", "message"),
        [
            ("photos", "scores/a.npy", "two files or two folders, got a folder and a file"),
            ("photos/a.png", "scores", "two files or two folders, got a file and a folder"),
            ("nowhere", "scores", "PHOTO must exist, got nowhere"),
            ("photos", "nowhere", "SCORES must exist, got nowhere"),
        ],
    )
    def test_pairs_that_are_none(self, folders, photo, scores, message):
        code, output = run(folders, "refine", photo, scores, "-o", "out")
        assert code == 2
        assert output.startswith("error: ") and message in output
        assert names(folders) == ["photos", "scores"]


class TestProcess:
    def start(self, folder, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "fastseg", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_help_shows_papers_symbols_and_presets(self):
        code, output = run(".", "refine", "--help")
        assert code == 0
        words = set(re.findall(r"[\w-]+", output))
        assert {"w1", "sigma_alpha", "sigma_beta", "w2", "sigma_gamma"} <= words
        assert {"--sigma-xy", "--sigma-rgb", "--weight", "--position-weight"} <= words
        assert set(PRESETS) <= words

    def test_help_and_refine_never_load_torch(self, files):
        code = (
            "import sys; sys.argv = ['fastseg', *sys.argv[1:]]; from fastseg.cli import main\n"
            "try: main()\n"
            "except SystemExit as leave: code = leave.code\n"
            "heavy = {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
            "print(sorted(heavy), code)"
        )
        for arguments, heavy in (
            (["--help"], []),
            (["--version"], []),
            (["refine", "photo.png", "scores.npy", "-o", "o.png"], ["PIL", "numpy"]),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                cwd=files,
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout.splitlines()[-1] == f"{heavy} 0", done.stderr

    def test_error_is_one_line_on_the_error_stream(self, files):
        process = self.start(files, "refine", "photo.png", "missing.npy", "-o", "o.png")
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert output == ""
        assert errors == "error: SCORES must exist, got missing.npy\n"

    def test_name_that_the_terminal_cannot_show(self, files):
        (files / "\u00fc.png").write_bytes(b"no picture")
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", "refine", "\u00fc.png", "scores.npy", "-o", "o.png"],
            cwd=files,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: \\xfc.png: must be an image")

    def test_full_disk_is_named_by_the_file(self, files):
        """A limit on the size of files stands for a disk without room."""
        limited = (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); "
            "from fastseg.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", limited, "refine", "photo.png", "scores.npy", "-o", "o.png"],
            cwd=files,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr == "error: o.png: File too large\n"
        assert names(files) == ["photo.png", "scores.npy"]

    def test_interrupt_leaves_whole_files(self, folders):
        photo, scores = folders / "photos" / "a.png", folders / "scores" / "a.npy"
        for number in range(3000):
            os.link(photo, folders / "photos" / f"n{number}.png")
            os.link(scores, folders / "scores" / f"n{number}.npy")
        process = self.start(folders, "refine", "photos", "scores", "-o", "out")
        deadline = time.monotonic() + 30
        while not (folders / "out" / "c.png").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "every file written so far is whole" in errors
        assert "Traceback" not in errors
        written = names(folders / "out")
        assert 3 <= len(written) < 3003
        for name in written:
            assert read(folders / "out" / name).shape == (HEIGHT, WIDTH)


class TestFunction:
    """What only the Python function can be given."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": np.zeros((30, 40), np.uint8)}, r"image must have shape \(H, W, C\)"),
            ({"image": np.zeros((0, 40, 3), np.uint8)}, r"image must have shape \(H, W, C\)"),
            ({"image": np.zeros((40, 30, 3), np.uint8)}, "scores must have the photo's height"),
            ({"image": np.full((30, 40, 3), np.nan)}, "image must be finite"),
            ({"image": np.zeros((30, 40, 3), complex)}, "image must be of a real number type"),
            ({"scores": np.zeros((2, 30, 41))}, "scores must have the photo's height and width"),
            ({"scores": np.zeros((30, 40))}, r"scores must have shape \(L, H, W\), got \(30, 40\)"),
            ({"scores": np.zeros((0, 30, 40))}, r"scores must have shape \(L, H, W\)"),
            ({"scores": np.full((2, 30, 40), np.inf)}, "scores must be finite"),
            ({"scores": np.full((2, 30, 40), 1e300)}, "scores must be finite"),
            ({"scores": np.zeros((2, 30, 40), complex)}, "scores must be of a real number type"),
            ({"kind": "wishes"}, "kind must be one of logits, probabilities, labels, got 'wishes'"),
            ({"scores": np.full((2, 30, 40), 2), "kind": "probabilities"}, r"must lie in \[0, 1\]"),
            ({"kind": "labels"}, r"labels must be integers of shape \(H, W\), got float32"),
            ({"scores": np.full((30, 40), -1), "kind": "labels"}, "labels must not be negative"),
            (
                {"scores": np.full((30, 40), 2**63, np.uint64), "kind": "labels"},
                "labels must fit in int64, got 9223372036854775808",
            ),
            (
                {"scores": np.arange(1200).reshape(30, 40), "kind": "labels", "unknown": -1},
                "labels must have at most 1000 values, got 1200",
            ),
            (
                {"scores": np.zeros((1001, 30, 40), np.float32)},
                "scores must have 1 to 1000 labels, got 1001",
            ),
        ],
    )
    def test_refuses(self, disc, change, message):
        arguments = {"image": disc[0], "scores": disc[2], "kind": "logits", **change}
        with pytest.raises(ValueError, match=message):
            refine(**arguments)

    def test_memory_layout_does_not_matter(self, disc):
        photo, _, logits = disc
        expected = refine(photo, logits)
        awkward = refine(
            np.asfortranarray(photo), np.moveaxis(np.moveaxis(logits, 0, 2).copy(), 2, 0)
        )
        assert np.array_equal(awkward.probabilities, expected.probabilities)
        assert expected.probabilities.flags.c_contiguous

    @pytest.mark.parametrize("channels", [1, 2, 4, 7])
    def test_any_number_of_channels(self, disc, channels):
        photo = np.repeat(disc[0][..., :1], channels, axis=2)
        result = refine(photo, disc[2])
        np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)

    def test_unary_of_probabilities(self, disc):
        shares = RNG.random((3, HEIGHT, WIDTH))
        shares[0, :5] = 0
        shares /= shares.sum(axis=0)
        start = dataclasses.replace(PRESETS["default"], iterations=0)
        found = refine(disc[0], shares, start, kind="probabilities").probabilities
        cut = shares.clip(1e-5)
        np.testing.assert_allclose(found, cut / cut.sum(axis=0), rtol=1e-4)

    def test_unary_of_labels(self, disc):
        labels = RNG.choice([0, 3, 8, 255], (HEIGHT, WIDTH))
        start = dataclasses.replace(PRESETS["default"], iterations=0)
        found = refine(disc[0], labels, start, kind="labels", confidence=0.6)
        assert found.names.tolist() == [0, 3, 8]
        for plane, name in zip(found.probabilities, found.names, strict=True):
            np.testing.assert_allclose(plane[labels == name], 0.6, rtol=1e-4)
            np.testing.assert_allclose(plane[labels == 255], 1 / 3, rtol=1e-4)
            other = (labels != name) & (labels != 255)
            np.testing.assert_allclose(plane[other], 0.2, rtol=1e-4)

    def test_one_label(self, disc):
        result = refine(disc[0], np.full((HEIGHT, WIDTH), 7), kind="labels")
        assert (result.labels == 7).all()
        np.testing.assert_allclose(result.probabilities, 1, atol=1e-6)

    def test_inputs_are_not_changed(self, disc):
        photo, _, logits = disc
        shares = np.clip(logits, 0, 1)
        kept = shares.copy()
        refine(photo, shares, kind="probabilities")
        assert np.array_equal(shares, kept)

    def test_more_than_memory_is_refused_before_it_is_asked_for(self):
        with pytest.raises(ValueError, match=r"1000 labels on 1000000.0 million pixels must fit"):
            check_memory(1000, 10**12)

    def test_is_the_module(self, disc):
        torch = pytest.importorskip("torch")
        from fastseg.crf import DenseCRF

        photo, _, logits = disc
        image = torch.from_numpy(photo).permute(2, 0, 1)[None]
        expected = DenseCRF.preset("deeplab-resnet")(torch.from_numpy(logits)[None], image)
        found = refine(photo, logits, PRESETS["deeplab-resnet"])
        np.testing.assert_allclose(found.probabilities, expected[0].detach().numpy(), atol=1e-5)
