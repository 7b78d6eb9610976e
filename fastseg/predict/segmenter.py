"""From photographs to labels with any network of the papers."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastseg._bytes import parse_bytes
from fastseg.crf.dense_crf import DenseCRF
from fastseg.data.palette import label_image
from fastseg.inference import compile_for_inference
from fastseg.models.input_convention import InputConvention
from fastseg.nn.checked import flag
from fastseg.predict.arguments import (
    SCALES_RULE,
    amp_dtype,
    check_dtype,
    checked_convention,
    checked_crf,
    checked_device,
    checked_model,
    checked_tiles,
    device_of,
)
from fastseg.predict.blocks import Block, blocks
from fastseg.predict.forward import (
    Enlarged,
    finite_scores,
    label_dtype,
)
from fastseg.predict.memory import Weights, crf_vertices
from fastseg.predict.passes import Passes, pixels_of
from fastseg.predict.photos import Photo, Photos, above_one, is_batch, read_photo
from fastseg.predict.plan import Plan, Planner, Work

OUTPUTS = ("labels", "probabilities", "scores", "palette")
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of DeepLab v3's evaluation (Chen et al. 2017, sec. 4.1), for ``scales``."""
MOST_SIZES = 4  # of inputs whose compiled weights are kept


class Segmenter:
    """A network with everything around it: image in, labels out.

    Each image is resized or padded as ``model.input_convention`` says, run whole, in sliding
    windows or in overlap-tiles, and brought back to its size. Labels are taken from the network's
    scores without logits at the size of the image (:func:`fastseg.upsample_argmax`) wherever
    nothing else needs them, with the same result.

    - ``scales`` and ``flip``: the mean of the probabilities over all sizes of the image and their
      mirror images (DeepLab v3, Chen et al. 2017, sec. 4.1; its scales are
      :data:`fastseg.predict.SCALES`).
    - Sliding windows run where the image does not fit into ``max_memory``, where ``tile`` asks for
      them, and for DeconvNet, whose proposals they stand for (224 pixels, half overlapping). Their
      probabilities are averaged.
    - A U-Net of valid convolutions runs in overlap-tiles with mirrored borders, whose result does
      not depend on the tiles.
    - An image whose maps of all labels do not fit either is cut into blocks, if it is only labels
      that are asked for: each is segmented by itself with ``margin`` pixels around it, and the CRF
      runs within it. That is an approximation: nothing sees further than the margin.

    Args:
        model: one of :mod:`fastseg.models` or any module that returns logits ``(B, K, H, W)``, or a
            dict with them as ``"out"``. It is put into evaluation mode, on ``device``, and
            compiled, in place; one in ``DataParallel`` or ``torch.compile`` is unwrapped.
        crf: runs on the probabilities of the whole image at its own size, with the pixels as they
            were read; a :class:`DenseCRF`, the name of a preset, or None.
        device: None for that of the model.
        amp: whether the network runs under autocast: true for bfloat16 on the CPU and float16
            elsewhere, or a dtype. On CPUs without such arithmetic it is slower.
        max_memory: bytes, or a text such as ``"2GB"``, for all that comes beside the model's
            parameters, the images given and the result returned. What a network needs is estimated
            (see :meth:`plan`); windows and blocks are as large as fits.
        scales: factors of the size that the network sees.
        flip: whether the mirror image is averaged in.
        tile: side of sliding windows, or of overlap-tiles, in pixels that the network sees; None to
            choose.
        overlap: share of their side by which windows overlap at least, in [0, 1).
        blend: ``"average"`` or ``"gaussian"``: weights of a window's pixels.
        margin: of blocks, in pixels of the image; a multiple of 32.
        compile: whether :func:`fastseg.compile_for_inference` is called on the model, on the CPU
            and where the weights that it keeps take no more than half of ``max_memory``.
        input_convention: of a model that has none, or in place of its own.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
    """

    def __init__(
        self,
        model: nn.Module,
        crf: DenseCRF | str | None = None,
        *,
        device: torch.device | str | None = None,
        amp: bool | torch.dtype = False,
        max_memory: str | float = "2GB",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: int | None = None,
        overlap: float | None = None,
        blend: str = "average",
        margin: int = 128,
        compile: bool = True,
        input_convention: InputConvention | None = None,
    ) -> None:
        self.model = checked_model(model)
        self.convention = checked_convention(self.model, input_convention)
        self.crf = checked_crf(self.model, crf)
        self.scales = SCALES_RULE("Segmenter: scales", scales)
        self.flip = flag("Segmenter: flip", flip)
        self.tile, self.overlap, self.blend, self.margin = checked_tiles(
            tile, overlap, blend, margin
        )
        if not amp:
            check_dtype(self.model)
        if device is not None:
            self.model.to(checked_device(device))
        self.device = device_of(self.model)
        self.amp = amp_dtype(amp, self.device)
        self.model.eval()
        if self.crf is not None:
            self.crf.eval().to(self.device)
        most, weights = parse_bytes(max_memory), Weights.of(self.model)
        self.compiled = (
            flag("Segmenter: compile", compile)
            and self.amp is None
            and self.device.type == "cpu"
            and 2 * weights.kept <= most
        )
        sizes, reserved = 0, weights.passing
        if self.compiled:
            compile_for_inference(self.model)
            sizes = max(min(most // (2 * weights.kept + 1), MOST_SIZES), 1)
            reserved = sizes * weights.kept + max(weights.passing, weights.folding)
        self.planner = Planner.of(self.model, self.convention, most, reserved)
        self.passes = Passes(
            self.model,
            self.convention,
            self.planner,
            self.device,
            self.amp,
            self.overlap,
            self.blend,
            sizes,
        )

    @property
    def num_classes(self) -> int:
        return self.planner.num_classes

    def predict(self, images: Photos, *, output: str = "labels") -> Any:
        """Segment one image or several.

        Args:
            images: a path, a picture of Pillow, an array ``(H, W)`` or ``(H, W, C)``, a tensor
                ``(C, H, W)``; or a list of these, of any sizes, or an array or tensor of four
                axes. RGB, grey, RGBA; 0-255, or floats in [0, 1]. See
                :func:`fastseg.predict.photos.read_photo`.
            output: ``"labels"``, ``"probabilities"``, ``"scores"`` (logits; the logarithms of
                probabilities where those were averaged or a CRF ran) or ``"palette"``.

        Returns:
            Of each image, on the CPU: labels ``(H, W)``, uint8, or int64 above 256 classes;
            probabilities or scores ``(K, H, W)``; or a picture of Pillow with the colours of PASCAL
            VOC, to be saved as a PNG. A list of them for several images.

        Raises:
            ValueError: no image, or one that does not fit into ``max_memory``, or for which the
                network gives NaN or infinity.
            TypeError: not an image.
            OSError: a file that cannot be opened.
        """
        if output not in OUTPUTS:
            raise ValueError(
                f"Segmenter: output must be one of {', '.join(OUTPUTS)}, got {output!r}"
            )
        if not is_batch(images):
            return self._predict(images, output, "the image")  # type: ignore[arg-type]
        if not isinstance(images, Iterable):
            raise TypeError(
                f"Segmenter: images must be an image or a list of them, got {type(images).__name__}"
            )
        return [
            self._predict(image, output, f"images[{index}]") for index, image in enumerate(images)
        ]

    def plan(self, height: int, width: int, *, output: str = "labels") -> Plan:
        """How an image of this size is taken apart, and the bytes that this is estimated to need.

        The estimate: the most that the network's tensors hold at once, which is found by running it
        without values at three sizes, times 2.25 for scratch and copies, and 48 MB; four copies of
        the image; the maps of all labels that are alive at once; for a CRF what an image of noise
        takes, see :class:`fastseg.predict.memory.CRFBytes`, and up to 512 MiB that its kernels
        keep. Weights in the forms that the kernels read come on top, and are part of ``max_memory``
        too: 64/9 of those of a 3x3 convolution.
        """
        return self.planner.plan(
            height, width, self._factor(height, width), self.tile, self.margin, self.work(output)
        )

    def labels_of_block(
        self,
        block: Block,
        read: Callable[[slice, slice], NDArray[Any]],
        factor: float,
        above_one: bool,
    ) -> NDArray[Any]:
        """Labels ``(h, w)`` of one block of an image.

        Args:
            block: of :func:`fastseg.predict.blocks.blocks`.
            read: ``read(rows, columns)`` returns those of the image, ``(h, w, 3)`` in 0-255.
            factor: from the pixels of the image to those that the network sees.
            above_one: of the whole image, see :func:`fastseg.predict.photos.above_one`.
        """
        image = read(block.source_rows, block.source_columns)
        window = self.tile or self.planner.default_window
        labels = self._segment(image, factor, window, above_one, whole=False).labels()[0]
        own: NDArray[Any] = labels[block.inner_rows, block.inner_columns].cpu().numpy()
        return own

    def _predict(self, photo: Photo, output: str, name: str) -> Any:
        image = read_photo(photo)
        with finite_scores(str(photo) if isinstance(photo, str | os.PathLike) else name):
            return self._predicted(image, output)

    def _predicted(self, image: NDArray[Any], output: str) -> Any:
        height, width = image.shape[:2]
        plan = self.plan(height, width, output=output)
        factor, bright = self._factor(height, width), above_one(image)
        if plan.block is not None:
            labels = torch.empty(height, width, dtype=label_dtype(self.num_classes))
            for block in blocks(height, width, plan.block, self.margin):
                values = self.labels_of_block(block, lambda *part: image[part], factor, bright)
                labels[block.rows, block.columns] = torch.from_numpy(values)
        else:
            segmented = self._segment(image, factor, plan.window, bright)
            if output == "probabilities":
                return segmented.probabilities()[0].cpu().contiguous()
            if output == "scores":
                return segmented.logits()[0].cpu().contiguous()
            labels = segmented.labels()[0].cpu().contiguous()
        return label_image(labels.numpy()) if output == "palette" else labels

    def work(self, output: str) -> Work:
        """What ``output`` asks for, as the planner needs it."""
        return Work(
            labels_only=output in ("labels", "palette"),
            views=len(self.scales) * (1 + self.flip),
            largest_scale=max(self.scales),
            crf_vertices=0 if self.crf is None else crf_vertices(self.crf),
        )

    def _factor(self, height: int, width: int) -> float:
        seen_height, seen_width = self.convention.resized_size(height, width)
        return math.sqrt(seen_height * seen_width / (height * width))

    @torch.no_grad()
    def _segment(
        self,
        image: NDArray[Any],
        factor: float,
        window: int | None,
        above_one: bool,
        *,
        whole: bool = True,
    ) -> Enlarged:
        """Logits ``(1, K, H, W)`` of an image, or a block of one (``whole`` false)."""
        height, width = image.shape[:2]
        size = self.convention.resized_size(height, width)
        if not whole:
            size = max(round(height * factor), 1), max(round(width * factor), 1)
        views = [(scale, flip) for scale in self.scales for flip in (False, True)[: 1 + self.flip]]
        total: Tensor | None = None
        for scale, flip in views:
            seen = tuple(max(round(side * scale), 1) for side in size)
            view = self.passes.view(image, (seen[0], seen[1]), flip, window, above_one, whole)
            view = view.resized((height, width))
            if len(views) == 1:
                result = view
                break
            probs = view.probabilities()
            probs = probs.flip(3) if flip else probs
            total = probs if total is None else total.add_(probs)
            result = Enlarged.of_probabilities(total / len(views))
        if self.crf is None:
            return result
        pixels = pixels_of(image, self.device)
        refined: Tensor = self.crf(result.probabilities(), pixels, kind="probabilities")
        return Enlarged.of_probabilities(refined)
