"""The suites on a GPU, with the CPU in its place: every side runs a small case and is right."""

import argparse
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from thin import CLASSES, thin

from benchmarks import run
from benchmarks.cuda import race, sides
from benchmarks.models import bench_models
from benchmarks.ops import bench_aspp, bench_bilinear_upsample, bench_dilated_conv, bench_mean_field
from fastseg import models
from fastseg.tuning.gpu import why_no_gpu
from fastseg.tuning.stopwatch import CpuStopwatch

VOC = (5, (9, 9), (33, 33))
CONV = bench_dilated_conv.case_of("3x3", (18, 20), 11, rate=2, batch=2)
CASES = {
    "conv": [
        CONV,
        bench_dilated_conv.case_of("depthwise", (16, 16), 9, depthwise=True, channels_last=False),
    ],
    "aspp": [
        bench_aspp.case_of("sum", (20, 5), 9, (1, 2), "sum", channels_last=False),
        bench_aspp.case_of("concat", (20, 16), 9, (0, 2), "concat", channels_last=True),
    ],
    "upsample": [
        bench_bilinear_upsample.case_of(what, *VOC)
        for what in (
            *("argmax", "argmax uint8", "softmax", "softmax+backward", "cross-entropy", "upsample"),
            *("cross-entropy+backward", "upsample+backward"),
        )
    ],
    "crf": [
        bench_mean_field.case_of((20, 26), 3, bench_mean_field.WIDE),
        bench_mean_field.case_of((5, 6, 7), 2, bench_mean_field.VOLUME_WIDE),
    ],
}


@pytest.fixture(autouse=True)
def not_through_the_compiler(monkeypatch):
    """torch.compile takes seconds a case; what it is given runs eagerly."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def measured(name, case, precision="float32", **changes):
    suite = replace(sides.SUITES[name], **changes)
    scene = suite.suite.scene(case, None)
    return race.measure(suite, case, scene, precision, CpuStopwatch(), rounds=2)


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in CASES.items() for case in cases],
    ids=lambda value: value if isinstance(value, str) else f"{value.id} {value.setting}",
)
def test_every_side_is_right_and_timed(name, case):
    suite = sides.SUITES[name]
    results = measured(name, case)
    assert [r.side for r in results] == [s.name for s in [*suite.opponents, *suite.ours]]
    for result in results:
        assert result.why_not == "" and len(result.seconds) == 2 and result.least > 0
    assert [r.is_ours for r in results] == [False] * len(suite.opponents) + [True]


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["conv", "aspp"])
def test_other_precisions(name, precision):
    for result in measured(name, CASES[name][0], precision):
        assert result.why_not == "" and result.precision == precision
        error = result.verdict.figures["error"]
        assert (error > 3e-5) == (precision != "tf32")  # which the CPU does not have


def test_networks(monkeypatch):
    def network(name):
        model = thin(models.build, name, CLASSES)
        return model.eval().requires_grad_(False)

    torch.manual_seed(0)
    made = network("unet_bilinear")
    monkeypatch.setattr(bench_models, "network", lambda name: made)
    case = bench_models.case_of("unet_bilinear", 48)
    for precision in ("float32", "tf32"):
        results = measured("models", case, precision)
        assert [r.why_not for r in results] == [""] * 4
    assert sides.judge_model(
        np.ones((1, 2, 50, 50)), 1.01 * np.ones((1, 2, 50, 50)), "tf32"
    ).accepted
    assert not sides.judge_model(
        np.ones((1, 2, 50, 50)), 1.01 * np.ones((1, 2, 50, 50)), "float32"
    ).accepted


def test_wrong_result_is_not_timed():
    def prepare(case, scene, place):
        right = sides.our_conv(case, scene, place)
        return lambda: right() * 1.001

    wrong = sides.Side("wrong", prepare)
    results = measured("conv", CONV, ours=[wrong])
    assert results[-1].why_not.startswith("WRONG: error 0.001") and not results[-1].seconds
    assert all(r.seconds for r in results[:-1])
    (*_, row) = race.rows_of(results, 2)
    assert row["ms_median"] == row["ratio_of_medians"] == "" and "WRONG" in row["not_timed"]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_what_finds_no_memory_is_said(error):
    def prepare(case, scene, place):
        raise error("none left")

    results = measured("conv", CONV, opponents=[sides.Side("large", prepare)])
    assert [r.why_not for r in results] == ["not enough memory", ""]
    assert race.rows_of(results, 2)[1]["opponent"] == ""


def result(side, is_ours, *seconds):
    return race.Result(CONV, "float32", side, is_ours, seconds)


def test_ratios_are_to_the_opponent_with_the_least_median():
    rows = race.rows_of(
        [
            result("slow", False, 4.0, 8.0, 9.0),
            result("quick", False, 5.0, 6.0, 6.5),
            result("fastseg", True, 2.0, 3.0, 40.0),
        ],
        3,
    )
    assert [row["opponent"] for row in rows] == ["", "", "quick"]
    assert (rows[2]["ratio_of_minima"], rows[2]["ratio_of_medians"]) == ("2.500", "2.000")
    assert (rows[2]["ms_min"], rows[2]["ms_median"]) == ("2000.0000", "3000.0000")


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        device="cpu", image=None, repeats=2, quick=False, cases=None, precision=None, csv=None
    )


def start(name, options, folder):
    about = {"gpu": "Some GPU", "driver": "580.1", "command": "this one"}
    return race.run(
        name, options, CASES[name][:1], folder, lambda _: CpuStopwatch(), lambda _: about
    )


def test_csv_names_the_gpu(options, tmp_path, capsys):
    assert start("conv", options, tmp_path) == 0
    rows = list(csv.DictReader((tmp_path / "cuda_conv.csv").open()))
    assert len(rows) == 4 * 4  # sides and precisions
    assert {row["gpu"] for row in rows} == {"Some GPU"}
    assert {row["precision"] for row in rows} == set(sides.ALL)
    assert all(float(row["ms_min"]) <= float(row["ms_median"]) for row in rows)
    assert "gpu: Some GPU" in capsys.readouterr().out


def test_parts_do_not_overwrite_the_whole(options, tmp_path):
    options.precision = ["tf32", "float16"]
    assert start("aspp", options, tmp_path) == 0
    (path,) = tmp_path.iterdir()
    assert path.name == "cuda_aspp-partial.csv"
    options.precision = ["float8"]
    with pytest.raises(SystemExit, match="crf runs in float32, got "):
        start("crf", options, tmp_path)


def test_wrong_result_is_the_exit_status(options, tmp_path, monkeypatch):
    wrong = replace(sides.SUITES["conv"], judge=lambda *_: bench_models.harness.Verdict(False, {}))
    monkeypatch.setitem(sides.SUITES, "conv", wrong)
    assert start("conv", options, tmp_path) == 1


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")
@pytest.mark.parametrize("name", run.ON_CUDA)
def test_without_a_gpu_it_says_what_to_do(name):
    with pytest.raises(
        SystemExit, match=r"^--device cuda cannot run: torch .* install one that is"
    ):
        run.main([name, "--device", "cuda"])


def test_every_suite_but_the_lattices_runs_on_a_gpu():
    assert set(run.ON_CUDA) == set(sides.SUITES) == set(run.SUITES) - {"lattice"}
