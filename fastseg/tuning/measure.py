"""One layer by each algorithm that serves it: checked against torch, then timed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.tuning.layer import Layer
from fastseg.tuning.stopwatch import Stopwatch, in_rounds
from fastseg.tuning.tables import TORCH, Table

FIRST_ROUNDS = 3
HOPELESS = 1.5  # times the fastest of the first rounds: no further rounds


class Precision(NamedTuple):
    """How numbers are stored and multiplied, and how far a result may be from float32's.

    ``bound`` is relative to the largest output: fastseg's own for float32; else some roundings of
    factors (TF32 has 11 significant bits, bfloat16 8) or of the output.
    """

    dtype: torch.dtype
    tf32: bool
    bound: float


PRECISIONS = {
    "float32": Precision(torch.float32, False, 3e-5),
    "tf32": Precision(torch.float32, True, 2e-3),
    "float16": Precision(torch.float16, False, 2e-3),
    "bfloat16": Precision(torch.bfloat16, False, 1e-2),
}
FORMATS = {"nhwc": True, "nchw": False}  # name: channels_last


class Job(NamedTuple):
    """A layer in one precision and memory format, by their names."""

    layer: Layer
    precision: str
    format: str

    @property
    def shape_class(self) -> str:
        dtype, tf32, _ = PRECISIONS[self.precision]
        return self.layer.shape_class(dtype, tf32=tf32, channels_last=FORMATS[self.format])

    def __str__(self) -> str:
        return f"{self.layer}, {self.precision} {self.format}"


class Found(NamedTuple):
    """Median milliseconds of the algorithms that were right, and the errors of those that were not.

    An error is relative to the largest output.
    """

    times: dict[str, float]
    wrong: dict[str, float]


def jobs_of(
    layers: Sequence[Layer], precisions: Sequence[str], formats: Sequence[str]
) -> list[Job]:
    return [Job(layer, p, f) for layer in layers for p in precisions for f in formats]


def unmeasured(jobs: Sequence[Job], table: Table) -> list[Job]:
    """Those that the table does not have yet."""
    return [
        job for job in jobs if table.times(job.layer.op, job.shape_class, str(job.layer)) is None
    ]


def algorithms_for(precision: str, names: Sequence[str]) -> list[str]:
    """Of algorithms on a GPU, those that round as the precision says, and torch's own."""
    _, tf32, _ = PRECISIONS[precision]
    return [TORCH, *(n for n in names if n != TORCH and (tf32 or not n.endswith("-tf32")))]


def measure(job: Job, algorithms: Sequence[str], stopwatch: Stopwatch, *, rounds: int) -> Found:
    """Check each of ``algorithms`` against torch in float32, then time those that are right.

    Names that do not serve the layer (ValueError) or for which there is no memory are left out.
    cuDNN looks for its fastest algorithm (its benchmark mode) before the clock starts. What takes
    half as long again as the fastest in three rounds is given no more of them.
    """
    dtype, tf32, bound = PRECISIONS[job.precision]
    wrong: dict[str, float] = {}
    calls: dict[str, Callable[[], Tensor]] = {}
    with torch.inference_mode():
        arguments = converted(job.layer.tensors(), dtype, FORMATS[job.format], stopwatch.device)
        with rounding_to_tf32(False):
            as_float = converted(arguments, torch.float32, False, stopwatch.device)
            expected = job.layer.run_torch(*as_float)
            del as_float
        with rounding_to_tf32(tf32):
            for name in algorithms:
                call = call_of(job.layer, arguments, name)
                try:
                    error = relative_error(call(), expected)
                except (ValueError, MemoryError, torch.OutOfMemoryError):
                    continue
                if error <= bound:  # false where NaN
                    calls[name] = call
                else:
                    wrong[name] = error
            del expected
            return Found(medians(calls, stopwatch, rounds), wrong)


def medians(
    calls: dict[str, Callable[[], Tensor]], stopwatch: Stopwatch, rounds: int
) -> dict[str, float]:
    """Milliseconds by name."""

    def timed(names: Sequence[str], rounds: int) -> dict[str, float]:
        seconds = in_rounds(stopwatch, [calls[name] for name in names], rounds)
        return {n: 1e3 * median(taken) for n, taken in zip(names, seconds, strict=True)}

    first = timed(list(calls), FIRST_ROUNDS)
    hopeful = [name for name, taken in first.items() if taken <= HOPELESS * min(first.values())]
    return {**first, **timed(hopeful, rounds)}


def call_of(
    layer: Layer, arguments: tuple[Tensor, list[Tensor], list[Tensor]], name: str
) -> Callable[[], Tensor]:
    return lambda: layer.run(*arguments, name)


def converted(
    arguments: tuple[Tensor, list[Tensor], list[Tensor]],
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Input, weights and biases on the device, the first two in the format of memory."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    input, weights, biases = arguments

    def image(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype).contiguous(memory_format=format)

    return image(input), list(map(image, weights)), [bias.to(device, dtype) for bias in biases]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    return float((actual.float() - expected).abs().max() / expected.abs().max())


@contextmanager
def rounding_to_tf32(wanted: bool) -> Iterator[None]:
    """torch's switch for float32 convolutions; cuDNN in its benchmark mode."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=wanted):
        yield
