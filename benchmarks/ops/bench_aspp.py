"""Spatial pyramid pooling, against torch's convolutions one after the other."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, torch_sides


@dataclass(frozen=True, kw_only=True)
class AsppCase(harness.Case):
    """A pyramid of 3x3 convolutions; rate 0 is a 1x1 convolution."""

    channels: tuple[int, int]
    size: int
    rates: tuple[int, ...]
    combine: str
    channels_last: bool

    @property
    def activation(self) -> str | None:
        return "relu" if self.combine == "concat" else None


def case_of(
    name: str,
    channels: tuple[int, int],
    size: int,
    rates: tuple[int, ...],
    combine: str,
    channels_last: bool,
    must: float | None = None,
    aim: float | None = None,
) -> AsppCase:
    return AsppCase(
        id=f"{name} {channels[0]}-{channels[1]}",
        setting=f"{size}x{size} {'nhwc' if channels_last else 'nchw'}",
        must={} if must is None else {2: must},
        aim=aim,
        channels=channels,
        size=size,
        rates=rates,
        combine=combine,
        channels_last=channels_last,
    )


V2, V3 = (6, 12, 18, 24), (0, 12, 24, 36)

CASES = [
    case_of("v2 ResNet", (2048, 21), 65, V2, "sum", False, 1.5, 2.0),
    case_of("v2 ResNet", (2048, 21), 65, V2, "sum", True, 1.0),
    case_of("v2 ResNet", (2048, 21), 41, V2, "sum", False, 1.0),
    case_of("v2 VGG fc6", (512, 1024), 65, V2, "concat", True, 1.0),
    case_of("v2 VGG fc6", (512, 1024), 41, V2, "concat", True, 1.0),
    case_of("v3", (2048, 256), 65, V3, "concat", True, 1.0),
]


def scene_of(case: AsppCase, photograph: Path | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs, outputs = case.channels
    scene = {"image": rng.standard_normal((1, inputs, case.size, case.size), np.float32).clip(0)}
    for k, rate in enumerate(case.rates):
        taps = 3 if rate else 1
        scale = np.float32((2 / (taps * taps * inputs)) ** 0.5)
        weight = rng.standard_normal((outputs, inputs, taps, taps), np.float32)
        scene[f"weight{k}"] = weight * scale
        scene[f"bias{k}"] = rng.standard_normal(outputs, np.float32) * np.float32(0.1)
    return scene


def branches(case: AsppCase, scene: harness.Scene, channels_last: bool) -> list[tuple[Any, ...]]:
    """Weight, bias and rate of each."""
    torch = import_module("torch")
    format = torch.channels_last if channels_last else torch.contiguous_format
    return [
        (
            torch.from_numpy(scene[f"weight{k}"]).contiguous(memory_format=format),
            torch.from_numpy(scene[f"bias{k}"]),
            rate,
        )
        for k, rate in enumerate(case.rates)
    ]


def image_of(case: AsppCase, scene: harness.Scene, channels_last: bool) -> Any:
    torch = import_module("torch")
    format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.from_numpy(scene["image"]).contiguous(memory_format=format)


def expected(case: AsppCase, scene: harness.Scene) -> np.ndarray:
    reference = import_module("fastseg.reference")
    weights, biases, rates = zip(*branches(case, scene, False), strict=True)
    image = image_of(case, scene, False).double()
    return reference.aspp(image, weights, biases, rates, case.combine, case.activation).numpy()


def combined(case: AsppCase, outputs: list[Any]) -> Any:
    """In as few passes as torch needs."""
    torch = import_module("torch")
    if case.combine == "concat":
        return torch.cat(outputs, 1).relu_()
    total = outputs[0]
    for output in outputs[1:]:
        total.add_(output)
    return total


def prepare_torch(channels_last: bool) -> Any:
    """torch's convolutions; an input in another format is copied inside the clock."""

    def prepare(case: AsppCase, scene: harness.Scene, threads: int) -> harness.Call:
        torch = import_module("torch")
        format = torch.channels_last if channels_last else torch.contiguous_format
        image = image_of(case, scene, case.channels_last)
        layers = branches(case, scene, channels_last)

        def run() -> Any:
            moved = image.contiguous(memory_format=format)
            outputs = [
                torch.nn.functional.conv2d(moved, w, b, padding=rate, dilation=max(rate, 1))
                for w, b, rate in layers
            ]
            return combined(case, outputs)

        return torch_sides.without_gradients(run, threads)

    return prepare


def prepare_onednn(case: AsppCase, scene: harness.Scene, threads: int) -> harness.Call:
    torch = import_module("torch")
    image = image_of(case, scene, case.channels_last)
    layers = []
    for weight, bias, rate in branches(case, scene, True):
        geometry = ([rate] * 2, [1, 1], [max(rate, 1)] * 2, 1)
        layers.append((torch_sides.prepacked(weight, geometry, tuple(image.shape)), bias, geometry))

    def run() -> Any:
        moved = image.contiguous(memory_format=torch.channels_last)
        outputs = [torch_sides.convolve_prepacked(moved, *layer, "none") for layer in layers]
        return combined(case, outputs)

    return torch_sides.without_gradients(run, threads)


def prepare_ours(case: AsppCase, scene: harness.Scene, threads: int) -> harness.Call:
    torch = import_module("torch")
    fastseg = import_module("fastseg")
    pyramid = fastseg.nn.ASPP(
        *case.channels, rates=case.rates, combine=case.combine, activation=case.activation
    ).eval()
    with torch.no_grad():
        for branch, (weight, bias, _) in zip(
            pyramid.branches, branches(case, scene, False), strict=True
        ):
            branch.weight.copy_(weight)
            branch.bias.copy_(bias)
    fastseg.compile_for_inference(pyramid)
    image = image_of(case, scene, case.channels_last)
    return torch_sides.without_gradients(lambda: pyramid(image), threads)


SUITE = harness.Suite(
    module="benchmarks.ops.bench_aspp",
    name="aspp",
    title="spatial pyramid pooling, weights transformed beforehand",
    cases=CASES,
    scene=scene_of,
    judge=torch_sides.judge,
    expected=expected,
    seconds=1.0,
    **torch_sides.of_layer(prepare_torch, prepare_onednn, prepare_ours),
)


def test_aspp(case, entrant, race):
    race(SUITE, case, entrant)
