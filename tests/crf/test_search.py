"""Search: finds the best of its grid, resumes where it stopped, and refuses what does not fit."""

import json
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fastseg.crf import SEARCH_GRIDS, DenseCRF, Trial, search
from fastseg.crf.grid_search import mean_iou

GRID = {"weight": (1.0, 3.0), "sigma_xy": (4.0, 8.0), "sigma_rgb": (5.0, 15.0, 25.0)}
QUICK = {**GRID, "iterations": 2, "progress": False}


def sample(seed, height=10, width=12, labels=2):
    """Image of two colours, logits that know half of it, labels with an ignored border."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(height, width, dtype=torch.int64)
    truth[:, width // 3 + seed % 3 :] = 1
    image = torch.where(truth == 1, 140, 80).expand(3, -1, -1)
    image = image + (8 * torch.randn(image.shape, generator=generator)).round().long()
    logits = torch.nn.functional.one_hot(truth, labels).permute(2, 0, 1).float()
    logits = logits + 1.2 * torch.randn(logits.shape, generator=generator)
    truth[0] = 255
    return image.clamp(0, 255).to(torch.uint8), logits, truth


SET = [sample(0), sample(1, 8, 15), sample(2, 13, 9)]


def miou_of(crf):
    confusion = torch.zeros(2, 2, dtype=torch.int64)
    for image, logits, labels in SET:
        found = crf(logits[None], image[None]).argmax(1)[0]
        for truth in range(2):
            for guess in range(2):
                confusion[truth, guess] += ((labels == truth) & (found == guess)).sum()
    iou = [
        int(confusion[c, c]) / int(confusion[c].sum() + confusion[:, c].sum() - confusion[c, c])
        for c in range(2)
    ]
    return sum(iou) / 2


def test_coarse_stage_tries_the_whole_grid_and_keeps_the_best():
    result = search(SET, **QUICK, refinements=0)
    tried = [trial[1:4] for trial in result.trials]
    assert tried == [(w, x, c) for w in (1, 3) for x in (4, 8) for c in (5, 15, 25)]
    assert result.best == max(result.trials, key=lambda trial: trial.miou)
    assert result.best.miou > result.baseline
    assert len({trial.miou for trial in result.trials}) > 3, "a set that cannot tell settings apart"


def test_scores_are_those_of_the_built_crf():
    result = search(SET, **QUICK, refinements=0)
    for trial in (result.best, result.trials[0]):
        crf = result.build(trial)
        assert (crf.iterations, crf.normalization) == (2, "after")
        assert crf.kernels[1].sigma_rgb.item() == trial.sigma_rgb
        assert miou_of(crf) == pytest.approx(trial.miou, abs=1e-12)
    assert miou_of(DenseCRF([])) == pytest.approx(result.baseline, abs=1e-12)
    assert miou_of(result.build()) == pytest.approx(result.best.miou, abs=1e-12)


def test_refinement_halves_the_steps_around_the_best():
    coarse = search(SET, **QUICK, refinements=0)
    result = search(SET, **QUICK, refinements=2)
    assert result.trials[: len(coarse.trials)] == coarse.trials
    assert result.best.miou >= coarse.best.miou
    fine = [trial for trial in result.trials if trial.stage == 1]
    for axis, values in GRID.items():
        centre = getattr(coarse.best, axis)
        at = values.index(centre)
        beside = values[max(0, at - 1) : at + 2]
        assert {getattr(trial, axis) for trial in fine} == {(centre + v) / 2 for v in beside}
    settings = [trial[1:4] for trial in result.trials]
    assert len(settings) == len(set(settings)), "no setting is tried twice"
    assert {trial.stage for trial in result.trials} == {0, 1, 2}


def test_an_axis_of_one_value_stays_fixed():
    result = search(SET, weight=[2], sigma_xy=[5], sigma_rgb=[9], iterations=1, progress=False)
    assert [trial[:4] for trial in result.trials] == [(0, 2.0, 5.0, 9.0)]


def test_defaults_are_the_published_ranges():
    grid = SEARCH_GRIDS["deeplab-v2"]
    assert grid.weight == (3, 4, 5, 6)
    assert grid.sigma_xy == tuple(range(30, 101, 10))
    assert grid.sigma_rgb == (3, 4, 5, 6)
    assert (grid.position_weight, grid.position_sigma_xy) == (3, 3)
    assert SEARCH_GRIDS["deeplab-v1"].weight == (5, 6, 7, 8, 9, 10)


class Indexed(Dataset):
    def __len__(self):
        return len(SET)

    def __getitem__(self, index):
        return SET[index]


def test_lists_datasets_loaders_and_arrays_are_the_same():
    expected = search(SET, **QUICK, refinements=0)
    arrays = [tuple(np.asarray(part) for part in entry) for entry in SET]
    for part in arrays[0]:
        part.setflags(write=False)
    for dataset in (Indexed(), DataLoader(Indexed(), batch_size=None), arrays, tuple(SET)):
        assert search(dataset, **QUICK, refinements=0) == expected


def test_probabilities_and_volumes():
    image, logits, labels = sample(4)
    volume = [(image[:, None], logits[:, None], labels[None])]
    probabilities = [(image, logits.softmax(0), labels)]
    settings = {**QUICK, "refinements": 0, "sigma_xy": (4.0,), "weight": (1.0,)}
    flat = search(probabilities, **settings, kind="probabilities")
    assert flat.trials == search([(image, logits, labels)], **settings).trials
    assert search(volume, **settings).baseline == flat.baseline


class Interrupted(Exception):
    pass


def break_after(monkeypatch, count):
    """The search stops in its trial number ``count``, as if it were killed there."""
    forward = DenseCRF.forward
    calls = iter(range(10**6))

    def stopping(self, *args, **kwargs):
        if next(calls) == count * len(SET):
            raise Interrupted
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DenseCRF, "forward", stopping)


def test_resumes_where_it_stopped(tmp_path, monkeypatch):
    results = tmp_path / "search.jsonl"
    expected = search(SET, **QUICK)
    with monkeypatch.context() as patch:
        break_after(patch, 5)
        with pytest.raises(Interrupted):
            search(SET, **QUICK, results=results)
    assert len(results.read_text().splitlines()) == 1 + 5
    made = []
    forward = DenseCRF.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            DenseCRF, "forward", lambda self, *a, **k: made.append(0) or forward(self, *a, **k)
        )
        assert search(SET, **QUICK, results=results) == expected
    assert len(made) == len(SET) * (len(expected.trials) - 5)
    assert list(tmp_path.iterdir()) == [results], "no partial file stays behind"

    written = results.read_text()
    assert search(SET, **QUICK, results=results) == expected
    assert results.read_text() == written
    lines = [json.loads(line) for line in written.splitlines()]
    assert lines[0]["fastseg_search"] == 1 and lines[0]["sigma_rgb"] == [5.0, 15.0, 25.0]
    assert [Trial(**line) for line in lines[1:]] == list(expected.trials)


def test_more_refinements_go_on_in_the_same_file(tmp_path):
    results = tmp_path / "search.jsonl"
    search(SET, **QUICK, refinements=0, results=results)
    assert search(SET, **QUICK, results=results) == search(SET, **QUICK)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    results = tmp_path / "search.jsonl"
    search(SET, **QUICK, refinements=0, results=results)
    before = results.read_text()

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        search(SET, **QUICK, results=results)
    assert results.read_text() == before
    assert list(tmp_path.iterdir()) == [results]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"iterations": 3}, "iterations 2 in"),
        ({"normalization": "symmetric"}, "normalization 'after' in"),
        ({"position_weight": 1.0}, "position_weight 3.0 in"),
        ({"weight": (1.0, 4.0)}, r"weight [1.0, 3.0] in"),
        ({"dataset": SET[:2]}, "data '"),
        ({"dataset": [*SET[:2], sample(7)]}, "data '"),
    ],
    ids=["iterations", "normalization", "position", "grid", "fewer-images", "other-image"],
)
def test_another_setup_in_the_same_file_is_refused(tmp_path, change, named):
    results = tmp_path / "search.jsonl"
    search(SET, **QUICK, refinements=0, results=results)
    before = results.read_text()
    arguments = {"dataset": SET, **QUICK, "results": results, **change}
    message = f"search: results must be a file of this search, got {named}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        search(**arguments)
    assert results.read_text() == before


def test_files_that_search_did_not_write_are_refused(tmp_path):
    results = tmp_path / "search.jsonl"
    for text, line in (("notes\n", 1), ("[1]\n", 1), ('{"a": 1}\n', 1)):
        results.write_text(text)
        message = (
            f"search: results must be a file that search wrote, got {text.strip()!r} in line "
            f"{line} of {results}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            search(SET, **QUICK, results=results)
        assert results.read_text() == text
    results.write_text("")
    search(SET, **QUICK, refinements=0, results=results)
    cut = results.read_text()[:-20]
    results.write_text(cut)
    with pytest.raises(ValueError, match="in line 13 of "):
        search(SET, **QUICK, results=results)


def test_progress_is_drawn_on_request(capsys):
    search(SET, **{**QUICK, "progress": True}, refinements=1)
    drawn = capsys.readouterr().err
    assert "coarse grid" in drawn and "refinement 1" in drawn and "best mIoU" in drawn
    search(SET, **QUICK, refinements=0)
    assert capsys.readouterr().err == ""


def test_ignored_pixels_do_not_count():
    image, logits, labels = sample(5)
    settings = {**QUICK, "refinements": 0, "weight": (1.0,)}
    expected = search([(image, logits, labels)], **settings)
    other = labels.masked_fill(labels == 255, -1)
    assert search([(image, logits, other)], **settings, ignore_index=-1) == expected
    wrong = logits.clone()
    wrong[:, labels == 255] = torch.tensor([[9.0], [-9.0]])
    assert search([(image, wrong, labels)], **settings).baseline == expected.baseline


def test_mean_iou_leaves_absent_classes_out():
    # Labels 0 0 1 1, predictions 0 2 1 1, four classes: 1/2, 1, 0 (predicted only), absent.
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for label, guess in zip([0, 0, 1, 1], [0, 2, 1, 1], strict=True):
        confusion[label, guess] += 1
    assert mean_iou(confusion) == 0.5


IMAGE, LOGITS, LABELS = sample(6)
NAN_LOGITS = LOGITS.clone()
NAN_LOGITS[0, 0, 0] = torch.nan


class Shrinking:
    """Holds one sample fewer on every pass."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        samples, self.samples = self.samples, self.samples[:-1]
        yield from samples


def call(dataset=SET, **changes):
    return lambda: search(dataset, **{**QUICK, "refinements": 0, **changes})


REJECTED = [
    (call([]), ValueError, "search: dataset must hold at least one image, got none"),
    (
        call(iter(SET)),
        TypeError,
        "search: dataset must allow more than one pass, such as a list, a Dataset or a "
        "DataLoader, got list_iterator",
    ),
    (
        call(7),
        TypeError,
        "search: dataset must allow more than one pass, such as a list, a Dataset or a "
        "DataLoader, got int",
    ),
    (
        call([(IMAGE, LOGITS)]),
        TypeError,
        "search: dataset[0] must be (image, scores, labels), got tuple of 2",
    ),
    (
        call([*SET, IMAGE]),
        TypeError,
        "search: dataset[3] must be (image, scores, labels), got Tensor",
    ),
    (
        call([(IMAGE, LOGITS, LABELS.tolist())]),
        TypeError,
        "search: dataset[0]: labels must be a torch.Tensor or a NumPy array, got list",
    ),
    (
        call([(IMAGE, LOGITS, LABELS.float())]),
        TypeError,
        "search: dataset[0]: labels must have an integer dtype, got float32",
    ),
    (
        call([(IMAGE, LOGITS.long(), LABELS)]),
        TypeError,
        "search: dataset[0]: scores must have a floating dtype, got int64",
    ),
    (
        call([(IMAGE, LOGITS[:, :4], LABELS)]),
        ValueError,
        "search: dataset[0]: scores must have shape (L, H, W) or (L, D, H, W) and labels the "
        "same without L, got (2, 4, 12) and (10, 12)",
    ),
    (
        call([(IMAGE.permute(1, 2, 0), LOGITS, LABELS)]),
        ValueError,
        "search: dataset[0]: image must have shape (C, H, W) or (C, D, H, W) and labels the same "
        "without C, got (10, 12, 3) and (10, 12)",
    ),
    (
        call([(IMAGE[None], LOGITS[None], LABELS)]),
        ValueError,
        "search: dataset[0]: image must have shape (C, H, W) or (C, D, H, W) and labels the same "
        "without C, got (1, 3, 10, 12) and (10, 12)",
    ),
    (
        call([*SET, sample(3, labels=3)]),
        ValueError,
        "search: dataset[3]: scores must have the 2 labels of dataset[0], got 3",
    ),
    (
        call([(IMAGE, NAN_LOGITS, LABELS)]),
        ValueError,
        "search: dataset[0]: scores must be finite, got NaN or infinity",
    ),
    (
        call([(IMAGE / 0, LOGITS, LABELS)]),
        ValueError,
        "search: dataset[0]: image must be finite, got NaN or infinity",
    ),
    (
        call([(IMAGE.bool(), LOGITS, LABELS)]),
        TypeError,
        "search: dataset[0]: image must have an integer or floating dtype, got bool",
    ),
    (
        call([(IMAGE, LOGITS.softmax(0) / 2, LABELS)], kind="probabilities"),
        ValueError,
        "search: dataset[0]: scores must sum to 1 over the labels where kind is 'probabilities', "
        "got sums from 0.5 to 0.5",
    ),
    (
        call([(IMAGE, LOGITS, LABELS + 1)]),
        ValueError,
        "search: dataset[0]: labels must lie in [0, 2) or be ignore_index 255, got 256",
    ),
    (
        call([(IMAGE, LOGITS, torch.full_like(LABELS, 255))]),
        ValueError,
        "search: dataset must hold a label other than ignore_index, got 255 at every pixel",
    ),
    (call(weight=()), ValueError, "search: weight must hold at least one value, got none"),
    (call(weight=(1.0, float("nan"))), ValueError, "search: weight must be finite, got nan"),
    (call(sigma_xy=(0.0,)), ValueError, "search: sigma_xy must be positive and finite, got 0.0"),
    (
        call(sigma_rgb=(1.0, -3.0)),
        ValueError,
        "search: sigma_rgb must be positive and finite, got -3.0",
    ),
    (
        call(sigma_rgb=(3.0, 3.0)),
        ValueError,
        "search: sigma_rgb must hold each value once, got [3.0, 3.0]",
    ),
    (call(sigma_rgb=3.0), TypeError, "search: sigma_rgb must be a sequence of numbers, got 3.0"),
    (
        call(position_sigma_xy=-1.0),
        ValueError,
        "search: position_sigma_xy must be positive and finite, got -1.0",
    ),
    (call(refinements=-1), ValueError, "search: refinements must be at least 0, got -1"),
    (call(iterations=1.5), TypeError, "search: iterations must be an int, got float"),
    (
        call(kind="softmax"),
        ValueError,
        "search: kind must be one of logits, probabilities, got 'softmax'",
    ),
    (
        call(normalization="sym"),
        ValueError,
        "search: normalization must be one of none, mean, before, after, symmetric, got 'sym'",
    ),
    (
        call(results="no/such/folder/file.jsonl"),
        ValueError,
        "search: results must lie in an existing folder, got no/such/folder/file.jsonl",
    ),
    (call(results="."), ValueError, "search: results must be a file, got the folder ."),
    (
        call(Shrinking([(IMAGE, LOGITS, LABELS)] * 2)),
        ValueError,
        "search: dataset must hold the same images on every pass, got 2 on the first and 1 on a "
        "later one",
    ),
]


@pytest.mark.parametrize(("attempt", "error", "message"), REJECTED, ids=[m for *_, m in REJECTED])
def test_rejects(attempt, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        attempt()
