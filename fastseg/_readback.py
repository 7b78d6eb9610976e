"""What is read back of tensors: as few numbers as will do, and none under capture.

Each reading of a value on a GPU waits for it, and one while its stream is captured into a CUDA
graph ends the capture.
"""

import torch
from torch import Tensor


def on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def has_values(tensor: Tensor) -> bool:
    """Whether values can be looked at.

    Not while a graph is traced, nor on the meta device, nor while the GPU's stream is captured.
    """
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not (on_gpu(tensor) and torch.cuda.is_current_stream_capturing())


def bounds_of(*tensors: Tensor) -> list[float]:
    """The least and the largest entry of each tensor, NaN where there is one; read back once."""
    both = torch.stack([bound for tensor in tensors for bound in _bounds(tensor)])
    bounds: list[float] = both.tolist()
    return bounds


def _bounds(tensor: Tensor) -> tuple[Tensor, Tensor]:
    values = tensor.detach()
    if values.element_size() == 1:  # torch does not compare float8
        values = values.half()
    low, high = torch.aminmax(values)
    return low, high
