"""What constructors ask of their arguments, said in their annotations.

    class Head(nn.Module):
        @checked
        def __init__(self, num_classes: Count = 21, *, dropout: Share = 0.5) -> None:

The rule of an argument follows from its annotation: one of the aliases below, ``bool``, or a class
of modules; each with ``| None`` too. Any integer of NumPy or torch is taken for an ``int``.
"""

import functools
import inspect
import math
import operator
import re
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as annotations_of

import numpy as np
from torch import nn

from fastseg.ops.conv_geometry import Padding, Pair, pair, sides

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 2**31 - 1

Rule = Callable[[str, Any], Any]
"""``rule("<class>: <argument>", value)``: the value as the constructor wants it, or an error."""


@dataclass(frozen=True)
class Integer:
    """An integer between two others."""

    least: int = 1
    most: int = LARGEST

    @property
    def text(self) -> str:
        return "a positive integer" if self.least == 1 else f"an integer of at least {self.least}"

    def __call__(self, what: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{what} must be {self.text}, got {value!r}")
        number = operator.index(value)
        if number < self.least:
            raise ValueError(f"{what} must be {self.text}, got {number}")
        if number > self.most:
            raise ValueError(f"{what} must be at most {self.most}, got {number}")
        return number


@dataclass(frozen=True)
class Number:
    """A finite number of at least ``least`` and at most ``most``."""

    text: str
    least: float = 0.0
    most: float = math.inf

    def __call__(self, what: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{what} must {self.text}, got {value!r}")
        number = float(value)
        if not (math.isfinite(number) and self.least <= number <= self.most):
            raise ValueError(f"{what} must {self.text}, got {value!r}")
        return number


@dataclass(frozen=True, init=False)
class OneOf:
    """One of several words or numbers."""

    choices: tuple[str | int | None, ...]

    def __init__(self, *choices: str | int | None) -> None:
        object.__setattr__(self, "choices", choices)

    def __call__(self, what: str, value: Any) -> str | int | None:
        for choice in self.choices:
            if not isinstance(value, bool | float) and value == choice:
                return choice
        names = ", ".join(map(str, self.choices))
        raise ValueError(f"{what} must be one of {names}, got {value!r}")


@dataclass(frozen=True)
class Several:
    """One or more values, each by a rule of its own, or exactly ``count``."""

    each: Rule
    count: int | None = None

    def __call__(self, what: str, values: Any) -> tuple[Any, ...]:
        amount = "one value or more" if self.count is None else f"{self.count} values"
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise TypeError(f"{what} must hold {amount}, got {values!r}")
        found = tuple(self.each(f"{what}[{i}]", value) for i, value in enumerate(values))
        if not found or self.count not in (None, len(found)):
            raise ValueError(f"{what} must hold {amount}, got {found}")
        return found


@dataclass(frozen=True)
class Both:
    """One integer for both axes, or (vertical, horizontal)."""

    each: Integer

    def __call__(self, what: str, value: Any) -> int | tuple[int, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return self.each(what, value)
        op, _, name = what.rpartition(": ")
        return tuple(self.each(what, side) for side in pair(op, name, value))


def padding_rule(what: str, value: Any) -> Any:
    """Zeros around a map in any of the forms of ``Padding``."""
    op = what.rpartition(": ")[0]
    given = sides(op, value, (1, 1), (1, 1))
    if min(given) < 0 or max(given) > LARGEST:
        raise ValueError(f"{what} must be 0 to {LARGEST}, got {value!r}")
    return value if isinstance(value, str) else given


def flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be True or False, got {value!r}")
    return bool(value)


@dataclass(frozen=True)
class Instance:
    """A module of one of several classes."""

    kinds: tuple[type, ...]

    def __call__(self, what: str, value: Any) -> Any:
        if not isinstance(value, self.kinds):
            names = " or ".join(kind.__name__ for kind in self.kinds)
            found = value if isinstance(value, type) else type(value)
            raise TypeError(f"{what} must be a {names}, got {found.__name__}")
        return value


Count: TypeAlias = Annotated[int, Integer()]
"""Of classes, channels, layers."""
Counts: TypeAlias = Annotated[Sequence[int], Several(Integer())]
RatesOrZero: TypeAlias = Annotated[Sequence[int], Several(Integer(0))]
"""Rates of branches; 0 stands for a 1x1 convolution."""
Size: TypeAlias = Annotated[Pair, Both(Integer())]
"""Kernel, rate, stride, factor, along both axes."""
Border: TypeAlias = Annotated[Pair, Both(Integer(0))]
"""Padding that is the same on opposite sides."""
Zeros: TypeAlias = Annotated[Padding, padding_rule]
Share: TypeAlias = Annotated[float, Number("lie in [0, 1]", 0, 1)]
Scales: TypeAlias = Annotated[
    Sequence[float], Several(Number("be a positive number up to 16", 2**-16, 16))
]
Epsilon: TypeAlias = Annotated[float, Number("be a finite number of at least 0")]
Stride: TypeAlias = Annotated[int, OneOf(8, 16, 32)]
"""Of the output of a backbone."""
Activation: TypeAlias = Annotated[str, OneOf(None, "relu", "relu6")]


def checked(init: Callable[P, R]) -> Callable[P, R]:
    """``init`` whose arguments are checked first, and named after the class if one is refused.

    Raises:
        TypeError: an argument of another kind.
        ValueError: one out of range.
        MemoryError: in place of torch's RuntimeError, parameters that do not fit.
    """
    signature = inspect.signature(init)
    hints = annotations_of(init, include_extras=True)
    rules = {name: rule_of(hints[name]) for name in signature.parameters if name in hints}

    @functools.wraps(init)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        self = args[0]
        kind = type(self).__name__
        for name, value in bound.arguments.items():
            if name in rules:
                bound.arguments[name] = rules[name](f"{kind}: {name}", value)
        if type(self).__init__ is wrapper and "arguments" in self.__dict__:
            recorded: dict[str, Any] = self.__dict__["arguments"]
            recorded.update((name, bound.arguments[name]) for name in recorded)
        try:
            return init(*bound.args, **bound.kwargs)
        except (RuntimeError, MemoryError) as error:
            if not re.search(r"fit into memory|allocate memory|overflow", str(error)):
                raise
            given = ", ".join(f"{k}={v!r}" for k, v in list(bound.arguments.items())[1:])
            raise MemoryError(
                f"{kind}: the parameters must fit into memory, got {given}"
            ) from error

    return wrapper


def rule_of(annotation: Any) -> Rule:
    """The rule that an annotation stands for; see the head of this file."""
    if get_origin(annotation) is Annotated:
        rule: Rule = get_args(annotation)[1]
        return rule
    if annotation is bool:
        return flag
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        inner = rule_of(parts[0]) if len(parts) == 1 else Instance(tuple(parts))
        if types.NoneType not in get_args(annotation):
            return inner
        return lambda what, value: None if value is None else inner(what, value)
    if isinstance(annotation, type) and issubclass(annotation, nn.Module):
        return Instance((annotation,))
    raise TypeError(f"checked: an annotation must stand for a rule, got {annotation}")
