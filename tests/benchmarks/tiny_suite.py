"""A suite that takes microseconds: the harness without anything to measure."""

from pathlib import Path

import numpy as np

from benchmarks import harness

BALLAST = 8 << 20  # bytes that the opponent touches and ours does not


class Clock:
    """A clock that only the sides move: no test waits, and none depends on the machine."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds


CLOCK = Clock()


def scene_of(case: harness.Case, photograph: Path | None) -> dict[str, np.ndarray]:
    return {"scores": np.random.default_rng(0).random((3, 50), dtype=np.float32)}


def prepare_opponent(case: harness.Case, scene: harness.Scene, threads: int) -> harness.Call:
    def call() -> np.ndarray:
        ballast = np.ones(BALLAST, np.uint8)
        CLOCK.pass_by(0.3)
        return scene["scores"] * ballast[0]

    return call


def prepare_ours(case: harness.Case, scene: harness.Scene, threads: int) -> harness.Call:
    def call() -> np.ndarray:
        CLOCK.pass_by(0.1)
        return scene["scores"].copy()

    return call


def prepare_wrong(case: harness.Case, scene: harness.Scene, threads: int) -> harness.Call:
    """Wrong on the hard setting only."""
    right = prepare_ours(case, scene, threads)
    return lambda: right() + np.float32(0.01 if case.setting == "hard" else 0)


def prepare_wavering(case: harness.Case, scene: harness.Scene, threads: int) -> harness.Call:
    """Right, with bits that depend on the number of threads."""
    right = prepare_ours(case, scene, threads)
    return lambda: right() + np.float32(1e-6) * threads


def judge(expected: np.ndarray, actual: np.ndarray) -> harness.Verdict:
    difference = float(np.abs(expected - actual).max())
    return harness.Verdict(difference < 1e-3, {"difference": difference})


def side_of(name: str, prepare, threads: int | None = None) -> harness.Side:
    return harness.Side(name, prepare, np.asarray, lambda: None, threads)


OURS = side_of("ours", prepare_ours)
WRONG = side_of("wrong", prepare_wrong)
WAVERING = side_of("wavering", prepare_wavering)

SUITE = harness.Suite(
    module="tiny_suite",
    name="tiny",
    title="nothing much",
    cases=[
        harness.Case("small", "easy", {1: 1.5, 2: 9}, 14),
        harness.Case("small", "hard"),
        harness.Case("large", "easy"),
    ],
    opponent=side_of("opponent", prepare_opponent, threads=1),
    ours=[OURS],
    scene=scene_of,
    judge=judge,
)
