"""Dilated convolution along one axis, the form in which it is usually explained."""

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        rate: int = 1,
        padding: str | int = "same",
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("kernel_size", kernel_size), ("rate", rate), ("stride", stride)):
            if value < 1:
                raise ValueError(f"DilatedConv1d: {name} must be positive, got {value}")
        if padding not in ("same", "valid") and (isinstance(padding, str) or padding < 0):
            raise ValueError(
                f"DilatedConv1d: padding must be 'same', 'valid' or a number, got {padding!r}"
            )
        total = {"same": rate * (kernel_size - 1), "valid": 0}
        both = total[padding] if isinstance(padding, str) else 2 * padding
        self.rate, self.stride, self.padding = rate, stride, (both // 2, both - both // 2)
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, input: Tensor) -> Tensor:
        """``(B, in_channels, N)`` to ``(B, out_channels, N')``."""
        padded = functional.pad(input, self.padding)
        return torch.conv1d(padded, self.weight, self.bias, stride=self.stride, dilation=self.rate)
