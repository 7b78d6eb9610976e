"""Time and memory per pixel as images grow: ``python benchmarks/run.py scaling``.

Every point is a fresh process that runs the drop-in on one image: the first call for the memory,
the fastest of all calls for the time. The photograph is continued by mirroring, so a larger image
has more of the same, and the share of lattice vertices a pixel stays what it is.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness, report
from benchmarks.ops import bench_mean_field as mean_field
from benchmarks.peak import can_measure_memory, run_alone, save_scene

TITLE = "time and memory per pixel from 0.1 to 100 megapixels"
LIMIT = 1.3  # greatest ratio between the dearest and the cheapest pixel of a series
MEGAPIXELS = {2: (0.1, 0.3, 1, 3, 10, 30, 100), 21: (0.1, 0.3, 1, 3, 10, 20)}  # by labels
SETTINGS = {"wide": mean_field.WIDE, "narrow": mean_field.NARROW}


def case_of(megapixels: float, labels: int, setting: str) -> mean_field.CrfCase:
    """An image of about that size, four wide to three high."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    return mean_field.case_of((height, width), labels, SETTINGS[setting])


SUITE = harness.Suite(
    module="benchmarks.scaling",
    name="scaling",
    title=TITLE,
    cases=[
        case_of(size, labels, setting)
        for setting in SETTINGS
        for labels, sizes in MEGAPIXELS.items()
        for size in sizes
    ],
    opponent=mean_field.PYDENSECRF,
    ours=[mean_field.DROP_IN],
    scene=mean_field.scene_of,
    judge=mean_field.judge,
)


@dataclass(frozen=True)
class Point:
    """One image of a series."""

    case: mean_field.CrfCase
    side: str
    threads: int
    seconds: float
    peak: float

    @property
    def megapixels(self) -> float:
        return self.case.pixels / 1e6

    @property
    def nanoseconds_per_pixel(self) -> float:
        return self.seconds * 1e9 / self.case.pixels

    @property
    def bytes_per_pixel(self) -> float:
        return self.peak / self.case.pixels


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--threads", type=int, default=2, help="our number of threads (2)")
    add("--labels", type=int, choices=[*MEGAPIXELS], help="only this number of labels")
    add("--settings", choices=[*SETTINGS], help="only this setting")
    add("--largest", type=float, default=100, help="no image above so many megapixels")
    add("--opponent-largest", type=float, default=3, help="the same for pydensecrf; 0: none")
    add("--repeats", type=int, default=3, help="calls an image, thrice that up to 1 megapixel (3)")
    add("--image", type=Path, help="photograph to segment instead of the demo's")
    add("--output", type=Path, help="CSV and PNG without their suffix (benchmarks/results/scaling)")


def run(options: argparse.Namespace, results: Path) -> int:
    """Measure, print, write CSV and PNG; the exit status."""
    if reason := SUITE.ours[0].missing():
        raise SystemExit(f"fastseg cannot run: {reason}")
    if not can_measure_memory():
        raise SystemExit("this system does not tell a process's peak memory")
    about = report.environment()
    series = [
        measure_series(labels, setting, options)
        for setting in ([options.settings] if options.settings else SETTINGS)
        for labels in ([options.labels] if options.labels else MEGAPIXELS)
    ]
    output = options.output or results / "scaling"
    rows = [as_row(point) for points in series for point in points]
    report.write_csv(output.with_suffix(".csv"), rows, about)
    plot(series, output.with_suffix(".png"), about)
    for points in series:
        print(summary(points))
    print(f"wrote {output.with_suffix('.csv')} and {output.with_suffix('.png')}")
    return 0


def measure_series(labels: int, setting: str, options: argparse.Namespace) -> list[Point]:
    """One setting and number of labels over all sizes, ours and the opponent's."""
    points = []
    for size in MEGAPIXELS[labels]:
        if size > options.largest:
            continue
        case = case_of(size, labels, setting)
        repeats = options.repeats * (3 if size <= 1 else 1)
        entrants = harness.entrants_of(SUITE.ours, [options.threads])
        if size <= options.opponent_largest and not SUITE.opponent.missing():
            entrants += harness.entrants_of([SUITE.opponent], [1])
        with tempfile.TemporaryDirectory() as folder:
            save_scene(SUITE.scene(case, options.image), Path(folder))
            for entrant in entrants:
                found = run_alone(SUITE, case, entrant, Path(folder), repeats)
                seconds, peak = min(found["seconds"]), found["peak"]
                point = Point(case, entrant.side.name, entrant.threads, seconds, peak)
                points.append(point)
                print(f"{case.id} {case.setting} {entrant.name}: {describe(point)}", flush=True)
    return points


def describe(point: Point) -> str:
    return (
        f"{point.seconds:.3f} s, {point.nanoseconds_per_pixel:.1f} ns a pixel; "
        f"{point.peak / 1e6:.0f} MB, {point.bytes_per_pixel:.0f} bytes a pixel"
    )


def ours(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.side == mean_field.DROP_IN.name]


def unevenness(values: Sequence[float]) -> float:
    return max(values) / min(values)


def summary(points: Sequence[Point]) -> str:
    """How much dearer the dearest pixel of our series is than the cheapest."""
    mine = ours(points)
    time = unevenness([point.nanoseconds_per_pixel for point in mine])
    memory = unevenness([point.bytes_per_pixel for point in mine])
    verdict = "within" if max(time, memory) <= LIMIT else "NOT within"
    case = mine[0].case
    return (
        f"{case.labels} labels, {case.setting}, {mine[0].megapixels:.2g} to "
        f"{mine[-1].megapixels:.3g} megapixels: time per pixel varies {time:.2f}x, "
        f"memory per pixel {memory:.2f}x: {verdict} {LIMIT}x"
    )


def as_row(point: Point) -> dict[str, str]:
    return {
        "labels": str(point.case.labels),
        "setting": point.case.setting,
        "height": str(point.case.shape[0]),
        "width": str(point.case.shape[1]),
        "side": point.side,
        "threads": str(point.threads),
        "seconds": f"{point.seconds:.5f}",
        "ns_per_pixel": f"{point.nanoseconds_per_pixel:.3f}",
        "peak_mb": harness.megabytes(point.peak),
        "bytes_per_pixel": f"{point.bytes_per_pixel:.2f}",
        "load": report.load(),
    }


def plot(series: Sequence[Sequence[Point]], path: Path, about: dict[str, str]) -> None:
    """Time to the left and memory to the right, per pixel, over megapixels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for colour, points in enumerate(series):
        for side in dict.fromkeys(point.side for point in points):
            line = [point for point in points if point.side == side]
            style = {
                "color": f"C{colour}",
                "linestyle": "-" if side == mean_field.DROP_IN.name else ":",
                "marker": "o",
                "label": f"{side}, {line[0].case.labels} labels, {line[0].case.setting}",
            }
            sizes = [point.megapixels for point in line]
            time.plot(sizes, [point.nanoseconds_per_pixel for point in line], **style)
            memory.plot(sizes, [point.bytes_per_pixel for point in line], **style)
    time.set_title("nanoseconds per pixel, lattices and 10 iterations")
    memory.set_title("bytes per pixel, rise of the peak resident size")
    for axes in (time, memory):
        axes.set(xlabel="megapixels", xscale="log", yscale="log")
        axes.grid(alpha=0.3, which="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    time.legend(fontsize="x-small")
    figure.suptitle(
        f"{about['cpu']}, {about['cores']} cores, {about['instruction_set']}", fontsize=9
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
