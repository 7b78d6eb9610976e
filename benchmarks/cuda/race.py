"""Check every side of a case, time those that are right in turn, and write what was found."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, report
from benchmarks.cuda.sides import SUITES, Call, Place, Side, Suite
from fastseg import __version__
from fastseg.tuning import gpu
from fastseg.tuning.measure import PRECISIONS, rounding_to_tf32
from fastseg.tuning.stopwatch import CudaStopwatch, Stopwatch, in_rounds

WARM_UP = 3  # calls of each side before the clock starts


@dataclass(frozen=True)
class Result:
    """One side of one case. Seconds of its rounds, or why it has none."""

    case: Any
    precision: str
    side: str
    is_ours: bool
    seconds: Sequence[float] = ()
    verdict: harness.Verdict | None = None
    why_not: str = ""

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(
    suite: Suite,
    case: Any,
    scene: harness.Scene,
    precision: str,
    stopwatch: Stopwatch,
    *,
    rounds: int,
) -> list[Result]:
    """Every side of a case in one precision; a wrong result is not timed."""
    expected = suite.expected(case, scene)
    place = Place(stopwatch.device, precision)
    results: list[Result] = []
    calls: list[Call] = []
    with rounding_to_tf32(PRECISIONS[precision].tf32):
        for side in [*suite.opponents, *suite.ours]:
            result, call = examine(suite, side, case, scene, place, expected)
            results.append(result)
            if not result.why_not:
                calls.append(call)
        for call in calls:
            for _ in range(WARM_UP):
                call()
        seconds = iter(in_rounds(stopwatch, calls, rounds))
    return [
        result if result.why_not else replace(result, seconds=next(seconds)) for result in results
    ]


def examine(
    suite: Suite, side: Side, case: Any, scene: harness.Scene, place: Place, expected: Any
) -> tuple[Result, Call]:
    """Run a side once and judge it."""
    about = {"case": case, "precision": place.precision, "side": side.name}
    about["is_ours"] = side in suite.ours
    try:
        call = without_gradients(side.prepare(case, scene, place))
        verdict = suite.judge(expected, suite.read(call()), place.precision)
    except (MemoryError, torch.OutOfMemoryError):
        return Result(**about, why_not="not enough memory"), lambda: None
    if not verdict.accepted:
        return Result(**about, verdict=verdict, why_not=f"WRONG: {verdict}"), call
    return Result(**about, verdict=verdict), call


def without_gradients(call: Call) -> Call:
    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def rows_of(results: Sequence[Result], rounds: int) -> list[dict[str, str]]:
    """The lines of a CSV: each of our sides against the opponent with the least median."""
    timed = [r for r in results if r.seconds and not r.is_ours]
    best = min(timed, key=lambda r: r.median, default=None)
    return [row_of(result, best, rounds) for result in results]


def row_of(result: Result, best: Result | None, rounds: int) -> dict[str, str]:
    figures = result.verdict.figures if result.verdict else {}
    row = {
        "case": result.case.id,
        "setting": result.case.setting,
        "precision": result.precision,
        "side": result.side,
        "rounds": str(rounds),
        "ms_min": "",
        "ms_median": "",
        "opponent": "",
        "ratio_of_minima": "",
        "ratio_of_medians": "",
        "not_timed": result.why_not,
        **{name: f"{value:.3g}" for name, value in figures.items()},
    }
    if result.seconds:
        row |= {"ms_min": f"{1e3 * result.least:.4f}", "ms_median": f"{1e3 * result.median:.4f}"}
        if result.is_ours and best is not None:
            row["opponent"] = best.side
            row["ratio_of_minima"] = f"{best.least / result.least:.3f}"
            row["ratio_of_medians"] = f"{best.median / result.median:.3f}"
    return row


HEADER = (
    *("case", "setting", "precision", "side", "ms_min", "ms_median"),
    *("ratio_of_minima", "ratio_of_medians", "opponent", "not_timed"),
)


def environment(device: torch.device) -> dict[str, str]:
    """Of the machine, the GPU first."""
    card = gpu.describe(device)
    return {
        "gpu": card.name,
        "architecture": card.architecture,
        "driver": card.driver,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "fastseg": __version__,
        **report.environment(),
    }


def run(
    name: str,
    options: argparse.Namespace,
    cases: Sequence[Any],
    results_folder: Path,
    stopwatch_of: Callable[[torch.device], Stopwatch] = CudaStopwatch,
    environment_of: Callable[[torch.device], dict[str, str]] = environment,
) -> int:
    """Run the cases, print and write what was found; the exit status, 1 where one was wrong."""
    suite = SUITES[name]
    device = torch.device(options.device)
    stopwatch, about = stopwatch_of(device), environment_of(device)
    print("\n".join(f"{key}: {value}" for key, value in about.items() if key != "command"))
    precisions = [p for p in suite.precisions if p in (options.precision or PRECISIONS)]
    if not precisions:
        raise SystemExit(f"{name} runs in {', '.join(suite.precisions)}, got {options.precision}")
    rows = []
    for case in cases:
        scene = suite.suite.scene(case, options.image)
        for precision in precisions:
            found = measure(suite, case, scene, precision, stopwatch, rounds=options.repeats)
            rows += (new := rows_of(found, options.repeats))
            table = report.table(HEADER, [[row[c] for c in HEADER] for row in new])
            print(f"\n{table}", flush=True)
    fewer = len(precisions) < len(suite.precisions)
    part = "-partial" if options.quick or options.cases or options.image or fewer else ""
    path = options.csv or results_folder / f"cuda_{name}{part}.csv"
    report.write_csv(path, rows, about)
    print(f"\nwrote {path}")
    return int(any(row["not_timed"].startswith("WRONG") for row in rows))
