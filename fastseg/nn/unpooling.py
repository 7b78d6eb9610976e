"""The reverse of pooling as modules: torch's own operators."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg._arguments import check_tensor, dtype_name
from fastseg.nn.checked import Border, Size, checked
from fastseg.ops.conv_geometry import Pair, pair


class NearestUnpool2d(nn.Module):
    """Repeats every value in a block of ``factor`` x ``factor`` outputs.

    Args:
        factor: positive; one number or (vertical, horizontal).
    """

    @checked
    def __init__(self, factor: Size = 2) -> None:
        super().__init__()
        self.factor = pair("NearestUnpool2d", "factor", factor)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, factor h, factor w)``."""
        check_tensor("NearestUnpool2d", "input", input)
        if input.dim() != 4:
            raise ValueError(
                f"NearestUnpool2d: input must have shape (B, C, H, W), got {tuple(input.shape)}"
            )
        height, width = (n * f for n, f in zip(input.shape[2:], self.factor, strict=True))
        return functional.interpolate(input, size=(height, width), mode="nearest-exact")

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class MaxUnpool2d(nn.Module):
    """Puts every value where the maximum of its pool was, and zero elsewhere.

    The unpooling of DeconvNet (Noh et al. 2015, sec. 3.2.1) and SegNet. Its partner is
    ``torch.nn.MaxPool2d(kernel_size, stride, return_indices=True)``. Under
    ``torch.use_deterministic_algorithms`` it is a scatter in place of torch's operator, which
    raises there and is faster in channels_last.

    Args:
        kernel_size: of the pool, one number or (vertical, horizontal).
        stride: of the pool; None is ``kernel_size``.
        padding: of the pool.
    """

    @checked
    def __init__(
        self, kernel_size: Size = 2, stride: Size | None = None, padding: Border = 0
    ) -> None:
        super().__init__()
        op = "MaxUnpool2d"
        self.kernel_size = pair(op, "kernel_size", kernel_size)
        self.padding = pair(op, "padding", padding)
        self.stride = self.kernel_size if stride is None else pair(op, "stride", stride)

    def forward(self, input: Tensor, indices: Tensor, output_size: Pair | None = None) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, *output_size)``.

        Args:
            input: ``(B, C, h, w)``.
            indices: int64, of its shape: the pool's, flat in the plane of each channel.
            output_size: ``(H, W)`` of what was pooled. None is (h - 1) stride - 2 padding +
                kernel_size, which is right where the pools filled it.

        Raises:
            ValueError: shapes that differ, or a size that no pool takes to that of ``input``.
            TypeError: not tensors, or indices of another dtype.
            RuntimeError: of torch, for an index outside the output.
        """
        op = "MaxUnpool2d"
        check_tensor(op, "input", input)
        check_tensor(op, "indices", indices)
        if input.dim() != 4:
            raise ValueError(f"{op}: input must have shape (B, C, H, W), got {tuple(input.shape)}")
        if indices.shape != input.shape:
            raise ValueError(
                f"{op}: indices must have the shape of input, {tuple(input.shape)}, "
                f"got {tuple(indices.shape)}"
            )
        if indices.dtype != torch.int64:
            raise TypeError(f"{op}: indices must have dtype int64, got {dtype_name(indices)}")
        height, width = self._size(input, output_size)
        if not torch.are_deterministic_algorithms_enabled():
            return functional.max_unpool2d(
                input, indices, self.kernel_size, self.stride, self.padding, (height, width)
            )
        planes = input.new_zeros(*input.shape[:2], height * width)
        planes = planes.scatter(2, indices.flatten(2), input.flatten(2))
        return planes.view(*input.shape[:2], height, width)

    def _size(self, input: Tensor, output_size: Pair | None) -> tuple[int, int]:
        geometry = zip(input.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        filled = [(n - 1) * step + taps - 2 * pad for n, taps, step, pad in geometry]
        height, width = filled
        if output_size is not None:
            height, width = pair("MaxUnpool2d", "output_size", output_size)
        for side, full, step in zip((height, width), filled, self.stride, strict=True):
            if not full - step < side < full + step:
                raise ValueError(
                    f"MaxUnpool2d: output_size must differ from {tuple(filled)} by less than the "
                    f"stride {self.stride}, got {(height, width)}"
                )
        return height, width

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
