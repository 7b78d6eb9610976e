"""Photographs in files, one after the other, through a :class:`fastseg.Segmenter`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.batch import Failure, by_stem, write_probabilities
from fastseg.data import images
from fastseg.data.errors import DataError
from fastseg.data.images import read_image
from fastseg.data.overlay import draw_overlay, write_picture
from fastseg.data.palette import write_labels
from fastseg.predict import large
from fastseg.predict.segmenter import Segmenter
from fastseg.predict.tiff import pixels_of


class Job(NamedTuple):
    """One photo and the files to write; None where a file is not wanted."""

    photo: Path
    labels: Path
    overlay: Path | None = None
    scores: Path | None = None
    is_large: bool = False
    """Whether it is a TIFF that is never read as a whole, and becomes one."""

    @property
    def outputs(self) -> list[Path]:
        wanted = (self.labels, self.overlay, self.scores)
        return [path for path in wanted if path is not None]

    @property
    def files(self) -> list[Path]:
        return [self.photo, *self.outputs]


class Report(NamedTuple):
    """What one job was: size of the photo, seconds from pixels to labels."""

    size: tuple[int, int]
    seconds: float


def plan(
    photos: Sequence[Path],
    out: Path,
    *,
    overlay: bool = False,
    scores: bool = False,
    most_pixels: int | None = None,
) -> tuple[list[Job], list[Failure]]:
    """One job for each photo, in ``photos`` or in a folder there.

    Labels go to ``out/<name>.png``, overlays to ``out/overlay/<name>.png`` and probabilities to
    ``out/scores/<name>.npz``; of a TIFF of more than ``most_pixels`` only labels, to
    ``out/<name>.tif``. Subfolders and hidden files are left alone.

    Returns the jobs, and what cannot be one: a photo that is missing, or whose name another has.

    Raises:
        DataError: ``out`` is a file, or there are no photos at all.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: the output must be a folder")
    found: dict[str, list[Path]] = {}
    failures: list[Failure] = []
    for path in photos:
        if path.is_dir():
            for stem, paths in by_stem(path, images.SUFFIXES).items():
                found.setdefault(stem, []).extend(paths)
        elif path.exists():
            found.setdefault(path.stem, []).append(path)
        else:
            failures.append(Failure(str(path), "no such file or folder"))
    if not found and not failures:
        raise DataError(
            f"{', '.join(map(str, photos))}: must hold files that end in "
            f"{' '.join(images.SUFFIXES)}, got none"
        )
    inputs = {path.resolve() for paths in found.values() for path in paths}
    jobs: list[Job] = []
    for stem, paths in found.items():
        paths = list({path.resolve(): path for path in paths}.values())
        if len(paths) > 1:
            names = ", ".join(str(path) for path in paths)
            failures.append(Failure(names, f"{len(paths)} photos of one name; keep one"))
            continue
        job = Job(
            paths[0],
            out / f"{stem}.png",
            out / "overlay" / f"{stem}.png" if overlay else None,
            out / "scores" / f"{stem}.npz" if scores else None,
        )
        if is_large(paths[0], most_pixels):
            job = Job(paths[0], out / f"{stem}.tif", is_large=True)
        taken = [path for path in job.outputs if path.resolve() in inputs]
        if taken:
            failures.append(Failure(str(job.photo), f"the output must not replace {taken[0]}"))
        else:
            jobs.append(job)
    return jobs, failures


def is_large(photo: Path, most_pixels: int | None) -> bool:
    if most_pixels is None or photo.suffix.lower() not in large.SUFFIXES:
        return False
    return pixels_of(photo) > most_pixels


def run(
    job: Job, segmenter: Segmenter, *, overwrite: bool = False, follow_exif: bool = True
) -> Report:
    """Read, segment and write one photo. Without ``overwrite`` outputs that exist are left alone.

    Raises:
        DataError: the file cannot be used.
        OSError: a file cannot be opened or written.
        ValueError: the photo does not fit into the memory that may be used.
    """
    image = read_image(job.photo, follow_exif=follow_exif)
    start = time.perf_counter()
    if job.scores is not None:
        probabilities = segmenter.predict(image, output="probabilities").numpy()
        labels = probabilities.argmax(axis=0)
    else:
        labels = segmenter.predict(image).numpy()
    seconds = time.perf_counter() - start
    # The label map comes last: where it is, everything else is.
    if job.scores is not None and (overwrite or not job.scores.exists()):
        write_probabilities(job.scores, probabilities, np.arange(len(probabilities)))
    if job.overlay is not None and (overwrite or not job.overlay.exists()):
        write_picture(job.overlay, draw_overlay(image, labels))
    if overwrite or not job.labels.exists():
        write_labels(job.labels, labels)
    return Report(image.shape[:2], seconds)
