"""``fastseg segment``, ``fastseg models`` and ``fastseg convert``, as a user meets them."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fastseg
from fastseg.cli import app
from fastseg.models import UNet, list_systems
from fastseg.predict import jobs

HEIGHT, WIDTH = 40, 52


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path, randomised):
    """A file of weights, and a folder of two photographs and a file that is none."""
    model = randomised(UNet(3, in_channels=3, width=4, padding="same"))
    fastseg.save_weights(model, tmp_path / "unet.safetensors")
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path


def segment(place, *arguments):
    options = ("--weights", place / "unet.safetensors", "-o", place / "out")
    return run("segment", *arguments, *options)


def test_folder(place):
    code, output = segment(place, place / "photos", "--overlay", "--scores")
    assert code == 0, output
    assert "2 segmented, 0 done before, 0 failed" in output
    assert files(place / "out") == [
        *("a.png", "b.png", "overlay/a.png", "overlay/b.png", "scores/a.npz", "scores/b.npz")
    ]
    model = fastseg.load_weights(None, place / "unet.safetensors")
    expected = fastseg.Segmenter(model).predict(place / "photos" / "a.png")
    with Image.open(place / "out" / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), expected.numpy())
    with np.load(place / "out" / "scores" / "a.npz") as archive:
        assert archive["probabilities"].shape == (3, HEIGHT, WIDTH)
        assert np.array_equal(archive["probabilities"].argmax(0), expected.numpy())


def test_weights_of_half_precision(place):
    model = fastseg.load_weights(None, place / "unet.safetensors")
    fastseg.save_weights(model.half(), place / "unet.safetensors")
    code, output = segment(place, place / "photos")
    assert code == 0, output


def test_scores_can_be_refined(place):
    segment(place, place / "photos", "--scores")
    code, output = run(
        *("refine", place / "photos", place / "out" / "scores", "-o", place / "refined")
    )
    assert code == 0, output
    assert files(place / "refined") == ["a.png", "b.png"]


def test_resumes(place):
    segment(place, place / "photos" / "a.png")
    before = (place / "out" / "a.png").stat().st_mtime_ns
    code, output = segment(place, place / "photos")
    assert code == 0 and "1 segmented, 1 done before" in output
    assert (place / "out" / "a.png").stat().st_mtime_ns == before
    _, output = segment(place, place / "photos", "--overwrite")
    assert "2 segmented, 0 done before" in output
    # Nothing to do: the weights are not even read.
    (place / "unet.safetensors").unlink()
    assert segment(place, place / "photos")[0] == 0


def test_goes_on_past_bad_files(place):
    (place / "photos" / "c.jpg").write_bytes(b"no photograph")
    whole = (place / "photos" / "a.png").read_bytes()
    (place / "photos" / "d.png").write_bytes(whole[: len(whole) // 2])
    code, output = segment(place, place / "photos", place / "missing.jpg")
    assert code == 1
    assert "2 segmented, 0 done before, 3 failed" in output
    for text in ("c.jpg: must be an image", "d.png: the image cannot be", "missing.jpg: no such"):
        assert text in output
    assert "Traceback" not in output
    assert files(place / "out") == ["a.png", "b.png"]


def test_two_photos_of_one_name(place):
    (place / "more").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(place / "more" / "a.png")
    code, output = segment(place, place / "photos", place / "more")
    assert code == 1 and "2 photos of one name; keep one" in output
    assert files(place / "out") == ["b.png"]


def test_never_replaces_a_photo(place):
    before = (place / "photos" / "a.png").read_bytes()
    weights = place / "unet.safetensors"
    code, output = run(
        *("segment", place / "photos", "-w", weights, "-o", place / "photos", "--overwrite")
    )
    assert code == 1 and "the output must not replace" in output
    assert (place / "photos" / "a.png").read_bytes() == before


def raising(monkeypatch, name, error):
    """``run`` of the photo ``name`` raises ``error``."""
    run_one = jobs.run

    def run_or_raise(job, *arguments, **options):
        if job.photo.name == name:
            raise error
        return run_one(job, *arguments, **options)

    monkeypatch.setattr(jobs, "run", run_or_raise)


def test_interrupted(place, monkeypatch):
    with monkeypatch.context() as patch:
        raising(patch, "b.png", KeyboardInterrupt())
        code, output = segment(place, place / "photos")
    assert code == 130
    assert "1 segmented, 0 done before, 0 failed, 1 left: the same command" in one_line(output)
    assert "every file written so far is whole" in output
    assert files(place / "out") == ["a.png"]
    assert "1 segmented, 1 done before" in segment(place, place / "photos")[1]


def test_a_full_disk_ends_the_run(place, monkeypatch):
    raising(monkeypatch, "a.png", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a.png"))
    code, output = segment(place, place / "photos")
    assert code == 1
    assert "0 segmented, 0 done before, 1 failed, 1 left" in one_line(output)
    assert "failed: out/a.png: No space left on device" in one_line(output)
    assert not (place / "out").exists()


def test_folder_that_takes_no_files(place, monkeypatch):
    """Before the network is loaded."""
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    code, output = segment(place, place / "photos", "--model", "fcn8s")
    assert code == 1 and "out: files cannot be written there" in one_line(output)


def one_line(output):
    return " ".join(output.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--crf", "best"], 2, "--crf must be one of default, pydensecrf"),
        (["--model", "fcn-8s"], 2, "did you mean fcn8s"),
        (
            ["--model", "unet_bilinear"],
            1,
            "must hold weights of unet_bilinear, got",
        ),
        (["--max-memory", "lots"], 2, '--max-memory must be a size such as "2GB"'),
        (["--max-memory", "1MB"], 1, "max_memory must be"),
        (["--device", "tpu9"], 2, "--device must be one that torch has, got tpu9"),
        (["--max-megapixels", "0"], 2, "--max-megapixels"),
    ],
)
def test_wrong_options(place, arguments, code, message):
    result, output = segment(place, place / "photos", *arguments)
    assert result == code
    assert message in one_line(output)
    assert "Traceback" not in output
    assert files(place / "out") == []


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02}q\x00."])
def test_bad_weights(place, content):
    (place / "unet.safetensors").write_bytes(content)
    code, output = segment(place, place / "photos")
    assert code == 1 and "load_weights" in output and "Traceback" not in output
    assert not (place / "out").exists()


def test_no_photos(place):
    (place / "empty").mkdir()
    code, output = segment(place, place / "empty")
    assert code == 1 and "must hold files that end in" in one_line(output)


def test_crf_and_averaging(place):
    photo = place / "photos" / "a.png"
    assert segment(place, photo, "--crf", "deeplab-resnet", "--scores")[0] == 0
    with np.load(place / "out" / "scores" / "a.npz") as archive:
        refined = archive["probabilities"]
    assert segment(place, photo, "--tta", "--scores", "--overwrite")[0] == 0
    with np.load(place / "out" / "scores" / "a.npz") as archive:
        averaged = archive["probabilities"]
    model = fastseg.load_weights(None, place / "unet.safetensors")
    expected = {
        "crf": fastseg.Segmenter(model, "deeplab-resnet"),
        "tta": fastseg.Segmenter(model, scales=fastseg.predict.SCALES, flip=True),
    }
    for name, actual in (("crf", refined), ("tta", averaged)):
        probs = expected[name].predict(photo, output="probabilities").numpy()
        np.testing.assert_allclose(actual, probs, rtol=1e-4, atol=1e-6)
    assert np.abs(refined - averaged).max() > 0.01


def test_large_tiff_becomes_a_tiff(place):
    tifffile = pytest.importorskip("tifffile")
    tile = np.asarray(Image.open(place / "photos" / "a.png").resize((1000, 1001)))
    tifffile.imwrite(place / "photos" / "c.tif", tile, tile=(256, 256), photometric="rgb")
    code, output = segment(place, place / "photos", "--max-megapixels", "1", "--overlay")
    assert code == 0, output
    assert files(place / "out") == ["a.png", "b.png", "c.tif", "overlay/a.png", "overlay/b.png"]
    model = fastseg.load_weights(None, place / "unet.safetensors")
    expected = fastseg.Segmenter(model).predict(tile).numpy()
    assert np.array_equal(tifffile.imread(place / "out" / "c.tif"), expected)
    assert "3 done before" in segment(place, place / "photos", "--max-megapixels", "1")[1]


class TestModels:
    def test_table_holds_every_system(self):
        code, output = run("models")
        assert code == 0
        assert all(name in output for name in list_systems())

    def test_json(self):
        code, output = run("models", "--json")
        rows = json.loads(output)
        assert code == 0 and [row["name"] for row in rows] == list_systems()
        fcn = next(row for row in rows if row["name"] == "fcn8s")
        assert fcn["parameters"] == 134_489_759 and fcn["output_stride"] == 8
        assert fcn["input"]["channels"] == "bgr" and "wkentaro" in fcn["checkpoints"]

    def test_one(self):
        code, output = run("models", "deeplabv2_resnet101")
        assert code == 0
        assert "44,048,532 with 21 classes" in output
        assert "BGR 0-255, less mean, padded to 513" in output

    def test_unknown(self):
        code, output = run("models", "deeplab_v3plus")
        assert code == 2 and "did you mean deeplabv3plus" in one_line(output)


class TestConvert:
    def test_round_trip(self, place):
        code, output = run("convert", place / "unet.safetensors", place / "copy.safetensors")
        assert code == 0 and "copy.safetensors" in one_line(output)
        first, second = (
            fastseg.load_weights(None, place / name).state_dict()
            for name in ("unet.safetensors", "copy.safetensors")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_existing_file_is_kept(self, place):
        (place / "copy.safetensors").write_bytes(b"mine")
        code, output = run("convert", place / "unet.safetensors", place / "copy.safetensors")
        assert code == 1 and "replace it with --overwrite" in one_line(output)
        assert (place / "copy.safetensors").read_bytes() == b"mine"

    @pytest.mark.parametrize("name", ["copy.pth", "copy"])
    def test_other_suffix(self, place, name):
        code, output = run("convert", place / "unet.safetensors", place / name)
        assert code == 1 and "must end in .safetensors" in one_line(output)

    def test_nothing_is_written_for_a_bad_file(self, place):
        (place / "bad.pth").write_bytes(b"bad")
        code, output = run("convert", place / "bad.pth", place / "copy.safetensors")
        assert code == 1 and "load_weights" in output
        assert not (place / "copy.safetensors").exists()


@pytest.mark.parametrize("command", ["segment", "models", "convert"])
def test_help_has_examples_and_needs_no_torch(command):
    code = f"""
import sys
sys.modules["torch"] = None  # importing it is an ImportError
sys.argv = ["fastseg", "{command}", "--help"]
from fastseg.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"fastseg {command}" in done.stdout and "Examples" in done.stdout
