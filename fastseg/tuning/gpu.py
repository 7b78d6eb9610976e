"""Whether fastseg can run on a GPU here, and which one it is."""

from pathlib import Path
from typing import NamedTuple

import torch

from fastseg.tuning.choice import architecture_of

OLDEST = (8, 0)
KERNEL = "fastseg::bilinear_upsample"  # registered for CUDA where fastseg is built with it


class Gpu(NamedTuple):
    """What a table of times must say of the card."""

    name: str
    architecture: str
    driver: str


def why_no_gpu() -> str | None:
    """Why fastseg cannot run on a GPU here, and what to do about it; None where it can."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install one that is, and build "
            "fastseg beside it"
        )
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no CUDA device; `nvidia-smi` must list one, with a "
            f"driver for CUDA {torch.version.cuda}"
        )
    if not torch._C._dispatch_has_kernel_for_dispatch_key(KERNEL, "CUDA"):
        return "fastseg is built without CUDA kernels; build it with nvcc and FASTSEG_CUDA=1"
    return None


def describe(device: torch.device) -> Gpu:
    """
    Raises:
        ValueError: the GPU is older than the oldest that fastseg's kernels run on.
    """
    name = torch.cuda.get_device_name(device)
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        raise ValueError(
            f"the GPU must be of {architecture_of(OLDEST)} or later, got {name} "
            f"({architecture_of(capability)})"
        )
    return Gpu(name, architecture_of(capability), driver_version())


def driver_version() -> str:
    """``"580.65.06"``, from the kernel's module."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"
