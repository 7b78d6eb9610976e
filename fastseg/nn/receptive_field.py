"""How much of its input one output of a network sees."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from operator import sub
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fastseg.nn.field_rules import EVERYTHING, RULES, Axis, Field, union


class ReceptiveField(NamedTuple):
    """The field of one output, along each axis: (vertical, horizontal)."""

    size: tuple[float, ...]
    """Samples of the input from the first to the last that it sees, padding included: of the
    output that sees most, where upsampling makes them differ; infinite where it sees everything."""
    stride: tuple[Fraction, ...]
    """Samples from its field to that of the next output, on average."""
    start: tuple[float, ...]
    """First sample that the first output sees; negative in the padding."""


def receptive_field(
    network: nn.Module,
    *,
    at: str | None = None,
    input_size: Sequence[int] = (513, 513),
    in_channels: int | None = None,
) -> ReceptiveField:
    """The field of view of a network, or of one of its layers.

    A layer of k taps at rate r adds r (k - 1) times the stride of all layers before it. The
    network runs once without values, and every operator that it calls is followed, so branches,
    skips and crops count; where paths meet, the field is the span of all of them. A path that sees
    everything (image pooling, so DeepLab v3 and v3+) makes the whole infinite.

    Paths must meet with one stride. A map resized by other than a whole factor, as with aligned
    corners by (n - 1) / (m - 1), drifts against the one it meets, and what an output sees depends
    on its place: such networks are refused. These are the U-Net with interpolation, at every size,
    and DeepLab v2's MSC except at sides of 8 k + 1 whose copies are too (513; 321).

    Args:
        network: run in evaluation mode; it stays as it is.
        at: name of the submodule whose output is asked about, as in ``named_modules``; None for
            what ``network.scores`` returns, or for the output where there is no such method.
        input_size: (H, W), or (N,) for a network along one axis. The field does not depend on
            it, except where the network resizes.
        in_channels: of the input; None for those of the first convolution.

    Raises:
        ValueError: ``at`` is not run, the output does not depend on the input, paths of different
            strides meet, an unpooling does not double evenly (DeconvNet takes sides of 32 k), or
            an operator has no rule.
    """
    copied = without_values(network)
    if in_channels is None:
        in_channels = first_in_channels(copied, len(input_size))
    input = torch.empty(1, in_channels, *input_size, device="meta")
    found: list[Tensor] = []
    run: Callable[[Tensor], Any] = getattr(copied, "scores", copied)
    if at is not None:
        copied.get_submodule(at).register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad(), any_algorithm(), FieldMode(input) as mode, WholeFunctions(mode):
        output = run(input)
    if at is not None:
        if not found:
            raise ValueError(f"receptive_field: at must name a submodule that runs, got {at!r}")
        output = found[-1]
    field = mode.fields.get(id(output)) if isinstance(output, Tensor) else None
    if field is None:
        raise ValueError(
            "receptive_field: the output must be one tensor that depends on the input, "
            f"got {type(output).__name__}"
        )
    return ReceptiveField(
        tuple(whole(max(map(sub, axis.last, axis.first)) + 1) for axis in field),
        tuple(axis.stride for axis in field),
        tuple(whole(axis.first[0]) for axis in field),
    )


@contextlib.contextmanager
def any_algorithm() -> Iterator[None]:
    """Where runs must be deterministic, modules call other operators; here nothing is computed."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def without_values(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters and buffers are on the meta device."""
    return on_meta(network).eval()


def on_meta(network: nn.Module) -> nn.Module:
    """Likewise in the mode that ``network`` is in."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


def first_in_channels(network: nn.Module, axes: int) -> int:
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == axes + 2:
            return int(getattr(module, "in_channels", weight.shape[1]))
    raise ValueError("receptive_field: in_channels must be given for a network without convolution")


def whole(number: Any) -> float:
    return int(number) if math.isfinite(number) else float(number)


class FieldMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the field of every tensor that comes from ``input``."""

    def __init__(self, input: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        axes = input.dim() - 2
        self.fields: dict[int, Field] = {id(input): (Axis((0,), (0,), Fraction(1)),) * axes}
        self.alive: list[Any] = [input]  # an id means a tensor only while the tensor lives

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        arguments.update(kwargs or {})
        given = [t for t in tensors(arguments.values()) if id(t) in self.fields]
        outputs = list(tensors([result]))
        if given and outputs:
            field = self._field(func.name().split(".")[0], arguments, given, outputs[0])
            self.record(outputs, field)
        return result

    def record(self, outputs: list[Tensor], field: Field) -> None:
        self.fields.update((id(output), field) for output in outputs)
        self.alive.extend(outputs)

    def _field(
        self, name: str, arguments: dict[str, Any], given: list[Tensor], output: Tensor
    ) -> Field:
        field = self.fields[id(given[0])]
        axes = len(field)
        sizes = given[0].shape[2:]
        rule = RULES.get(name)
        if name == "aten::max_unpool2d":  # the switches are as large as what they send
            return RULES[name](union([self.fields[id(t)] for t in given]), arguments, sizes, output)
        if rule is not None:
            # A residual is added to the result, and is as large.
            residuals = [self.fields[id(tensor)] for tensor in given[1:]]
            return union([rule(field, arguments, sizes, output), *residuals])
        if any(len(tensor.shape) != axes + 2 for tensor in given) or output.dim() != axes + 2:
            raise ValueError(f"receptive_field: every operator must have a rule, got {name}")
        if output.shape[2:] != sizes:
            if all(size == 1 for size in output.shape[2:]):
                return (EVERYTHING,) * axes
            if not all(size == 1 for size in sizes):
                raise ValueError(f"receptive_field: every operator must have a rule, got {name}")
        return union([self.fields[id(tensor)] for tensor in given])


class WholeFunctions(TorchFunctionMode):
    """Catches functions that torch takes apart into operators without meaning of their own."""

    def __init__(self, fields: FieldMode) -> None:
        super().__init__()
        self.fields = fields

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, field = kwargs or {}, self.fields.fields.get(id(args[0])) if args else None
        if field is None or func not in (functional.interpolate, functional.local_response_norm):
            return func(*args, **kwargs)
        with _disable_current_modes():
            output = func(*args, **kwargs)
        if func is functional.interpolate:
            if kwargs.get("mode") != "bilinear":
                raise ValueError(
                    f"receptive_field: interpolation must be bilinear, got {kwargs.get('mode')!r}"
                )
            resized = zip(field, args[0].shape[2:], output.shape[2:], strict=True)
            corners = bool(kwargs.get("align_corners"))
            field = tuple(axis.resized(size, new, corners) for axis, size, new in resized)
        self.fields.record([output], field)
        return output


def tensors(values: Any) -> "list[Tensor]":
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors(value))
    return found
