"""What torch would read back of a GPU, noticed although tensors are the CPU's."""

from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Python's ways to the values of a tensor, or, without memory that is pinned, of values to a GPU.
CALLS = {
    torch.tensor, torch.as_tensor, torch.equal, torch.allclose, torch.unique,
    *(getattr(Tensor, name) for name in (
        "tolist", "item", "numpy", "cpu", "pin_memory", "new_tensor", "equal", "allclose", "unique",
        "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__",
    )),
}  # fmt: skip
OPERATORS = (
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "allclose",
    "_unique2", "unique_dim", "unique_consecutive",
)  # fmt: skip


class Readbacks(AbstractContextManager["Readbacks"]):
    """Counts the readings in ``names``, or, where they are ``refused``, raises at the first."""

    def __init__(self, refused: bool = False) -> None:
        self.names: list[str] = []
        self.refused = refused
        self.modes = ExitStack()

    def __enter__(self) -> "Readbacks":
        self.modes.enter_context(_Calls(self))
        self.modes.enter_context(_Operators(self))
        return self

    def __exit__(self, *error) -> None:
        self.modes.close()

    def met(self, name: str) -> None:
        self.names.append(name)
        if self.refused:
            raise AssertionError(f"{name} reads a value back, or copies one, under capture")


class _Calls(TorchFunctionMode):
    def __init__(self, readbacks: Readbacks) -> None:
        super().__init__()
        self.readbacks = readbacks

    def __torch_function__(self, function, types, args=(), kwargs=None):
        to_cpu = function is Tensor.to and any(
            isinstance(arg, str | torch.device) and torch.device(arg).type == "cpu"
            for arg in (*args[1:], *(kwargs or {}).values())
        )
        if to_cpu or function in CALLS:
            self.readbacks.met(function.__name__)
            # What it does further is the same reading.
            with torch.utils._python_dispatch._disable_current_modes():
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, readbacks: Readbacks) -> None:
        super().__init__()
        self.readbacks = readbacks

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        # Where a mask is true: as many as only the GPU knows.
        masked = name == "index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name in OPERATORS:
            self.readbacks.met(name)
        return operator(*args, **(kwargs or {}))
