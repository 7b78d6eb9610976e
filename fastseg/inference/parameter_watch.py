"""Whether parameters still hold what they held when something was computed from them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

# Steps of optimisers on watched parameters. PyTorch counts changes in ``Tensor._version``, but
# fused optimisers on the CPU write without counting.
_steps: Any = WeakIdKeyDictionary()
_any_steps = 0


def _count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    global _any_steps
    stepped = [p for group in optimizer.param_groups for p in group["params"] if p in _steps]
    for parameter in stepped:
        _steps[parameter] += 1
    _any_steps += bool(stepped)


register_optimizer_step_post_hook(_count_step)


class ParameterWatch:
    """Remembers tensors by identity of their memory and by their count of changes."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            _steps.setdefault(tensor, 0)
        self.any_steps = _any_steps
        self.steps = [_steps[tensor] for tensor in tensors]
        self.state = state_of(tensors)
        # As long as the old memory is held, no new tensor can stand at its address.
        self.memory = [tensor.detach() for tensor in tensors]

    def unchanged(self, tensors: Sequence[Tensor]) -> bool:
        if self.state != state_of(tensors):
            return False
        if self.any_steps == _any_steps:
            return True
        any_steps = _any_steps
        if self.steps != [_steps.get(tensor, 0) for tensor in tensors]:
            return False
        self.any_steps = any_steps
        return True


def state_of(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
