"""Dilated convolution along one axis, the form in which it is usually explained."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg.nn.checked import Count, Integer, checked


def padding_rule(what: str, value: Any) -> str | int:
    """``"same"``, ``"valid"`` or a number."""
    if value in ("same", "valid"):
        return str(value)
    if isinstance(value, str):
        raise ValueError(f"{what} must be 'same', 'valid' or a number, got {value!r}")
    return Integer(0)(what, value)


class DilatedConv1d(nn.Module):
    """y[i] = sum_k x[i + rate * k] w[k] + b (Chen et al., "DeepLab", 2017, eq. 1).

    The identity of its fig. 2: where the sparse way samples x at every ``rate``-th place and
    convolves with neighbouring taps, the dense way convolves x itself at that rate, and holds the
    sparse result at every ``rate``-th place::

        dilated(x)[..., ::rate] == plain(x[..., ::rate])

    with equal weights and ``padding="valid"``, and with ``"same"`` for odd kernels.

    Args:
        in_channels, out_channels, kernel_size, bias: as ``torch.nn.Conv1d``, whose parameters'
            names and shapes these are.
        rate: distance of neighbouring taps in samples.
        padding: zeros at both ends: ``"same"``, ``"valid"`` or a number.
        stride: distance of neighbouring outputs in samples.

    Raises:
        ValueError: ``rate`` or ``stride`` is below 1, or ``padding`` is none of the above.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        *,
        kernel_size: Count = 3,
        rate: Count = 1,
        padding: Annotated[str | int, padding_rule] = "same",
        stride: Count = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        total = {"same": rate * (kernel_size - 1), "valid": 0}
        both = total[padding] if isinstance(padding, str) else 2 * padding
        self.rate, self.stride, self.padding = rate, stride, (both // 2, both - both // 2)
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, input: Tensor) -> Tensor:
        """``(B, in_channels, N)`` to ``(B, out_channels, N')``."""
        padded = functional.pad(input, self.padding)
        return torch.conv1d(padded, self.weight, self.bias, stride=self.stride, dilation=self.rate)
