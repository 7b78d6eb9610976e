"""Convolutions and pyramids on paper: what the kernels move and compute, and what cuDNN must.

The cases are those of ``run.py conv`` and ``aspp``, as float32, in TF32 and as float16. The tiles
are those that the operator's own choice takes; a tile multiplies whole tiles, and only taps that
see the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch

from benchmarks.ops import bench_aspp, bench_dilated_conv
from benchmarks.roofline_cards import Plan, Rival, Step, Tiles
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import chosen_on_gpu
from fastseg.tuning.shape_class import share_inside

VECTOR_BYTES = 16  # of channels: what one thread copies at a time
SUM = 4  # bytes


@dataclass(frozen=True)
class Precision:
    dtype: torch.dtype
    tf32: bool
    bytes: int

    @property
    def vector(self) -> int:
        """Numbers of a vector."""
        return VECTOR_BYTES // self.bytes


PRECISIONS = {
    "float32": Precision(torch.float32, False, 4),
    "tf32": Precision(torch.float32, True, 4),
    "float16": Precision(torch.float16, False, 2),
}


@dataclass(frozen=True)
class Branch:
    """One convolution: channels, kernel and rate, on images whose output has ``pixels``."""

    inputs: int
    outputs: int
    taps: int
    share: float  # of the taps' products that meet the image
    groups: int = 1

    def depth(self, vector: int) -> float:
        """Of the product, channels padded to whole vectors."""
        inputs = self.inputs // self.groups
        return self.share * self.taps * ceil(inputs / vector) * vector

    def products(self, pixels: int, *, padding: bool) -> float:
        share = 1.0 if padding else self.share
        return share * self.taps * (self.inputs // self.groups) * self.outputs * float(pixels)

    @property
    def weights(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.taps


def convolutions() -> Iterator[Plan]:
    for case in bench_dilated_conv.CASES:
        kernel = (case.kernel, case.kernel)
        geometry = ConvGeometry.of(
            "roofline", kernel, rate=case.rate, padding=case.padding, stride=case.stride,
            groups=case.groups,
        )  # fmt: skip
        size = (case.size, case.size)
        rows, columns = geometry.output_size(size, kernel)
        share = share_inside(size, kernel, geometry)
        branch = Branch(*case.channels, case.kernel**2, share, case.groups)
        shape = (case.batch, case.channels[0], *size)
        weight = (case.channels[1], case.channels[0] // case.groups, *kernel)
        pixels, pixels_in = case.batch * rows * columns, case.batch * case.size**2
        for name, precision in PRECISIONS.items():
            algorithm = chosen_on_gpu(
                shape, weight, geometry, precision.dtype, precision.tf32, 2, True, ""
            )
            yield plan_of(
                f"conv {case.id} {case.setting} {name}",
                name,
                [branch],
                pixels,
                pixels_in,
                algorithm,
                packed=not case.channels_last,
            )


def pyramids() -> Iterator[Plan]:
    for case in bench_aspp.CASES:
        size, shape = (case.size, case.size), (1, case.channels[0], case.size, case.size)
        branches, plans = [], []
        for rate in case.rates:
            kernel = (3, 3) if rate else (1, 1)
            geometry = ConvGeometry.of("roofline", kernel, rate=max(rate, 1), padding="same")
            share = share_inside(size, kernel, geometry)
            branches.append(Branch(*case.channels, kernel[0] * kernel[1], share))
            plans.append((kernel, geometry))
        kernel, geometry = plans[-1]
        for name, precision in PRECISIONS.items():
            # The tiles of the last branch's convolution; the operator weighs all branches.
            algorithm = chosen_on_gpu(
                shape, (case.channels[1], case.channels[0], *kernel), geometry, precision.dtype,
                precision.tf32, 1, True, "",
            )  # fmt: skip
            yield plan_of(
                f"aspp {case.id} {case.setting} {name}",
                name,
                branches,
                case.size**2,
                case.size**2,
                algorithm,
                packed=not case.channels_last,
                concat=case.combine == "concat",
            )


def plan_of(
    name: str,
    precision: str,
    branches: list[Branch],
    pixels: int,
    pixels_in: int,
    algorithm: str,
    *,
    packed: bool,
    concat: bool = False,
) -> Plan:
    """One call; ``packed`` where input and weights are brought to channels_last first."""
    numbers = PRECISIONS[precision]
    input = float(pixels_in * branches[0].inputs * numbers.bytes)
    weights = float(sum(branch.weights for branch in branches) * numbers.bytes)
    outputs = sum(branch.outputs for branch in branches) if concat else branches[0].outputs
    output = float(pixels * outputs * numbers.bytes)
    inside = 2 * sum(branch.products(pixels, padding=False) for branch in branches)
    steps: list[Step] = []
    if algorithm == "direct":
        steps.append(Step("convolve_outputs", (input, weights, output), inside))
    else:
        unaligned = branches[0].inputs // branches[0].groups * numbers.bytes % 16 != 0
        if packed or unaligned:
            steps.append(Step("pack_input", (input, input), 0))
            weight_of = [branch.weights * float(numbers.bytes) for branch in branches]
            steps += [Step("pack_weight", (size, size), 0) for size in weight_of]
        steps += tiled(algorithm, precision, branches, pixels, (input, weights, output), concat)
    return Plan(
        f"{name}, {algorithm}",
        tuple(steps),
        input + weights + output,
        inside,
        # Without tensor cores float32 is multiplied at the rate of float32.
        precision,
        {"cuDNN": cudnn(branches, precision, pixels, input, weights, output, concat)},
    )


def tiled(
    algorithm: str,
    precision: str,
    branches: list[Branch],
    pixels: int,
    arrays: tuple[float, float, float],
    concat: bool,
) -> list[Step]:
    """The product in tiles, and the sum of its splits."""
    numbers = PRECISIONS[precision]
    _, size, *rest = algorithm.removesuffix("-tf32").split("-")
    tall, wide = map(int, size.split("x"))
    splits = int(rest[0].removeprefix("split")) if rest else 1
    down = ceil(pixels / tall)
    if concat:
        across = sum(ceil(branch.outputs / wide) for branch in branches)
        depth = sum(branch.depth(numbers.vector) for branch in branches) / len(branches)
    else:
        groups = branches[0].groups
        across = ceil(branches[0].outputs // groups / wide) * groups
        depth = sum(branch.depth(numbers.vector) for branch in branches)
    outputs = sum(branch.outputs for branch in branches) if concat else branches[0].outputs
    sums = float(pixels * outputs * SUM * splits)
    input, weights, output = arrays
    tiles = Tiles(
        "convolve_tiles",
        (input, weights, output if splits == 1 else sums),
        2.0 * tall * wide * depth / splits,
        blocks=down * across * splits,
        l2_bytes=(tall + wide) * depth / splits * numbers.bytes,
        precision=precision,
    )
    if splits == 1:
        return [tiles]
    return [tiles, Step("add_splits", (sums, output), float(pixels * outputs * splits))]


def cudnn(
    branches: list[Branch],
    precision: str,
    pixels: int,
    input: float,
    weights: float,
    output: float,
    concat: bool,
) -> Rival:
    """torch's way: each convolution, padding multiplied, its bias, and the sum or ReLU after it.

    The input is read once by each convolution; bias, sum, concatenation and ReLU read and write.
    """
    count = len(branches)
    one = output / count if concat else output  # of a branch
    passes = count * 2 * one  # bias
    passes += 2 * output if concat and count > 1 else (count - 1) * 3 * one
    passes += 2 * output  # ReLU
    operations = 2 * sum(branch.products(pixels, padding=True) for branch in branches)
    moved = count * (input + one) + weights + passes
    return Rival(moved, operations, launches=2 * count + count, precision=precision)
