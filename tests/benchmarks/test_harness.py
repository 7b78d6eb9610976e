import csv
import mmap
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_suite
from tiny_suite import BALLAST, CLOCK, OURS, SUITE, WAVERING, WRONG

from benchmarks import harness, peak, report, run, scaling
from benchmarks.ops import bench_mean_field, bench_permutohedral

needs_memory = pytest.mark.skipif(
    not peak.can_measure_memory(), reason="no /proc/self/clear_refs to reset"
)


def measure(side, *, case=SUITE.cases[0], threads=(1,)):
    entrants = harness.entrants_of([side], threads)
    scene = SUITE.scene(case, None)
    return harness.measure(SUITE, case, scene, entrants, repeats=3)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(harness, "time", CLOCK)
    return CLOCK


@pytest.fixture
def tiny(clock, monkeypatch, tmp_path):
    """Run ``run.py tiny ...`` into a CSV; returns the exit status and its rows."""
    monkeypatch.setitem(run.SUITES, "tiny", "tiny_suite")
    monkeypatch.setenv("PYTHONPATH", str(tiny_suite.__file__).rsplit("/", 1)[0])
    path = tmp_path / "new" / "tiny.csv"

    def start(*arguments):
        status = run.main(["tiny", "--csv", str(path), *arguments])
        rows = list(csv.DictReader(path.open())) if path.exists() else []
        return status, rows

    return start


def test_ratio_is_opponent_over_ours(clock):
    (found,) = measure(OURS)
    assert found.timing.seconds == pytest.approx([0.1] * 3)
    assert found.opponent.seconds == pytest.approx([0.3] * 3)
    assert found.ratio_of_minima == pytest.approx(3)
    assert found.ratio_of_medians == pytest.approx(3)
    assert found.verdict.figures == {"difference": 0.0}


def test_figures_of_uneven_rounds():
    found = harness.Measurement(
        case=SUITE.cases[0],
        entrant=harness.Entrant(OURS, 1),
        timing=harness.Timing([1.0, 4.0, 2.0]),
        opponent=harness.Timing([6.0, 7.0, 5.0]),
        verdict=harness.Verdict(True, {}),
        same_bits=True,
        peak=102.0,
        opponent_peak=100.0,
    )
    assert found.ratio_of_minima == 5
    assert found.ratio_of_medians == 3
    assert found.lowest_round == 1.75
    assert found.timing.spread == 1.5
    assert not found.slower_than_must and replace(found, opponent=found.timing).slower_than_must
    assert found.heavier and not replace(found, peak=100.0).heavier
    assert not replace(found, peak=None).heavier


def test_wrong_result_is_refused_before_any_clock(monkeypatch):
    monkeypatch.setattr(harness, "interleave", lambda *_: pytest.fail("a wrong result was timed"))
    with pytest.raises(harness.WrongResult, match=r"^small hard: wrong \(1\) is wrong: difference"):
        measure(WRONG, case=SUITE.cases[1])


def test_fastest_rival_is_the_opponent(clock):
    def side(name, seconds):
        def prepare(case, scene, threads):
            def call():
                clock.pass_by(seconds[threads])
                return scene["scores"]

            return call

        return tiny_suite.side_of(name, prepare)

    slow, quick = side("slow", {1: 0.4, 2: 0.1}), side("quick", {1: 0.2, 2: 0.2})
    suite = replace(SUITE, opponent=slow, rivals=[quick])
    scene = SUITE.scene(SUITE.cases[0], None)
    entrants = harness.entrants_of([OURS], [1, 2])
    found = harness.measure(suite, SUITE.cases[0], scene, entrants, repeats=2)
    assert [m.rival.name for m in found] == ["quick (1)", "slow (2)"]
    assert [m.ratio_of_medians for m in found] == pytest.approx([2, 1])


def test_wrong_rival_is_refused():
    suite = replace(SUITE, rivals=[WRONG])
    scene = SUITE.scene(SUITE.cases[1], None)
    with pytest.raises(harness.WrongResult, match=r"wrong \(1\) is wrong"):
        harness.measure(
            suite,
            SUITE.cases[1],
            scene,
            harness.entrants_of([OURS], [1]),
            repeats=1,
        )


def test_short_calls_get_more_rounds(clock):
    suite = replace(SUITE, seconds=3.0)
    scene = SUITE.scene(SUITE.cases[0], None)
    entrants = harness.entrants_of([OURS], [1])
    (found,) = harness.measure(suite, SUITE.cases[0], scene, entrants, repeats=2)
    assert len(found.timing.seconds) in (9, 10)  # of 0.3 seconds, the slower side's


def test_expected_result_judges_the_opponent_too():
    suite = replace(SUITE, expected=lambda case, scene: scene["scores"] + 1)
    scene = SUITE.scene(SUITE.cases[0], None)
    with pytest.raises(harness.WrongResult, match=r"opponent \(1\) is wrong"):
        harness.measure(
            suite,
            SUITE.cases[0],
            scene,
            harness.entrants_of([OURS], [1]),
            repeats=1,
        )


def test_bits_that_vary_with_threads_are_reported():
    assert [m.same_bits for m in measure(WAVERING, threads=(1, 2))] == [True, False]
    assert [m.same_bits for m in measure(OURS, threads=(1, 2))] == [True, True]


def test_rounds_interleave_and_start_one_call_later_each():
    order = []
    harness.interleave([lambda name=name: order.append(name) for name in "abc"], 3)
    assert "".join(order) == "abcbcacab"


@needs_memory
def test_peak_counts_what_the_call_touched_and_freed():
    def touch_and_free():
        with mmap.mmap(-1, BALLAST) as memory:  # never from the allocator's free pages
            memory.write(bytes(BALLAST))

    rise, _ = peak.rise_of_peak(touch_and_free)
    assert 0.95 * BALLAST < rise < 2.5 * BALLAST
    rise, _ = peak.rise_of_peak(lambda: None)
    assert rise < 1 << 20


@needs_memory
def test_peak_is_taken_in_a_fresh_process(tiny):
    status, rows = tiny("--threads", "1", "--cases", "small easy", "--repeats", "2")
    assert status == 0
    assert float(rows[0]["peak_mb"]) < 0.5 * BALLAST / 1e6 < float(rows[0]["opponent_peak_mb"])


def test_csv_has_one_row_per_case_side_and_threads(tiny, capsys):
    status, rows = tiny("--no-memory", "--repeats", "2")
    assert status == 0
    assert [(r["case"], r["setting"], r["side"], r["threads"]) for r in rows] == [
        (case.id, case.setting, "ours", threads) for case in SUITE.cases for threads in "12"
    ]
    for row in rows:
        assert row["ratio_of_minima"] == row["ratio_of_medians"] == "3.000"
        assert row["same_bits"] == "True" and row["difference"] == "0" and row["peak_mb"] == ""
        for name in ("date", "cpu", "cores", "python", "numpy", "torch", "pydensecrf2", "commit"):
            assert row[name], name
        assert None not in row
    assert [row["must"] for row in rows] == ["1.5", "9", "", "", "", ""]
    assert [row["aim"] for row in rows] == ["", "14", "", "", "", ""]
    assert capsys.readouterr().out.count("MISSED") == 2  # one line of progress, one of the table


def test_stopped_run_goes_on(tiny, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    flags = ("--no-memory", "--threads", "1", "--repeats", "1")
    assert len(tiny(*flags, "--cases", "small")[1]) == 2
    _, first = tiny(*flags, "--cases", "large", "--keep")
    assert [row["case"] for row in first] == ["small", "small", "large"]
    _, again = tiny(*flags, "--resume")
    assert again == first
    assert capsys.readouterr().out.count("measured before") == 3
    monkeypatch.setattr(harness, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        tiny(*flags, "--cases", "small", "--keep")
    assert tiny(*flags, "--resume")[1] == first


def test_a_case_measured_again_takes_its_rows_place(tiny):
    flags = ("--no-memory", "--threads", "1")
    tiny(*flags, "--repeats", "1")
    _, rows = tiny(*flags, "--repeats", "2", "--cases", "small hard", "--keep")
    assert [(row["case"], row["setting"], row["repeats"]) for row in rows] == [
        ("small", "easy", "1"),
        ("small", "hard", "2"),
        ("large", "easy", "1"),
    ]


def test_quick_runs_the_first_size_only(tiny):
    _, rows = tiny("--quick")
    assert {row["case"] for row in rows} == {"small"}
    assert {row["repeats"] for row in rows} == {"3"}


def test_strict_fails_where_a_ratio_is_missed(tiny):
    assert tiny("--no-memory", "--repeats", "1", "--cases", "small easy", "--strict")[0] == 1
    assert tiny("--no-memory", "--repeats", "1", "--cases", "large", "--strict")[0] == 0


def test_wrong_case_is_named_and_the_others_still_run(tiny, monkeypatch, capsys):
    monkeypatch.setattr(tiny_suite, "SUITE", replace(SUITE, ours=[WRONG]))
    status, rows = tiny("--no-memory", "--threads", "1", "--repeats", "1")
    assert status == 1
    assert [(row["case"], row["setting"]) for row in rows] == [("small", "easy"), ("large", "easy")]
    assert "NOT TIMED small hard" in capsys.readouterr().out


def test_worst_of_several_photographs(tiny, tmp_path, capsys):
    for name in ("a.jpg", "b.PNG", "notes.txt"):
        (tmp_path / name).touch()
    _, rows = tiny("--quick", "--threads", "1", "--photos", str(tmp_path))
    assert {row["photograph"] for row in rows} == {"a.jpg", "b.PNG"}
    assert "worst of the photographs" in capsys.readouterr().out


def test_opponent_against_itself_has_no_target(tiny):
    _, rows = tiny("--quick", "--against-itself")
    assert {row["side"] for row in rows} == {"opponent again"}
    assert {row["must"] for row in rows} == {""}
    assert rows[0]["ratio_of_medians"] == "1.000"


def test_missing_opponent_and_unknown_case_are_said(tiny, monkeypatch):
    with pytest.raises(SystemExit, match="no case holds 'huge'"):
        tiny("--cases", "huge")
    absent = replace(SUITE.opponent, missing=lambda: "thing is missing")
    monkeypatch.setattr(tiny_suite, "SUITE", replace(SUITE, opponent=absent))
    with pytest.raises(SystemExit, match="the opponent cannot run: thing is missing"):
        tiny()


def test_csv_is_whole_or_absent(tmp_path):
    def rows():
        yield {"case": "one"}
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        report.write_csv(tmp_path / "x.csv", rows(), {})
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    "suite", [bench_mean_field.SUITE, bench_permutohedral.SUITE, scaling.SUITE]
)
def test_cases_are_told_apart_by_id_and_setting(suite):
    names = [(case.id, case.setting) for case in suite.cases]
    assert len(set(names)) == len(names)


TINY_CRF_CASES = [
    bench_mean_field.case_of(shape, labels, setting)
    for shape, labels in (((20, 26), 3), ((5, 6, 7), 2))
    for setting in (bench_mean_field.WIDE, bench_mean_field.NARROW)
]


@pytest.mark.parametrize("case", TINY_CRF_CASES, ids=lambda case: f"{case.id} {case.setting}")
def test_tiny_crf_runs_end_to_end(case):
    """Every side that can run here, judged against pydensecrf."""
    suite = bench_mean_field.SUITE
    if reason := suite.opponent.missing():
        pytest.skip(reason)
    scene = bench_mean_field.scene_of(case, None)
    sides = [side for side in [suite.itself, *suite.ours] if not side.missing()]
    entrants = harness.entrants_of(sides, [1, 2])
    found = harness.measure(suite, case, scene, entrants, repeats=1)
    assert len(found) == len(entrants)
    for m in found:
        assert m.verdict.figures["agreement"] >= bench_mean_field.AGREEMENT


def test_judge_of_the_crf():
    expected = np.random.default_rng(0).dirichlet(np.ones(3), 1000).T.astype(np.float32)
    rolled = expected.copy()
    rolled[:, :6] = np.roll(expected[:, :6], 1, axis=0)  # 6 of 1000 labels are others
    shifted = 0.99 * expected + 0.01 / 3  # labels stay, Q does not
    assert bench_mean_field.judge(expected, expected).accepted
    for wrong in (rolled, shifted, expected[:2], np.full_like(expected, np.nan)):
        assert not bench_mean_field.judge(expected, wrong).accepted


def test_profile_names_the_phases(monkeypatch, capsys):
    suite = bench_mean_field.SUITE
    if reason := suite.opponent.missing():
        pytest.skip(reason)
    case = bench_mean_field.case_of((20, 26), 3, bench_mean_field.WIDE)
    monkeypatch.setattr(bench_mean_field, "SUITE", replace(suite, cases=[case]))
    assert run.main(["crf", "--profile", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *bilateral kernel +\d", printed, re.M)
    assert "pydensecrf (1)" in printed


def points(costs):
    return [
        scaling.Point(scaling.case_of(size, 2, "wide"), "fastseg.pydensecrf", 2, cost * size, 1e6)
        for size, cost in zip((1, 10), costs, strict=True)
    ]


def test_scaling_says_whether_pixels_cost_alike(tmp_path):
    assert "time per pixel varies 1.20x" in scaling.summary(points((1.0, 1.2)))
    assert "NOT within" in scaling.summary(points((1.0, 1.2)))  # memory per pixel fell tenfold
    pytest.importorskip("matplotlib")
    about = {"cpu": "some", "cores": "2", "instruction_set": "avx2"}
    scaling.plot([points((1.0, 1.2))], tmp_path / "plot.png", about)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_sizes_are_what_they_say():
    for case in scaling.SUITE.cases:
        assert case.pixels / 1e6 == pytest.approx(round(case.pixels / 1e6, 1), rel=0.02)
