"""What the choice of a convolution's algorithm asks of a GPU."""

from functools import cache

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg.ops.conv_geometry import ConvGeometry

TILES = ("128x128", "64x64", "128x32")  # pixels x outputs of a block
SPLITS = ("", "-split2", "-split4", "-split8", "-split16")
ALGORITHMS = (
    "direct",
    *(f"gemm-{tile}{split}{tf32}" for tf32 in ("", "-tf32") for tile in TILES for split in SPLITS),
)


def serves(tensor: Tensor) -> bool:
    """Whether fastseg's own kernels run for a tensor on a GPU."""
    return tensor.device.type == "cuda" and _built()


@cache
def _built() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("fastseg::dilated_conv2d", "CUDA")


def tf32_allowed() -> bool:
    """torch's own switch for convolutions, as it stands now."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")


def listed(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: ConvGeometry,
    input: Tensor,
    tf32: bool,
) -> str | None:
    """What was measured to be the fastest for such layers on such GPUs, if anything was."""
    return None
