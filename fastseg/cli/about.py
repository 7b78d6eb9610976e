"""``fastseg demo`` and ``fastseg info``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastseg._limits import MAX_THREADS
from fastseg.cli.console import make_console, plain_errors, set_threads


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write the pictures to.")
    ] = Path("fastseg-demo"),
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of the CRF.", min=1, max=MAX_THREADS, show_default="one for each core"
        ),
    ] = None,
) -> None:
    """Refine a photograph that comes with the package, and write what happened as pictures.

    Writes input.png, before.png, after.png, overlay.png and demo.png (the three side by side) to
    the folder, over files of these names. Needs no network.
    """
    with plain_errors():
        set_threads(threads)
        from fastseg.demo import run

        result = run(out)
        height, width = result.size
        console = make_console()
        console.print(
            f"Refined a photo of {height}x{width} pixels, {result.labels} labels, "
            f"{result.iterations} iterations, in {1e3 * result.seconds:.0f} ms."
        )
        for path in result.files:
            console.print(f"  {path}", soft_wrap=True)


def info() -> None:
    """Print versions, the instruction set in use, threads, and whether the torch operators load."""
    with plain_errors():
        from fastseg._info import build_info

        found = build_info()
        lines = {
            "fastseg": found["version"],
            "python": f"{found['python']} on {found['platform']}, {found['machine']}",
            "numpy": found["numpy"],
            "instruction set": f"{found['instruction_set']} "
            f"(this machine runs: {', '.join(found['instruction_sets'])})",
            "threads": str(found["num_threads"]),
            "torch": found["torch"] or "not installed",
            "torch operators": _torch_operators(),
            **_cuda_lines(found["cuda"]),
        }
        for name, text in lines.items():
            typer.echo(f"{name + ':':<17}{text}")


def _cuda_lines(cuda: dict[str, Any] | None) -> dict[str, str]:
    if cuda is None:
        return {"cuda": "not built"}
    yes_or_no = {True: "yes", False: "no"}
    return {
        "cuda": f"built with toolkit {cuda['toolkit']} for {', '.join(cuda['architectures'])}",
        "cuda operators": ", ".join(cuda["operators"]),
        "cuda verified": f"under an emulator: {yes_or_no[cuda['emulator_verified']]}, "
        f"on a GPU: {yes_or_no[cuda['gpu_verified']]}",
    }


def _torch_operators() -> str:
    try:
        import fastseg.ops  # noqa: F401  loading them is the test
    except (ImportError, OSError, RuntimeError) as error:
        return f"do not load: {error}"
    return "load"
