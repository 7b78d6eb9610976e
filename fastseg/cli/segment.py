"""``fastseg segment``: photographs to labels with a trained network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastseg._bytes import parse_bytes
from fastseg._limits import MAX_THREADS
from fastseg.cli.console import (
    check_writable,
    names_file,
    plain_errors,
    run_all,
    set_megapixel_limit,
    set_threads,
    spoken_warnings,
    usage_error,
)
from fastseg.crf.presets import PRESETS

if TYPE_CHECKING:
    from rich.progress import Progress

    from fastseg.predict.jobs import Job
    from fastseg.predict.segmenter import Segmenter

EPILOG = f"""
**Examples**

- `fastseg segment cat.jpg --weights deeplab.pth -o labels/`
- `fastseg segment photos/ --model fcn8s --weights fcn8s.pth -o labels/ --overlay`
- `fastseg segment photos/ --weights v2.safetensors --crf deeplab-resnet --tta -o labels/`

`fastseg models` lists the names for --model and the checkpoints that load. Names for --crf:
{", ".join(PRESETS)}.

Exit status: 0 if everything was segmented, 1 if a file failed, 2 if the command itself is wrong.
"""


def segment(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    weights: Annotated[
        Path, typer.Option("--weights", "-w", help="Checkpoint; what it holds is recognised.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the label maps, indexed PNGs in the colours of PASCAL VOC.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="System that the checkpoint must be of; decides where files look alike.",
            show_default="as the checkpoint says",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Which of two networks a checkpoint is of, where both have its names."),
    ] = None,
    crf: Annotated[
        str | None, typer.Option(help="Refine with the dense CRF; a preset, names below.")
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Average over six sizes and the mirror image, as DeepLab v3: slow."
        ),
    ] = False,
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay",
            help="Also write the photo with the labels drawn over it, to DIR/overlay.",
            rich_help_panel="More output",
        ),
    ] = False,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores",
            help="Also write the probabilities (K, H, W), .npz, to DIR/scores; `fastseg refine` "
            "reads them.",
            rich_help_panel="More output",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files that exist. Without it what is done is skipped.",
            rich_help_panel="More output",
        ),
    ] = False,
    max_memory: Annotated[
        str,
        typer.Option(
            help="Memory beside weights and photo; larger photos run in windows or blocks.",
            rich_help_panel="Resources",
        ),
    ] = "2GB",
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of sliding windows in pixels.",
            min=1,
            show_default="whole photo if it fits",
            rich_help_panel="Resources",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...", rich_help_panel="Resources")
    ] = "cpu",
    amp: Annotated[
        bool,
        typer.Option("--amp", help="Half precision (autocast).", rich_help_panel="Resources"),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            show_default="one for each core",
            rich_help_panel="Resources",
        ),
    ] = None,
    exif: Annotated[
        bool,
        typer.Option(
            help="Turn the photo upright as its EXIF data say.", rich_help_panel="The photo"
        ),
    ] = True,
    max_megapixels: Annotated[
        int,
        typer.Option(
            help="Refuse larger photos; a larger TIFF runs in blocks, into a TIFF.",
            min=1,
            rich_help_panel="The photo",
        ),
    ] = 178,
) -> None:
    """Segment photographs with a trained network and write the labels.

    Photos are resized or padded as the checkpoint's network was trained, and the labels have the
    size of the photo. A TIFF above --max-megapixels is never read as a whole: it is segmented in
    blocks into a TIFF of labels, at its own scale, and goes on where it was interrupted. Overlay
    and scores are not written for it, and the CRF sees a block and 128 pixels around it.
    """
    if crf is not None and crf not in PRESETS:
        raise usage_error(f"--crf must be one of {', '.join(PRESETS)}, got {crf}")
    try:
        parse_bytes(max_memory, "--max-memory")
    except ValueError as error:
        raise usage_error(str(error)) from None
    with plain_errors():
        from fastseg.batch import is_done
        from fastseg.predict.jobs import plan

        set_megapixel_limit(max_megapixels)
        jobs, failures = plan(
            images, out, overlay=overlay, scores=scores, most_pixels=max_megapixels * 1_000_000
        )
        todo = [job for job in jobs if overwrite or not is_done(job)]
        set_threads(threads, torch_too=True)
        segmenter: Segmenter | None = None
        if todo:
            check_writable(out)
            segmenter = _segmenter(model, weights, variant, crf, tta, max_memory, tile, device, amp)

        def run(job: "Job", bar: "Progress") -> None:
            assert segmenter is not None
            _run(job, segmenter, overwrite, exif, bar)

        run_all(
            todo,
            run,
            lambda job: job.photo.name,
            failures=failures,
            done_before=len(jobs) - len(todo),
            verb="segmented",
        )


def _segmenter(
    name: str | None,
    weights: Path,
    variant: str | None,
    crf: str | None,
    tta: bool,
    max_memory: str,
    tile: int | None,
    device: str,
    amp: bool,
) -> "Segmenter":
    from fastseg.cli.weights import load_model
    from fastseg.predict import SCALES, Segmenter

    return Segmenter(
        load_model(name, weights, variant),
        crf,
        device=_device(device),
        amp=amp,
        max_memory=max_memory,
        scales=SCALES if tta else (1.0,),
        flip=tta,
        tile=tile,
    )


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise usage_error(f"--device must be one that torch has, got {name}: {reason}") from None
    return name


def _run(job: "Job", segmenter: "Segmenter", overwrite: bool, exif: bool, bar: "Progress") -> None:
    from fastseg.predict import jobs

    def with_name(text: str) -> str:
        return text if names_file(text, job.files) else f"{job.photo}: {text}"

    with spoken_warnings(bar.console, with_name):
        if not job.is_large:
            jobs.run(job, segmenter, overwrite=overwrite, follow_exif=exif)
            return
        from fastseg.predict import segment_tiff

        blocks = bar.add_task(f"blocks of {job.photo.name}", total=None)
        try:
            segment_tiff(
                segmenter,
                job.photo,
                job.labels,
                progress=lambda done, total: bar.update(blocks, completed=done, total=total),
            )
        finally:
            bar.remove_task(blocks)
