"""How much memory a network needs for an image, found without running it on one."""

import re
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
# Over the activations: copies in another memory format, scratch of convolutions, fragmentation.
SLACK = 2.25
# What the kernels, their scratch and the allocator hold however small the image is.
CONSTANT = 48 * 10**6
FLOAT = 4
# Of the dense CRF: maps of all labels (scores, unary, two distributions, result, one to spare) and
# bytes of two lattices a pixel, for the narrowest published widths.
CRF_MAPS = 6
CRF_LATTICE = 256


def parse_bytes(text: str | float) -> int:
    """Bytes of ``"2GB"``, ``"500 MB"``, ``"1.5GiB"`` or a number of bytes.

    Raises:
        ValueError: not such a text, or not positive.
    """
    rule = 'max_memory must be a size such as "2GB" or "500MB"'
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise TypeError(f"Segmenter: {rule}, got {text!r}")
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    try:
        if match is None:
            raise ValueError
        number, unit, binary = match.groups()
        power = list(UNITS).index(unit)
        size = float(number) * (1024**power if binary else 1000**power)
        if not 1 <= size < 1e18:
            raise ValueError
    except ValueError:
        raise ValueError(f"Segmenter: {rule}, got {text!r}") from None
    return int(size)


def show_bytes(size: float) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if size >= power:
            return f"{size / power:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which tensors are alive at once; ``peak`` is the most that they hold together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[int, int]] = {}  # of each storage: tensors on it, its bytes
        self.total: int = 0
        self.peak: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, tuple | list) else (result,):
            if isinstance(output, Tensor):
                self.hold(output)
        return result

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        tensors, _ = self.alive.get(key, (0, 0))
        if tensors == 0:
            self.total += size
            self.peak = max(self.peak, self.total)
        self.alive[key] = (tensors + 1, size)
        weakref.finalize(tensor, self.release, key)

    def release(self, key: int) -> None:
        tensors, size = self.alive[key]
        if tensors == 1:
            self.total -= size
            del self.alive[key]
        else:
            self.alive[key] = (tensors - 1, size)


def peak_bytes(run: Callable[[Tensor], Any], shape: tuple[int, ...]) -> int:
    """The most bytes of tensors that ``run`` holds at once for a float32 input of ``shape``.

    ``run`` works on the meta device: nothing is computed. Parameters do not count.
    """
    with torch.no_grad(), LiveBytes() as live:
        input = torch.empty(shape, device="meta")
        run(input)
    return int(live.peak)


class Footprint(NamedTuple):
    """Bytes of one pass over a tile of h x w pixels: constant + side (h + w) + area h w."""

    constant: float
    side: float
    area: float

    @staticmethod
    def of(run: Callable[[Tensor], Any], channels: int, valid: Callable[[int], int]) -> "Footprint":
        """From three sizes: padding makes the bytes of a network grow with its sides too.

        Args:
            run: see :func:`peak_bytes`.
            channels: of its input.
            valid: the smallest side of at least so many pixels that it takes.
        """
        a, b = valid(256), valid(768)
        small, mixed, large = (
            float(peak_bytes(run, (1, channels, h, w))) for h, w in ((a, a), (b, a), (b, b))
        )
        area = (large - 2 * mixed + small) / (b - a) ** 2
        side = (mixed - small) / (b - a) - area * a
        return Footprint(small - 2 * a * side - a * a * area, side, area)

    def bytes(self, height: int, width: int) -> float:
        size = self.constant + self.side * (height + width) + self.area * height * width
        return max(size, 0.0)


class Weights(NamedTuple):
    """Bytes beside a model's parameters that its convolutions keep and need for a moment."""

    kept: int
    """For one size of input, if the model is compiled."""
    passing: int
    """Of the largest layer, as it is brought into another form."""
    folding: int
    """Of the largest layer, as its batch norm is folded in, if the model is compiled."""

    @staticmethod
    def of(model: nn.Module) -> "Weights":
        """Winograd's form of a 3x3 kernel has up to 8x8 numbers, any other form as many as before;
        a batch norm is folded in double precision."""
        kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4]
        forms = [
            FLOAT * kernel.numel() * (64 / 9 if tuple(kernel.shape[2:]) == (3, 3) else 1)
            for kernel in kernels
        ]
        folds = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        folding = 3 * FLOAT * max((kernel.numel() for kernel in kernels), default=0) if folds else 0
        return Weights(int(sum(forms)), int(max(forms, default=0)), folding)


def crf_bytes(labels: int, pixels: int) -> int:
    return pixels * (CRF_MAPS * FLOAT * labels + CRF_LATTICE)
