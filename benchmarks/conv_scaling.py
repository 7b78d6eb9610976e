"""Time per pixel as images and batches grow: ``python benchmarks/run.py conv-scaling``.

All sizes of a series are timed in one interleaved run, ours and the faster of torch's formats.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness, report
from benchmarks.ops import bench_dilated_conv as conv

TITLE = "time per pixel of convolutions, 65 to 257 pixels and 1 to 8 images"
LIMIT = 1.3  # greatest ratio between the dearest and the cheapest pixel of a series
SIZES = [(1, 65), (1, 97), (1, 129), (1, 193), (1, 257), (2, 65), (4, 65), (8, 65)]  # batch, side
LAYERS = {
    "3x3 r2 512-512": {"channels": (512, 512), "rate": 2},
    "3x3 r12 512-512": {"channels": (512, 512), "rate": 12},
    "1x1 1024-256": {"channels": (1024, 256), "kernel": 1},
}


def cases_of(layer: str) -> list[conv.ConvCase]:
    geometry = dict(LAYERS[layer])
    channels = geometry.pop("channels")
    return [conv.case_of(layer, channels, size, batch=batch, **geometry) for batch, size in SIZES]


@dataclass(frozen=True)
class Point:
    """One size of a series."""

    layer: str
    case: conv.ConvCase
    seconds: float
    opponent_seconds: float

    @property
    def pixels(self) -> int:
        return self.case.batch * self.case.size**2

    @property
    def nanoseconds(self) -> float:
        return self.seconds * 1e9 / self.pixels


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--threads", type=int, default=2, help="number of threads, ours and torch's (2)")
    add("--repeats", type=int, default=5, help="rounds (5)")
    add("--layers", choices=[*LAYERS], help="only this one")
    add("--output", type=Path, help="CSV and PNG without suffix (benchmarks/results/conv-scaling)")


def run(options: argparse.Namespace, results: Path) -> int:
    """Measure, print, write CSV and PNG; the exit status."""
    if reason := conv.SUITE.opponent.missing():
        raise SystemExit(reason)
    about = report.environment()
    series = [
        measure(layer, options.threads, options.repeats)
        for layer in ([options.layers] if options.layers else LAYERS)
    ]
    output = options.output or results / "conv-scaling"
    rows = [as_row(point, options.threads) for points in series for point in points]
    report.write_csv(output.with_suffix(".csv"), rows, about)
    plot(series, output.with_suffix(".png"), about)
    for points in series:
        print(summary(points))
    print(f"wrote {output.with_suffix('.csv')} and {output.with_suffix('.png')}")
    return 0


def measure(layer: str, threads: int, repeats: int) -> list[Point]:
    """The least time of every size."""
    cases, calls = cases_of(layer), []
    for case in cases:
        scene = conv.scene_of(case, None)
        calls += [
            conv.prepare_ours(case, scene, threads),
            conv.prepare_torch(True)(case, scene, threads),
        ]
    for call in calls:
        call()  # transforms the weights
    timings = harness.interleave(calls, repeats)
    pairs = zip(timings[::2], timings[1::2], strict=True)
    return [
        Point(layer, case, ours.least, theirs.least)
        for case, (ours, theirs) in zip(cases, pairs, strict=True)
    ]


def summary(points: Sequence[Point]) -> str:
    """How much dearer the dearest pixel is than the cheapest."""
    costs = [point.nanoseconds for point in points]
    uneven = max(costs) / min(costs)
    verdict = "within" if uneven <= LIMIT else "NOT within"
    return (
        f"{points[0].layer}: {min(costs):.0f} to {max(costs):.0f} ns a pixel, "
        f"varies {uneven:.2f}x: {verdict} {LIMIT}x"
    )


def as_row(point: Point, threads: int) -> dict[str, str]:
    return {
        "layer": point.layer,
        "batch": str(point.case.batch),
        "size": str(point.case.size),
        "threads": str(threads),
        "ms": harness.milliseconds(point.seconds),
        "ns_per_pixel": f"{point.nanoseconds:.1f}",
        "conv2d_channels_last_ms": harness.milliseconds(point.opponent_seconds),
        "load": report.load(),
    }


def plot(series: Sequence[Sequence[Point]], path: Path, about: dict[str, str]) -> None:
    """Milliseconds over pixels; a straight line through the origin is what is hoped for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.6), layout="constrained")
    for colour, points in enumerate(series):
        line = sorted(points, key=lambda point: point.pixels)
        pixels = [point.pixels for point in line]
        mine, theirs = ([f(p) * 1e3 for p in line] for f in (ours, torchs))
        axes.plot(pixels, mine, f"C{colour}o-", label=f"fastseg {points[0].layer}")
        axes.plot(pixels, theirs, f"C{colour}x:", label=f"torch {points[0].layer}")
    axes.set(xlabel="pixels (batch x height x width)", ylabel="milliseconds")
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="x-small")
    figure.suptitle(
        f"{about['cpu']}, {about['cores']} cores, {about['instruction_set']}", fontsize=9
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def ours(point: Point) -> float:
    return point.seconds


def torchs(point: Point) -> float:
    return point.opponent_seconds
