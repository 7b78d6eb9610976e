"""Time of a call on a device, of work that was queued and may still run when the call returns."""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Call = Callable[[], object]

FLUSHES = 2  # a buffer of twice the second-level cache leaves nothing else in it


class Stopwatch(Protocol):
    """What measures a call."""

    device: torch.device

    def seconds(self, call: Call) -> float:
        """How long the device works on a call, from a cold second-level cache."""
        ...


class CpuStopwatch:
    """Wall-clock time on the CPU, whose operators are done when they return."""

    device = torch.device("cpu")

    def seconds(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class CudaStopwatch:
    """Time between two events on the device's current stream.

    The buffer that flushes the second-level cache is written first, which takes the GPU longer
    than the host takes to queue the call: what is timed is the GPU's work, not the queueing.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache: int = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush: Tensor = torch.empty(
            FLUSHES * max(cache, 32 << 20), dtype=torch.uint8, device=device
        )

    def seconds(self, call: Call) -> float:
        with torch.cuda.device(self.device):
            begin, end = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            self.flush.zero_()
            begin.record()
            call()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


def in_rounds(stopwatch: Stopwatch, calls: list[Call], rounds: int) -> list[list[float]]:
    """Seconds of each call in each round; a round starts one call later than the one before.

    What slows or warms the device for a while meets all calls alike.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for offset in range(len(calls)):
            index = (turn + offset) % len(calls)
            seconds[index].append(stopwatch.seconds(calls[index]))
    return seconds
