"""How much memory a network needs for an image, found without running it on one."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastseg.crf.dense_crf import DenseCRF

# Over the activations: copies in another memory format, scratch of convolutions, fragmentation.
SLACK = 2.25
# What the kernels, their scratch and the allocator hold however small the image is.
CONSTANT = 48 * 10**6
FLOAT = 4
LANES = 8
KEPT_SCRATCH = 512 << 20  # bytes that the kernels keep between calls, see csrc/common/buffer.cpp
KEPT_HEAP = 128 << 20  # likewise the C library, of four maps of less than 32 MB each


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


class CRFBytes(NamedTuple):
    """Bytes of mean-field inference on an image of noise, where no two pixels share a vertex."""

    peak: int
    """Of all that it holds at once."""
    kept: int
    """Of its scratch that is still there while the next network runs."""

    @staticmethod
    def of(vertices: int, labels: int, pixels: int) -> "CRFBytes":
        """See :func:`crf_vertices`.

        A vertex has two sums of each label, and 80 bytes while the lattice is built; a pixel 18
        bytes of each label and 110 of its own. Labels fill vectors of 8. The kernels keep scratch
        of other sizes, up to half of the most that was ever in use.

        Measured on noise with both kernels of "deeplab-resnet" and 21 labels: 647 MB for the first
        image of 500 x 500 and 746 MB after smaller ones, of 1150 MB. With the bilateral kernel
        alone and 2, 21, 64 and 100 labels 57, 55, 62 and 72 % of the estimate (250 to 700 pixels
        square). Photographs take a third of what noise does.
        """
        filled = labels if labels <= 2 else -(-labels // LANES) * LANES
        scratch = pixels * vertices * (2 * FLOAT * filled + 80)
        maps = pixels * (18 * filled + 110) + min(4 * FLOAT * filled * pixels, KEPT_HEAP)
        waiting = min(scratch // 2, KEPT_SCRATCH)
        return CRFBytes(maps + scratch + waiting, min(scratch, KEPT_SCRATCH))


def crf_vertices(crf: DenseCRF) -> int:
    """The most lattice vertices that one pixel brings: D + 1 of each kernel of D features."""
    pixel, colour = torch.zeros(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)
    with torch.no_grad():
        features = [kernel(pixel, colour, None) for kernel in crf.kernels]
    return sum(int(found.shape[1]) + 1 for found in features)
