"""The least and the largest entry of a parameter, looked at once for each change of it."""

from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fastseg import _readback
from fastseg.inference.parameter_watch import ParameterWatch

_known: Any = WeakIdKeyDictionary()  # parameter: its ParameterWatch and its bounds


def bounds_of_parameter(parameter: Tensor) -> list[float]:
    """NaN where there is one. On the CPU, where it costs nothing, looked at every time.

    Changes are those that PyTorch counts, and the steps of optimisers. What is written behind its
    back, through ``.data``, is not seen on a GPU.
    """
    # Of an inference tensor no changes are counted, and what is no parameter does not last.
    lasts = isinstance(parameter, nn.Parameter) and not parameter.is_inference()
    if not _readback.on_gpu(parameter) or not lasts:
        return _readback.bounds_of(parameter)
    known: tuple[ParameterWatch, list[float]] | None = _known.get(parameter)
    if known is None or not known[0].unchanged([parameter]):
        known = ParameterWatch([parameter]), _readback.bounds_of(parameter)
        _known[parameter] = known
    return known[1]
