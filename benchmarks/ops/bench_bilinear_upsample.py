"""Upsampling and what follows it, against torch's interpolate and what follows that."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, torch_sides

IGNORED = 255
LABEL_BOUND = 1e-4  # share of pixels whose label may differ from that of float64
VALUE_BOUND = 1e-4  # of other results, relative to the largest value


@dataclass(frozen=True, kw_only=True)
class UpsampleCase(harness.Case):
    """One operator on scores ``(B, C, h, w)``; ``what`` is a key of ``TORCH`` and ``OURS``."""

    what: str
    classes: int
    source: tuple[int, int]
    size: tuple[int, int]
    batch: int = 1
    noise: bool = False
    channels_last: bool = False


def case_of(
    what: str,
    classes: int,
    source: tuple[int, int],
    size: tuple[int, int],
    must: float | None = None,
    aim: float | None = None,
    **rest: Any,
) -> UpsampleCase:
    place = f"{classes}x{source[0]}x{source[1]} to {size[0]}x{size[1]}"
    kind = "noise" if rest.get("noise") else "regions"
    format = "nhwc" if rest.get("channels_last") else "nchw"
    return UpsampleCase(
        id=f"{what} {rest.get('batch', 1)}x{place}",
        setting=f"{kind} {format}",
        must={} if must is None else {2: must},
        aim=aim,
        what=what,
        classes=classes,
        source=source,
        size=size,
        **rest,
    )


VOC = (21, (65, 65), (513, 513))
VOC_TRAIN = (21, (41, 41), (321, 321))
CITY = (19, (129, 257), (1024, 2048))
CITY_COARSE = (19, (65, 129), (1024, 2048))
FORWARD, TRAIN = "cross-entropy", "cross-entropy+backward"

CASES = [
    case_of("argmax", *VOC, 10, 20),
    case_of("argmax", *VOC, 10, 20, noise=True),
    case_of("argmax", *VOC, 10, 20, channels_last=True),
    case_of("argmax uint8", *VOC, 10, 20),
    case_of("argmax", *CITY, 10, 20),
    case_of("argmax", *CITY_COARSE, 10, 20, channels_last=True),
    case_of("softmax", *VOC, 2.5, 4),
    case_of("softmax", *VOC, 2.5, 4, channels_last=True),
    case_of("softmax", *CITY, 2.5, 4),
    case_of("softmax+backward", *VOC),
    case_of(FORWARD, *VOC, 6, 10),
    case_of(FORWARD, *VOC, 6, 10, channels_last=True),
    case_of(FORWARD, *VOC_TRAIN, 6, 10, batch=8),
    case_of(TRAIN, *VOC, 3, 6),
    case_of(TRAIN, *VOC, 3, 6, channels_last=True),
    case_of(TRAIN, *VOC_TRAIN, 3, 6, batch=8),
    case_of(TRAIN, *CITY, 3, 6),
    case_of("upsample", *VOC),
    case_of("upsample", *VOC, channels_last=True),
    case_of("upsample", 21, (513, 513), (385, 385)),
    case_of("upsample+backward", *VOC),
]


def scene_of(case: UpsampleCase, photograph: Path | None) -> dict[str, np.ndarray]:
    """Regions with soft borders and some noise, as a network's scores are, or noise alone; labels
    of the largest score, moved by some pixels, and a border of ignored ones around them."""
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, case.classes, *case.source)
    scores = torch.randn(shape, generator=generator)
    if not case.noise:
        coarse = tuple(n // 7 + 2 for n in case.source)
        regions = torch.randn((*shape[:2], *coarse), generator=generator)
        smooth = functional.interpolate(regions, case.source, mode="bicubic")
        scores = 5 * smooth + 0.3 * scores
    labels = torch.zeros(case.batch, *case.size, dtype=torch.int64)
    for image, one in enumerate(scores):
        enlarged = functional.interpolate(one[None], case.size, mode="bilinear")
        labels[image] = enlarged.argmax(1)[0].roll((3, -2), (0, 1))
    labels[:, :4] = IGNORED
    return {"scores": scores.numpy(), "labels": labels.numpy()}


def tensors(case: UpsampleCase, scene: harness.Scene) -> tuple[Any, Any]:
    torch = import_module("torch")
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    scores = torch.from_numpy(scene["scores"]).contiguous(memory_format=format)
    return scores, torch.from_numpy(scene["labels"])


def upstream_of(case: UpsampleCase) -> Any:
    """A gradient to what the case's function returns, without structure."""
    torch = import_module("torch")
    if case.what == TRAIN:
        return torch.ones(())
    shape = (case.batch, case.classes, *case.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def gradient_of(function: Callable[[Any], Any], scores: Any, upstream: Any) -> Any:
    torch = import_module("torch")
    leaf = scores.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(function(leaf), leaf, upstream)
    return grad


def load_autograd(function: Callable[..., Any]) -> None:
    """What torch loads at the first gradient of an operator does not belong to a case's memory."""
    torch = import_module("torch")
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    gradient_of(lambda scores: function(scores, labels), torch.zeros(1, 2, 1, 1), torch.ones(()))


def torch_functions(case: UpsampleCase, labels: Any) -> Callable[[Any], Any]:
    """What a user of torch writes."""
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")

    def interpolate(scores: Any) -> Any:
        return functional.interpolate(scores, size=case.size, mode="bilinear")

    def cross_entropy(scores: Any) -> Any:
        return functional.cross_entropy(interpolate(scores), labels, ignore_index=IGNORED)

    return {
        "argmax": lambda scores: interpolate(scores).max(1)[1],
        "argmax uint8": lambda scores: interpolate(scores).max(1)[1].to(torch.uint8),
        "softmax": lambda scores: interpolate(scores).softmax(1),
        FORWARD: cross_entropy,
        "upsample": interpolate,
    }[case.what.partition("+")[0]]


def our_functions(case: UpsampleCase, labels: Any) -> Callable[[Any], Any]:
    torch = import_module("torch")
    ops = import_module("fastseg.ops")
    return {
        "argmax": lambda scores: ops.upsample_argmax(scores, case.size),
        "argmax uint8": lambda scores: ops.upsample_argmax(scores, case.size, dtype=torch.uint8),
        "softmax": lambda scores: ops.upsample_softmax(scores, case.size),
        FORWARD: lambda scores: ops.upsample_cross_entropy(scores, labels, ignore_index=IGNORED),
        "upsample": lambda scores: ops.bilinear_upsample(scores, case.size),
    }[case.what.partition("+")[0]]


def called(
    case: UpsampleCase, function: Callable[[Any], Any], scores: Any, threads: int
) -> harness.Call:
    """The call that is timed: the function, or its gradient where the case says so."""
    torch = import_module("torch")
    if not case.what.endswith("+backward"):
        return torch_sides.without_gradients(lambda: function(scores), threads)

    upstream = upstream_of(case)
    load_autograd(import_module("fastseg.ops").upsample_cross_entropy)

    def call() -> Any:
        torch.set_num_threads(threads)
        return gradient_of(function, scores, upstream)

    return call


def prepare_torch(*, turned: bool = False, compiled: bool = False) -> Any:
    """torch eagerly or compiled, on the scores as they are or turned to channels_last first."""

    def prepare(case: UpsampleCase, scene: harness.Scene, threads: int) -> harness.Call:
        torch = import_module("torch")
        scores, labels = tensors(case, scene)
        function = torch_functions(case, labels)
        if compiled:
            torch._dynamo.reset()
            torch.set_num_threads(threads)
            function = torch.compile(function, fullgraph=True, dynamic=False)
        plain = function

        def on_turned(given: Any) -> Any:
            return plain(given.contiguous(memory_format=torch.channels_last))

        return called(case, on_turned if turned else plain, scores, threads)

    return prepare


def prepare_ours(case: UpsampleCase, scene: harness.Scene, threads: int) -> harness.Call:
    scores, labels = tensors(case, scene)
    return called(case, our_functions(case, labels), scores, threads)


def expected(case: UpsampleCase, scene: harness.Scene) -> np.ndarray:
    """From torch's own operators in float64."""
    scores, labels = tensors(case, scene)
    function = torch_functions(case, labels)
    if case.what.endswith("+backward"):
        return read(gradient_of(function, scores.double(), upstream_of(case).double()))
    return read(function(scores.double()))


def read(result: Any) -> np.ndarray:
    return result.contiguous().numpy()


def judge(expected: np.ndarray, actual: np.ndarray) -> harness.Verdict:
    """Labels that differ, as a share; else the largest error, relative to the largest value."""
    if actual.shape != expected.shape:
        return harness.Verdict(False, {"error": float("nan")})
    if np.issubdtype(expected.dtype, np.integer):
        differing = float((expected != actual).mean())
        return harness.Verdict(differing <= LABEL_BOUND, {"differing": differing})
    error = float(np.abs(expected - actual).max() / np.abs(expected).max())
    return harness.Verdict(error <= VALUE_BOUND, {"error": error})  # false where NaN


def missing() -> str | None:
    try:
        import_module("fastseg.ops")
    except ImportError as error:
        return f"fastseg is not built ({error})"
    return None


def side(name: str, prepare: Any) -> harness.Side:
    return harness.Side(name, prepare, read, missing)


SUITE = harness.Suite(
    module="benchmarks.ops.bench_bilinear_upsample",
    name="upsample",
    title="bilinear upsampling, and argmax, softmax and cross-entropy after it",
    cases=CASES,
    opponent=side("torch", prepare_torch()),
    rivals=[
        side("torch channels_last", prepare_torch(turned=True)),
        side("torch.compile", prepare_torch(compiled=True)),
    ],
    ours=[side("fastseg", prepare_ours)],
    scene=scene_of,
    judge=judge,
    expected=expected,
    seconds=1.0,
)


def test_bilinear_upsample(case, entrant, race):
    race(SUITE, case, entrant)
