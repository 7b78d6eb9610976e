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


def build_info() -> dict[str, Any]:
    """Versions, instruction sets and threads, without importing torch.

    Returns:
        ``version``; ``python``, ``numpy``, ``torch``: their versions, ``None`` where not
        installed; ``machine``: its architecture; ``instruction_set``: the active one, and
        ``instruction_sets``: all that this machine runs, best first; ``num_threads``: threads of
        the NumPy side (torch's operators use torch's own); ``cuda``: whether CUDA kernels are
        built in.

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
        "cuda": False,
    }
