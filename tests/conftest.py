"""Fixtures that every test may use: numbers, memory, devices, instruction sets, tolerances."""

import pytest
import torch

import fastseg._C  # loads the operators
from fastseg import _numpy

TOLERANCE = {  # (rtol, atol) of a kernel against its float64 reference
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-6),
}


@pytest.fixture(autouse=True)
def fixed_seed_and_poisoned_memory():
    """Same numbers every run; a value that a kernel forgets to write reads as NaN."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def _missing_for_cuda() -> str | None:
    key = torch._C._dispatch_has_kernel_for_dispatch_key
    if not key("fastseg::permutohedral_lattice", "CUDA"):
        return "fastseg is built without CUDA kernels"
    return None if torch.cuda.is_available() else "no CUDA device"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and (missing := _missing_for_cuda()):
        pytest.skip(missing)
    return request.param


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def close(dtype):
    rtol, atol = TOLERANCE[dtype]
    return lambda actual, expected: torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol
    )


@pytest.fixture(params=_numpy.available_instruction_sets())
def instruction_set(request):
    """Each instruction set that this machine runs, in both doors."""
    before = _numpy.instruction_set(), fastseg._C.instruction_set()
    for door in (_numpy, fastseg._C):
        door.set_instruction_set(request.param)
    yield request.param
    for door, name in zip((_numpy, fastseg._C), before, strict=True):
        door.set_instruction_set(name)


@pytest.fixture
def num_threads():
    """Setter of the number of threads of both doors, which are put back after the test."""
    before = _numpy.get_num_threads(), torch.get_num_threads()

    def set_num_threads(threads: int) -> None:
        _numpy.set_num_threads(threads)
        torch.set_num_threads(threads)

    yield set_num_threads
    _numpy.set_num_threads(before[0])
    torch.set_num_threads(before[1])
