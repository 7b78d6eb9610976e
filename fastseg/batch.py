"""Photos and scores in files, one pair or two folders of them, through :func:`fastseg.refine`."""

import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastseg.crf.presets import Preset
from fastseg.data import images, scores
from fastseg.data.errors import DataError, DataWarning
from fastseg.data.files import whole_file
from fastseg.data.images import exif_turns_image, read_image
from fastseg.data.overlay import draw_overlay, write_picture
from fastseg.data.palette import write_labels
from fastseg.data.scores import Kind, Layout, Scores, Size, fit_scores, read_scores
from fastseg.refine import Refined, check_memory, refine


class Job(NamedTuple):
    """One photo, its scores, and the files to write; None where a file is not wanted."""

    photo: Path
    scores: Path
    labels: Path
    overlay: Path | None = None
    probabilities: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        wanted = (self.labels, self.overlay, self.probabilities)
        return [path for path in wanted if path is not None]

    @property
    def files(self) -> list[Path]:
        return [self.photo, self.scores, *self.outputs]


class Failure(NamedTuple):
    """A file that could not be refined, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """How the files are to be understood; see ``fastseg refine --help``."""

    key: str | None = None
    kind: Kind | None = None
    layout: Layout | None = None
    stretch: bool = False
    confidence: float | None = None
    unknown: int | None = None
    follow_exif: bool = True


class Report(NamedTuple):
    """What one job was: size of the photo, number of labels, seconds in the CRF alone."""

    size: Size
    labels: int
    seconds: float


DEFAULT_CONFIDENCE = 0.7


def plan_file(
    photo: Path, scores: Path, out: Path, overlay: Path | None, probabilities: Path | None
) -> Job:
    """The job of a single photo. A folder given for an output takes a file named after the photo.

    Raises:
        DataError: an output has a suffix that its format does not, or two outputs are one file.
    """
    job = Job(
        photo,
        scores,
        _named_after(photo, out, ".png"),
        overlay and _named_after(photo, overlay, ".png"),
        probabilities and _named_after(photo, probabilities, ".npz"),
    )
    for path, suffixes in (
        (job.labels, (".png",)),
        (job.overlay, (".png",)),
        (job.probabilities, (".npz", ".npy")),
    ):
        if path is not None and path.suffix.lower() not in suffixes:
            raise DataError(
                f"{path}: the output must end in {' or '.join(suffixes)}, or be an existing folder"
            )
    if len({_absolute(path) for path in job.outputs}) < len(job.outputs):
        raise DataError(f"the outputs must be different files, got {job.labels} twice")
    return job


def plan_folder(
    photos: Path, scores_folder: Path, out: Path, overlay: Path | None, probabilities: Path | None
) -> tuple[list[Job], list[Failure]]:
    """Pair the photos of one folder with the scores of another by their names without suffix.

    Subfolders and hidden files are left alone. Returns the jobs in order of names, and the files
    that have no partner or more than one.

    Raises:
        DataError: a folder holds no photo or no scores, or two outputs are one folder.
    """
    folders = [folder for folder in (out, overlay, probabilities) if folder is not None]
    for folder in folders:
        names_file = not folder.exists() and folder.suffix.lower() in (".png", ".npy", ".npz")
        if names_file or (folder.exists() and not folder.is_dir()):
            raise DataError(f"{folder}: the output of a folder must be a folder")
        if _absolute(folder) in (_absolute(photos), _absolute(scores_folder)):
            raise DataError(f"{folder}: the output must not go to a folder of inputs")
    if overlay is not None and _absolute(overlay) == _absolute(out):
        raise DataError(f"labels and overlays must go to different folders, got {out} twice")
    found_photos = by_stem(photos, images.SUFFIXES)
    found_scores = by_stem(scores_folder, scores.SUFFIXES)
    for folder, found, suffixes in (
        (photos, found_photos, images.SUFFIXES),
        (scores_folder, found_scores, scores.SUFFIXES),
    ):
        if not found:
            raise DataError(f"{folder}: must hold files that end in {' '.join(suffixes)}, got none")
    jobs, failures = [], []
    for stem in sorted(found_photos.keys() | found_scores.keys()):
        partners = (found_photos.get(stem, []), found_scores.get(stem, []))
        reason = _no_pair(*partners, photos, scores_folder)
        if reason is not None:
            names = [path.name for paths in partners for path in paths]
            failures.append(Failure(", ".join(names), reason))
            continue
        (photo,), (score,) = partners
        job = Job(
            photo,
            score,
            out / f"{stem}.png",
            overlay and overlay / f"{stem}.png",
            probabilities and probabilities / f"{stem}.npz",
        )
        jobs.append(job)
    return jobs, failures


class HasOutputs(Protocol):
    """A job, as far as its results go."""

    @property
    def outputs(self) -> list[Path]: ...


def is_done(job: HasOutputs) -> bool:
    """True if every wanted output exists. Outputs are written whole, so it is then complete."""
    return all(path.exists() for path in job.outputs)


def run(job: Job, settings: Preset, reading: Reading, *, overwrite: bool = False) -> Report:
    """Read, refine and write one job. Without ``overwrite`` it leaves outputs that exist alone.

    Raises:
        DataError: a file cannot be used, or an output is one of the inputs.
        OSError: a file cannot be opened or written.
        ValueError: a setting is out of range for this photo.
    """
    for output in job.outputs:
        for source in (job.photo, job.scores):
            if output.exists() and os.path.samefile(output, source):
                raise DataError(f"{output}: the output must not replace an input")
    image = read_image(job.photo, follow_exif=reading.follow_exif)
    height, width = image.shape[:2]
    given = _read_fitting_scores(job, (height, width), reading)
    if given.kind != "labels" and (reading.confidence, reading.unknown) != (None, None):
        warnings.warn(
            f"{job.scores}: --confidence and --unknown are for labels and are not used, these "
            f"scores are {given.kind}",
            DataWarning,
            stacklevel=2,
        )
    start = time.perf_counter()
    confidence = DEFAULT_CONFIDENCE if reading.confidence is None else reading.confidence
    result = refine(
        image,
        given.values,
        settings,
        kind=given.kind,
        confidence=confidence,
        unknown=reading.unknown,
    )
    seconds = time.perf_counter() - start
    _write(job, image, result, overwrite)
    return Report((height, width), len(result.names), seconds)


def _read_fitting_scores(job: Job, size: Size, reading: Reading) -> Scores:
    try:
        given = read_scores(
            job.scores,
            size,
            key=reading.key,
            kind=reading.kind,
            layout=reading.layout,
            stretch=reading.stretch,
        )
    except DataError as error:
        if "aspect ratio" in str(error) and reading.follow_exif and exif_turns_image(job.photo):
            raise DataError(
                f"{error}; the photo was turned upright as its EXIF data say, if the scores were "
                "made without that, add --no-exif"
            ) from error
        raise
    if given.kind != "labels":
        check_memory(len(given.values), size[0] * size[1])
    return fit_scores(given, size)


def _write(job: Job, image: NDArray[Any], result: Refined, overwrite: bool) -> None:
    """The label map comes last: where it is, everything else is."""
    if job.probabilities is not None and (overwrite or not job.probabilities.exists()):
        write_probabilities(job.probabilities, result.probabilities, result.names)
    if job.overlay is not None and (overwrite or not job.overlay.exists()):
        write_picture(job.overlay, draw_overlay(image, result.labels))
    if overwrite or not job.labels.exists():
        write_labels(job.labels, result.labels)


def write_probabilities(
    path: Path, probabilities: NDArray[np.float32], names: NDArray[np.int64]
) -> None:
    """``(L, H, W)`` as .npy, or as .npz beside the labels that the planes stand for."""
    with whole_file(path) as file:
        if path.suffix.lower() == ".npy":
            np.save(file, probabilities)
        else:
            np.savez(file, probabilities=probabilities, labels=names)


def _named_after(photo: Path, out: Path, suffix: str) -> Path:
    return out / f"{photo.stem}{suffix}" if out.is_dir() else out


def _absolute(path: Path) -> Path:
    return path.resolve()


def by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, list[Path]]:
    """The files of ``folder`` that end so, hidden ones left out, by their names without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found


def _no_pair(
    photos: list[Path], partners: list[Path], photo_folder: Path, scores_folder: Path
) -> str | None:
    if not partners:
        return f"no scores of this name in {scores_folder}"
    if not photos:
        return f"no photo of this name in {photo_folder}"
    if len(photos) > 1:
        return f"{len(photos)} photos of one name; keep one"
    if len(partners) > 1:
        return f"{len(partners)} files of scores for one photo; keep one"
    return None
