"""Upsampling with fixed and with learned weights as modules."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fastseg.nn.checked import Border, Count, Integer, Size, checked
from fastseg.ops.bilinear_upsample import Scale, bilinear_upsample, scale_pair
from fastseg.ops.conv_geometry import Pair, pair

LARGEST_KERNEL = 1 << 14


def scale_rule(what: str, value: Any) -> Any:
    """One positive number, or (vertical, horizontal)."""
    scale_pair(what.rpartition(": ")[0], value)
    return value


class BilinearUpsample(nn.Module):
    """Resizes score maps by bilinear interpolation: :func:`fastseg.ops.bilinear_upsample`.

    Args:
        size: ``(H, W)`` of the output or one number for both; or None.
        scale: outputs per sample, one number or (vertical, horizontal); or None.
        align_corners: whether the first and the last centres meet, instead of the borders.

    One of ``size`` and ``scale``, or the size in the call, must be given.
    """

    @checked
    def __init__(
        self,
        size: Size | None = None,
        scale: Annotated[Scale, scale_rule] | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale, self.align_corners = size, scale, align_corners

    def forward(self, input: Tensor, size: Size | None = None) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, H, W)``; a ``size`` here comes before the module's own."""
        size = self.size if size is None else size
        return bilinear_upsample(input, size, self.align_corners, self.scale)

    def extra_repr(self) -> str:
        return f"size={self.size}, scale={self.scale}, align_corners={self.align_corners}"


def bilinear_kernel(size: int) -> Tensor:
    """``(size, size)`` float32 weights of bilinear interpolation for a transposed convolution.

    w[i, j] = (1 - |i - c| / f) (1 - |j - c| / f) around the centre c = (size - 1) / 2, with
    f = ceil(size / 2), as FCN initialises its upsampling (Long et al. 2015, sec. 3.3 and 4.3). Laid
    out with stride f, the kernels of all samples sum to one.

    Raises:
        ValueError: ``size`` below 1.
    """
    size = Integer(1, LARGEST_KERNEL)("bilinear_kernel: size", size)
    factor = (size + 1) // 2
    distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs()
    row = 1 - distance / factor
    return torch.outer(row, row).float()


class TransposedConv2d(nn.ConvTranspose2d):
    """Transposed ("deconvolution") convolution: torch's own, learned or bilinear.

    Every sample lays down the kernel times its value, ``stride`` apart; what overlaps adds up:
    the transpose of the matrix of a convolution (FCN, Long et al. 2015, sec. 3.3). Output size
    (h - 1) stride - 2 padding + rate (kernel_size - 1) + 1 + output_padding. Parameters are named,
    shaped and initialised as those of ``torch.nn.ConvTranspose2d``.

    Args:
        in_channels, out_channels: positive, divisible by ``groups``.
        kernel_size: taps, one number or (vertical, horizontal), as all of the following.
        stride: distance of the kernels of neighbouring samples.
        padding: rows and columns cut from each side of the output.
        output_padding: rows and columns added at the bottom and the right, below ``stride``.
        rate: distance of neighbouring taps.
        groups: independent groups of channels.
        bias: whether there is one.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        *,
        kernel_size: Size,
        stride: Size = 1,
        padding: Border = 0,
        output_padding: Border = 0,
        rate: Size = 1,
        groups: Count = 1,
        bias: bool = True,
    ) -> None:
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(
                    f"TransposedConv2d: {name} must be a multiple of groups ({groups}), "
                    f"got {channels}"
                )
        op = "TransposedConv2d"
        super().__init__(
            in_channels,
            out_channels,
            pair(op, "kernel_size", kernel_size),
            pair(op, "stride", stride),
            pair(op, "padding", padding),
            pair(op, "output_padding", output_padding),
            groups,
            bias,
            pair(op, "rate", rate),
        )
        for added, step, spacing in zip(
            self.output_padding, self.stride, self.dilation, strict=True
        ):
            if int(added) >= max(step, spacing):
                raise ValueError(
                    f"{op}: output_padding must be less than stride or rate, got {output_padding}"
                )

    @classmethod
    def bilinear(
        cls, channels: int, factor: int, *, padding: Pair | None = None, trainable: bool = True
    ) -> "TransposedConv2d":
        """Enlarges each channel ``factor`` times with the weights of bilinear interpolation.

        Equals ``BilinearUpsample(scale=factor)`` inside; at the border it lacks what lies beyond,
        which it takes for zero.

        Args:
            channels: of input and output.
            factor: positive; kernel size 2 factor - factor % 2, stride ``factor``.
            padding: None cuts the output to exactly ``factor`` times the input; FCN uses 0 and
                crops.
            trainable: whether the weights require a gradient: FCN's CVPR paper learns all but the
                last, its released code none.

        Raises:
            ValueError: ``factor`` below 1.
        """
        factor = Integer()("TransposedConv2d: factor", factor)
        layer = cls(
            channels,
            channels,
            kernel_size=2 * factor - factor % 2,
            stride=factor,
            padding=factor // 2 if padding is None else padding,
            bias=False,
        )
        layer.init_bilinear_()
        layer.weight.requires_grad_(trainable)
        return layer

    @torch.no_grad()
    def init_bilinear_(self) -> None:
        """Sets the weights to bilinear interpolation of each channel to itself, the bias to zero.

        Raises:
            ValueError: channels that differ, groups, or a kernel that is not square.
        """
        height, width = self.kernel_size
        if self.in_channels != self.out_channels or self.groups != 1:
            raise ValueError(
                "TransposedConv2d: out_channels must equal in_channels, without groups, for "
                f"bilinear weights, got {self.in_channels} to {self.out_channels} in "
                f"{self.groups} groups"
            )
        if height != width:
            raise ValueError(
                "TransposedConv2d: kernel_size must be square for bilinear weights, "
                f"got {(height, width)}"
            )
        self.weight.zero_()
        channel = torch.arange(self.in_channels)
        self.weight[channel, channel] = bilinear_kernel(height).to(self.weight)
        if self.bias is not None:
            self.bias.zero_()
