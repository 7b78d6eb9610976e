"""Coarse-to-fine search of the bilateral kernel on validation data, by mIoU.

DeepLab (Chen et al. 2015, section 4) sets the weight and the two widths of the bilateral kernel by
such a search on 100 validation images, the position kernel fixed.
"""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fastseg._arguments import check_iterations, check_normalization, dtype_name
from fastseg.crf.dense_crf import KINDS, DenseCRF, check_probabilities
from fastseg.crf.kernels import BilateralKernel, GaussianKernel
from fastseg.crf.presets import SEARCH_GRIDS

FORMAT = 1  # of the results file
Axes = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
AXES = ("weight", "sigma_xy", "sigma_rgb")
_DEFAULT = SEARCH_GRIDS["deeplab-v2"]


class Trial(NamedTuple):
    """One setting of the bilateral kernel and what it reached on the whole set.

    ``stage`` is 0 for the coarse grid, 1 and on for its refinements.
    """

    stage: int
    weight: float
    sigma_xy: float
    sigma_rgb: float
    miou: float


@dataclass(frozen=True)
class SearchResult:
    """Outcome of :func:`search`.

    Attributes:
        best: the trial of highest mIoU; among equals the first.
        trials: all of them, in the order they are tried.
        baseline: mIoU of the scores themselves, without the CRF.
        position_weight, position_sigma_xy, iterations, normalization: what was held fixed.
    """

    best: Trial
    trials: tuple[Trial, ...]
    baseline: float
    position_weight: float
    position_sigma_xy: float
    iterations: int
    normalization: str

    def build(self, trial: Trial | None = None) -> DenseCRF:
        """The CRF of the best trial, or of ``trial``."""
        trial = self.best if trial is None else trial
        return DenseCRF(
            [
                GaussianKernel(self.position_sigma_xy, self.position_weight),
                BilateralKernel(trial.sigma_xy, trial.sigma_rgb, trial.weight),
            ],
            iterations=self.iterations,
            normalization=self.normalization,
        )


class Sample(NamedTuple):
    """One image: ``(1, C, *spatial)``, ``(1, L, *spatial)``, ``(*spatial)`` int64."""

    image: Tensor
    scores: Tensor
    labels: Tensor


def search(
    dataset: Iterable[Any],
    *,
    weight: Sequence[float] = _DEFAULT.weight,
    sigma_xy: Sequence[float] = _DEFAULT.sigma_xy,
    sigma_rgb: Sequence[float] = _DEFAULT.sigma_rgb,
    position_weight: float = _DEFAULT.position_weight,
    position_sigma_xy: float = _DEFAULT.position_sigma_xy,
    refinements: int = 1,
    iterations: int = 10,
    normalization: str = "after",
    kind: str = "logits",
    ignore_index: int = 255,
    results: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SearchResult:
    """Find the bilateral weight, sigma_xy and sigma_rgb that segment a validation set best.

    The coarse stage tries every combination of the three lists. Each refinement tries, on every
    axis, the best value so far and the middles between it and its neighbours among the values
    tried on that axis; a best value at the end of its list has one neighbour only.

    A setting is judged by the mean intersection over union of the whole set: one int64 confusion
    matrix for all images, the mean over classes that occur in the labels or in the predictions
    (``nanmean``), pixels of ``ignore_index`` left out.

    Args:
        dataset: passed over once for every setting and once before: a list, a
            ``torch.utils.data.Dataset`` or a ``DataLoader`` with ``batch_size=None``, of
            ``(image, scores, labels)``: tensors or NumPy arrays ``(C, *spatial)``,
            ``(L, *spatial)`` and integer ``(*spatial)``, without batch dimension. Sizes may differ
            between images, L may not.
        weight, sigma_xy, sigma_rgb: values of the coarse grid; the defaults are DeepLab v2's,
            128 combinations. Widths are positive, in pixels and in 0-255 units.
        position_weight, position_sigma_xy: the position kernel, held fixed.
        refinements: stages after the coarse one, 0 or more.
        iterations, normalization: as for :class:`DenseCRF`. ``"after"`` is what DeepLab's numbers
            mean; settings found under one normalisation do not carry over to another.
        kind: of the scores, ``"logits"`` or ``"probabilities"``.
        ignore_index: label of the pixels that do not count.
        results: file of the trials, one JSON object a line. Where it exists the search goes on
            after its last line (``refinements`` may have grown); a file of another setup or of
            other data is refused. It is
            replaced as a whole after every trial, so it never holds half a line.
        progress: whether to draw a progress bar, on the error stream.

    Returns:
        :class:`SearchResult`. The same data and arguments give the same result, resumed or not.

    Raises:
        ValueError, TypeError: an argument, a sample or the results file breaks a rule above.
    """
    _check_arguments(refinements, iterations, kind, normalization)
    axes = (
        _axis("weight", weight, positive=False),
        _axis("sigma_xy", sigma_xy, positive=True),
        _axis("sigma_rgb", sigma_rgb, positive=True),
    )
    (position_weight,) = _axis("position_weight", [position_weight], positive=False)
    (position_sigma_xy,) = _axis("position_sigma_xy", [position_sigma_xy], positive=True)
    fixed: dict[str, Any] = {
        "position_weight": position_weight,
        "position_sigma_xy": position_sigma_xy,
        "iterations": iterations,
        "normalization": normalization,
    }
    log = TrialLog(None if results is None else Path(results))
    judge = Judge(dataset, kind, ignore_index)
    baseline, digest = judge.survey(with_digest=results is not None)
    log.begin(
        {
            **dict(zip(AXES, map(list, axes), strict=True)),
            **fixed,
            "kind": kind,
            "ignore_index": ignore_index,
            "data": digest,
        }
    )

    trials: list[Trial] = []
    known: set[tuple[float, ...]] = set()
    with _progress_bar(disable=not progress) as bar:
        for stage in range(refinements + 1):
            if stage:
                axes = _refine(trials)
            settings = [setting for setting in itertools.product(*axes) if setting not in known]
            task = bar.add_task(_stage_name(stage), total=len(settings), best="")
            for setting in settings:
                miou = log.recall(setting)
                if miou is None:
                    untried = Trial(stage, *setting, miou=math.nan)
                    miou = judge.miou(SearchResult(untried, (), baseline, **fixed).build())
                    log.append(untried._replace(miou=miou))
                trials.append(Trial(stage, *setting, miou=miou))
                known.add(setting)
                bar.update(task, advance=1, best=f"best mIoU {_best(trials).miou:.4f}")
    return SearchResult(_best(trials), tuple(trials), baseline, **fixed)


class Judge:
    """Reads a dataset once for every question asked of it."""

    def __init__(self, dataset: Iterable[Any], kind: str, ignore_index: int) -> None:
        indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not indexed and (not hasattr(dataset, "__iter__") or iter(dataset) is dataset):
            raise TypeError(
                "search: dataset must allow more than one pass, such as a list, a Dataset or a "
                f"DataLoader, got {type(dataset).__name__}"
            )
        self.dataset = dataset
        self.indexed = indexed
        self.kind = kind
        self.ignore_index = ignore_index
        self.labels = 0  # L, from the first sample
        self.images = 0

    def survey(self, with_digest: bool) -> tuple[float, str]:
        """Checks every sample; mIoU of the scores alone, and a digest of all the data."""
        digest = hashlib.blake2b(digest_size=16)
        confusion = torch.zeros(0, dtype=torch.int64)
        for i, sample in enumerate(self._samples()):
            self._check(i, sample)
            if with_digest:
                for tensor in sample:
                    digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
                    digest.update(
                        tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data
                    )
            counts = self._confusion(sample.scores.argmax(1)[0], sample.labels)
            confusion = counts if i == 0 else confusion + counts
            self.images = i + 1
        if not self.labels:
            raise ValueError("search: dataset must hold at least one image, got none")
        if int(confusion.sum()) == 0:
            raise ValueError(
                "search: dataset must hold a label other than ignore_index, "
                f"got {self.ignore_index} at every pixel"
            )
        return mean_iou(confusion), digest.hexdigest()

    @torch.no_grad()
    def miou(self, crf: DenseCRF) -> float:
        confusion = torch.zeros(self.labels, self.labels, dtype=torch.int64)
        images = 0
        for sample in self._samples():
            images += 1
            q = crf(sample.scores, sample.image, kind=self.kind)
            confusion += self._confusion(q.argmax(1)[0], sample.labels)
        if images != self.images:
            raise ValueError(
                f"search: dataset must hold the same images on every pass, got {self.images} on "
                f"the first and {images} on a later one"
            )
        return mean_iou(confusion)

    def _samples(self) -> Iterator[Sample]:
        dataset: Any = self.dataset
        items = (dataset[i] for i in range(len(dataset))) if self.indexed else iter(dataset)
        for i, item in enumerate(items):
            yield _sample(i, item)

    def _confusion(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Counts ``(L, L)`` int64: row the label, column the prediction."""
        counted = labels != self.ignore_index
        pairs = self.labels * labels[counted] + predicted[counted]
        return torch.bincount(pairs, minlength=self.labels**2).reshape(self.labels, -1).cpu()

    def _check(self, index: int, sample: Sample) -> None:
        where = f"search: dataset[{index}]"
        image, scores, labels = sample
        spatial = tuple(labels.shape)
        for name, tensor in (("image", image), ("scores", scores)):
            if len(spatial) not in (2, 3) or 0 in tensor.shape or tensor.shape[2:] != spatial:
                letter = "C" if name == "image" else "L"
                raise ValueError(
                    f"{where}: {name} must have shape ({letter}, H, W) or ({letter}, D, H, W) and "
                    f"labels the same without {letter}, got {tuple(tensor.shape[1:])} and {spatial}"
                )
        if image.dtype == torch.bool or image.is_complex():
            raise TypeError(
                f"{where}: image must have an integer or floating dtype, got {dtype_name(image)}"
            )
        if not scores.is_floating_point():
            raise TypeError(f"{where}: scores must have a floating dtype, got {dtype_name(scores)}")
        self.labels = self.labels or scores.shape[1]
        if scores.shape[1] != self.labels:
            raise ValueError(
                f"{where}: scores must have the {self.labels} labels of dataset[0], "
                f"got {scores.shape[1]}"
            )
        for name, tensor in (("image", image), ("scores", scores)):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{where}: {name} must be finite, got NaN or infinity")
        if self.kind == "probabilities":
            check_probabilities(where, scores.float())
        wrong = labels[(labels != self.ignore_index) & ((labels < 0) | (labels >= self.labels))]
        if wrong.numel():
            raise ValueError(
                f"{where}: labels must lie in [0, {self.labels}) or be ignore_index "
                f"{self.ignore_index}, got {int(wrong[0])}"
            )


class TrialLog:
    """The trials made so far, in a file of JSON lines whose first line is the setup."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if path is None:
            return
        if path.is_dir():
            raise ValueError(f"search: results must be a file, got the folder {path}")
        if not path.parent.is_dir():
            raise ValueError(f"search: results must lie in an existing folder, got {path}")
        if not path.exists():
            return
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            self.lines.append(self._parse(number, line))

    def begin(self, setup: dict[str, Any]) -> None:
        """Writes the setup, or checks it against the one of the file."""
        header = {"fastseg_search": FORMAT, **setup}
        if not self.lines:
            self.lines.append(header)
            self._write()
            return
        found = self.lines[0]
        for name in {**header, **found}:
            if header.get(name) != found.get(name):
                raise ValueError(
                    f"search: results must be a file of this search, got {name} "
                    f"{found.get(name)!r} in {self.path} and {header.get(name)!r} in this call"
                )

    def recall(self, setting: tuple[float, ...]) -> float | None:
        for line in self.lines[1:]:
            if tuple(line[name] for name in AXES) == setting:
                return float(line["miou"])
        return None

    def append(self, trial: Trial) -> None:
        self.lines.append(trial._asdict())
        self._write()

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        wanted = {"fastseg_search"} if number == 1 else {*AXES, "miou"}
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            entry = None
        if not isinstance(entry, dict) or not wanted <= entry.keys():
            raise ValueError(
                "search: results must be a file that search wrote, "
                f"got {line[:60]!r} in line {number} of {self.path}"
            )
        return entry

    def _write(self) -> None:
        """Whole or not at all: a new file takes the place of the old one."""
        if self.path is None:
            return
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in self.lines)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)


def mean_iou(confusion: Tensor) -> float:
    """Mean over classes of true positives over (labelled or predicted); absent classes left out."""
    hits = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return float((hits / union).nanmean())


def _sample(index: int, item: Any) -> Sample:
    where = f"search: dataset[{index}]"
    if not isinstance(item, (tuple, list)) or len(item) != 3:
        found = type(item).__name__ + (
            f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        )
        raise TypeError(f"{where} must be (image, scores, labels), got {found}")
    tensors = []
    for name, value in zip(Sample._fields, item, strict=True):
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.require(value, requirements=["C", "W"]))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{where}: {name} must be a torch.Tensor or a NumPy array, "
                f"got {type(value).__name__}"
            )
        tensors.append(value)
    image, scores, labels = tensors
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{where}: labels must have an integer dtype, got {dtype_name(labels)}")
    return Sample(image[None], scores[None], labels.to(torch.int64))


def _refine(trials: Sequence[Trial]) -> Axes:
    """On each axis the best value and the middles to its neighbours among the values tried."""
    best = _best(trials)
    refined = []
    for name in AXES:
        tried = sorted({getattr(trial, name) for trial in trials})
        centre = getattr(best, name)
        at = tried.index(centre)
        beside = tried[max(0, at - 1) : at + 2]
        refined.append(tuple((centre + value) / 2 for value in beside))
    return refined[0], refined[1], refined[2]


def _best(trials: Sequence[Trial]) -> Trial:
    """The first of the highest mIoU."""
    return max(trials, key=lambda trial: -math.inf if math.isnan(trial.miou) else trial.miou)


def _axis(name: str, values: Sequence[float], *, positive: bool) -> tuple[float, ...]:
    try:
        axis = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TypeError(f"search: {name} must be a sequence of numbers, got {values!r}") from None
    if not axis:
        raise ValueError(f"search: {name} must hold at least one value, got none")
    for value in axis:
        if not math.isfinite(value) or (positive and value <= 0):
            rule = "positive and finite" if positive else "finite"
            raise ValueError(f"search: {name} must be {rule}, got {value}")
    if len(set(axis)) != len(axis):
        raise ValueError(f"search: {name} must hold each value once, got {list(axis)}")
    return axis


def _check_arguments(refinements: int, iterations: int, kind: str, normalization: str) -> None:
    if not isinstance(refinements, int) or isinstance(refinements, bool):
        raise TypeError(f"search: refinements must be an int, got {type(refinements).__name__}")
    if refinements < 0:
        raise ValueError(f"search: refinements must be at least 0, got {refinements}")
    check_iterations("search", iterations)
    if kind not in KINDS:
        raise ValueError(f"search: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_normalization("search", normalization)


def _stage_name(stage: int) -> str:
    return f"refinement {stage}" if stage else "coarse grid"


def _progress_bar(disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}"),
        console=Console(stderr=True),
        disable=disable,
    )
