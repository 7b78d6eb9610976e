"""What this installation of fastseg is made of; asked for by ``fastseg info`` and bug reports."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastseg import __version__, _numpy


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


# Operators that have CUDA kernels. The tests run all of them under the emulator of the CUDA
# execution model (tests/simt), and hold this list to what they run.
CUDA_OPERATORS = (
    "aspp",
    "bilinear_upsample",
    "bilinear_upsample_backward",
    "dilated_conv2d",
    "mean_field",
    "permutohedral_blur",
    "permutohedral_lattice",
    "permutohedral_slice",
    "permutohedral_splat",
    "permutohedral_sum",
    "permutohedral_vertex_products",
    "upsample_argmax",
    "upsample_cross_entropy",
    "upsample_cross_entropy_and_gradient",
    "upsample_cross_entropy_backward",
    "upsample_softmax",
    "upsample_softmax_backward",
)


def build_info() -> dict[str, Any]:
    """Versions, instruction sets and threads, without importing torch.

    Returns:
        ``version``; ``python``, ``numpy``, ``torch``: their versions, ``None`` where not
        installed; ``machine``: its architecture; ``instruction_set``: the active one, and
        ``instruction_sets``: all that this machine runs, best first; ``num_threads``: threads of
        the NumPy side (torch's operators use torch's own); ``cuda``: ``None`` where no CUDA kernels
        are built in, else their ``operators``, the ``architectures`` and the ``toolkit`` that they
        are built for and with, whether they are ``emulator_verified`` (run by the tests under an
        emulator of the CUDA execution model), and ``gpu_verified`` (run on a GPU before release).

    Raises:
        ValueError: the environment's ``FASTSEG_ISA`` or ``FASTSEG_NUM_THREADS`` is no valid value.
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "numpy": _installed("numpy"),
        "torch": _installed("torch"),
        "instruction_set": _numpy.instruction_set(),
        "instruction_sets": _numpy.available_instruction_sets(),
        "num_threads": _numpy.get_num_threads(),
        "cuda": _cuda_build(),
    }


def _cuda_build() -> dict[str, Any] | None:
    if not _numpy.cuda_architectures:
        return None
    return {
        "operators": list(CUDA_OPERATORS),
        "architectures": _numpy.cuda_architectures.split(", "),
        "toolkit": _numpy.cuda_toolkit,
        "emulator_verified": True,
        "gpu_verified": False,
    }
