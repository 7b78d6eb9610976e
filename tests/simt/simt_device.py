"""The CUDA kernels under the emulator, as a device of the operators' tests.

Tensors are the CPU's; while the device is in use, the operators that have CUDA kernels run these in
place of their CPU kernels, behind the same public functions, gradients and checks.
"""

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest import mock

import simt_build
import torch
from readbacks import Readbacks

import fastseg._C  # noqa: F401  defines the operators
from fastseg import _readback
from fastseg.ops import gpu

# The sanitizer's runtime must be in the process from its start: see the Makefile.
VARIANT = os.environ.get("FASTSEG_SIMT_VARIANT", "plain")
ORDERS = ("forward", "reverse", "random")
# When cp.async is done, in each order; FASTSEG_SIMT_COPIES names one for all.
COPIES = {"forward": "wait", "reverse": "issue", "random": "mixed"}


def missing() -> str | None:
    """Why the emulated kernels cannot be built here, or None."""
    return simt_build.missing(VARIANT)


@cache
def library() -> ctypes.CDLL:
    """The emulated kernels; loading them defines ``torch.ops.fastseg_simt``."""
    path = simt_build.build_library(VARIANT)
    for name in _operators():
        schema = str(getattr(torch.ops.fastseg, name).default._schema).removeprefix("fastseg::")
        torch.library.define(f"fastseg_simt::{name}", schema.removeprefix(name))
    torch.ops.load_library(path)
    loaded = ctypes.CDLL(str(path))
    loaded.simt_launch_count.restype = ctypes.c_longlong
    loaded.simt_set_order.restype = ctypes.c_bool
    loaded.simt_set_copies.restype = ctypes.c_bool
    loaded.simt_set_capturing.argtypes = [ctypes.c_bool]
    loaded.simt_set_largest_grid.argtypes = [ctypes.c_uint]
    return loaded


def _operators() -> list[str]:
    """Operators of fastseg that are compiled, and so may have CUDA kernels."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(
        name.removeprefix("fastseg::")
        for name in names
        if name.startswith("fastseg::")
        and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    )


@cache
def emulated_operators() -> list[str]:
    """Operators that have CUDA kernels."""
    library()
    key = torch._C._dispatch_has_kernel_for_dispatch_key
    return [name for name in _operators() if key(f"fastseg_simt::{name}", "CPU")]


@contextmanager
def emulated(order: str = "forward", seed: int = 1) -> Iterator[None]:
    """Runs the CUDA kernels for tensors on the CPU, threads and blocks in the given order.

    Copies by cp.async are made when COPIES says.
    """
    assert library().simt_set_order(order.encode(), seed)
    copies = os.environ.get("FASTSEG_SIMT_COPIES", COPIES[order])
    assert library().simt_set_copies(copies.encode())
    redirect = torch.library.Library("fastseg", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        for name in emulated_operators():
            kernel = getattr(torch.ops.fastseg_simt, name).default
            redirect.impl(name, kernel, "CPU", allow_override=True)
    try:
        with (
            mock.patch.object(gpu, "serves", lambda tensor: True),
            mock.patch.object(gpu, "listed", lambda *key: None),
            mock.patch.object(_readback, "on_gpu", lambda tensor: True),
            mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False),
        ):
            yield
    finally:
        redirect._destroy()


@contextmanager
def captured() -> Iterator[None]:
    """As if the stream were under capture: whoever waits for it, or reads back, gets an error."""
    library().simt_set_capturing(True)
    try:
        with (
            mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: True),
            Readbacks(refused=True),
        ):
            yield
    finally:
        library().simt_set_capturing(False)
