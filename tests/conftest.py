"""Fixtures that every test may use: numbers, memory, devices, instruction sets, tolerances."""

import pytest
import torch
from torch import nn

import fastseg._C  # loads the operators
from fastseg import _numpy

TOLERANCE = {  # (rtol, atol) of a kernel against its float64 reference
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-6),
}


HALF_TOLERANCE = {  # likewise, for results that are rounded to half precision once
    torch.float16: (1e-3, 1e-3),
    torch.bfloat16: (8e-3, 8e-3),
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


@pytest.fixture(params=[*TOLERANCE, *HALF_TOLERANCE], ids=str)
def score_dtype(request):
    """Every dtype that scores may have, half precision included."""
    return request.param


@pytest.fixture
def close_scores(score_dtype):
    rtol, atol = {**TOLERANCE, **HALF_TOLERANCE}[score_dtype]
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


@pytest.fixture
def randomised():
    """Fills a network so that its activations neither vanish nor explode, and every term counts."""

    def fill(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in network.modules():
                weight = getattr(module, "weight", None)
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.4, 0.8, generator=generator)
                    module.bias.uniform_(-0.2, 0.2, generator=generator)
                    module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                    module.running_var.uniform_(0.5, 1.5, generator=generator)
                elif isinstance(weight, nn.Parameter):
                    inputs = weight[0].numel()
                    bound = (6 / inputs) ** 0.5
                    weight.uniform_(-bound, bound, generator=generator)
                    if module.bias is not None:
                        module.bias.uniform_(-0.2, 0.2, generator=generator)
        return network

    return fill


@pytest.fixture
def same():
    """Equal but for the order of summation: 1e-5 of the largest entry."""

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        assert torch.isfinite(expected).all()
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()

    return check
