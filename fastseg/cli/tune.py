"""``fastseg tune``: which convolution is fastest on this GPU, measured and kept."""

from collections import Counter, defaultdict
from collections.abc import Collection
from statistics import geometric_mean
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fastseg.cli.console import (
    FAILED,
    make_console,
    plain_errors,
    progress_bar,
    say,
    usage_error,
)

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from fastseg.tuning.layer import Layer
    from fastseg.tuning.measure import Found, Job
    from fastseg.tuning.tables import Table

EPILOG = """
**Examples**

- `fastseg tune`
- `fastseg tune --model deeplabv3_resnet101 --size 1024x2048 --precision float16`
- `fastseg tune --model unet_padded --size 512x512 --batch 8 --details`
- `fastseg tune --dry-run`

The table lies in the folder that FASTSEG_TUNING names, or in ~/.cache/fastseg/tuning, one file for
each architecture. It counts before the choices that come with fastseg, for layers like those that
were measured, in every later run with the same versions of torch and fastseg. Delete the file to
forget it.

Exit status: 0 if everything was measured, 1 if there is no GPU or an algorithm was wrong, 2 if the
command itself is wrong, 130 if interrupted: run it again to go on.
"""


def tune(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Measure the layers of this system, a name that `fastseg models` lists.",
            show_default="the layers of nine networks",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Height and width of the image for --model.", show_default="513x513"),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    precision: Annotated[
        str, typer.Option(help="Some of float32, tf32, float16, bfloat16.")
    ] = "float32,tf32,float16,bfloat16",
    formats: Annotated[
        str, typer.Option("--format", help="nhwc (channels_last), nchw, or both.")
    ] = "nhwc,nchw",
    device: Annotated[str, typer.Option(help="cuda, cuda:1, ...")] = "cuda",
    rounds: Annotated[
        int, typer.Option(help="Times of each algorithm; medians count.", min=3)
    ] = 15,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Begin a new table. Without it what was measured is skipped."
        ),
    ] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Show every layer and not only sums.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the layers and measure nothing; needs no GPU.")
    ] = False,
) -> None:
    """Measure fastseg's convolutions against cuDNN's on this GPU, and keep what is fastest.

    Every algorithm's result is compared with torch's before it is timed, with events on the GPU,
    from a cold cache, all algorithms in turn. Nothing is ever measured outside of this command.
    """
    with plain_errors():
        from fastseg.tuning.measure import FORMATS, PRECISIONS, jobs_of

        precisions = some_of("--precision", precision, PRECISIONS)
        names = some_of("--format", formats, FORMATS)
        jobs = jobs_of(_layers(model, size, batch), precisions, names)
        if dry_run:
            for job in jobs:
                typer.echo(f"{job}: {job.shape_class}")
            return
        _tune(jobs, device, rounds, overwrite, details)


def some_of(option: str, text: str, known: Collection[str]) -> list[str]:
    """A list with commas between the names; raises typer.Exit for others."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(name in known for name in names):
        raise usage_error(f"{option} must be some of {', '.join(known)}, got {text}")
    return names


def _layers(model: str | None, size: str | None, batch: int) -> "list[Layer]":
    from fastseg.cli.weights import check_name
    from fastseg.tuning.networks import default_layers, layers_of_system

    if model is None:
        if size is not None:
            raise usage_error(f"--size must come with --model, got {size} alone")
        return default_layers(batch)
    check_name(model)
    height, cross, width = (size or "513x513").partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise usage_error(f"--size must be HxW in pixels, got {size}")
    return layers_of_system(model, (int(height), int(width)), batch)


def _device(name: str) -> "torch.device":
    """Raises OSError where there is no GPU that fastseg runs on, typer.Exit for other devices."""
    import torch

    from fastseg.tuning.gpu import why_no_gpu

    if reason := why_no_gpu():
        raise OSError(f"there is no GPU to tune for: {reason}")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise usage_error(f"--device must be one that torch has, got {name}: {reason}") from None
    if device.type != "cuda":
        raise usage_error(f"--device must be a GPU, got {name}")
    return device


def _tune(jobs: "list[Job]", device: str, rounds: int, overwrite: bool, details: bool) -> None:
    from fastseg.ops.dilated_conv import GPU_ALGORITHMS
    from fastseg.tuning import gpu, measure, run, stopwatch, tables

    chosen = _device(device)
    card = gpu.describe(chosen)
    path = tables.path_of(card.architecture)
    table, reason = run.table_to_fill(card, path, overwrite=overwrite)
    errors, out = make_console(stderr=True), make_console()
    if reason:
        say(errors, "yellow", "warning", f"{path}: {reason}; begun anew")
    todo, wrong = measure.unmeasured(jobs, table), 0
    watch = stopwatch.CudaStopwatch(chosen)

    def one(job: "Job") -> "Found":
        names = measure.algorithms_for(job.precision, GPU_ALGORITHMS)
        return measure.measure(job, names, watch, rounds=rounds)

    with progress_bar(errors) as bar:
        task = bar.add_task(card.name, total=len(todo))

        def report(job: "Job", found: "Found") -> None:
            nonlocal wrong
            wrong += len(found.wrong)
            for name, error in found.wrong.items():
                say(bar.console, "bold red", "wrong", f"{job}: {name} is off by {error:.2g}")
            bar.update(task, advance=1, description=str(job))

        run.fill(table, path, todo, one, report)
    show(out, table, jobs, details)
    counts = f"{len(todo)} measured, {len(jobs) - len(todo)} before, {wrong} results wrong"
    out.print(f"{counts}: {path}", soft_wrap=True, markup=False)
    if wrong:
        raise typer.Exit(FAILED)


class Gain(NamedTuple):
    """Milliseconds of one job by torch and by what was chosen for its class."""

    torch: float
    chosen: float
    algorithm: str


def show(console: "Console", table: "Table", jobs: "list[Job]", details: bool) -> None:
    """What was found, of every job, or summed over those of one precision and format."""
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("layer" if details else "layers", overflow="fold")
    for name in ("torch, ms", "chosen, ms", "gain"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("by", overflow="fold")
    for name, gains in gains_of(table, jobs, details).items():
        mean = geometric_mean([gain.torch / gain.chosen for gain in gains])
        by = Counter(gain.algorithm for gain in gains).most_common()
        grid.add_row(
            name if details else f"{len(gains)} {name}",
            f"{sum(gain.torch for gain in gains):.3f}",
            f"{sum(gain.chosen for gain in gains):.3f}",
            f"{mean:.2f}x",
            by[0][0] if details else ", ".join(f"{count} {algorithm}" for algorithm, count in by),
        )
    console.print(grid)


def gains_of(table: "Table", jobs: "list[Job]", details: bool) -> dict[str, list[Gain]]:
    """By job, or by operator, precision and format; of jobs that torch serves, too."""
    from fastseg.tuning.tables import TORCH

    choices, found = table.choices(), defaultdict[str, list[Gain]](list)
    for job in jobs:
        op, shape_class = job.layer.op, job.shape_class
        times = table.times(op, shape_class, str(job.layer))
        if times is not None and TORCH in times:
            algorithm = choices[op, shape_class]
            name = str(job) if details else f"{op} {job.precision} {job.format}"
            found[name].append(Gain(times[TORCH], times[algorithm], algorithm))
    return found
