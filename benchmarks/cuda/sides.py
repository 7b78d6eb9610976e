"""What races on a GPU: fastseg's operators, and torch's with cuDNN in its benchmark mode.

The cases and scenes are those of the CPU's suites. Each side moves what it is given to the device
before the clock starts. On the CPU the same sides run in the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import harness
from benchmarks.models import bench_models
from benchmarks.models.plain_torch import plain_torch
from benchmarks.ops import bench_aspp, bench_bilinear_upsample, bench_dilated_conv, bench_mean_field
from benchmarks.ops.bench_bilinear_upsample import our_functions, torch_functions
from fastseg import aspp, dilated_conv2d
from fastseg.tuning.measure import PRECISIONS

Call = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """Where and how a side computes: a device and a name of ``PRECISIONS``."""

    device: torch.device
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision].dtype

    def moved(self, tensor: Any, channels_last: bool | None = None) -> Any:
        """On the device, in the precision where it holds floats, in the format if one is named."""
        tensor = tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
        if channels_last is None:
            return tensor
        format = torch.channels_last if channels_last else torch.contiguous_format
        return tensor.contiguous(memory_format=format)


@dataclass(frozen=True)
class Side:
    """``prepare`` does what is not timed, and returns the call that is."""

    name: str
    prepare: Callable[[Any, harness.Scene, Place], Call]


@dataclass(frozen=True)
class Suite:
    """A suite of run.py with the sides that it has on a GPU; the first are fastseg's opponents.

    ``judge(expected, actual, precision)`` says whether a result may be timed.
    """

    suite: harness.Suite
    opponents: Sequence[Side]
    ours: Sequence[Side]
    judge: Callable[[np.ndarray, np.ndarray, str], harness.Verdict]
    expected: Callable[[Any, harness.Scene], np.ndarray]
    precisions: Sequence[str] = ("float32",)
    read: Callable[[Any], np.ndarray] = lambda result: as_array(result)


def as_array(result: Any) -> np.ndarray:
    """On the CPU; halves as float32."""
    tensor = result.float() if result.is_floating_point() else result
    return tensor.contiguous().cpu().numpy()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


# Convolutions and pyramids


def judge_layer(expected: np.ndarray, actual: np.ndarray, precision: str) -> harness.Verdict:
    """Within the precision's bound of the float64 result, relative to its largest value."""
    if actual.shape != expected.shape:
        return harness.Verdict(False, {"error": float("nan")})
    error = float(np.abs(expected - actual).max() / np.abs(expected).max())
    return harness.Verdict(error <= PRECISIONS[precision].bound, {"error": error})


def conv_arguments(case: Any, scene: harness.Scene, place: Place, channels_last: bool) -> list[Any]:
    image, weight, bias = bench_dilated_conv.tensors(case, scene, channels_last)
    formats = (channels_last, channels_last, None)
    return [place.moved(t, f) for t, f in zip((image, weight, bias), formats, strict=True)]


def conv_by_torch(channels_last: bool, through_inductor: bool = False) -> Side:
    def prepare(case: Any, scene: harness.Scene, place: Place) -> Call:
        arguments = conv_arguments(case, scene, place, channels_last)

        def convolve(*tensors: Any) -> Any:
            options = (case.stride, case.padding, case.rate, case.groups)
            return functional.conv2d(*tensors, *options).relu_()

        function = compiled(convolve) if through_inductor else convolve
        return lambda: function(*arguments)

    return Side(name_of(channels_last, through_inductor), prepare)


def name_of(channels_last: bool, through_inductor: bool) -> str:
    way = "torch.compile" if through_inductor else "torch"
    return f"{way} {'nhwc' if channels_last else 'nchw'}"


def our_conv(case: Any, scene: harness.Scene, place: Place) -> Call:
    arguments = conv_arguments(case, scene, place, case.channels_last)
    return lambda: dilated_conv2d(
        *arguments,
        rate=case.rate,
        padding=case.padding,
        stride=case.stride,
        groups=case.groups,
        activation="relu",
    )


def pyramid_arguments(
    case: Any, scene: harness.Scene, place: Place, channels_last: bool
) -> tuple[Any, list[Any], list[Any], list[int]]:
    """Image, weights, biases and rates."""
    image = place.moved(bench_aspp.image_of(case, scene, channels_last), channels_last)
    weights, biases, rates = zip(*bench_aspp.branches(case, scene, channels_last), strict=True)
    moved = [place.moved(weight, channels_last) for weight in weights]
    return image, moved, [place.moved(bias) for bias in biases], list(rates)


def pyramid_by_torch(channels_last: bool, through_inductor: bool = False) -> Side:
    def prepare(case: Any, scene: harness.Scene, place: Place) -> Call:
        image, weights, biases, rates = pyramid_arguments(case, scene, place, channels_last)

        def pool(image: Any, weights: list[Any], biases: list[Any]) -> Any:
            outputs = [
                functional.conv2d(image, w, b, padding=rate, dilation=max(rate, 1))
                for w, b, rate in zip(weights, biases, rates, strict=True)
            ]
            return bench_aspp.combined(case, outputs)

        function = compiled(pool) if through_inductor else pool
        return lambda: function(image, weights, biases)

    return Side(name_of(channels_last, through_inductor), prepare)


def our_pyramid(case: Any, scene: harness.Scene, place: Place) -> Call:
    arguments = pyramid_arguments(case, scene, place, case.channels_last)
    return lambda: aspp(*arguments, case.combine, case.activation)


# Upsampling


def upsampling(functions: Callable[..., Any], turned: bool = False, inductor: bool = False) -> Any:
    """Prepares torch's or our functions; ``turned`` to channels_last inside the clock."""

    def prepare(case: Any, scene: harness.Scene, place: Place) -> Call:
        scores, labels = bench_bilinear_upsample.tensors(case, scene)
        scores = place.moved(scores, case.channels_last)
        plain = functions(case, place.moved(labels))
        function = compiled(plain) if inductor else plain
        if turned:
            scores_of = function

            def function(given: Any) -> Any:
                return scores_of(given.contiguous(memory_format=torch.channels_last))

        if not case.what.endswith("+backward"):
            return lambda: function(scores)
        upstream = place.moved(bench_bilinear_upsample.upstream_of(case))
        return lambda: bench_bilinear_upsample.gradient_of(function, scores, upstream)

    return prepare


def judge_upsampling(expected: np.ndarray, actual: np.ndarray, precision: str) -> harness.Verdict:
    return bench_bilinear_upsample.judge(expected, actual)


# The dense CRF


def crf_of(case: Any, scene: harness.Scene, device: torch.device) -> Call:
    """``DenseCRF`` on tensors that are on the device already."""
    kernels, arguments = bench_mean_field.module_arguments(case, scene)
    crf = import_module("fastseg.crf")
    module = crf.DenseCRF(kernels, iterations=bench_mean_field.ITERATIONS).to(device)
    scores = torch.from_numpy(-scene["energies"]).reshape(1, case.labels, *case.shape).to(device)
    moved = {
        name: [t.to(device) for t in value] if isinstance(value, list) else value.to(device)
        for name, value in arguments.items()
    }
    return lambda: module(scores, **moved)


def crf_on_cpu(case: Any, scene: harness.Scene, place: Place) -> Call:
    return crf_of(case, scene, torch.device("cpu"))


def crf_on_device(case: Any, scene: harness.Scene, place: Place) -> Call:
    return crf_of(case, scene, place.device)


def crf_expected(case: Any, scene: harness.Scene) -> np.ndarray:
    """The CPU's, which ``run.py crf`` compares with pydensecrf's."""
    with torch.inference_mode():
        return bench_mean_field.read_tensor(crf_of(case, scene, torch.device("cpu"))())


def judge_crf(expected: np.ndarray, actual: np.ndarray, precision: str) -> harness.Verdict:
    return bench_mean_field.judge(expected, actual)


# Networks

MODEL_BOUNDS = {  # a hundred layers add up their rounding
    "float32": bench_models.BOUND,
    "tf32": 2e-2,
    "float16": 2e-2,
    "bfloat16": 1e-1,
}


def model_on(
    make: Callable[[Any], Any], channels_last: bool, through_inductor: bool = False
) -> Callable[[Any, harness.Scene, Place], Call]:
    def prepare(case: Any, scene: harness.Scene, place: Place) -> Call:
        format = torch.channels_last if channels_last else torch.contiguous_format
        model = make(bench_models.network(case.id))
        model = model.to(place.device, place.dtype).to(memory_format=format)
        image = place.moved(torch.from_numpy(scene["image"]), channels_last)
        function = compiled(model) if through_inductor else model
        return lambda: function(image)

    return prepare


def model_by_torch(channels_last: bool, through_inductor: bool = False) -> Side:
    prepare = model_on(plain_torch, channels_last, through_inductor)
    return Side(name_of(channels_last, through_inductor), prepare)


def model_expected(case: Any, scene: harness.Scene) -> np.ndarray:
    """Of torch's own layers, in float32 on the CPU."""
    with torch.inference_mode():
        model = plain_torch(bench_models.network(case.id))
        return as_array(model(torch.from_numpy(scene["image"])))


def judge_model(expected: np.ndarray, actual: np.ndarray, precision: str) -> harness.Verdict:
    return bench_models.judge(expected, actual, MODEL_BOUNDS[precision])


WAYS = ((False, False), (True, False), (True, True))  # channels_last, torch.compile
ALL = tuple(PRECISIONS)

SUITES: Mapping[str, Suite] = {
    "conv": Suite(
        suite=bench_dilated_conv.SUITE,
        opponents=[conv_by_torch(*way) for way in WAYS],
        ours=[Side("fastseg", our_conv)],
        judge=judge_layer,
        expected=bench_dilated_conv.expected,
        precisions=ALL,
    ),
    "aspp": Suite(
        suite=bench_aspp.SUITE,
        opponents=[pyramid_by_torch(*way) for way in WAYS],
        ours=[Side("fastseg", our_pyramid)],
        judge=judge_layer,
        expected=bench_aspp.expected,
        precisions=ALL,
    ),
    "upsample": Suite(
        suite=bench_bilinear_upsample.SUITE,
        opponents=[
            Side("torch", upsampling(torch_functions)),
            Side("torch nhwc", upsampling(torch_functions, turned=True)),
            Side("torch.compile", upsampling(torch_functions, inductor=True)),
        ],
        ours=[Side("fastseg", upsampling(our_functions))],
        judge=judge_upsampling,
        expected=bench_bilinear_upsample.expected,
    ),
    "crf": Suite(
        suite=bench_mean_field.SUITE,
        opponents=[Side("fastseg.crf on the CPU", crf_on_cpu)],
        ours=[Side("fastseg.crf", crf_on_device)],
        judge=judge_crf,
        expected=crf_expected,
        read=bench_mean_field.read_tensor,
    ),
    "models": Suite(
        suite=bench_models.SUITE,
        opponents=[model_by_torch(*way) for way in WAYS],
        ours=[Side("fastseg", model_on(lambda model: model, channels_last=True))],
        judge=judge_model,
        expected=model_expected,
        precisions=("float32", "tf32", "float16"),
    ),
}
