"""Fixtures that every test may use: numbers, memory, devices, instruction sets, tolerances."""

import functools
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import simt_device
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

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


ROOT = Path(__file__).parents[1]
INSTRUCTION_SETS = _numpy.available_instruction_sets()
DEVICES = {
    "cpu": pytest.param("cpu"),
    "simt": pytest.param("simt"),
    "cuda": pytest.param("cuda", marks=pytest.mark.gpu),
}


def pytest_generate_tests(metafunc):
    """Devices, and of the CPU the instruction sets: ``simt`` where the room has CUDA kernels.

    Of a test marked ``cpu_only`` the CPU alone. The emulator is slow: of a test that is not marked
    ``small`` it runs in ``make simt`` only. Where there is no GPU, tests/test_gpu.py says so.
    """
    wants = {"device", "instruction_set"} & set(metafunc.fixturenames)
    room = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    devices = dict(DEVICES)
    if metafunc.definition.get_closest_marker("cpu_only"):
        devices = {"cpu": devices["cpu"]}
    elif not (ROOT / "csrc" / room / "cuda").is_dir():
        del devices["simt"]
    elif not metafunc.definition.get_closest_marker("small"):
        devices["simt"] = pytest.param("simt", marks=pytest.mark.slow)
    if _missing_for_cuda():
        devices.pop("cuda", None)
    if wants == {"device"}:
        metafunc.parametrize("device", devices.values(), indirect=True)
    elif wants == {"instruction_set"}:
        metafunc.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
    elif wants:
        del devices["cpu"]
        both = [pytest.param("cpu", name, id=name) for name in INSTRUCTION_SETS]
        both += [pytest.param(*p.values, None, id=d, marks=p.marks) for d, p in devices.items()]
        metafunc.parametrize(("device", "instruction_set"), both, indirect=True)


def _missing_for_cuda() -> str | None:
    """Why no test runs on a GPU here, or None."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fastseg::bilinear_upsample", "CUDA"):
        return "fastseg is built without CUDA kernels"
    return None if torch.cuda.is_available() else "no CUDA device"


@pytest.fixture(scope="session")
def missing_for_cuda():
    return _missing_for_cuda()


def pytest_report_header():
    if missing := _missing_for_cuda():
        return f"device cuda: left out, {missing}"
    return "device cuda: " + torch.cuda.get_device_name()


RANDOM = ("rand", "randn", "randint", "rand_like", "randn_like", "randint_like")


def drawn_on_the_cpu(random: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One of torch's random functions with the CPU's numbers, on whichever device."""

    @functools.wraps(random)
    def draw(*arguments, device=None, requires_grad=False, **named):
        if arguments and isinstance(arguments[0], Tensor):
            device = device or arguments[0].device
            arguments = arguments[0].cpu(), *arguments[1:]
        numbers = random(*arguments, device="cpu", **named)
        return numbers.to(device or torch.get_default_device()).requires_grad_(requires_grad)

    return draw


@pytest.fixture
def device(request, monkeypatch):
    """Where tensors are made if nothing else is said, and which kernels run.

    Random ones hold the same numbers on every device: some cases are hard, and some errors were
    measured, for these.

    ``simt`` is the CUDA kernels under the emulator of tests/simt, for tensors on the CPU, each test
    with its threads in one of three orders; FASTSEG_SIMT_ORDER names one for all.
    """
    if request.param == "cuda":
        for name in RANDOM:
            monkeypatch.setattr(torch, name, drawn_on_the_cpu(getattr(torch, name)))
        with torch.device("cuda"):
            yield "cuda"
    elif request.param == "simt":
        if missing := simt_device.missing():
            pytest.skip(missing)
        number = zlib.crc32(request.node.nodeid.encode())
        order = os.environ.get("FASTSEG_SIMT_ORDER", simt_device.ORDERS[number % 3])
        with simt_device.emulated(order, number):
            yield "cpu"
    else:
        yield "cpu"


@pytest.fixture
def kernels(request, device):
    """``cpu``, ``simt`` or ``cuda``: whose kernels run."""
    return request.node.callspec.params["device"]


@pytest.fixture
def moved(device):
    """Moves a table's tensors, which are the CPU's, to the device; others stay where they are."""

    def move(arguments):
        return tree_map_only(
            Tensor, lambda t: t.to(device) if t.device.type == "cpu" else t, arguments
        )

    return move


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def close(dtype):
    """Asserts it; ``growth`` is by how much larger than usual the sums are, which may cancel."""
    rtol, atol = TOLERANCE[dtype]
    return lambda actual, expected, growth=1.0: torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol * growth
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


@pytest.fixture
def instruction_set(request):
    """Each instruction set that this machine runs, in both doors."""
    if request.param is None:  # not the CPU's kernels
        yield None
        return
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
