"""Dilated convolution with bias and ReLU, against the fastest that torch has for the layer."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, torch_sides

LEAST = 0.97  # of torch's best, for any layer above 0.2 ms


@dataclass(frozen=True, kw_only=True)
class ConvCase(harness.Case):
    """One layer of a network; "same" padding."""

    channels: tuple[int, int]
    size: int
    kernel: int = 3
    rate: int = 1
    stride: int = 1
    depthwise: bool = False
    batch: int = 1
    channels_last: bool = True

    @property
    def groups(self) -> int:
        return self.channels[0] if self.depthwise else 1

    @property
    def padding(self) -> int:
        return self.rate * (self.kernel - 1) // 2

    @property
    def torch_geometry(self) -> tuple[Any, ...]:
        """padding, stride, dilation, groups, as oneDNN's operators take them."""
        return [self.padding] * 2, [self.stride] * 2, [self.rate] * 2, self.groups


def case_of(
    name: str,
    channels: tuple[int, int],
    size: int,
    must: float | None = LEAST,
    aim: float | None = None,
    **geometry: Any,
) -> ConvCase:
    format = "nhwc" if geometry.get("channels_last", True) else "nchw"
    batch = geometry.get("batch", 1)
    return ConvCase(
        id=f"{name} {channels[0]}-{channels[1]}",
        setting=f"{batch}x{size}x{size} {format}",
        must={} if must is None else {1: LEAST, 2: must},
        aim=aim,
        channels=channels,
        size=size,
        **geometry,
    )


# 1x1 layers of ResNet-101 at output stride 8 and 513 pixels: input and output channels.
POINTWISE = [
    *((256, 128), (512, 128), (128, 512), (256, 512), (512, 256), (256, 1024), (1024, 256)),
    *((512, 1024), (1024, 512), (512, 2048), (2048, 512), (1024, 2048)),
]

CASES = [
    case_of("VGG conv5 r2", (512, 512), 65, 2.7, 3.5, rate=2),
    case_of("ResNet layer4 r4", (512, 512), 65, 2.7, 3.5, rate=4),
    case_of("ResNet layer3 r2", (256, 256), 65, rate=2),
    case_of("fc6 r12", (512, 1024), 65, 1.9, 2.4, rate=12),
    case_of("ASPP r6", (512, 1024), 65, 2.2, 2.8, rate=6),
    case_of("ASPP r18", (512, 1024), 65, 1.9, 2.4, rate=18),
    case_of("ASPP r24", (512, 1024), 65, 1.6, 2.0, rate=24),
    case_of("v3 ASPP r12", (2048, 256), 65, 1.8, 2.3, rate=12),
    case_of("v3 ASPP r24", (2048, 256), 65, 1.7, 2.3, rate=24),
    case_of("v3 ASPP r36", (2048, 256), 65, 1.6, 2.3, rate=36),
    *(case_of("1x1", channels, 65, 1.0, 1.5, kernel=1) for channels in POINTWISE),
    case_of("VGG conv5 r2", (512, 512), 65, rate=2, channels_last=False),
    case_of("1x1", (1024, 256), 65, kernel=1, channels_last=False),
    case_of("1x1", (256, 1024), 65, kernel=1, channels_last=False),
    case_of("VGG conv5 r2", (512, 512), 41, rate=2),
    case_of("VGG conv1", (3, 64), 513),
    case_of("VGG conv1", (64, 64), 513),
    case_of("VGG conv2", (128, 128), 257),
    case_of("VGG conv3", (256, 256), 129),
    case_of("VGG conv4", (512, 512), 65),
    case_of("ResNet stem 7x7 s2", (3, 64), 513, kernel=7, stride=2),
    case_of("ResNet layer1", (64, 64), 129),
    case_of("ResNet layer2 s2", (128, 128), 129, stride=2),
    case_of("v3+ depthwise r2", (728, 728), 65, rate=2, depthwise=True),
    case_of("v3+ depthwise r12", (2048, 2048), 33, rate=12, depthwise=True),
    case_of("v3+ depthwise", (256, 256), 129, depthwise=True),
    case_of("v3+ depthwise s2", (144, 144), 129, stride=2, depthwise=True),
    # Below 0.2 ms, where 20 us may be added.
    case_of("small", (64, 64), 9, None),
    case_of("small 1x1", (64, 64), 9, None, kernel=1),
    case_of("small", (32, 32), 33, None),
    case_of("small", (8, 8), 33, None),
    case_of("small s2", (3, 16), 33, None, stride=2),
    *(
        case_of("small 1x1", channels, size, None, kernel=1)
        for channels, size in (((64, 256), 17), ((256, 64), 17), ((24, 144), 33), ((8, 8), 33))
    ),
    case_of("small depthwise", (96, 96), 17, None, depthwise=True),
    case_of("small depthwise", (144, 144), 33, None, depthwise=True),
    case_of("small depthwise s2", (96, 96), 33, None, stride=2, depthwise=True),
]


def scene_of(case: ConvCase, photograph: Path | None) -> dict[str, np.ndarray]:
    """An input as after a ReLU, weights that keep its scale."""
    rng = np.random.default_rng(0)
    inputs, outputs = case.channels
    fan_in = inputs // case.groups * case.kernel**2
    shape = (outputs, inputs // case.groups, case.kernel, case.kernel)
    image = rng.standard_normal((case.batch, inputs, case.size, case.size), dtype=np.float32)
    return {
        "image": image.clip(0),
        "weight": rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / fan_in) ** 0.5),
        "bias": rng.standard_normal(outputs, dtype=np.float32) * np.float32(0.1),
    }


def expected(case: ConvCase, scene: harness.Scene) -> np.ndarray:
    torch = import_module("torch")
    reference = import_module("fastseg.reference")
    image, weight, bias = (torch.from_numpy(scene[k]).double() for k in ("image", "weight", "bias"))
    return reference.dilated_conv2d(
        image,
        weight,
        bias,
        rate=case.rate,
        padding=case.padding,
        stride=case.stride,
        groups=case.groups,
        activation="relu",
    ).numpy()


def tensors(case: ConvCase, scene: harness.Scene, channels_last: bool) -> list[Any]:
    """Image, weight and bias; the first two in that memory format."""
    torch = import_module("torch")
    format = torch.channels_last if channels_last else torch.contiguous_format
    image, weight = (
        torch.from_numpy(scene[name]).contiguous(memory_format=format)
        for name in ("image", "weight")
    )
    return [image, weight, torch.from_numpy(scene["bias"])]


def prepare_torch(channels_last: bool) -> Any:
    """torch's convolution on an input that is in its favourite format already."""

    def prepare(case: ConvCase, scene: harness.Scene, threads: int) -> harness.Call:
        functional = import_module("torch.nn.functional")
        arguments = tensors(case, scene, channels_last)
        options = (case.stride, case.padding, case.rate, case.groups)
        return torch_sides.without_gradients(
            lambda: functional.conv2d(*arguments, *options).relu_(), threads
        )

    return prepare


def prepare_onednn(case: ConvCase, scene: harness.Scene, threads: int) -> harness.Call:
    image, weight, bias = tensors(case, scene, True)
    geometry = case.torch_geometry
    packed = torch_sides.prepacked(weight, geometry, tuple(image.shape))
    return torch_sides.without_gradients(
        lambda: torch_sides.convolve_prepacked(image, packed, bias, geometry, "relu"), threads
    )


def prepare_ours(case: ConvCase, scene: harness.Scene, threads: int) -> harness.Call:
    torch = import_module("torch")
    fastseg = import_module("fastseg")
    image, weight, bias = tensors(case, scene, case.channels_last)
    layer = fastseg.nn.DilatedConv2d(
        *case.channels,
        kernel_size=case.kernel,
        rate=case.rate,
        padding=case.padding,
        stride=case.stride,
        groups=case.groups,
        activation="relu",
    ).eval()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    fastseg.compile_for_inference(layer, channels_last=case.channels_last)
    return torch_sides.without_gradients(lambda: layer(image), threads)


SUITE = harness.Suite(
    module="benchmarks.ops.bench_dilated_conv",
    name="conv",
    title="dilated convolution with bias and ReLU, weights transformed beforehand",
    cases=CASES,
    scene=scene_of,
    judge=torch_sides.judge,
    expected=expected,
    seconds=1.0,
    **torch_sides.of_layer(prepare_torch, prepare_onednn, prepare_ours),
)


def test_dilated_conv(case, entrant, race):
    race(SUITE, case, entrant)
