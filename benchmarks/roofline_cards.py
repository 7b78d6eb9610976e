"""What the cards can do, from their makers' data sheets, and how long a kernel takes at least."""

from collections.abc import Mapping
from dataclasses import dataclass, field

LAUNCH = 2.5e-6  # seconds from one kernel's end to the next one's begin, without a graph
L2_BYTES = 40  # a cycle and multiprocessor, of the 64 that the caches' ports are wide


@dataclass(frozen=True)
class Card:
    """Bytes a second, operations a second, bytes of cache.

    ``half`` and ``tf32`` are of tensor cores, without sparsity, with sums in float32. ``mma`` is
    the share of them that the instructions of earlier architectures reach, which the kernels here
    use: on Hopper 0.63 (Luo et al. 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU
    Architecture via Microbenchmarking"). ``double`` is the share of ``rate`` in float64.
    """

    bandwidth: float
    rate: float
    cache: float
    architecture: str
    half: float = 0.0
    tf32: float = 0.0
    multiprocessors: int = 1
    clock: float = 1e9
    mma: float = 1.0
    double: float = 0.5

    def operations(self, precision: str) -> float:
        """A second, at most: ``"float32"`` is without tensor cores."""
        return {"float32": self.rate, "tf32": self.tf32}.get(precision, self.half)

    @property
    def l2_bandwidth(self) -> float:
        return L2_BYTES * self.multiprocessors * self.clock


CARDS = {
    "H100 SXM": Card(3.35e12, 67e12, 50e6, "sm_90", 989e12, 494e12, 132, 1.83e9, 0.63),
    "A100 SXM": Card(2.04e12, 19.5e12, 40e6, "sm_80", 312e12, 156e12, 108, 1.41e9),
    "L4": Card(0.30e12, 30.3e12, 48e6, "sm_86", 121e12, 60e12, 58, 2.04e9, double=1 / 64),
    "RTX 4090": Card(1.01e12, 82.6e12, 72e6, "sm_86", 165e12, 82.6e12, 128, 2.52e9, double=1 / 64),
}


@dataclass(frozen=True)
class Step:
    """One launch, or several alike: arrays that it reads and writes, in bytes, and operations.

    ``l2_bytes`` pass through the second-level cache: what is gathered, as often as it is asked for.
    ``doubles`` are operations in float64, ``in_turn`` atomics on one address: one a cycle.
    """

    kernel: str
    arrays: tuple[float, ...]
    operations: float
    launches: int = 1
    l2_bytes: float = 0.0
    doubles: float = 0.0
    in_turn: float = 0.0

    @property
    def times(self) -> int:
        """That the operations and the bytes through the cache are done."""
        return self.launches

    def seconds(self, card: Card) -> float:
        """Arrays that fit into the cache together come from there after the first launch."""
        moved = sum(self.arrays)
        kept = moved <= card.cache / 2
        traffic = moved * (1 if kept else self.launches)
        one = max(
            LAUNCH,
            self.l2_bytes / card.l2_bandwidth,
            self.operations / card.rate,
            self.doubles / (card.double * card.rate),
            self.in_turn / card.clock,
        )
        return max(traffic / card.bandwidth, one * self.launches)


@dataclass(frozen=True)
class Tiles(Step):
    """A matrix product: ``blocks`` of equal work, as many at a time as there are multiprocessors.

    ``operations`` and ``l2_bytes`` are of one block, padding to whole tiles included.
    """

    blocks: int = 1
    precision: str = "float32"

    @property
    def times(self) -> int:
        return self.blocks

    def seconds(self, card: Card) -> float:
        rounds = -(-self.blocks // card.multiprocessors)
        rate = card.operations(self.precision) / card.multiprocessors
        rate *= 1.0 if self.precision == "float32" else card.mma
        return max(
            LAUNCH,
            sum(self.arrays) / card.bandwidth,
            rounds * self.operations / rate,
            self.blocks * self.l2_bytes / card.l2_bandwidth,
        )


@dataclass(frozen=True)
class Rival:
    """What another implementation must do at least for the same result."""

    bytes: float
    operations: float = 0.0
    launches: int = 1
    precision: str = "float32"

    def seconds(self, card: Card) -> float:
        """At its memory's bandwidth and the highest rate of operations, whichever is longer."""
        work = self.operations / card.operations(self.precision)
        return max(self.bytes / card.bandwidth, work, LAUNCH * self.launches)


@dataclass(frozen=True)
class Plan:
    """A call: our steps; the floor, every argument read and every result written once; rivals.

    ``floor_operations`` are those that the definition needs, of taps that meet the image.
    """

    name: str
    steps: tuple[Step, ...]
    floor_bytes: float
    floor_operations: float = 0.0
    precision: str = "float32"
    rivals: Mapping[str, Rival] = field(default_factory=dict)

    @property
    def bytes(self) -> float:
        return sum(sum(step.arrays) * step.launches for step in self.steps)

    @property
    def operations(self) -> float:
        return sum((step.operations + step.doubles) * step.times for step in self.steps)

    @property
    def l2_bytes(self) -> float:
        return sum(step.l2_bytes * step.times for step in self.steps)

    @property
    def launches(self) -> int:
        return sum(step.launches for step in self.steps)

    def seconds(self, card: Card) -> float:
        return sum(step.seconds(card) for step in self.steps)

    def floor(self, card: Card) -> float:
        """Of any implementation: one launch, memory's bandwidth, the highest rate."""
        return Rival(self.floor_bytes, self.floor_operations, precision=self.precision).seconds(
            card
        )
