"""Readable definition of bilinear upsampling and of what follows it, as two matrix products."""

import math

import torch
from torch import Tensor


def interpolation_matrix(
    source: int, size: int, align_corners: bool = False, scale: float | None = None
) -> Tensor:
    """``(size, source)`` float64 weights; every row sums to one.

    A sample's weight falls linearly from one at its own place to zero at its neighbours'.
    """
    index = torch.arange(size, dtype=torch.float64)
    if align_corners:
        place = index * ((source - 1) / (size - 1) if size > 1 else 0.0)
    else:
        place = (index + 0.5) * (source / size if scale is None else 1 / scale) - 0.5
    if source == size:
        place = index
    distance = place.clamp(0, source - 1)[:, None] - torch.arange(source)
    return (1 - distance.abs()).clamp_min(0)


def upsample_float64(
    input: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    scale: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    rows = interpolation_matrix(input.shape[2], size[0], align_corners, scale[0])
    columns = interpolation_matrix(input.shape[3], size[1], align_corners, scale[1])
    return rows.to(input.device) @ input.double() @ columns.to(input.device).T


def bilinear_upsample(
    input: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    scale: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """Same contract as :func:`fastseg.ops.bilinear_upsample`, in float64 arithmetic."""
    return upsample_float64(input, size, align_corners, scale).to(input.dtype)


def upsample_argmax(
    logits: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    scale: tuple[float | None, float | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """``(B, H, W)`` labels, and how far the largest logit is above the second, of the larger."""
    upsampled = upsample_float64(logits, size, align_corners, scale)
    if upsampled.shape[1] == 1:
        only = upsampled[:, 0]
        return torch.zeros_like(only, dtype=torch.int64), torch.full_like(only, math.inf)
    two = upsampled.topk(2, dim=1).values.unbind(1)
    margin = (two[0] - two[1]) / torch.maximum(two[0].abs(), two[1].abs())
    return upsampled.argmax(1), margin


def upsample_softmax(
    logits: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    scale: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """Same contract as :func:`fastseg.ops.upsample_softmax`, in float64 arithmetic."""
    powers = upsample_float64(logits, size, align_corners, scale).exp()
    return (powers / powers.sum(1, keepdim=True)).to(logits.dtype)


def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = "mean",
    align_corners: bool = False,
    scale: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """Same contract as :func:`fastseg.ops.upsample_cross_entropy`, in float64 arithmetic."""
    size = (labels.shape[1], labels.shape[2])
    upsampled = upsample_float64(logits, size, align_corners, scale)
    counted = labels != ignore_index
    index = labels.long() * counted
    label_logits = upsampled.gather(1, index[:, None])[:, 0]
    omega = counted.double()
    if weight is not None:
        omega = omega * weight.double()[index]
    if pixel_weight is not None:
        omega = omega * pixel_weight.double()
    losses = omega * (upsampled.logsumexp(1) - label_logits)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / omega.sum()
