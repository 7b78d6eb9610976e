"""The commands, put together."""

import io
import sys
from typing import Annotated

import typer

from fastseg.cli.about import demo, info
from fastseg.cli.export import EPILOG as EXPORT_EPILOG
from fastseg.cli.export import export
from fastseg.cli.refine import EPILOG as REFINE_EPILOG
from fastseg.cli.refine import refine
from fastseg.cli.segment import EPILOG as SEGMENT_EPILOG
from fastseg.cli.segment import segment
from fastseg.cli.systems import CONVERT_EPILOG, MODELS_EPILOG, convert, models
from fastseg.cli.tune import EPILOG as TUNE_EPILOG
from fastseg.cli.tune import tune

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the ``fastseg`` script."""
    # A name that the terminal's encoding lacks is shown escaped and does not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="fastseg")


def _print_version(wanted: bool) -> None:
    if wanted:
        from fastseg import __version__

        typer.echo(f"fastseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Segmentation on the CPU: the networks of the papers, and the fully connected CRF.

    `fastseg demo` shows the CRF on a photograph that comes with the package.
    """


app.command(epilog=SEGMENT_EPILOG)(segment)
app.command(epilog=REFINE_EPILOG)(refine)
app.command(epilog=MODELS_EPILOG)(models)
app.command(epilog=CONVERT_EPILOG)(convert)
app.command(epilog=EXPORT_EPILOG)(export)
app.command(epilog=TUNE_EPILOG)(tune)
app.command()(demo)
app.command()(info)
