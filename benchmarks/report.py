"""What was found, as the rows of a CSV and as a table, with the machine it was found on."""

import csv
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path

from benchmarks.harness import REPOSITORY, Case, Measurement, Suite, Timing, megabytes, milliseconds


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


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], about: Mapping[str, str]) -> None:
    """Write rows, each followed by what it or else ``about`` says of the machine; whole or not."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in about))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *about], restval="")
        writer.writeheader()
        writer.writerows({**about, **row} for row in rows)
    partial.replace(path)


class Rows:
    """The rows of a suite's CSV, written anew after every case: a stopped run loses one at most.

    With ``keep`` the file's rows of other cases stay, with what they say of their machine.
    """

    def __init__(
        self, path: Path, suite: Suite, about: Mapping[str, str], *, keep: bool = False
    ) -> None:
        self.path, self.suite, self.about = path, suite, about
        self.rows: list[dict[str, str]] = []
        if keep and path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def of(self, case: Case, photograph: str) -> list[dict[str, str]]:
        wanted = (case.id, case.setting, photograph)
        return [r for r in self.rows if (r["case"], r["setting"], r["photograph"]) == wanted]

    def hold(self, case: Case, photograph: str) -> bool:
        """Whether the case has been measured."""
        return bool(self.of(case, photograph))

    def replace(self, case: Case, photograph: str, found: Sequence[Measurement]) -> None:
        """Put a case's measurements in the place of its rows, in the suite's order, and write."""
        old = self.of(case, photograph)
        self.rows = [row for row in self.rows if row not in old]
        self.rows += [as_row(self.suite, m, photograph) for m in found]
        order = {(c.id, c.setting): place for place, c in enumerate(self.suite.cases)}
        self.rows.sort(key=lambda row: order.get((row["case"], row["setting"]), len(order)))
        write_csv(self.path, self.rows, self.about)


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
