"""Fields of view, and how each operator changes them."""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from torch import Tensor


class Axis(NamedTuple):
    """What each output sees along one axis; outputs repeat with a period once upsampling occurs.

    Output i = P q + p, with P phases, sees ``first[p] + q step`` to ``last[p] + q step``.
    """

    first: tuple[Any, ...]
    last: tuple[Any, ...]
    step: Fraction

    @staticmethod
    def of(spans: "list[tuple[Any, Any]]", step: Fraction) -> "Axis":
        return Axis(tuple(s[0] for s in spans), tuple(s[1] for s in spans), step)

    @property
    def stride(self) -> Fraction:
        return self.step / len(self.first)

    @property
    def is_whole(self) -> bool:
        """Whether every output sees everything."""
        return math.isinf(self.first[0])

    def seen(self, indices: Iterable[int]) -> tuple[Any, Any]:
        """From the first to the last sample that the outputs ``indices`` see together."""
        places = [divmod(index, len(self.first)) for index in indices]
        return (
            min(self.first[p] + q * self.step for q, p in places),
            max(self.last[p] + q * self.step for q, p in places),
        )

    def window(self, before: int, taps: int, rate: int, stride: int) -> "Axis":
        """Through ``taps`` at a rate and a stride, behind ``before`` samples of padding."""
        period = len(self.first) // math.gcd(len(self.first), stride)
        reach = [rate * tap for tap in range(taps)]
        spans = [self.seen(o * stride - before + tap for tap in reach) for o in range(period)]
        return Axis.of(spans, self.stride * stride * period)

    def transposed(self, before: int, taps: int, rate: int, stride: int) -> "Axis":
        """Through the transpose of that window."""
        period, spans = len(self.first) * stride, []
        for o in range(period):
            reached = (o + before - rate * tap for tap in range(taps))
            inputs = [place // stride for place in reached if place % stride == 0]
            spans.append(self.seen(inputs or [(o + before) // stride]))
        return Axis.of(spans, self.step)

    def resized(self, size: int, new_size: int, align_corners: bool) -> "Axis":
        """Bilinear interpolation between two neighbours, or one where it falls on it."""
        if size in (1, new_size):
            return self
        if align_corners:
            scale, shift = Fraction(size - 1, max(new_size - 1, 1)), Fraction(0)
        else:
            scale = Fraction(size, new_size)
            shift = (scale - 1) / 2
        if self.is_whole:
            return EVERYTHING._replace(step=self.stride * scale)
        period = len(self.first) * scale.denominator
        places = [o * scale + shift for o in range(period)]
        spans = [self.seen({math.floor(place), math.ceil(place)}) for place in places]
        return Axis.of(spans, self.stride * scale * period)

    def moved(self, by: int, step: int = 1) -> "Axis":
        """Outputs ``by``, ``by + step``, ... of this axis."""
        return self.window(-by, 1, 1, step)


Field = tuple[Axis, ...]
EVERYTHING = Axis((-math.inf,), (math.inf,), Fraction(1))


def union(fields: list[Field]) -> Field:
    joined = []
    for axes in zip(*fields, strict=True):
        strides = {axis.stride for axis in axes if not axis.is_whole}
        if len(strides) > 1:
            raise ValueError(
                "receptive_field: paths that meet must have one stride, got "
                f"{' and '.join(map(str, sorted(strides)))}: what an output sees then depends on "
                "its place; ask for a layer before they meet (at=), or for an input_size that is "
                "resized evenly, if there is one"
            )
        if any(axis.is_whole for axis in axes):
            # A map that is the same everywhere has no stride; that of the others counts.
            others = [axis.stride for axis in axes if axis != EVERYTHING]
            step = strides.pop() if strides else next(iter(others), EVERYTHING.step)
            joined.append(EVERYTHING._replace(step=step))
            continue
        period = math.lcm(*(len(axis.first) for axis in axes))
        seen = [[axis.seen([o]) for axis in axes] for o in range(period)]
        spans = [(min(s[0] for s in of), max(s[1] for s in of)) for of in seen]
        joined.append(Axis.of(spans, strides.pop() * period))
    return tuple(joined)


Rule = Callable[[Field, dict[str, Any], Sequence[int], Tensor], Field]


def each(value: Sequence[int], axes: int) -> list[int]:
    return [value[0]] * axes if len(value) == 1 else list(value)


def convolution(field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor) -> Field:
    axes = len(field)
    geometry = [each(given[name], axes) for name in ("padding", "dilation", "stride")]
    windows = zip(field, *geometry, given["weight"].shape[2:], strict=True)
    if given["transposed"]:
        return tuple(a.transposed(before, taps, r, s) for a, before, r, s, taps in windows)
    return tuple(axis.window(before, taps, r, s) for axis, before, r, s, taps in windows)


def dilated_conv(
    field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor
) -> Field:
    """fastseg's convolution, whose padding is (top, bottom, left, right)."""
    windows = zip(
        field,
        given["padding"][::2],
        given["weight"].shape[2:],
        given["rate"],
        given["stride"],
        strict=True,
    )
    return tuple(axis.window(*window) for axis, *window in windows)


def aspp(field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor) -> Field:
    branches = []
    for weight, rate in zip(given["weights"], given["rates"], strict=True):
        taps = weight.shape[2]
        branches.append(tuple(axis.window(rate * (taps // 2), taps, rate, 1) for axis in field))
    return union(branches)


def pooling(field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor) -> Field:
    axes = len(field)
    taps = each(given["kernel_size"], axes)
    strides = each(given.get("stride") or taps, axes)
    paddings = each(given.get("padding") or [0], axes)
    rates = each(given.get("dilation") or [1], axes)
    windows = zip(field, paddings, taps, rates, strides, strict=True)
    return tuple(axis.window(*window) for axis, *window in windows)


def unpooling(field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor) -> Field:
    """Each sample goes to one place of its window; which, is seen by who sees the window."""
    factors = [new // size for size, new in zip(sizes, output.shape[2:], strict=True)]
    if any(size * f != new for size, f, new in zip(sizes, factors, output.shape[2:], strict=True)):
        raise ValueError(
            "receptive_field: max_unpool2d must go to a multiple of its input's size, got "
            f"{tuple(output.shape[2:])} from {tuple(sizes)}; choose an input_size of even sides"
        )
    return tuple(
        axis.transposed(0, factor, 1, factor) for axis, factor in zip(field, factors, strict=True)
    )


def interpolation(
    field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor
) -> Field:
    resized = zip(field, sizes, output.shape[2:], strict=True)
    return tuple(
        axis.resized(size, new_size, given["align_corners"]) for axis, size, new_size in resized
    )


def constant_pad(
    field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor
) -> Field:
    before = [*given["pad"][::2][::-1]]
    before = ([0] * len(field) + before)[-len(field) :]
    return tuple(axis.moved(-n) for axis, n in zip(field, before, strict=True))


def slicing(field: Field, given: dict[str, Any], sizes: Sequence[int], output: Tensor) -> Field:
    axis, start, step = given.get("dim", 0) - 2, given.get("start") or 0, given.get("step", 1)
    if axis < 0:
        return field
    start = start % sizes[axis] if start < 0 else start
    return (*field[:axis], field[axis].moved(start, step), *field[axis + 1 :])


RULES: dict[str, Rule] = {
    "aten::convolution": convolution,
    "fastseg::aspp": aspp,
    "fastseg::dilated_conv2d": dilated_conv,
    "aten::max_pool2d_with_indices": pooling,
    "aten::avg_pool2d": pooling,
    "aten::max_unpool2d": unpooling,
    "fastseg::bilinear_upsample": interpolation,
    "aten::constant_pad_nd": constant_pad,
    "aten::slice": slicing,
}
