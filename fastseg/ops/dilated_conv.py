"""Fused dilated convolution: kernels in csrc/dilated_conv/."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

import fastseg._C  # loads the kernels into torch.ops.fastseg
from fastseg._arguments import check_device, check_tensor
from fastseg.ops import gpu
from fastseg.ops.activation import CEILING, activate, activation_grad, activation_name
from fastseg.ops.conv_geometry import ConvGeometry, Padding, Pair
from fastseg.ops.errors import user_errors
from fastseg.tuning import shape_class

OP = "dilated_conv2d"
TORCH = "torch"  # torch's own convolution, where an algorithm is named
ALGORITHMS = ("direct", "winograd", "winograd-high", "pointwise", "strassen", TORCH)
GPU_ALGORITHMS = (*gpu.ALGORITHMS, TORCH)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@user_errors
def dilated_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    rate: Pair = 1,
    padding: Padding = 0,
    stride: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Tensor | None = None,
    algorithm: str | None = None,
    accuracy: str = "default",
    deterministic: bool = False,
) -> Tensor:
    """Convolve with taps ``rate`` samples apart; add bias and residual, clamp, in one pass.

    y[o, i, j] = act(sum over c, u, v of w[o, c, u, v] x[c, i s + u r - p, j s + v r - p]
    + b[o] + residual[o, i, j]), the atrous convolution of Chen et al., "DeepLab: Semantic Image
    Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs" (2017),
    eq. 1, with stride s and padding p. Outside of the image x is zero.

    Which algorithm runs is decided from the shapes, the geometry and the memory format, by a model
    of its cost. The number of threads and earlier calls have no part in it. ``"direct"`` serves
    everything and leaves out taps that meet only padding; ``"pointwise"`` a 1x1 kernel with no
    padding and one group; ``"strassen"`` the same from 32 inputs and 32 outputs on, the
    inputs an even number; ``"winograd"`` and ``"winograd-high"`` a 3x3 kernel of any rate with
    stride 1 and one group, on each of the rate * rate interleaved images; ``"torch"`` is torch's
    own convolution, followed by what is to be fused. float64, float16 and bfloat16 are computed by
    ``"direct"`` where none is named; the last two in float32.

    On a GPU the algorithms are others. ``"gemm-128x128"``, ``"gemm-64x64"`` and ``"gemm-128x32"``
    are products in tiles of so many pixels and outputs, with ``"-split2"`` to ``"-split16"`` in
    depths that so many blocks share, their sums added in one order. Tiles leave out the taps that
    see only padding. float16 and bfloat16 are multiplied by tensor cores and summed in float32.
    float32 is multiplied as such, by fused multiply-adds, or, by the names that end in ``"-tf32"``,
    with factors rounded to TF32; these are chosen only where ``accuracy`` is the default and
    torch's own switch for convolutions, ``torch.backends.cudnn.allow_tf32``, is on. ``"direct"``
    has one thread for each output: float64, and depthwise. What is chosen is what the table of
    measurements has for such a layer on such a GPU (``fastseg tune``), or else the least by a count
    of products and bytes, in which torch's cuDNN is a quarter faster, multiplies padding, and
    passes over the output once more for bias, residual and ReLU each. A channels_last input and
    weight are read where they are, where the channels of a group are a multiple of 16 bytes; others
    are copied into that layout first.

    Against float64, relative to the largest output, float32 is within 3e-5, and with
    ``accuracy="high"`` within 3e-6 or torch's own error, whichever is larger; TF32 is within 2e-3.
    Where a gradient will be needed the accuracy is always the high one, but on a GPU.

    Two runs give identical bits, for every number of threads, unless torch's convolution was
    chosen, which promises neither; ``deterministic=True`` never chooses it. Differentiable with
    respect to input, weight, bias and residual, any number of times; the gradients are torch's
    convolutions. The workspace beside input, output and transformed weights is at most twice what
    these take together; its pages, and those of large outputs, wait for the next call. NaN and
    infinity spread at least to the outputs whose taps meet them; Winograd's
    tiles spread them to neighbouring outputs.

    Args:
        input: ``(B, C, H, W)``, float32, float64, float16 or bfloat16, any strides. B may be 0.
        weight: ``(O, C / groups, KH, KW)``, dtype of ``input``.
        bias: ``(O,)``, dtype of ``input``, or None.
        rate: distance of neighbouring taps in samples, at least 1; a number or (vertical,
            horizontal).
        padding: rows and columns of zeros around the input: ``"valid"`` (none), ``"same"``
            (``rate * (KH - 1)`` rows in all, whatever ``stride``, an odd one at the end: output
            ``ceil(H / stride)``), one number, (vertical, horizontal) or (top, bottom, left, right).
        stride: distance of neighbouring outputs in samples, at least 1; a number or a pair.
        groups: independent groups of channels; C makes the convolution depthwise.
        activation: None, ``"relu"`` or ``"relu6"`` (at most 6).
        residual: of the output's shape and dtype, added before the activation, or None.
        algorithm: one of the above in place of the choice.
        accuracy: ``"default"`` or ``"high"``; bounds the choice, not a named algorithm.
        deterministic: leaves torch's convolution out of the choice.

    Returns:
        ``(B, O, H', W')``, dtype of ``input``, channels_last if ``input`` is, else contiguous.

    Raises:
        ValueError: shapes, ranges or names that are not the above; an algorithm that does not
            serve the layer; an input smaller than the kernel's field of view.
        TypeError: not tensors, or other dtypes.
    """
    layer = Layer.of(input, weight, bias, residual, rate, padding, stride, groups, activation)
    needs_grad = torch.is_grad_enabled() and layer.requires_grad()
    if accuracy not in ("default", "high"):
        raise ValueError(f"{OP}: accuracy must be 'default' or 'high', got {accuracy!r}")
    on_gpu = gpu.serves(input)
    if needs_grad and not on_gpu:
        accuracy = "high"
    if algorithm is None:
        if torch.compiler.is_compiling():
            return layer.run_chosen(accuracy, bool(deterministic))
        return layer.run(layer.choose(accuracy, bool(deterministic)), needs_grad)
    known = GPU_ALGORITHMS if on_gpu else ALGORITHMS
    if algorithm not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{OP}: algorithm must be one of {names}, got {algorithm!r}")
    if algorithm == TORCH and deterministic:
        raise ValueError(
            f"{OP}: algorithm must be one of fastseg's own where deterministic is true, got 'torch'"
        )
    if algorithm == TORCH and layer.choose(accuracy, True) is None:
        algorithm = "direct"  # says what torch would say in words of its own
    return layer.run(algorithm, needs_grad)


Convolve: TypeAlias = Callable[[Tensor, Tensor | None, Tensor | None, str], Tensor]
"""Of input, bias, residual and activation, on weights that are known beforehand."""


class Layer(NamedTuple):
    """The arguments of one call, in the order in which the compiled operators take them."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    geometry: ConvGeometry
    activation: str

    @staticmethod
    def of(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        rate: Pair,
        padding: Padding,
        stride: Pair,
        groups: int,
        activation: str | None,
    ) -> "Layer":
        check_tensor(OP, "input", input)
        check_tensor(OP, "weight", weight)
        if weight.dim() != 4:
            raise ValueError(
                f"{OP}: weight must have shape (O, C / groups, KH, KW), got {tuple(weight.shape)}"
            )
        check_device(OP, "weight", weight, "input", input)
        for name, tensor in (("bias", bias), ("residual", residual)):
            if tensor is not None:
                check_tensor(OP, name, tensor)
                check_device(OP, name, tensor, "input", input)
        geometry = ConvGeometry.of(
            OP, weight.shape[2:], rate=rate, padding=padding, stride=stride, groups=groups
        )
        if (dtype := autocast_dtype(input)) is not None:
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            residual = None if residual is None else residual.to(dtype)
        return Layer(input, weight, bias, residual, geometry, activation_name(OP, activation))

    def requires_grad(self) -> bool:
        return any(tensor is not None and tensor.requires_grad for tensor in self[:4])

    def fits(self) -> bool:
        """Whether everything that the choice of an algorithm does not check is in order."""
        dtype, shape = self.input.dtype, self.output_shape()
        return (
            dtype in FLOATS
            and self.weight.dtype == dtype
            and (
                self.bias is None
                or (self.bias.dtype == dtype and tuple(self.bias.shape) == (shape[1],))
            )
            and (
                self.residual is None
                or (self.residual.dtype == dtype and tuple(self.residual.shape) == shape)
            )
        )

    def output_shape(self) -> tuple[int, int, int, int]:
        size = self.geometry.output_size(self.input.shape[2:], self.weight.shape[2:])
        return self.input.shape[0], self.weight.shape[0], *size

    def choose(self, accuracy: str, deterministic: bool) -> str | None:
        """The algorithm for a call without transformed weights; None for what nothing serves."""
        if self.input.dim() != 4 or not self.fits():
            return None
        if gpu.serves(self.input):
            return self.choose_on_gpu(accuracy, deterministic)
        try:
            algorithm = chosen_algorithm(
                tuple(self.input.shape),
                tuple(self.weight.shape),
                self.geometry,
                is_channels_last(self.input),
                accuracy,
                deterministic,
                False,
                fastseg._C.instruction_set(),
            )
        except RuntimeError:
            return None
        if self.input.device.type != "cpu":
            return TORCH
        return algorithm if self.input.dtype == torch.float32 else "direct"

    def choose_on_gpu(self, accuracy: str, deterministic: bool) -> str | None:
        """What the table of measurements says of the layer, or else the model of its cost."""
        tf32 = gpu.in_tf32(self.input, accuracy)
        shapes = tuple(self.input.shape), tuple(self.weight.shape)
        fused = sum((self.bias is not None, self.residual is not None, self.activation != "none"))
        arguments = *shapes, self.geometry, self.input.dtype, tf32, fused, deterministic
        try:
            modelled = chosen_on_gpu(*arguments, "")
        except RuntimeError:
            return None
        last = is_channels_last(self.input)
        key = shape_class(*arguments[:4], tf32=tf32, channels_last=last)
        listed = gpu.listed(OP, key, self.input)
        if listed is None or (listed == TORCH and deterministic):
            return modelled
        return TORCH if listed == TORCH else chosen_on_gpu(*arguments, listed)

    def run(self, algorithm: str | None, needs_grad: bool) -> Tensor:
        """``"direct"`` for None: the operator says what is wrong."""
        if algorithm == TORCH:
            return run_torch(self)
        arguments = *self[:4], *self.geometry, self.activation, algorithm or "direct"
        operator = torch.ops.fastseg.dilated_conv2d.default
        output: Tensor = operator(*arguments) if needs_grad else call_plainly(operator, arguments)
        return output

    def run_chosen(self, accuracy: str, deterministic: bool) -> Tensor:
        """The same, chosen when a compiled graph runs and its shapes are numbers."""
        output: Tensor = torch.ops.fastseg.dilated_conv2d_chosen(
            *self[:4], *self.geometry, self.activation, accuracy, deterministic
        )
        return output


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast, where it is on, would have the tensor cast to; float64 stays."""
    device = tensor.device.type
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return None
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def call_plainly(operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Call an operator past its gradient, which is Python and costs 8 us even where it is not asked
    for."""
    if torch.compiler.is_compiling():
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def is_channels_last(image: Tensor) -> bool:
    """Whether an operator's output for this input is channels_last."""
    return image.shape[1] > 1 and image.stride(1) == 1 and not image.is_contiguous()


@lru_cache(maxsize=4096)
def chosen_algorithm(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: ConvGeometry,
    channels_last: bool,
    accuracy: str,
    deterministic: bool,
    transformed: bool,
    instruction_set: str,
) -> str:
    """What the cost model says; it is asked once for each layer."""
    algorithm: str = torch.ops.fastseg.dilated_conv2d_algorithm(
        input_shape,
        weight_shape,
        *geometry,
        channels_last,
        accuracy,
        deterministic,
        transformed,
    )
    return algorithm


@lru_cache(maxsize=4096)
def chosen_on_gpu(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: ConvGeometry,
    dtype: torch.dtype,
    tf32: bool,
    fused: int,
    deterministic: bool,
    preferred: str,
) -> str:
    """What ``preferred`` names, where it serves the layer, or else what the cost model says."""
    algorithm: str = torch.ops.fastseg.dilated_conv2d_gpu_algorithm(
        input_shape,
        weight_shape,
        *geometry,
        str(dtype).removeprefix("torch."),
        tf32,
        fused,
        deterministic,
        preferred,
    )
    return algorithm


def run_torch(layer: Layer) -> Tensor:
    """torch's convolution and what follows it, in place where no gradient needs the values."""
    top, bottom, left, right = layer.geometry.padding
    image, padding = layer.input, (top, left)
    if top != bottom or left != right:
        image, padding = functional.pad(image, (left, right, top, bottom)), (0, 0)
    output = functional.conv2d(
        image,
        layer.weight,
        layer.bias,
        layer.geometry.stride,
        padding,
        layer.geometry.rate,
        layer.geometry.groups,
    )
    output = output.contiguous(memory_format=format_of(layer.input))
    in_place = not output.requires_grad
    if layer.residual is not None:
        output = output.add_(layer.residual) if in_place else output + layer.residual
    return activate(output, layer.activation, in_place=in_place)


def can_prepack(layer: Layer) -> bool:
    """Whether oneDNN can take the weights in a layout of its own, and what follows with them."""
    top, bottom, left, right = layer.geometry.padding
    return (
        torch._C._has_mkldnn
        and layer.input.dtype == torch.float32
        and (top, left) == (bottom, right)
        and is_channels_last(layer.input)
        and layer.input.is_contiguous(memory_format=torch.channels_last)
    )


def prepack(weight: Tensor, geometry: ConvGeometry, input_shape: Sequence[int]) -> Tensor:
    """Weights in the layout that oneDNN chooses for this input."""
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed: Tensor = reorder(weight.to_mkldnn(), *onednn_geometry(geometry), list(input_shape))
    return packed


ONEDNN_NAMES: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, CEILING]),
}


def prepacked_call(weight: Tensor, geometry: ConvGeometry) -> Convolve:
    """torch's convolution on weights from :func:`prepack`."""
    operator, numbers = torch.ops.mkldnn._convolution_pointwise, onednn_geometry(geometry)
    plain, binary = operator.default, operator.binary

    def convolve(
        input: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
    ) -> Tensor:
        output: Tensor
        name, bounds = ONEDNN_NAMES[activation]
        if residual is None:
            output = plain(input, weight, bias, *numbers, name, bounds, "")
        else:
            last = None if name == "none" else name
            output = binary(input, residual, weight, bias, *numbers, "add", 1.0, last, bounds, None)
        return output

    return convolve


def onednn_geometry(geometry: ConvGeometry) -> tuple[list[int], list[int], list[int], int]:
    """padding, stride, dilation and groups."""
    rate, (top, _, left, _), stride, groups = geometry
    return [top, left], list(stride), list(rate), groups


def format_of(image: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(image) else torch.contiguous_format


# An operator that chooses its algorithm when it runs, for graphs whose shapes are symbols.

torch.library.define(
    "fastseg::dilated_conv2d_chosen",
    "(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int[2] rate, int[4] padding, "
    "int[2] stride, int groups, str activation, str accuracy, bool deterministic) -> Tensor",
)


@torch.library.impl("fastseg::dilated_conv2d_chosen", ("CPU", "CUDA"))
def _run_chosen(  # type: ignore[no-untyped-def]
    input,
    weight,
    bias,
    residual,
    rate,
    padding,
    stride,
    groups,
    activation,
    accuracy,
    deterministic,
):
    geometry = ConvGeometry(tuple(rate), tuple(padding), tuple(stride), groups)
    layer = Layer(input, weight, bias, residual, geometry, activation)
    return layer.run(layer.choose(accuracy, deterministic), False)


def _empty_output(  # type: ignore[no-untyped-def]
    input, weight, bias, residual, rate, padding, stride, groups, *names
):
    geometry = ConvGeometry(tuple(rate), tuple(padding), tuple(stride), groups)
    size = geometry.output_size(input.shape[2:], weight.shape[2:])
    shape = (input.shape[0], weight.shape[0], *size)
    return input.new_empty(shape).contiguous(memory_format=format_of(input))


torch.library.register_fake("fastseg::dilated_conv2d")(_empty_output)
torch.library.register_fake("fastseg::dilated_conv2d_chosen")(_empty_output)


@torch.library.register_fake("fastseg::dilated_conv2d_transform")
def _(weight: Tensor, *layout) -> Tensor:  # type: ignore[no-untyped-def]
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)


@torch.library.register_fake("fastseg::dilated_conv2d_transformed")
def _(  # type: ignore[no-untyped-def]
    input, transformed, bias, residual, weight_and_geometry, *names
):
    channels, _, rows, columns, *rest = weight_and_geometry
    geometry = ConvGeometry(tuple(rest[:2]), tuple(rest[2:6]), tuple(rest[6:8]), rest[8])
    size = geometry.output_size(input.shape[2:], (rows, columns))
    shape = (input.shape[0], channels, *size)
    return input.new_empty(shape).contiguous(memory_format=format_of(input))


@torch.library.register_fake("fastseg::to_channels_last")
def _(image: Tensor) -> Tensor:
    return torch.empty_like(image, memory_format=torch.channels_last)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, bias, _, rate, padding, stride, groups, activation = inputs[:9]
    ctx.geometry = ConvGeometry(tuple(rate), tuple(padding), tuple(stride), groups)
    ctx.bias_shape = None if bias is None else list(bias.shape)
    ctx.save_for_backward(
        input if ctx.needs_input_grad[1] else None,
        weight if ctx.needs_input_grad[0] else None,
        None if activation == "none" else output,
    )
    ctx.activation = activation
    ctx.input_shape, ctx.weight_shape = input.shape, weight.shape


def _grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    input, weight, output = ctx.saved_tensors
    if output is not None:
        grad = activation_grad(grad, output, ctx.activation)
    need = ctx.needs_input_grad
    # Only the shape of what is not saved is read.
    grads = convolution_grads(
        grad,
        grad.new_empty(()).expand(ctx.input_shape) if input is None else input,
        grad.new_empty(()).expand(ctx.weight_shape) if weight is None else weight,
        ctx.bias_shape,
        ctx.geometry,
        [need[0], need[1], need[2]],
    )
    return *grads, grad if need[3] else None, *[None] * (len(need) - 4)


def convolution_grads(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_shape: list[int] | None,
    geometry: ConvGeometry,
    wanted: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, weight and bias, where wanted, by torch's convolution."""
    top, bottom, left, right = geometry.padding
    even = top == bottom and left == right
    image = input if even else functional.pad(input, (left, right, top, bottom))
    grad_image, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        image,
        weight,
        bias_shape,
        geometry.stride,
        (top, left) if even else (0, 0),
        geometry.rate,
        False,
        (0, 0),
        geometry.groups,
        wanted,
    )
    if wanted[0] and not even:
        height, width = input.shape[2:]
        grad_image = grad_image[:, :, top : top + height, left : left + width]
    return grad_image, grad_weight, grad_bias


torch.library.register_autograd("fastseg::dilated_conv2d", _grad, setup_context=_save)
torch.library.register_autograd("fastseg::dilated_conv2d_chosen", _grad, setup_context=_save)


def refuse_gradient(op: str, instead: str) -> None:
    """For operators of inference: says which one to call where a gradient is asked for."""

    def refuse(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"{op} has no gradient, it serves inference: call {instead}")

    torch.library.register_autograd(f"fastseg::{op}", refuse)


refuse_gradient("dilated_conv2d_transform", OP)
refuse_gradient("dilated_conv2d_transformed", OP)
refuse_gradient("to_channels_last", "Tensor.contiguous")


# Weights that are transformed once for many calls; fastseg.inference keeps them.


def transform_weight(
    weight: Tensor, geometry: ConvGeometry, input_size: Sequence[int], algorithm: str
) -> Tensor:
    """Weights in the form that ``algorithm`` reads for an input ``(H, W)``, float32, one axis."""
    transformed: Tensor = torch.ops.fastseg.dilated_conv2d_transform(
        weight, input_size, *geometry, algorithm
    )
    return transformed


@lru_cache(maxsize=4096)
def weight_layout(
    weight_shape: tuple[int, ...],
    geometry: ConvGeometry,
    input_size: tuple[int, int],
    algorithm: str,
) -> str:
    """Equal for sizes whose calls of ``algorithm`` read the same transformed weights."""
    layout: str = torch.ops.fastseg.dilated_conv2d_layout(
        input_size, weight_shape, *geometry, algorithm
    )
    return layout


def to_channels_last(image: Tensor) -> Tensor:
    """In channels_last, for inference; torch's own copy takes ten times as long."""
    if image.dtype != torch.float32 or image.is_contiguous(memory_format=torch.channels_last):
        return image.contiguous(memory_format=torch.channels_last)
    copy: Tensor = call_plainly(torch.ops.fastseg.to_channels_last.default, (image,))
    return copy


def weight_and_geometry(weight_shape: Sequence[int], geometry: ConvGeometry) -> list[int]:
    """A layer in one list, as the operator on transformed weights takes it."""
    rate, padding, stride, groups = geometry
    return [*weight_shape, *rate, *padding, *stride, groups]


def transformed_call(
    transformed: Tensor, weight_shape: Sequence[int], geometry: ConvGeometry, algorithm: str
) -> Convolve:
    """The convolution on weights from :func:`transform_weight`."""
    operator = torch.ops.fastseg.dilated_conv2d_transformed.default
    numbers = weight_and_geometry(weight_shape, geometry)

    def convolve(
        input: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
    ) -> Tensor:
        arguments = (input, transformed, bias, residual, numbers, activation, algorithm)
        output: Tensor = call_plainly(operator, arguments)
        return output

    return convolve
