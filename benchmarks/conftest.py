"""``pytest benchmarks --benchmark-only``: the suites of run.py under pytest-benchmark.

Every case is a group, every side with its threads a line of it. A result is judged against the
opponent's before its clock starts, as in run.py; what cannot be judged is skipped.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, report

THREADS = (1, 2)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--image", type=Path, help="photograph to segment instead of the demo's")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case with every entrant of the module's suite, case by case."""
    if "entrant" in metafunc.fixturenames:
        suite = metafunc.module.SUITE
        entrants = harness.entrants_of([suite.opponent, *suite.ours], THREADS)
        metafunc.parametrize(
            ("case", "entrant"),
            [
                pytest.param(case, e, id=f"{case.id} {case.setting} {e.side.name}-{e.threads}")
                for case in suite.cases
                for e in entrants
            ],
        )


class Grounds:
    """The scene of a case and the opponent's result on it, kept while the case lasts."""

    def __init__(self, photograph: Path | None) -> None:
        self.scene = lru_cache(1)(lambda suite, case: suite.scene(case, photograph))
        self.expected = lru_cache(1)(self.run_opponent)

    def run_opponent(self, suite: harness.Suite, case: harness.Case) -> np.ndarray:
        return suite.opponent.read(suite.opponent.prepare(case, self.scene(suite, case), 1)())


@pytest.fixture(scope="session")
def grounds(pytestconfig):
    return Grounds(pytestconfig.getoption("--image"))


@pytest.fixture
def race(benchmark, grounds):
    """Judge an entrant's result, then let pytest-benchmark time it."""

    def run(suite, case, entrant):
        for side in (suite.opponent, entrant.side):
            if side.missing():
                pytest.skip(side.missing())
        call = entrant.side.prepare(case, grounds.scene(suite, case), entrant.threads)
        verdict = suite.judge(grounds.expected(suite, case), entrant.side.read(call()))
        assert verdict.accepted, f"{entrant.name} is wrong: {verdict}"
        benchmark.group = f"{suite.name} {case.id} {case.setting}"
        benchmark.extra_info.update(verdict.figures, load=report.load())
        benchmark.pedantic(call, rounds=5)

    return run
