"""``fastseg refine``: scores of photographs, sharpened by the dense CRF."""

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastseg._limits import MAX_THREADS
from fastseg.cli.console import (
    make_console,
    names_file,
    plain_errors,
    run_all,
    set_megapixel_limit,
    set_threads,
    spoken_warnings,
    usage_error,
)
from fastseg.crf.presets import PRESETS, Preset

if TYPE_CHECKING:
    from rich.console import Console

    from fastseg.batch import Failure, Job, Reading, Report

EPILOG = f"""
**Examples**

- `fastseg refine cat.jpg cat.npy -o cat.png`
- `fastseg refine cat.jpg cat.npz -o cat.png --preset deeplab-resnet --overlay cat-overlay.png`
- `fastseg refine cat.jpg drawn.png -o cat.png --confidence 0.6`
- `fastseg refine photos/ scores/ -o labels/ --weight 4 --sigma-xy 67 --sigma-rgb 3`

**Presets**; an option given beside a preset overrides its number:
{", ".join(PRESETS)}.

Exit status: 0 if everything was refined, 1 if a file failed, 2 if the command itself is wrong.
"""


class KindName(str, enum.Enum):
    logits = "logits"
    probabilities = "probabilities"
    labels = "labels"


class LayoutName(str, enum.Enum):
    lhw = "lhw"
    hwl = "hwl"


class NormalizationName(str, enum.Enum):
    none = "none"
    mean = "mean"
    before = "before"
    after = "after"
    symmetric = "symmetric"


def _setting(text: str, name: str, symbol: str = "") -> Any:
    """A number of the CRF: None on the command line means the preset's."""
    default = getattr(PRESETS["default"], name)
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return typer.Option(
        help=text + (f" Papers: {symbol}." if symbol else ""),
        show_default=f"{shown}, or the preset's",
        rich_help_panel="The CRF",
    )


def refine(
    photo: Annotated[Path, typer.Argument(help="A photograph, or a folder of them.")],
    scores: Annotated[
        Path,
        typer.Argument(
            help="Scores of the photo, .npy or .npz, or a PNG of labels; or a folder of them, "
            "matched to the photos by name. Scores of another size are resized to the photo."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Label map to write, an indexed PNG in the colours of PASCAL VOC; or a folder.",
        ),
    ],
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="Also write the photo with the labels drawn over it, PNG or folder.",
            rich_help_panel="More output",
        ),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            help="Also write the probabilities (L, H, W), .npz or .npy or folder.",
            rich_help_panel="More output",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files that exist. Without it a folder skips what is done.",
            rich_help_panel="More output",
        ),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Published settings; names below.",
            show_default="default",
            rich_help_panel="The CRF",
        ),
    ] = None,
    weight: Annotated[
        float | None, _setting("Weight of the bilateral kernel.", "weight", "w1")
    ] = None,
    sigma_xy: Annotated[
        float | None, _setting("Its width in pixels.", "sigma_xy", "sigma_alpha")
    ] = None,
    sigma_rgb: Annotated[
        float | None,
        _setting("Its width in colour, in 0-255 units.", "sigma_rgb", "sigma_beta"),
    ] = None,
    position_weight: Annotated[
        float | None, _setting("Weight of the position kernel.", "position_weight", "w2")
    ] = None,
    position_sigma_xy: Annotated[
        float | None, _setting("Its width in pixels.", "position_sigma_xy", "sigma_gamma")
    ] = None,
    iterations: Annotated[int | None, _setting("Mean-field iterations.", "iterations")] = None,
    normalization: Annotated[
        NormalizationName | None,
        _setting(
            "How the kernels are normalised: symmetric as pydensecrf, after as DeepLab.",
            "normalization",
        ),
    ] = None,
    kind: Annotated[
        KindName | None,
        typer.Option(
            help="What the scores are.", show_default="detected", rich_help_panel="The scores"
        ),
    ] = None,
    layout: Annotated[
        LayoutName | None,
        typer.Option(
            help="Labels first (lhw) or last (hwl).",
            show_default="detected",
            rich_help_panel="The scores",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Name of the array in an .npz of several.", rich_help_panel="The scores"),
    ] = None,
    stretch: Annotated[
        bool,
        typer.Option(
            "--stretch",
            help="Accept scores of another aspect ratio: the network saw the photo squeezed.",
            rich_help_panel="The scores",
        ),
    ] = False,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Of a PNG of labels: probability, between 0 and 1, that a label is right.",
            show_default="0.7",
            rich_help_panel="The scores",
        ),
    ] = None,
    unknown: Annotated[
        int | None,
        typer.Option(
            help="Of a PNG of labels: the value of pixels without a label, -1 if there are none.",
            show_default="255",
            rich_help_panel="The scores",
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
        typer.Option(help="Refuse larger photos.", min=1, rich_help_panel="The photo"),
    ] = 178,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of the CRF.", min=1, max=MAX_THREADS, show_default="one for each core"
        ),
    ] = None,
) -> None:
    """Sharpen the scores of a photo with a fully connected CRF and write the labels.

    Two kernels pull pixels to the same label. The bilateral one acts on those that are near and
    alike in colour, w1 exp(-|dp|^2 / (2 sigma_alpha^2) - |dI|^2 / (2 sigma_beta^2)); the position
    one on those that are near, w2 exp(-|dp|^2 / (2 sigma_gamma^2)).
    """
    with plain_errors():
        overrides = {
            "weight": weight,
            "sigma_xy": sigma_xy,
            "sigma_rgb": sigma_rgb,
            "position_weight": position_weight,
            "position_sigma_xy": position_sigma_xy,
            "iterations": iterations,
            "normalization": normalization and normalization.value,
        }
        settings = _settings(preset, overrides)
        if confidence is not None and not 0 < confidence < 1:
            raise usage_error(f"--confidence must lie between 0 and 1, got {confidence:g}")
        set_threads(threads)
        set_megapixel_limit(max_megapixels)
        from fastseg.batch import Reading, plan_file, plan_folder

        reading = Reading(
            key=key,
            kind=kind.value if kind else None,
            layout=layout.value if layout else None,
            stretch=stretch,
            confidence=confidence,
            unknown=unknown,
            follow_exif=exif,
        )
        _check_pair(photo, scores)
        if photo.is_dir():
            jobs, failures = plan_folder(photo, scores, out, overlay, probabilities)
            _refine_folder(jobs, failures, settings, reading, overwrite)
        else:
            job = plan_file(photo, scores, out, overlay, probabilities)
            _refine_file(job, settings, reading, overwrite)


def _settings(preset: str | None, overrides: dict[str, Any]) -> Preset:
    name = preset or "default"
    if name not in PRESETS:
        raise usage_error(f"--preset must be one of {', '.join(PRESETS)}, got {name}")
    given = {field: value for field, value in overrides.items() if value is not None}
    settings = dataclasses.replace(PRESETS[name], **given)
    from fastseg.refine import check_settings

    try:
        check_settings(settings)
    except ValueError as error:
        field, _, rule = str(error).partition(" ")
        raise usage_error(f"--{field.replace('_', '-')} {rule}") from None
    return settings


def _check_pair(photo: Path, scores: Path) -> None:
    for name, path in (("PHOTO", photo), ("SCORES", scores)):
        if not path.exists():
            raise usage_error(f"{name} must exist, got {path}")
    if photo.is_dir() != scores.is_dir():
        what = ("a folder", "a file") if photo.is_dir() else ("a file", "a folder")
        raise usage_error(
            f"PHOTO and SCORES must be two files or two folders, got {what[0]} and {what[1]}"
        )


def _run(
    job: "Job", settings: Preset, reading: "Reading", overwrite: bool, console: "Console"
) -> "Report":
    """One job, its warnings printed with the name of the photo."""
    from fastseg import batch

    with spoken_warnings(console, lambda text: _with_name(job, text)):
        return batch.run(job, settings, reading, overwrite=overwrite)


def _with_name(job: "Job", text: str) -> str:
    return text if names_file(text, job.files) else f"{job.photo}: {text}"


def _refine_file(job: "Job", settings: Preset, reading: "Reading", overwrite: bool) -> None:
    existing = [str(path) for path in job.outputs if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)}: exists already; replace it with --overwrite")
    try:
        report = _run(job, settings, reading, overwrite, make_console(stderr=True))
    except ValueError as error:
        raise ValueError(_with_name(job, str(error))) from error
    height, width = report.size
    make_console().print(
        f"{height}x{width} pixels, {report.labels} labels, {1e3 * report.seconds:.0f} ms: "
        f"{job.labels}",
        soft_wrap=True,
        markup=False,
    )


def _refine_folder(
    jobs: list["Job"],
    failures: list["Failure"],
    settings: Preset,
    reading: "Reading",
    overwrite: bool,
) -> None:
    from fastseg.batch import is_done

    todo = [job for job in jobs if overwrite or not is_done(job)]
    run_all(
        todo,
        lambda job, bar: _run(job, settings, reading, overwrite, bar.console),
        lambda job: job.photo.name,
        failures=failures,
        done_before=len(jobs) - len(todo),
        verb="refined",
    )
