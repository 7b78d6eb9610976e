import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastseg.cli import app
from fastseg.demo import LABELS

FILES = ["after.png", "before.png", "demo.png", "input.png", "overlay.png"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "pictures"
    result = CliRunner().invoke(app, ["demo", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.output


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_writes_the_five_pictures_and_says_where(demo):
    folder, output = demo
    assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in FILES:
        assert str(folder / name) in output
    assert "400x600 pixels, 5 labels, 10 iterations, in " in output
    assert " ms" in output


def test_sheet_is_small_enough_for_a_readme(demo):
    assert (demo[0] / "demo.png").stat().st_size < 400_000


def contrast_at_edges(image, labels):
    """Mean colour difference between neighbours that the labels separate."""
    differences = np.linalg.norm(np.diff(image.astype(float), axis=1), axis=2)
    return differences[labels[:, :-1] != labels[:, 1:]].mean()


def test_labels_end_where_the_photo_changes(demo):
    image, before, after = (read(demo[0] / f"{name}.png") for name in ("input", "before", "after"))
    assert before.shape == after.shape == image.shape[:2]
    assert contrast_at_edges(image, after) > 2 * contrast_at_edges(image, before)


def test_every_label_is_still_there_and_most_pixels_keep_theirs(demo):
    before, after = (read(demo[0] / f"{name}.png") for name in ("before", "after"))
    assert np.unique(after).tolist() == list(range(len(LABELS)))
    assert 0.9 < (before == after).mean() < 0.99


def test_scores_are_what_the_tool_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import draw_demo_scores

    bundled = draw_demo_scores.DEMO / "coffee_scores.npz"
    drawn = draw_demo_scores.soften(draw_demo_scores.draw_labels((600, 400)))
    with np.load(bundled) as archive:
        np.testing.assert_allclose(archive["probabilities"], drawn, atol=1e-3)


def test_default_folder_is_made_and_written_over(tmp_path):
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-m", "fastseg", "demo"], cwd=tmp_path, check=True, timeout=60
        )
    assert sorted(os.listdir(tmp_path / "fastseg-demo")) == FILES


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "the demo must write to a folder, got a file" in result.output
    assert (tmp_path / "file").read_bytes() == b"mine"
