"""What every system has in common: scores first, logits at the size of the image last."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg._arguments import check_tensor, dtype_name
from fastseg.models.input_convention import IMAGENET, InputConvention
from fastseg.models.single_value import SINGLE_VALUE, explained
from fastseg.nn import ConvNormReLU
from fastseg.nn.recipe import Recorded
from fastseg.ops import bilinear_upsample


class TrainingOutput(NamedTuple):
    """What a system with several heads returns in training mode."""

    logits: Tensor
    """``(B, K, H, W)``, what it returns in evaluation mode."""
    aux: tuple[Tensor, ...]
    """The maps of the other losses; the system says which, and of what size."""


class Network(Recorded):
    """A segmentation network: :meth:`scores`, then bilinear upsampling to the image's size.

    Attributes:
        num_classes: K.
        align_corners: which bilinear interpolation: true for Caffe's and TensorFlow's, whose
            corner samples coincide; false for PyTorch's usual one.
        crf_preset: the CRF published with it, a name of :data:`fastseg.crf.PRESETS`, or None.
        input_convention: the pixels it takes. A loaded checkpoint brings its own; change it where
            you train on others.
        system: the name in :data:`fastseg.models.SYSTEMS` that it was built by, or None.
    """

    settings: ClassVar[tuple[str, ...]] = ("align_corners", "crf_preset")
    num_classes: int
    align_corners: bool = False
    crf_preset: str | None = None
    input_convention: InputConvention = IMAGENET

    @property
    def min_size(self) -> int:
        """The shortest side that an image may have."""
        return int(getattr(getattr(self, "backbone", None), "min_size", 1))

    def check_size(self, input: Tensor) -> None:
        """Raises ValueError if a side of ``input`` is shorter than :attr:`min_size`.

        And what :func:`check_image` raises.
        """
        check_image(type(self).__name__, input)
        height, width = input.shape[2:]
        if height < self.min_size or width < self.min_size:
            raise ValueError(
                f"{type(self).__name__}: input must have sides of at least {self.min_size} pixels, "
                f"got {height} x {width}; enlarge the image or pad it"
            )

    def __call__(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(input, *args, **kwargs)
        except ValueError as error:
            origin = str(error.__cause__ or error)  # a network within this one has explained it
            if SINGLE_VALUE not in origin or input.is_meta or torch.compiler.is_compiling():
                raise
            raise explained(self, input, self.min_size) from error

    def scores(self, input: Tensor) -> Tensor:
        """The map ``(B, K, h, w)`` before the last upsampling."""
        raise NotImplementedError

    def heads(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`scores`, and those of the auxiliary heads, which run in training mode only."""
        return self.scores(input), ()

    def forward(self, input: Tensor) -> Any:
        """Logits ``(B, K, H, W)`` of an image ``(B, C, H, W)`` in the network's convention.

        In training mode with auxiliary heads, :class:`TrainingOutput` with theirs at that size too.

        An empty batch gives empty logits. NaN in image or weights gives NaN.

        Raises:
            ValueError: another rank or number of channels, a side shorter than :attr:`min_size`, or
                a single image in training mode so small that batch norm has one value a channel.
            TypeError: no tensor, or one of another dtype than the weights.
        """
        scores, aux = self.heads(input)
        logits = self.upsample(scores, input)
        return (
            TrainingOutput(logits, tuple(self.upsample(a, input) for a in aux)) if aux else logits
        )

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        """Bilinear interpolation of ``scores`` to the size of ``input``."""
        return bilinear_upsample(scores, tuple(input.shape[2:]), self.align_corners)


def check_image(network: str, input: Tensor) -> None:
    """Raises unless ``input`` is ``(B, C, H, W)`` of a floating dtype."""
    check_tensor(network, "input", input)
    if input.dim() != 4:
        raise ValueError(f"{network}: input must have shape (B, C, H, W), got {tuple(input.shape)}")
    if not input.is_floating_point():
        raise TypeError(
            f"{network}: input must be floating, as input_convention.normalise makes it, "
            f"got {dtype_name(input)}"
        )


def check_backbone(function: str, model: nn.Module) -> None:
    """Raises ValueError if a classifier's weights in ``model`` are for other pixels than it takes.

    :func:`fastseg.load_weights` says of a backbone which pixels it was trained on; whoever has
    trained the whole on its own says so by taking that away again.
    """
    convention = getattr(model, "input_convention", None)
    for name, module in model.named_modules():
        if isinstance(module, Network) or not isinstance(convention, InputConvention):
            continue
        found = vars(module).get("input_convention")
        if name and isinstance(found, InputConvention) and not found.same_pixels(convention):
            raise ValueError(
                f"{function}: {name} must have weights for the pixels of model.input_convention, "
                f"{convention.pixels()}, got those of a file for {found.pixels()}; set "
                f"model.input_convention = model.{name}.input_convention, or, where the model was "
                f"trained on its own pixels since, model.{name}.input_convention = None"
            )


def freeze_norms(module: nn.Module) -> None:
    """Batch norms that keep their statistics and are not trained (Caffe's use_global_stats)."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm too
            norm.eval().requires_grad_(False)


def gaussian_(layer: nn.Module, std: float = 0.01) -> None:
    """Weights from N(0, std^2) and zero biases, as the papers' last layers start."""
    for name, parameter in layer.named_parameters():
        nn.init.zeros_(parameter) if name == "bias" else nn.init.normal_(parameter, std=std)


def without_variance(block: ConvNormReLU, input: Tensor) -> Tensor:
    """``block(input)``; a single value a channel is normalised by the running statistics.

    In training mode batch norm refuses a batch of one image whose map is one pixel, for one value
    has no variance. The running statistics then stay as they are.
    """
    norm = block.norm
    if not norm.training or len(input) > 1 or type(norm) is not nn.BatchNorm2d:
        result: Tensor = block(input)
        return result
    output: Tensor = block.conv(input)
    if output.shape[2:] == (1, 1):
        output = functional.batch_norm(
            output, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    else:
        output = norm(output)
    return output.relu()
