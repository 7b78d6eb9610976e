"""The ``fastseg`` command. Every import that costs time waits for the command that needs it."""

import contextlib
import dataclasses
import enum
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastseg._limits import MAX_THREADS
from fastseg.crf.presets import PRESETS, Preset

if TYPE_CHECKING:
    from rich.console import Console

    from fastseg.batch import Failure, Job, Reading, Report

FAILED = 1
USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    """Sharp segmentation from coarse scores: the fully connected CRF, on the CPU.

    `fastseg demo` shows it on a photograph that comes with the package.
    """


def _setting(text: str, name: str, symbol: str = "") -> Any:
    """A number of the CRF: None on the command line means the preset's."""
    default = getattr(PRESETS["default"], name)
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return typer.Option(
        help=text + (f" Papers: {symbol}." if symbol else ""),
        show_default=f"{shown}, or the preset's",
        rich_help_panel="The CRF",
    )


@app.command(
    epilog=f"""
**Examples**

- `fastseg refine cat.jpg cat.npy -o cat.png`
- `fastseg refine cat.jpg cat.npz -o cat.png --preset deeplab-resnet --overlay cat-overlay.png`
- `fastseg refine cat.jpg drawn.png -o cat.png --confidence 0.6`
- `fastseg refine photos/ scores/ -o labels/ --weight 4 --sigma-xy 67 --sigma-rgb 3`

**Presets**; an option given beside a preset overrides its number:
{", ".join(PRESETS)}.

Exit status: 0 if everything was refined, 1 if a file failed, 2 if the command itself is wrong.
"""
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
    with _plain_errors():
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
        _prepare(threads, max_megapixels, confidence)
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


@app.command()
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
    with _plain_errors():
        _prepare(threads)
        from fastseg.demo import run

        result = run(out)
        height, width = result.size
        console = _console()
        console.print(
            f"Refined a photo of {height}x{width} pixels, {result.labels} labels, "
            f"{result.iterations} iterations, in {1e3 * result.seconds:.0f} ms."
        )
        for path in result.files:
            console.print(f"  {path}", soft_wrap=True)


@app.command()
def info() -> None:
    """Print versions, the instruction set in use, threads, and whether the torch operators load."""
    with _plain_errors():
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


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _say(console: "Console", style: str, word: str, message: str) -> None:
    """One coloured word and a message; brackets in the message are not markup."""
    from rich.text import Text

    console.print(Text.assemble((f"{word}: ", style), message), soft_wrap=True)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of the user, the files and the machine end in one line, not in a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _say(_console(stderr=True), "yellow", "interrupted", "every file written so far is whole")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError, MemoryError, ImportError) as error:
        _say(_console(stderr=True), "bold red", "error", _reason(error))
        raise typer.Exit(FAILED) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory for a photo of this size and this number of labels"
    if isinstance(error, (ValueError, OSError, ImportError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


def _usage_error(message: str) -> typer.Exit:
    _say(_console(stderr=True), "bold red", "error", message)
    return typer.Exit(USAGE)


def _settings(preset: str | None, overrides: dict[str, Any]) -> Preset:
    name = preset or "default"
    if name not in PRESETS:
        raise _usage_error(f"--preset must be one of {', '.join(PRESETS)}, got {name}")
    given = {field: value for field, value in overrides.items() if value is not None}
    settings = dataclasses.replace(PRESETS[name], **given)
    from fastseg.refine import check_settings

    try:
        check_settings(settings)
    except ValueError as error:
        field, _, rule = str(error).partition(" ")
        raise _usage_error(f"--{field.replace('_', '-')} {rule}") from None
    return settings


def _prepare(
    threads: int | None, max_megapixels: int | None = None, confidence: float | None = None
) -> None:
    """What holds for the whole process, and the one option that no other place checks early."""
    if confidence is not None and not 0 < confidence < 1:
        raise _usage_error(f"--confidence must lie between 0 and 1, got {confidence:g}")
    if threads is not None:
        from fastseg import _numpy

        _numpy.set_num_threads(threads)
    if max_megapixels is not None:
        from PIL import Image

        # Pillow refuses above twice this number.
        Image.MAX_IMAGE_PIXELS = max_megapixels * 1_000_000 // 2


def _check_pair(photo: Path, scores: Path) -> None:
    for name, path in (("PHOTO", photo), ("SCORES", scores)):
        if not path.exists():
            raise _usage_error(f"{name} must exist, got {path}")
    if photo.is_dir() != scores.is_dir():
        what = ("a folder", "a file") if photo.is_dir() else ("a file", "a folder")
        raise _usage_error(
            f"PHOTO and SCORES must be two files or two folders, got {what[0]} and {what[1]}"
        )


def _run(
    job: "Job", settings: Preset, reading: "Reading", overwrite: bool, console: "Console"
) -> "Report":
    """One job, its warnings printed with the name of the photo."""
    from fastseg import batch
    from fastseg.data.errors import DataWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            return batch.run(job, settings, reading, overwrite=overwrite)
        finally:
            for warning in caught:
                text = _with_name(job, str(warning.message))
                _say(console, "yellow", "warning", text)


def _with_name(job: "Job", text: str) -> str:
    named = (str(path) in text for path in (job.photo, job.scores, *job.outputs))
    return text if any(named) else f"{job.photo}: {text}"


def _refine_file(job: "Job", settings: Preset, reading: "Reading", overwrite: bool) -> None:
    existing = [str(path) for path in job.outputs if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)}: exists already; replace it with --overwrite")
    try:
        report = _run(job, settings, reading, overwrite, _console(stderr=True))
    except ValueError as error:
        raise ValueError(_with_name(job, str(error))) from error
    height, width = report.size
    _console().print(
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
    from rich import progress as bars

    from fastseg.batch import Failure, is_done

    todo = [job for job in jobs if overwrite or not is_done(job)]
    console = _console(stderr=True)
    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.description}", markup=False),
    )
    refined = 0
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(todo))
        for job in todo:
            progress.update(task, description=job.photo.name)
            try:
                _run(job, settings, reading, overwrite, progress.console)
                refined += 1
            except Exception as error:  # the other photos can still be refined
                failures = [*failures, Failure(job.photo.name, _reason(error))]
            progress.advance(task)
    _console().print(
        f"{refined} refined, {len(jobs) - len(todo)} done before, {len(failures)} failed"
    )
    for name, reason in sorted(failures):
        _say(console, "bold red", "failed", reason if name in reason else f"{name}: {reason}")
    if failures:
        raise typer.Exit(FAILED)
