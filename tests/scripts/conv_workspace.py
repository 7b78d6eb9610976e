"""Prints, for each layer, the bytes of its tensors and those that a call needs beside them.

Each layer runs in a process of its own: what one call leaves waiting would hide what the next one
takes.
"""

import os
import sys

import torch

from fastseg.ops.aspp import pool_transformed, transform_weights
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import transform_weight, transformed_call

CHANNELS_LAST = torch.channels_last
LAYERS = {  # input, weight, algorithm, geometry, whether channels_last
    "F(6, 3)": ((1, 256, 65, 65), (256, 256, 3, 3), "winograd", {"rate": 2}, True),
    "F(6, 3), planar": ((1, 256, 65, 65), (256, 256, 3, 3), "winograd", {"rate": 2}, False),
    "lines of two and three": (
        (1, 1024, 65, 65),
        (128, 1024, 3, 3),
        "winograd",
        {"rate": 24},
        True,
    ),
    "batch": ((4, 128, 33, 33), (128, 128, 3, 3), "winograd-high", {"rate": 4}, True),
    "direct": ((1, 256, 65, 65), (256, 256, 3, 3), "direct", {"stride": 2}, True),
    "direct, planar": ((1, 256, 65, 65), (256, 256, 3, 3), "direct", {"stride": 2}, False),
    "few channels": ((1, 3, 257, 257), (64, 3, 7, 7), "direct", {"stride": 2}, False),
    "Strassen": ((1, 1024, 65, 65), (512, 1024, 1, 1), "strassen", {}, True),
    "Strassen, planar": ((1, 1024, 65, 65), (512, 1024, 1, 1), "strassen", {}, False),
    "pointwise, planar": ((1, 512, 65, 65), (512, 512, 1, 1), "pointwise", {}, False),
    "depthwise": ((1, 512, 65, 65), (512, 1, 3, 3), "direct", {"groups": 512}, True),
    "depthwise, planar": ((1, 512, 65, 65), (512, 1, 3, 3), "direct", {"groups": 512}, False),
}
PYRAMIDS = {  # channels, outputs of a branch, how they are combined
    "summed heads": (1024, 21, "sum"),
    "summed branches": (256, 128, "sum"),
    "concatenated branches": (512, 128, "concat"),
}
RATES = [6, 12, 18, 24]


def kilobytes(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def report(name: str, tensors: list[torch.Tensor], call) -> None:  # type: ignore[no-untyped-def]
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak starts again from here
    before = kilobytes("VmRSS")
    output = call()
    taken = (kilobytes("VmHWM") - before) * 1024
    sizes = [tensor.numel() * tensor.element_size() for tensor in [*tensors, output]]
    print(f"{name}\t{sum(sizes)}\t{max(0, taken - sizes[-1])}", flush=True)


def convolve(name: str) -> None:
    shape, weight_shape, algorithm, options, channels_last = LAYERS[name]
    geometry = ConvGeometry.of("test", weight_shape[2:], padding="same", **options)
    format = CHANNELS_LAST if channels_last else torch.contiguous_format
    image = torch.ones(shape).contiguous(memory_format=format)
    weight = torch.ones(weight_shape)
    packed = transform_weight(weight, geometry, shape[2:], algorithm)
    call = transformed_call(packed, weight_shape, geometry, algorithm)
    report(name, [image, packed], lambda: call(image, None, None, "relu"))


def pool(name: str) -> None:
    channels, outputs, combine = PYRAMIDS[name]
    image = torch.ones(1, channels, 65, 65).contiguous(memory_format=CHANNELS_LAST)
    weights = [torch.ones(outputs, channels, 3, 3) for _ in RATES]
    shapes = [weight.shape for weight in weights]
    packed = transform_weights(weights, (65, 65), RATES, combine, "default")
    del weights
    arguments = image, packed, [], shapes, RATES, combine, None, "default"
    report(name, [image, packed], lambda: pool_transformed(*arguments))


torch.set_num_threads(1)  # so that the process may fork
for run, names in ((convolve, LAYERS), (pool, PYRAMIDS)):
    for name in names:
        child = os.fork()
        if child == 0:
            run(name)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{name} failed")
