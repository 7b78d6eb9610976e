"""What compiled modules call in place of their class's ``forward``."""

from typing import Any

import torch
from torch import Tensor, nn

from fastseg.inference.conv_modules import own_activation
from fastseg.inference.fused_conv import FusedConv, has_hooks
from fastseg.inference.straight_line import StraightLine


class FusedForward:
    """Callable that stands in for ``forward`` of one module, as an attribute of the instance."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError

    def as_before(self, *arguments: Any, **named: Any) -> Any:
        return type(self.module).forward(self.module, *arguments, **named)


def is_watched() -> bool:
    """Whether something looks at the call other than for its result, or changes its dtypes."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


class FusedBlock(FusedForward):
    """A module that is one convolution with what follows it: its ``forward(input, residual)``."""

    def __init__(self, module: nn.Module, conv: FusedConv) -> None:
        super().__init__(module)
        self.conv = conv

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        residual = named.get("residual")
        if is_watched() or not 1 <= len(arguments) <= 2 or len(named) != ("residual" in named):
            return self.as_before(*arguments, **named)
        input, *rest = arguments
        residual = rest[0] if rest else residual
        output = self.conv(input, residual, own_activation(self.module))
        return self.as_before(*arguments, **named) if output is None else output


class FusedStraightLine(FusedForward):
    """A module whose ``forward`` is a plain sequence of calls."""

    def __init__(self, module: nn.Module, line: StraightLine) -> None:
        super().__init__(module)
        self.line = line

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        plain = len(arguments) == 1 and not named and isinstance(arguments[0], Tensor)
        if not plain or is_watched() or not self.line.holds(self.module):
            return self.as_before(*arguments, **named)
        return self.line.run(self.module, arguments[0])


class FusedRun:
    """Neighbours in a sequence: a convolution, then a norm, an activation or both."""

    def __init__(self, modules: list[nn.Module], conv: FusedConv, activation: str) -> None:
        self.modules, self.conv, self.activation = modules, conv, activation

    def __call__(self, input: Tensor) -> Tensor:
        if not any(has_hooks(module) for module in self.modules[1:]):
            output = self.conv(input, None, self.activation)
            if output is not None:
                return output
        for module in self.modules:
            input = module(input)
        return input


class FusedSequence(FusedForward):
    """``nn.Sequential`` with runs of its children fused."""

    def __init__(self, module: nn.Module, parts: list[FusedRun | nn.Module]) -> None:
        super().__init__(module)
        self.parts, self.children = parts, list(module._modules.values())

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        children = list(self.module._modules.values())
        intact = len(children) == len(self.children) and all(
            child is known for child, known in zip(children, self.children, strict=True)
        )
        if is_watched() or not intact or named or len(arguments) != 1:
            return self.as_before(*arguments, **named)
        value = arguments[0]
        for part in self.parts:
            value = part(value)
        return value
