"""Correct first, then timed: a case's sides run interleaved, and a wrong result has no time.

A suite is data: cases, one opponent, our own sides. ``run.py`` gives each suite a sub-command,
and ``conftest.py`` hands the same suites to pytest-benchmark.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def megabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


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


Weigh = Callable[[Suite, Any, Scene, Sequence[Entrant]], Sequence[float | None]]


def measure(
    suite: Suite,
    case: Any,
    scene: Scene,
    entrants: Sequence[Entrant],
    *,
    repeats: int,
    weigh: Weigh | None = None,
) -> list[Measurement]:
    """Check, then time, then weigh every entrant of a case, if told how."""
    threads = list(dict.fromkeys(entrant.threads for entrant in entrants))
    sides = [side for side in suite.opponents if not side.missing()]
    opponents = entrants_of(sides, threads)
    examined = examine(suite, case, scene, [*opponents, *entrants])
    timings = time_together(suite, examined, repeats)
    peaks: Sequence[float | None] = [None] * (len(entrants) + 1)
    if weigh:
        peaks = weigh(suite, case, scene, [opponents[0], *entrants])
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
