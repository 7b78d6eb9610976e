"""Rate, padding, stride and groups of a convolution, from the forms that a user may give."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from torch import SymInt

Pair: TypeAlias = int | Sequence[int]
"""One integer for both axes, or (vertical, horizontal)."""

Padding: TypeAlias = Literal["same", "valid"] | int | Sequence[int]
"""``"same"``, ``"valid"``, one integer, (vertical, horizontal) or (top, bottom, left, right)."""


class ConvGeometry(NamedTuple):
    """Geometry of a convolution in the form that the compiled operators take."""

    rate: tuple[int, int]
    padding: tuple[int, int, int, int]
    """(top, bottom, left, right)."""
    stride: tuple[int, int]
    groups: int

    @staticmethod
    def of(
        op: str,
        kernel_size: Sequence[int],
        *,
        rate: Pair = 1,
        padding: Padding = 0,
        stride: Pair = 1,
        groups: int = 1,
    ) -> "ConvGeometry":
        """Bring a caller's arguments into one form; whether the numbers are in range is not judged.

        ``"same"`` pads ``rate * (kernel - 1)`` in all, the odd sample at the end as torch does:
        the output has ``ceil(H / stride)`` rows for every stride.
        """
        rates, strides = pair(op, "rate", rate), pair(op, "stride", stride)
        if not isinstance(groups, int) or isinstance(groups, bool):
            raise TypeError(f"{op}: groups must be an integer, got {groups!r}")
        return ConvGeometry(rates, sides(op, padding, kernel_size, rates), strides, groups)

    def output_size(self, size: Sequence[int], kernel_size: Sequence[int]) -> tuple[int, int]:
        """``(H, W)`` of the output for an input of ``size``; below one where nothing fits."""
        top, bottom, left, right = self.padding
        rows = size[0] + top + bottom - self.rate[0] * (kernel_size[0] - 1) - 1
        columns = size[1] + left + right - self.rate[1] * (kernel_size[1] - 1) - 1
        return rows // self.stride[0] + 1, columns // self.stride[1] + 1


def pair(op: str, name: str, value: Pair) -> tuple[int, int]:
    """Both axes' values of an argument that may be given once for both."""
    numbers = integers(op, name, value, "an integer or a pair of integers")
    if len(numbers) not in (1, 2):
        raise ValueError(f"{op}: {name} must be an integer or a pair of integers, got {value!r}")
    return numbers[0], numbers[-1]


def sides(
    op: str, padding: Padding, kernel_size: Sequence[int], rates: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a padding in any of its forms."""
    rule = '"same", "valid", an integer, (vertical, horizontal) or (top, bottom, left, right)'
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{op}: padding must be {rule}, got {padding!r}")
        if padding == "valid":
            return 0, 0, 0, 0
        rows, columns = (r * (k - 1) for r, k in zip(rates, kernel_size, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    numbers = integers(op, "padding", padding, rule)
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    if len(numbers) not in (1, 2):
        raise ValueError(f"{op}: padding must be {rule}, got {padding!r}")
    return numbers[0], numbers[0], numbers[-1], numbers[-1]


def integers(op: str, name: str, value: int | Sequence[int], rule: str) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(is_integer(number) for number in numbers):
        raise TypeError(f"{op}: {name} must be {rule}, got {value!r}")
    return tuple(int(number) if isinstance(number, np.integer) else number for number in numbers)


def is_integer(value: object) -> bool:
    """Of Python and NumPy, and the symbolic ones that torch.compile puts in their place."""
    return isinstance(value, int | SymInt | np.integer) and not isinstance(value, bool)
