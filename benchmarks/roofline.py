"""What the CUDA kernels must move and compute, on paper: ``python benchmarks/roofline.py``.

Nothing here was measured. A kernel's predicted time is the longest of: its bytes at the card's
memory bandwidth, its operations at the card's rates of float32 and of float64, and what one launch
costs; each array counts once where a later kernel finds it in the second-level cache, and every
time where it is larger than that. The lattice and the dense CRF also gather: rows that lie anywhere
pass through that cache as often as they are asked for, in whole sectors, none of them found in the
first level; and atomics on one address take turns. A matrix product is counted in whole tiles, as
many at a time as there are multiprocessors, with what its tiles read from that cache. The cache is
taken to give 40 bytes a cycle and multiprocessor. The occupancy is that of csrc/cuda_budget.csv.

Beside it stand the floor (every argument read and every result written once, and the operations
that the definition needs, at the highest rate), and what other implementations must do at least:
torch's operators one after the other, cuDNN, and two public CUDA implementations of the dense CRF.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import write_csv
from benchmarks.roofline_cards import CARDS, Plan
from benchmarks.roofline_conv import convolutions, pyramids
from benchmarks.roofline_crf import dense_crf, field_options, lattice_filter
from benchmarks.roofline_upsample import upsampling

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FAMILIES = ("mean field", "dense CRF", "permutohedral", "upsample", "conv", "aspp")


def plans() -> Iterator[Plan]:
    yield from dense_crf()
    yield from field_options()
    yield from lattice_filter()
    yield from upsampling()
    yield from convolutions()
    yield from pyramids()


def occupancies() -> dict[tuple[str, str], float]:
    """The lowest of a kernel's instances, by name and architecture."""
    found: dict[tuple[str, str], float] = {}
    with (ROOT / "csrc" / "cuda_budget.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["kernel"].partition("<")[0], row["architecture"]
            found[key] = min(found.get(key, 1.0), float(row["occupancy"]))
    return found


def rows_of(plan: Plan, occupancy: Mapping[tuple[str, str], float]) -> list[dict[str, str]]:
    """One line of the CSV for each card and rival; a plan without rivals has one for each card."""
    kernels = {step.kernel for step in plan.steps}
    rows = []
    for name, card in CARDS.items():
        row = {
            "call": plan.name,
            "card": name,
            "launches": str(plan.launches),
            "megabytes": f"{plan.bytes / 1e6:.3f}",
            "l2_megabytes": f"{plan.l2_bytes / 1e6:.3f}",
            "gigaoperations": f"{plan.operations / 1e9:.3f}",
            "lowest_occupancy": lowest(occupancy, kernels, card.architecture),
            "predicted_ms": f"{plan.seconds(card) * 1e3:.4f}",
            "floor_megabytes": f"{plan.floor_bytes / 1e6:.3f}",
            "floor_ms": f"{plan.floor(card) * 1e3:.4f}",
        }
        for rival, work in plan.rivals.items() or {"": None}.items():
            about = {"rival": rival}
            if work is not None:
                about |= {
                    "rival_launches": str(work.launches),
                    "rival_megabytes": f"{work.bytes / 1e6:.3f}",
                    "rival_gigaoperations": f"{work.operations / 1e9:.3f}",
                    "rival_ms_at_least": f"{work.seconds(card) * 1e3:.4f}",
                }
            rows.append({**row, **about})
    return rows


def lowest(
    occupancy: Mapping[tuple[str, str], float], kernels: Iterable[str], architecture: str
) -> str:
    """Of the kernels, or nothing where one of them has no budget."""
    found = [occupancy.get((kernel, architecture)) for kernel in kernels]
    known = [value for value in found if value is not None]
    return f"{min(known):.3f}" if len(known) == len(found) else ""


def plot(path: Path, found: Sequence[Plan]) -> None:
    """Predicted against floor, each card a panel, and what the rivals must take at least."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(11, 9), sharex=True, sharey=True)
    for panel, (name, card) in zip(panels.flat, CARDS.items(), strict=True):
        for number, family in enumerate(FAMILIES):
            some = [plan for plan in found if plan.name.startswith(family)]
            floors = [plan.floor(card) * 1e3 for plan in some]
            times = [plan.seconds(card) * 1e3 for plan in some]
            panel.scatter(floors, times, s=12, color=f"C{number}", label=family)
            both = [(p.floor(card), w.seconds(card)) for p in some for w in p.rivals.values()]
            panel.scatter(
                *([1e3 * value[axis] for value in both] for axis in (0, 1)),
                s=14, marker="x", linewidths=0.6, color=f"C{number}",
            )  # fmt: skip
        panel.plot([2e-3, 50], [2e-3, 50], color="black", linewidth=0.6)
        panel.set(xscale="log", yscale="log", title=name)
    for panel in panels[1]:
        panel.set_xlabel("floor, ms")
    for panel in panels[:, 0]:
        panel.set_ylabel("predicted (dots), rivals at least (crosses), ms")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle("Counted on paper, not measured")
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})


def report(found: Sequence[Plan], occupancy: Mapping[tuple[str, str], float]) -> str:
    """Two tables for a reader."""
    lines = [
        "Predicted, not measured: milliseconds, without a CUDA graph, and in brackets the floor\n",
        "| call | launches | MB | " + " | ".join(CARDS) + " | rivals: MB, H100 ms at least |",
        "|---" * (len(CARDS) + 4) + "|",
    ]
    h100 = CARDS["H100 SXM"]
    for plan in found:
        times = " | ".join(
            f"{plan.seconds(card) * 1e3:.3f} ({plan.floor(card) * 1e3:.3f})"
            for card in CARDS.values()
        )
        rivals = "; ".join(
            f"{name} {work.bytes / 1e6:.1f}, {work.seconds(h100) * 1e3:.3f}"
            for name, work in plan.rivals.items()
        )
        cells = f"{plan.launches} | {plan.bytes / 1e6:.1f} | {times} | {rivals}"
        lines.append(f"| {plan.name} | {cells} |")
    architectures = sorted({card.architecture for card in CARDS.values()})
    lines += [
        "\nLowest occupancy of any instance of these kernels\n",
        "| kernel | " + " | ".join(architectures) + " |",
        "|---" * (len(architectures) + 1) + "|",
    ]
    for kernel in sorted({step.kernel for plan in found for step in plan.steps}):
        cells = " | ".join(lowest(occupancy, [kernel], name) for name in architectures)
        lines.append(f"| {kernel} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=RESULTS,
        help="folder for roofline.csv and roofline.png (benchmarks/results)",
    )
    options = parser.parse_args()
    found, occupancy = list(plans()), occupancies()
    print(report(found, occupancy))
    if options.write:
        rows = [row for plan in found for row in rows_of(plan, occupancy)]
        write_csv(options.write / "roofline.csv", rows, {})
        plot(options.write / "roofline.png", found)
        print(f"\nwrote roofline.csv and roofline.png to {options.write}")


if __name__ == "__main__":
    main()
