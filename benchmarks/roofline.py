"""What the CUDA kernels must move and compute, on paper: ``python benchmarks/roofline.py``.

Nothing here was measured. A kernel's predicted time is the longest of three: its bytes at the
card's memory bandwidth, its operations at the card's float32 rate, and what one launch costs; each
array counts once where a later kernel finds it in the second-level cache, and every time where it
is larger than that. The occupancy is that of csrc/cuda_budget.csv. What torch's kernels must move
at least, one after the other, stands beside it.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = 2.5e-6  # seconds from one kernel's end to the next one's begin, without a graph
FLOAT, INDEX, LONG = 4, 4, 8


@dataclass(frozen=True)
class Card:
    """The makers' data sheets: bytes a second, float32 operations a second, bytes of cache."""

    bandwidth: float
    rate: float
    cache: float
    architecture: str


CARDS = {
    "H100 SXM": Card(3.35e12, 67e12, 50e6, "sm_90"),
    "A100 SXM": Card(2.04e12, 19.5e12, 40e6, "sm_80"),
    "L4": Card(0.30e12, 30.3e12, 48e6, "sm_86"),
    "RTX 4090": Card(1.01e12, 82.6e12, 72e6, "sm_86"),
}


@dataclass(frozen=True)
class Step:
    """One launch, or several alike: arrays that it reads and writes, in bytes, and operations."""

    kernel: str
    arrays: tuple[float, ...]
    operations: float
    launches: int = 1

    def seconds(self, card: Card) -> float:
        """Arrays that fit into the cache together come from there after the first launch."""
        moved = sum(self.arrays)
        kept = moved <= card.cache / 2
        traffic = moved * (1 if kept else self.launches)
        work = max(traffic / card.bandwidth, self.operations * self.launches / card.rate)
        return max(work, LAUNCH * self.launches)


@dataclass(frozen=True)
class Plan:
    """A call: our steps, and what torch's must move."""

    name: str
    steps: tuple[Step, ...]
    torch_bytes: float | None = None

    @property
    def bytes(self) -> float:
        return sum(sum(step.arrays) * step.launches for step in self.steps)

    @property
    def launches(self) -> int:
        return sum(step.launches for step in self.steps)

    def seconds(self, card: Card) -> float:
        return sum(step.seconds(card) for step in self.steps)


def upsampling(
    name: str, classes: int, source: tuple[int, int], size: tuple[int, int]
) -> list[Plan]:
    """Each operator on ``(1, classes, *source)``."""
    samples, pixels = classes * source[0] * source[1] * FLOAT, size[0] * size[1]
    enlarged = classes * pixels * FLOAT
    blend = 7.0 * classes * pixels  # operations of interpolating everything once
    tables = Step("tabulate_axes", ((size[0] + size[1]) * 16.0,), 0)
    record = 16.0 * pixels
    label = f"{name} {classes}x{source[0]}x{source[1]} to {size[0]}x{size[1]}"
    adjoint_blend = 2 * blend  # every pixel row lies in two windows
    return [
        Plan(
            f"upsample {label}",
            (tables, Step("upsample_planes", (samples, enlarged), blend)),
            samples + enlarged,
        ),
        Plan(
            f"upsample_argmax {label}",
            (tables, Step("argmax_of_pixels", (samples, pixels * LONG), 2 * blend)),
            samples + 2 * enlarged + pixels * LONG,
        ),
        Plan(
            f"upsample_softmax {label}",
            (
                tables,
                Step("softmax_of_planes", (samples, enlarged), 2 * blend + 40.0 * classes * pixels),
            ),
            samples + 3 * enlarged,
        ),
        Plan(
            f"upsample_cross_entropy and gradient {label}",
            (
                tables,
                Step(
                    "losses_of_pixels",
                    (samples, pixels * LONG, record),
                    blend + 20.0 * classes * pixels,
                ),
                Step("total_loss", (pixels / 256 * 24,), 0),
                Step(
                    "upsample_adjoint",
                    (record, 2 * samples),
                    adjoint_blend + 40.0 * classes * pixels,
                ),
            ),
            # interpolate, log_softmax, and their gradients
            samples + enlarged + 2 * enlarged + pixels * LONG + 3 * enlarged + enlarged + samples,
        ),
    ]


def sort_passes(limit: int) -> int:
    """Launches of a radix sort of keys below ``limit``, eight bits each."""
    return max(1, -(-(limit - 1).bit_length() // 8))


def mean_field(
    pixels: int, labels: int, kernels: list[tuple[int, int]], iterations: int
) -> tuple[Plan, Plan]:
    """The build and the updates of up to four kernels, each (dims, lattice vertices)."""
    rows = pixels * labels * FLOAT
    # There and back, and the first softmax.
    build = [
        Step("transpose_tiles", (rows, rows), 0, 2),
        Step("find_not_finite", (len(kernels) * float(FLOAT),), 0),
        Step("update_pixels", (rows, rows), 30.0 * pixels * labels),
    ]
    for dims, vertices in kernels:
        corners, contributions = dims + 1, pixels * (dims + 1)
        table = contributions * 2.0 * 2 * LONG  # two slots a contribution, if unlucky
        links = corners * vertices * 2 * INDEX
        build += [
            Step("place_points", (pixels * dims * FLOAT, contributions * 9.0, table),
                 pixels * 100.0),
            Step("enter_vertices", (contributions * (5.0 + LONG), table), contributions * 60.0),
            Step("number_vertices", (contributions * float(LONG), table), contributions * 4.0),
            Step("name_vertices", (contributions * (LONG + 2.0 * INDEX),), contributions * 4.0),
            Step(
                "scatter_pairs",
                (contributions * (3.0 * INDEX + 2.0 * LONG),),
                contributions * 20.0,
                sort_passes(vertices),
            ),
            Step(
                "link_vertices",
                (contributions * float(INDEX), links, vertices * 3.0 * LONG),
                vertices * corners * 120.0,
            ),
            Step(
                "normalize_weights",
                (contributions * (INDEX + LONG + 4.0 * FLOAT), vertices * float(FLOAT)),
                pixels * corners * corners * 6.0,
            ),
        ]  # fmt: skip
    build += filter_steps(pixels, 1, kernels, contribution_bytes=LONG + FLOAT)
    edges = sum(pixels * (d + 1) * (INDEX + FLOAT) + m * labels * FLOAT for d, m in kernels)
    operations = (
        sum(2.0 * pixels * (dims + 1) * labels for dims, _ in kernels) + 40.0 * pixels * labels
    )
    update = [
        *filter_steps(pixels, labels, kernels, contribution_bytes=INDEX + FLOAT),
        Step("update_pixels", (rows, edges, rows), operations),
    ]
    repeated = [
        Step(step.kernel, step.arrays, step.operations, step.launches * iterations)
        for step in update
    ]
    return Plan("build", tuple(build)), Plan(f"{iterations} iterations", tuple(repeated))


def filter_steps(
    pixels: int, channels: int, kernels: list[tuple[int, int]], contribution_bytes: float
) -> list[Step]:
    """Splat and blur of all kernels together, of ``channels`` channels: two axes a launch."""
    contributions = float(sum(pixels * (dims + 1) for dims, _ in kernels))
    lattice = float(sum(vertices for _, vertices in kernels) * channels * FLOAT)
    values = pixels * channels * FLOAT if channels > 1 else 0
    tiles = contributions / 64 * channels * FLOAT
    steps = [
        Step(
            "splat_rows",
            (values, contributions * contribution_bytes, lattice, tiles),
            2.0 * contributions * channels,
        ),
        Step("join_rows", (tiles, lattice), contributions / 64 * channels),
    ]
    for axis in range(0, max(dims for dims, _ in kernels) + 1, 2):
        some = float(sum(vertices for dims, vertices in kernels if axis <= dims))
        steps.append(
            Step(
                "blur_rows",
                (2 * some * channels * FLOAT, some * 4 * INDEX),
                12.0 * some * channels,
            )
        )
    return steps


def plans() -> Iterator[Plan]:
    yield from upsampling("VOC", 21, (65, 65), (513, 513))
    yield from upsampling("Cityscapes", 19, (129, 257), (1024, 2048))
    # Vertices of the demo's photograph, 3/3 and bilateral 80/13 or 67/3.
    for setting, vertices in (("80/13", 11566), ("67/3", 134498)):
        build, updates = mean_field(375 * 500, 21, [(2, 24540), (5, vertices)], 10)
        yield Plan(f"mean field 375x500x21 {setting}: build", build.steps)
        yield Plan(f"mean field 375x500x21 {setting}: 10 iterations", updates.steps)


def occupancies() -> dict[tuple[str, str], float]:
    """The lowest of a kernel's instances, by name and architecture."""
    found: dict[tuple[str, str], float] = {}
    with (ROOT / "csrc" / "cuda_budget.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["kernel"].partition("<")[0], row["architecture"]
            found[key] = min(found.get(key, 1.0), float(row["occupancy"]))
    return found


def plot(path: Path, found: list[Plan]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.35 * len(found) * len(CARDS) ** 0.5 + 2))
    for offset, (name, card) in enumerate(CARDS.items()):
        places = [i + 0.2 * offset for i in range(len(found))]
        axes.barh(places, [plan.seconds(card) * 1e3 for plan in found], height=0.18, label=name)
    axes.set_yticks([i + 0.3 for i in range(len(found))], [plan.name for plan in found], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("predicted milliseconds, not measured")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args()
    found, occupancy = list(plans()), occupancies()
    print("Predicted, not measured: milliseconds, without a CUDA graph\n")
    print("| call | launches | MB | " + " | ".join(CARDS) + " | MB of torch's kernels |")
    print("|---" * (len(CARDS) + 4) + "|")
    for plan in found:
        times = " | ".join(f"{plan.seconds(card) * 1e3:.3f}" for card in CARDS.values())
        torch = f"{plan.torch_bytes / 1e6:.1f}" if plan.torch_bytes else ""
        print(f"| {plan.name} | {plan.launches} | {plan.bytes / 1e6:.1f} | {times} | {torch} |")
    print("\nLowest occupancy of any instance of these kernels\n")
    kernels = sorted({step.kernel for plan in found for step in plan.steps})
    names = sorted({card.architecture for card in CARDS.values()})
    print("| kernel | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for kernel in kernels:
        print(f"| {kernel} | " + " | ".join(f"{occupancy[kernel, n]:.2f}" for n in names) + " |")
    if options.plot:
        plot(options.plot, found)
        print(f"\nwrote {options.plot}")


if __name__ == "__main__":
    main()
