"""Time of a call on a device, of work that was queued and may still run when the call returns."""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Call = Callable[[], object]

FLUSHES = 2  # a buffer of twice the second-level cache leaves nothing else in it
PAUSE = 1e-3  # seconds in which the host queues a call of some dozens of launches
LONGEST_PAUSE = 0.25
HEADROOM = 2  # times what the host took to queue a call: another time it may take longer
CYCLES_PER_SECOND = (
    3e9  # no GPU's clock is faster: a pause lasts as long as it is asked to or longer
)


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
    """Time between two events on the device's current stream: the GPU's work, not its queueing.

    The GPU pauses first, until the host has queued the whole call, and then flushes its cache.
    Where the host took longer than the pause the call is run again, after a longer one. A call that
    waits for the GPU is timed with its waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache: int = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush: Tensor = torch.empty(
            FLUSHES * max(cache, 32 << 20), dtype=torch.uint8, device=device
        )

    def seconds(self, call: Call) -> float:
        taken, queueing = self.after_pause(call, PAUSE)
        if queueing > PAUSE:
            taken, _ = self.after_pause(call, min(HEADROOM * queueing, LONGEST_PAUSE))
        return taken

    def after_pause(self, call: Call, pause: float) -> tuple[float, float]:
        """Seconds that the GPU worked on a call, and that the host took to queue it."""
        with torch.cuda.device(self.device):
            begin, end = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(pause * CYCLES_PER_SECOND))  # type: ignore[no-untyped-call]
            start = time.perf_counter()
            self.flush.zero_()
            begin.record()
            call()
            end.record()
            queueing = time.perf_counter() - start
            end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3, queueing


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
