"""``fastseg models`` and ``fastseg convert``."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastseg.cli.console import make_console, plain_errors, spoken_warnings

if TYPE_CHECKING:
    from fastseg.models import InputConvention, System

CONVERT_EPILOG = """
**Examples**

- `fastseg convert fcn8s_from_caffe.pth fcn8s.safetensors --variant fcn8s`
- `fastseg convert train_iter_20000.caffemodel deeplab.safetensors`

Exit status: 0 if the file was written, 1 if not.
"""

MODELS_EPILOG = """
**Examples**

- `fastseg models`
- `fastseg models deeplabv2_resnet101`
- `fastseg models --json`
"""


def models(
    name: Annotated[
        str | None, typer.Argument(help="One system, with its input convention in full.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs to read.")] = False,
) -> None:
    """List the systems: parameters, output stride, the pixels they take, checkpoints that load."""
    with plain_errors():
        from fastseg.cli.weights import check_name
        from fastseg.models import SYSTEMS

        if name is not None:
            check_name(name, "NAME")
        systems = [SYSTEMS[name]] if name is not None else list(SYSTEMS.values())
        if as_json:
            typer.echo(json.dumps([_as_json(system) for system in systems], indent=2))
        elif name is not None:
            _show_one(systems[0])
        else:
            _show_table(systems)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of any kind that `fastseg models` lists.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write, .safetensors.")],
    variant: Annotated[
        str | None,
        typer.Option(help="Which of two networks a checkpoint is of, where both have its names."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a checkpoint as .safetensors with all that is needed to build its model again."""
    with plain_errors():
        if out.suffix.lower() != ".safetensors":
            raise ValueError(f"{out}: the output must end in .safetensors")
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out}: exists already; replace it with --overwrite")
        import fastseg

        with spoken_warnings(make_console(stderr=True), lambda text: text):
            model = fastseg.load_weights(None, checkpoint, variant)
        fastseg.save_weights(model, out)
        make_console().print(f"{model.load_report}\nwritten: {out}", soft_wrap=True, markup=False)


def _as_json(system: "System") -> dict[str, Any]:
    return {
        "name": system.name,
        "paper": system.paper,
        "follows": system.figure,
        "parameters": system.parameters,
        "classes": system.num_classes,
        "output_stride": system.output_stride,
        "input": dataclasses.asdict(system.convention),
        "checkpoints": list(system.checkpoints),
    }


def _show_table(systems: "list[System]") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("stride", justify="right")
    table.add_column("input", overflow="fold")
    table.add_column("checkpoints", overflow="fold")
    paper = ""
    for system in systems:
        if system.paper != paper:
            table.add_row(end_section=True)
            table.add_row(f"[dim]{system.paper}[/dim]")
            paper = system.paper
        table.add_row(
            system.name,
            f"{system.parameters / 1e6:.1f}M",
            str(system.output_stride),
            in_words(system.convention, briefly=True),
            ", ".join(system.checkpoints),
        )
    make_console().print(table)


def _show_one(system: "System") -> None:
    console = make_console()
    lines = {
        "name": system.name,
        "paper": f"{system.paper}, {system.figure}",
        "parameters": f"{system.parameters:,} with {system.num_classes} classes",
        "output stride": str(system.output_stride),
        "input": in_words(system.convention),
        "mean": ", ".join(f"{value:g}" for value in system.convention.mean),
        "deviation": ", ".join(f"{value:g}" for value in system.convention.std),
        "checkpoints": ", ".join(system.checkpoints),
    }
    for key, text in lines.items():
        console.print(f"{key + ':':<15}{text}", soft_wrap=True, markup=False)


def in_words(convention: "InputConvention", *, briefly: bool = False) -> str:
    """Channels, range and sizes in a few words; ``briefly`` leaves mean and deviation out."""
    words = [f"{convention.channels.upper()} 0-{convention.max_value:g}"]
    if any(convention.mean) and not briefly:
        words.append("less mean")
    if set(convention.std) != {1.0} and not briefly:
        words.append("over deviation")
    if convention.scale != 1:
        words.append(f"scaled by {convention.scale:g}")
    if convention.short_side is not None:
        words.append(f"short side {convention.short_side}")
    if convention.fit is not None:
        words.append(f"fitted into {convention.fit}")
    if convention.pad_to is not None:
        words.append(f"padded to {convention.pad_to}")
    if convention.multiple != 1:
        offset = f" + {convention.offset}" if convention.offset else ""
        words.append(f"sides of {convention.multiple} k{offset}")
    return ", ".join(words)
