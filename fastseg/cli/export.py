"""``fastseg export``: networks for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from fastseg.cli.console import make_console, plain_errors

EPILOG = """
**Examples**

- `fastseg export deeplab.pth deeplab.onnx`
- `fastseg export fcn8s.pth fcn8s.pt2 --model fcn8s`

In the file, under fastseg.input_convention: the pixels that the network takes. Sides are 64 pixels
or more. Networks that end in a CRF are refused: export what stands before it, and use
`fastseg refine` behind it.

Exit status: 0 if the file was written, 1 if not, 2 if the command itself is wrong.
"""


def export(
    weights: Annotated[Path, typer.Argument(help="Checkpoint; what it holds is recognised.")],
    out: Annotated[
        Path, typer.Argument(help="File to write: .pt2 for torch.export.load, or .onnx.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="System that the checkpoint must be of."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Which of two networks a checkpoint is of, where both have its names."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a network as a program of standard operators, for batches and images of any size.

    The program is run at a size that it was not made from and compared with the network; an ONNX
    file in onnxruntime, if that is installed.
    """
    with plain_errors():
        if out.suffix.lower() not in (".pt2", ".onnx"):
            raise ValueError(f"{out}: the output must end in .pt2 or .onnx")
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out}: exists already; replace it with --overwrite")
        from fastseg.cli.weights import load_model
        from fastseg.export import export_onnx, export_pt2

        network = load_model(model, weights, variant)
        console = make_console(stderr=True)
        with console.status("tracing and comparing, a minute for the largest networks"):
            (export_onnx if out.suffix.lower() == ".onnx" else export_pt2)(network, out)
        size = out.stat().st_size / 1e6
        make_console().print(f"{size:.1f} MB: {out}", soft_wrap=True, markup=False)
