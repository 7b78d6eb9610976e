"""Correct first, then timed: a case's sides run interleaved, and a wrong result has no time.

A suite is data: cases, one opponent, our own sides. ``run.py`` gives each suite a sub-command,
and ``conftest.py`` hands the same suites to pytest-benchmark.
"""

import csv
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent

MOST_ROUNDS = 200
MEMORY_NOISE = 0.01  # of one process's peak to another's for the same work

Scene = Mapping[str, np.ndarray]
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One row of a table: a size, a setting, and the ratios it has to reach.

    ``must`` maps a number of threads to the least ratio to the opponent, ``aim`` is the ratio
    hoped for at the highest of them.
    """

    id: str
    setting: str
    must: Mapping[int, float] = field(default_factory=dict, hash=False)
    aim: float | None = None


@dataclass(frozen=True)
class Side:
    """One way to compute a case.

    ``prepare(case, scene, threads)`` does what is not timed and returns the call that is;
    ``read(result)`` turns what the call returned into an array to judge, not timed either;
    ``missing()`` says why the side cannot run here, or nothing. ``threads`` is fixed for a side
    that has no such choice.
    """

    name: str
    prepare: Callable[[Any, Scene, int], Call]
    read: Callable[[Any], np.ndarray]
    missing: Callable[[], str | None]
    threads: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be timed, and the figures that say so, by name."""

    accepted: bool
    figures: Mapping[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, what they are compared with, and our sides.

    ``module`` is where a fresh process finds the suite again, as ``SUITE``. Where there are
    ``rivals``, the opponent of a measurement is, of ``opponent`` and them, the one with the least
    median for the same number of threads. ``expected(case, scene)`` is the right result; without
    it the opponent's is. Cases that take less than ``seconds`` in all rounds are given more.
    """

    module: str
    name: str
    title: str
    cases: Sequence[Any]
    opponent: Side
    ours: Sequence[Side]
    scene: Callable[[Any, Path | None], Scene]
    judge: Callable[[np.ndarray, np.ndarray], Verdict]
    phases: Callable[[str, Any, Scene, int], Sequence[tuple[str, Call]]] | None = None
    rivals: Sequence[Side] = ()
    expected: Callable[[Any, Scene], np.ndarray] | None = None
    seconds: float = 0.0

    @property
    def opponents(self) -> list[Side]:
        return [self.opponent, *self.rivals]

    @property
    def itself(self) -> Side:
        """The opponent under another name: racing it shows what the machine's noise does."""
        return replace(self.opponent, name=f"{self.opponent.name} again")

    def side(self, name: str) -> Side:
        sides = (*self.opponents, *self.ours, self.itself)
        return next(side for side in sides if side.name == name)


class WrongResult(Exception):
    """A side's result differs from the opponent's by more than the suite allows."""


@dataclass(frozen=True)
class Entrant:
    """A side with its number of threads."""

    side: Side
    threads: int

    @property
    def name(self) -> str:
        return f"{self.side.name} ({self.threads})"


@dataclass(frozen=True)
class Timing:
    """Seconds of the repetitions, in the order they were run."""

    seconds: Sequence[float]

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - self.least) / self.median


@dataclass(frozen=True)
class Measurement:
    """What was found about one entrant in one case."""

    case: Any
    entrant: Entrant
    timing: Timing
    opponent: Timing
    verdict: Verdict
    same_bits: bool  # as the first number of threads of the same side
    peak: float | None  # bytes
    opponent_peak: float | None
    rival: Entrant | None = None  # whose timing is the opponent's

    @property
    def ratio_of_minima(self) -> float:
        return self.opponent.least / self.timing.least

    @property
    def ratio_of_medians(self) -> float:
        return self.opponent.median / self.timing.median

    @property
    def lowest_round(self) -> float:
        """The worst of the ratios taken round by round."""
        return min(t / o for t, o in zip(self.opponent.seconds, self.timing.seconds, strict=True))

    @property
    def must(self) -> float | None:
        """The least ratio for this number of threads; none for a side without that choice."""
        return None if self.entrant.side.threads else self.case.must.get(self.entrant.threads)

    @property
    def aim(self) -> float | None:
        most = max(self.case.must, default=0)
        return self.case.aim if self.must and self.entrant.threads == most else None

    @property
    def slower_than_must(self) -> bool:
        return self.must is not None and self.ratio_of_medians < self.must

    @property
    def heavier(self) -> bool:
        """Whether the peak memory is higher than the opponent's, by more than two runs differ."""
        if self.peak is None or self.opponent_peak is None:
            return False
        return self.peak > self.opponent_peak * (1 + MEMORY_NOISE)

    def __str__(self) -> str:
        text = (
            f"{self.case.id} {self.case.setting} {self.entrant.name}: "
            f"{self.ratio_of_minima:.2f}x, median {self.ratio_of_medians:.2f}x "
            f"({milliseconds(self.timing.median)} ms against {milliseconds(self.opponent.median)})"
        )
        if self.must is not None:
            text += f", must {self.must:g}: {'MISSED' if self.slower_than_must else 'reached'}"
        if self.peak is not None:
            text += f", {megabytes(self.peak)} MB against {megabytes(self.opponent_peak)}"
        return f"{text}, {self.verdict}"


def entrants_of(sides: Iterable[Side], threads: Sequence[int]) -> list[Entrant]:
    """Each side with every number of threads, or with its own."""
    return [
        Entrant(side, count)
        for side in sides
        for count in ([side.threads] if side.threads else threads)
    ]


def seconds_of(call: Call) -> float:
    """Wall time of one call; freeing its result is outside the clock."""
    gc.disable()
    start = time.perf_counter()
    result = call()
    stop = time.perf_counter()
    del result
    gc.enable()
    return stop - start


def interleave(calls: Sequence[Call], repeats: int) -> list[Timing]:
    """Time calls in rounds, every call once a round, each round starting one call later.

    A neighbour that slows the machine for a while slows all sides alike. Garbage is collected
    between the calls.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    gc.collect()
    gc.freeze()  # what exists already need not be searched again before every call
    try:
        for turn in range(repeats):
            for offset in range(len(calls)):
                index = (turn + offset) % len(calls)
                gc.collect()
                seconds[index].append(seconds_of(calls[index]))
    finally:
        gc.unfreeze()
    return [Timing(taken) for taken in seconds]


@dataclass(frozen=True)
class Examined:
    """A call whose result was judged right, and may be timed."""

    entrant: Entrant
    call: Call
    verdict: Verdict
    result: np.ndarray


def examine(suite: Suite, case: Any, scene: Scene, entrants: Sequence[Entrant]) -> list[Examined]:
    """Run every entrant once and judge it.

    Raises:
        WrongResult: a result is not the expected one; nothing has been timed.
    """
    if suite.expected is not None:
        expected = suite.expected(case, scene)
    else:
        expected = suite.opponent.read(suite.opponent.prepare(case, scene, 1)())
    examined = []
    for entrant in entrants:
        call = entrant.side.prepare(case, scene, entrant.threads)
        result = entrant.side.read(call())
        verdict = suite.judge(expected, result)
        if not verdict.accepted:
            raise WrongResult(f"{case.id} {case.setting}: {entrant.name} is wrong: {verdict}")
        examined.append(Examined(entrant, call, verdict, result))
    return examined


def time_together(
    suite: Suite, examined: Sequence[Examined], repeats: int
) -> dict[Entrant, Timing]:
    """Interleave the calls; each number of threads apart where an opponent has that choice.

    A change of the number of threads between two calls would be paid by the second.
    """
    apart = not all(side.threads for side in suite.opponents)
    groups: dict[int | None, list[Examined]] = {}
    for one in examined:
        groups.setdefault(one.entrant.threads if apart else None, []).append(one)
    timings: dict[Entrant, Timing] = {}
    for group in groups.values():
        calls = [one.call for one in group]
        rounds = repeats
        if suite.seconds:
            slowest = max(seconds_of(call) for call in calls)
            rounds = max(repeats, min(MOST_ROUNDS, int(suite.seconds / slowest)))
        found = interleave(calls, rounds)
        timings.update(zip((one.entrant for one in group), found, strict=True))
    return timings


def measure(
    suite: Suite,
    case: Any,
    scene: Scene,
    entrants: Sequence[Entrant],
    *,
    repeats: int,
    memory: bool,
) -> list[Measurement]:
    """Check, then time, then weigh every entrant of a case."""
    threads = list(dict.fromkeys(entrant.threads for entrant in entrants))
    sides = [side for side in suite.opponents if not side.missing()]
    opponents = entrants_of(sides, threads)
    examined = examine(suite, case, scene, [*opponents, *entrants])
    timings = time_together(suite, examined, repeats)
    peaks: list[float | None] = [None] * (len(entrants) + 1)
    if memory:
        peaks = peak_memory(suite, case, scene, [opponents[0], *entrants])
    first: dict[str, np.ndarray] = {}
    measurements = []
    for one, peak in zip(examined[len(opponents) :], peaks[1:], strict=True):
        entrant = one.entrant
        rivals = [o for o in opponents if o.side.threads or o.threads == entrant.threads]
        rival = min(rivals, key=lambda o: timings[o].median)
        same = np.array_equal(first.setdefault(entrant.side.name, one.result), one.result)
        measurements.append(
            Measurement(
                case=case,
                entrant=entrant,
                timing=timings[entrant],
                opponent=timings[rival],
                verdict=one.verdict,
                same_bits=bool(same),
                peak=peak,
                opponent_peak=peaks[0],
                rival=rival,
            )
        )
    return measurements


# Memory


def resident(key: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest so far) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def rise_of_peak(call: Call) -> tuple[int, float]:
    """How far the resident size rose during a call above what it was before, and the seconds.

    In bytes, the result counted and the arguments not. Linux only: the kernel's high-water mark is
    reset to the present size first.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    rise = max(0, resident("VmHWM") - before)
    del result
    return rise, seconds


def can_measure_memory() -> bool:
    """Whether the high-water mark of the resident size can be read and reset."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def peak_memory(
    suite: Suite, case: Any, scene: Scene, entrants: Sequence[Entrant]
) -> list[float | None]:
    """The rise of the peak resident size of each entrant's first call, in a fresh process each."""
    if not can_measure_memory():
        return [None] * len(entrants)
    with tempfile.TemporaryDirectory() as folder:
        save_scene(scene, Path(folder))
        return [run_alone(suite, case, entrant, Path(folder))["peak"] for entrant in entrants]


def save_scene(scene: Scene, folder: Path) -> None:
    """One file an array, for :mod:`benchmarks.peak` to load."""
    for name, array in scene.items():
        np.save(folder / f"{name}.npy", array)


def run_alone(
    suite: Suite, case: Any, entrant: Entrant, folder: Path, repeats: int = 1
) -> dict[str, Any]:
    """Run an entrant in a new interpreter on the scene in ``folder``: what benchmarks.peak says."""
    arguments = [suite.module, case.id, case.setting, entrant.side.name, str(entrant.threads)]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", *arguments, str(folder), str(repeats)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"benchmarks.peak {shlex.join(arguments)} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


# Reports


def environment(command: Sequence[str] | None = None) -> dict[str, str]:
    """What a reader needs to judge a number and to make it again."""
    packages = ["numpy", "torch", "pydensecrf2", "fastseg-kernels"]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "cpu": cpu_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "instruction_set": instruction_set(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version_of(name) for name in packages},
        "commit": commit(),
        "command": shlex.join(command if command is not None else ["python", *sys.argv]),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_set() -> str:
    try:
        return str(import_module("fastseg._numpy").instruction_set())
    except ImportError:
        return "unknown"


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def commit() -> str:
    """The commit checked out, marked where files other than the results differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return head + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load() -> str:
    """Processes that wanted a core in the last minute: well above one, the times are noisy."""
    return f"{os.getloadavg()[0]:.2f}"


def as_row(suite: Suite, measurement: Measurement, photograph: str) -> dict[str, str]:
    """One line of the CSV, without the environment."""
    m = measurement
    return {
        "suite": suite.name,
        "case": m.case.id,
        "setting": m.case.setting,
        "photograph": photograph,
        "opponent": m.rival.side.name if m.rival else suite.opponent.name,
        "side": m.entrant.side.name,
        "threads": str(m.entrant.threads),
        "repeats": str(len(m.timing.seconds)),
        "opponent_ms_min": milliseconds(m.opponent.least),
        "opponent_ms_median": milliseconds(m.opponent.median),
        "opponent_spread": f"{m.opponent.spread:.3f}",
        "ms_min": milliseconds(m.timing.least),
        "ms_median": milliseconds(m.timing.median),
        "spread": f"{m.timing.spread:.3f}",
        "ratio_of_minima": f"{m.ratio_of_minima:.3f}",
        "ratio_of_medians": f"{m.ratio_of_medians:.3f}",
        "lowest_round": f"{m.lowest_round:.3f}",
        "must": "" if m.must is None else f"{m.must:g}",
        "aim": "" if m.aim is None else f"{m.aim:g}",
        "opponent_peak_mb": megabytes(m.opponent_peak),
        "peak_mb": megabytes(m.peak),
        "same_bits": str(m.same_bits),
        **{name: f"{value:.6g}" for name, value in m.verdict.figures.items()},
        "load": load(),
    }


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def megabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], about: Mapping[str, str]) -> None:
    """Write rows, each followed by what ``about`` says of the machine; whole file or none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *about], restval="")
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    partial.replace(path)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, text to the left and numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def is_number(cell: str) -> bool:
        return cell[:1].isdigit()

    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number(cell) or line is lines[0] else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


TABLE_HEADER = (
    *("case", "setting", "side", "threads", "ms-min", "ms-median", "spread"),
    *("ratio-min", "ratio-median", "lowest", "must", "aim", "MB", "verdict"),
)


def table_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    """One line for every entrant, led by the opponent's where a case begins."""
    rows = []
    for previous, m in zip([None, *measurements], measurements, strict=False):
        head = [m.case.id, m.case.setting]
        if previous is None or previous.opponent is not m.opponent:
            times = time_cells(m.opponent)
            name, threads = (m.rival.side.name, m.rival.threads) if m.rival else ("opponent", 1)
            peak = megabytes(m.opponent_peak)
            rows.append([*head, name, str(threads), *times, *[""] * 5, peak, ""])
        rows.append(
            [
                *head,
                m.entrant.side.name,
                str(m.entrant.threads),
                *time_cells(m.timing),
                *(f"{x:.2f}" for x in (m.ratio_of_minima, m.ratio_of_medians, m.lowest_round)),
                "" if m.must is None else f"{m.must:g}{' MISSED' if m.slower_than_must else ''}",
                "" if m.aim is None else f"{m.aim:g}",
                megabytes(m.peak) + (" HIGHER" if m.heavier else ""),
                f"{m.verdict}" + ("" if m.same_bits else ", bits differ from the first's"),
            ]
        )
    return rows


def time_cells(timing: Timing) -> list[str]:
    return [milliseconds(timing.least), milliseconds(timing.median), f"{timing.spread:.0%}"]
