"""Race fastseg against its alternatives: ``python benchmarks/run.py crf``. See README.md here."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import conv_scaling, harness, report, scaling, scenes
from benchmarks.peak import peak_memory

ON_CUDA = ("crf", "conv", "aspp", "models", "upsample")

RESULTS = Path(__file__).resolve().parent / "results"

SUITES = {  # sub-command: module that holds its SUITE
    "crf": "benchmarks.ops.bench_mean_field",
    "lattice": "benchmarks.ops.bench_permutohedral",
    "conv": "benchmarks.ops.bench_dilated_conv",
    "aspp": "benchmarks.ops.bench_aspp",
    "models": "benchmarks.models.bench_models",
    "upsample": "benchmarks.ops.bench_bilinear_upsample",
}


def numbers(text: str) -> list[int]:
    """``1,2`` as a list."""
    return [int(number) for number in text.split(",")]


def names(text: str) -> list[str]:
    """``float32,tf32`` as a list."""
    return text.split(",")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, module in SUITES.items():
        title = import_module(module).SUITE.title
        add = commands.add_parser(name, help=title, description=title).add_argument
        add("--threads", type=numbers, default=[1, 2], help="our numbers of threads (1,2)")
        add("--cases", help="only cases that hold one of these texts, as in 375x500,80/13")
        add("--repeats", type=int, default=7, help="rounds (7)")
        add("--quick", action="store_true", help="three rounds of the first size, no memory")
        add("--csv", type=Path, help="where to write (benchmarks/results/)")
        add("--keep", action="store_true", help="replace only the measured cases' rows in the CSV")
        add("--resume", action="store_true", help="leave out what the CSV holds, and keep it")
        add("--image", type=Path, help="photograph to segment instead of the demo's")
        add("--photos", type=Path, help="folder: run on each photograph, report the worst ratio")
        add("--no-memory", action="store_true", help="leave the peak memory out")
        add("--against-itself", action="store_true", help="opponent on both sides: expect 1.0")
        add("--profile", action="store_true", help="print the time of each phase instead")
        add("--strict", action="store_true", help="exit with 1 where a ratio or memory is missed")
        if name in ON_CUDA:
            add("--device", default="cpu", help="cpu, cuda, cuda:1: on a GPU, other sides")
            add("--precision", type=names, help="on cuda, of float32,tf32,float16,bfloat16")
    scaling.add_arguments(commands.add_parser("scaling", help=scaling.TITLE))
    conv_scaling.add_arguments(commands.add_parser("conv-scaling", help=conv_scaling.TITLE))
    return top


def chosen(suite: harness.Suite, options: argparse.Namespace) -> list[Any]:
    """The cases asked for."""
    cases = list(suite.cases)
    if options.quick:
        cases = [case for case in cases if case.id == suite.cases[0].id]
    if options.cases:
        texts = options.cases.split(",")
        cases = [c for c in cases if any(text in f"{c.id} {c.setting}" for text in texts)]
    if not cases:
        raise SystemExit(f"no case holds {options.cases!r}")
    return cases


def participants(suite: harness.Suite, options: argparse.Namespace) -> list[harness.Entrant]:
    """Our sides that can run here; says which cannot."""
    if reason := suite.opponent.missing():
        raise SystemExit(f"the opponent cannot run: {reason}; see benchmarks/README.md")
    if options.against_itself:
        return harness.entrants_of([suite.itself], [1])
    for side in suite.ours:
        if reason := side.missing():
            print(f"{side.name} is left out: {reason}")
    sides = [side for side in suite.ours if not side.missing()]
    if not sides:
        raise SystemExit("none of our sides can run: build fastseg first")
    return harness.entrants_of(sides, options.threads)


def race(suite: harness.Suite, options: argparse.Namespace) -> int:
    """Run the cases on every photograph, print and write what was found; the exit status."""
    cases = chosen(suite, options)
    entrants = participants(suite, options)
    repeats = 3 if options.quick else options.repeats
    weigh = None if options.quick or options.no_memory else peak_memory
    about = report.environment()
    print("\n".join(f"{name}: {value}" for name, value in about.items() if name != "command"))

    path = options.csv or RESULTS / file_name(suite, options)
    rows = report.Rows(path, suite, about, keep=options.keep or options.resume)
    photographs = scenes.photographs_in(options.photos) if options.photos else [options.image]
    found: dict[Path | None, list[harness.Measurement]] = {}
    wrong = []
    for photograph in photographs:
        found[photograph] = []
        name = photograph.name if photograph else "demo"
        for case in cases:
            if options.resume and rows.hold(case, name):
                print(f"{name} {case.id} {case.setting}: measured before, see {path}")
                continue
            scene = suite.scene(case, photograph)
            try:
                measured = harness.measure(
                    suite, case, scene, entrants, repeats=repeats, weigh=weigh
                )
            except harness.WrongResult as error:
                wrong.append(str(error))
                rows.replace(case, name, [])
                print(f"NOT TIMED {error}")
                continue
            for m in measured:
                print(f"{name} {m}", flush=True)
            rows.replace(case, name, measured)
            found[photograph] += measured

    measurements = [m for group in found.values() for m in group]
    print("\n" + report.table(report.TABLE_HEADER, report.table_rows(measurements)))
    if options.photos:
        print("\nworst of the photographs\n" + worst(found))
    if measurements:
        print(f"\nwrote {path}")
    missed = [m for m in measurements if m.slower_than_must or m.heavier]
    return 1 if wrong or (options.strict and missed) else 0


def on_cuda(suite: harness.Suite, options: argparse.Namespace) -> int:
    """Run the suite's sides on a GPU; the options of processors and memory have no part in it."""
    gpu = import_module("fastseg.tuning.gpu")
    if reason := gpu.why_no_gpu():
        raise SystemExit(f"--device {options.device} cannot run: {reason}")
    cases = chosen(suite, options)
    return import_module("benchmarks.cuda.race").run(options.command, options, cases, RESULTS)


def file_name(suite: harness.Suite, options: argparse.Namespace) -> str:
    """A part of the table, or another photograph, does not overwrite the whole."""
    parts = (options.quick, options.cases, options.image, options.photos, options.against_itself)
    return f"{suite.name}-partial.csv" if any(parts) else f"{suite.name}.csv"


def worst(found: dict[Path | None, list[harness.Measurement]]) -> str:
    """For each case and entrant, the photograph with the lowest ratio."""
    lowest: dict[tuple[str, ...], tuple[harness.Measurement, Path | None]] = {}
    for photograph, measurements in found.items():
        for m in measurements:
            key = (m.case.id, m.case.setting, m.entrant.name)
            if key not in lowest or m.ratio_of_medians < lowest[key][0].ratio_of_medians:
                lowest[key] = (m, photograph)
    return report.table(
        ["case", "setting", "side", "ratio-min", "ratio-median", "photograph"],
        [
            [*key, f"{m.ratio_of_minima:.2f}", f"{m.ratio_of_medians:.2f}", getattr(p, "name", "")]
            for key, (m, p) in lowest.items()
        ],
    )


def profile(suite: harness.Suite, options: argparse.Namespace) -> int:
    """Print the least time of each phase over three runs, side by side."""
    if suite.phases is None:
        raise SystemExit(f"{suite.name} has no phases to profile")
    sides = [side for side in (suite.opponent, suite.ours[0]) if not side.missing()]
    for case in chosen(suite, options):
        scene = suite.scene(case, options.image)
        columns, names = [], []
        for entrant in harness.entrants_of(sides, options.threads):
            runs = [
                [(name, harness.seconds_of(call)) for name, call in stages]
                for stages in (
                    suite.phases(entrant.side.name, case, scene, entrant.threads) for _ in range(3)
                )
            ]
            names = [name for name, _ in runs[0]]
            columns.append([entrant.name, *(min(r[i][1] for r in runs) for i in range(len(names)))])
        print(f"\n{case.id} {case.setting}, milliseconds")
        print(
            report.table(
                ["phase", *(column[0] for column in columns)],
                [
                    [name, *(harness.milliseconds(column[i + 1]) for column in columns)]
                    for i, name in enumerate(names)
                ],
            )
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.command == "scaling":
        return scaling.run(options, RESULTS)
    if options.command == "conv-scaling":
        return conv_scaling.run(options, RESULTS)
    suite = import_module(SUITES[options.command]).SUITE
    if getattr(options, "device", "cpu") != "cpu":
        return on_cuda(suite, options)
    if options.profile:
        return profile(suite, options)
    return race(suite, options)


if __name__ == "__main__":
    raise SystemExit(main())
