"""What the choice of a convolution's algorithm asks of a GPU."""

from functools import cache

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg.tuning import choose

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


def in_tf32(input: Tensor, accuracy: str) -> bool:
    """Whether a float32 convolution may round its factors to TF32: torch's switch, as it is now.

    A compiled graph keeps what the switch was when it was compiled.
    """
    return input.dtype == torch.float32 and accuracy == "default" and _tf32_switch()


@torch.compiler.assume_constant_result
def _tf32_switch() -> bool:
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return precision == "tf32"


def listed(op: str, key: str, input: Tensor) -> str | None:
    """What was measured to be the fastest for such layers on such GPUs, if anything was."""
    return choose(op, key, torch.cuda.get_device_capability(input.device))


def may_run(algorithm: str, dtype: torch.dtype, tf32: bool) -> bool:
    """Whether an algorithm is one of ours, and its arithmetic is allowed for the dtype."""
    if algorithm not in ALGORITHMS or (algorithm.endswith("-tf32") and not tf32):
        return False
    return algorithm == "direct" or dtype != torch.float64
