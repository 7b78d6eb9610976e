"""Fused atrous spatial pyramid pooling: kernels in csrc/aspp/."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg._arguments import check_device, check_tensor
from fastseg.ops import gpu
from fastseg.ops.activation import activate, activation_grad, activation_name
from fastseg.ops.conv_geometry import ConvGeometry, is_integer
from fastseg.ops.dilated_conv import (
    FLOATS,
    TORCH,
    autocast_dtype,
    call_plainly,
    convolution_grads,
    dilated_conv2d,
    format_of,
    is_channels_last,
    refuse_gradient,
)
from fastseg.ops.errors import user_errors
from fastseg.tuning import pyramid_class

OP = "aspp"


@user_errors
def aspp(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    rates: Sequence[int],
    combine: str = "sum",
    activation: str | None = None,
    *,
    accuracy: str = "default",
    algorithm: str | None = None,
) -> Tensor:
    """Convolve one input at several rates in one pass; sum or concatenate what comes out.

    act(sum over k of (w_k *_{r_k} x + b_k)), the score heads of Chen et al., "DeepLab" (2017),
    sec. 3.2 and fig. 7; or the branches one after the other along the channels, as in the hidden
    layers of its VGG variant and in DeepLab v3 (Chen et al. 2017, "Rethinking Atrous Convolution",
    fig. 5). Every branch is padded so that its output has the size of the input; outside of the
    image x is zero.

    float32 is within 3e-5 of float64, relative to the largest output, and with
    ``accuracy="high"`` within 3e-6; where a gradient will be needed the accuracy is always the high
    one. On a GPU, where all branches are one launch, it is within 3e-6, and, with the default
    accuracy and where torch's own switch for convolutions lets factors be rounded to TF32, within
    2e-3. float16 and bfloat16 are summed in float32. Two runs give identical bits, for every number
    of threads. Differentiable with respect to input, weights and biases, any number of
    times; the gradients are torch's convolutions.

    Args:
        input: ``(B, C, H, W)``, float32, float64, float16 or bfloat16, any strides. B may be 0.
        weights: one for each branch, ``(O, C, K, K)`` with K odd, dtype of ``input``; K may differ
            between branches, and O too where they are concatenated.
        biases: one for each branch, ``(O,)``, dtype of ``input``; or none at all (None or empty).
        rates: one for each branch, distance of neighbouring taps in samples; 0 or more for a 1x1
            kernel, which has no use for it, and at least 1 for others.
        combine: ``"sum"`` or ``"concat"``.
        activation: None, ``"relu"`` or ``"relu6"``; follows the sum.
        accuracy: ``"default"`` or ``"high"``.
        algorithm: on a GPU one of :func:`fastseg.ops.dilated_conv2d`'s for GPUs, for all branches
            together; ``"torch"``, anywhere, is one of torch's convolutions after the other. None
            is what the table of measurements has for such a pyramid (``fastseg tune``), or else
            fastseg's kernel in the tiles that cost least by their count of products and bytes.

    Returns:
        ``(B, O, H, W)``, or ``(B, sum of O, H, W)`` where concatenated; dtype of ``input``,
        channels_last if ``input`` is, else contiguous.

    Raises:
        ValueError: shapes, ranges, names or numbers of branches that are not the above.
        TypeError: not tensors, or other dtypes.
    """
    check_tensor(OP, "input", input)
    branches = {"weights": weights, "biases": [] if biases is None else biases}
    for name, tensors in branches.items():
        if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
            raise TypeError(
                f"{OP}: {name} must be a list with one tensor for each branch, "
                f"got {type(tensors).__name__}"
            )
        for k, tensor in enumerate(tensors):
            check_tensor(OP, f"{name}[{k}]", tensor)
            check_device(OP, f"{name}[{k}]", tensor, "input", input)
    if not isinstance(rates, Sequence) or not all(is_integer(rate) for rate in rates):
        raise TypeError(
            f"{OP}: rates must be a list with one integer for each branch, got {rates!r}"
        )
    tensors = [input, *branches["weights"], *branches["biases"]]
    if (dtype := autocast_dtype(input)) is not None:
        tensors = [tensor.to(dtype) for tensor in tensors]
    count = len(weights)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    pyramid = (
        tensors[0],
        tensors[1 : count + 1],
        tensors[count + 1 :],
        list(rates),
        combine,
        activation_name(OP, activation),
    )
    on_gpu = gpu.serves(input)
    known = (*gpu.ALGORITHMS, TORCH) if on_gpu else (TORCH,)
    if algorithm is not None and algorithm not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{OP}: algorithm must be None or one of {names}, got {algorithm!r}")
    if on_gpu and algorithm is None:
        algorithm = choose_on_gpu(pyramid, accuracy)
    if algorithm == TORCH or not (on_gpu or input.device.type == "cpu"):
        return pool_by_torch(*pyramid, algorithm)
    if needs_grad and accuracy == "default" and not on_gpu:
        accuracy = "high"
    arguments = *pyramid, accuracy, algorithm or "auto"
    operator = torch.ops.fastseg.aspp.default
    output: Tensor = operator(*arguments) if needs_grad else call_plainly(operator, arguments)
    return output


def choose_on_gpu(pyramid: tuple[Any, ...], accuracy: str) -> str:
    """What the table of measurements says, or that the operator is to choose."""
    input, weights, _, rates, combine, _ = pyramid
    tf32 = gpu.in_tf32(input, accuracy)
    default = "auto-tf32" if tf32 else "auto"
    if torch.compiler.is_compiling() or not is_pyramid(input, weights, rates, combine):
        return default
    shapes = tuple(tuple(weight.shape) for weight in weights)
    geometries = tuple(
        ConvGeometry.of(OP, shape[2:], rate=max(rate, 1), padding="same")
        for shape, rate in zip(shapes, rates, strict=True)
    )
    key = pyramid_class(
        tuple(input.shape),
        shapes,
        geometries,
        combine,
        input.dtype,
        tf32=tf32,
        channels_last=is_channels_last(input),
    )
    listed = gpu.listed(OP, key, input)
    if listed is None or (listed != TORCH and not gpu.may_run(listed, input.dtype, tf32)):
        return default
    return listed


def is_pyramid(
    input: Tensor, weights: Sequence[Tensor], rates: Sequence[int], combine: str
) -> bool:
    """Whether the shapes are such as a table may hold; what else is wrong the operator says."""
    return (
        input.dim() == 4
        and input.dtype in FLOATS
        and 0 < len(weights) == len(rates)
        and combine in ("sum", "concat")
        and all(w.dim() == 4 and min(w.shape[2:]) > 0 for w in weights)
    )


def pool_by_torch(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    rates: Sequence[int],
    combine: str,
    activation: str,
    algorithm: str | None,
) -> Tensor:
    """One convolution after the other."""
    outputs = [
        dilated_conv2d(
            input,
            weight,
            biases[k] if biases else None,
            rate=max(rate, 1),
            padding="same",
            algorithm=algorithm,
        )
        for k, (weight, rate) in enumerate(zip(weights, rates, strict=True))
    ]
    total = torch.cat(outputs, 1) if combine == "concat" else outputs[0]
    for output in outputs[1:] if combine == "sum" else []:
        total = total + output
    return activate(total, activation)


def transform_weights(
    weights: Sequence[Tensor],
    input_size: Sequence[int],
    rates: Sequence[int],
    combine: str,
    accuracy: str,
) -> Tensor:
    """All branches' weights in the form that the kernels read for an input ``(H, W)``."""
    transformed: Tensor = torch.ops.fastseg.aspp_transform(
        weights, input_size, rates, combine, accuracy
    )
    return transformed


@lru_cache(maxsize=1024)
def weights_layout(
    weight_shapes: tuple[tuple[int, ...], ...],
    input_size: tuple[int, int],
    rates: tuple[int, ...],
    combine: str,
    accuracy: str,
) -> str:
    """Equal for sizes whose calls read the same transformed weights."""
    sizes = [size for shape in weight_shapes for size in shape]
    layout: str = torch.ops.fastseg.aspp_layout(input_size, sizes, rates, combine, accuracy)
    return layout


def pool_transformed(
    input: Tensor,
    transformed: Tensor,
    biases: Sequence[Tensor],
    weight_shapes: Sequence[Sequence[int]],
    rates: Sequence[int],
    combine: str,
    activation: str | None,
    accuracy: str,
) -> Tensor:
    """:func:`aspp` with what :func:`transform_weights` returned for the same branches and size."""
    sizes = [size for shape in weight_shapes for size in shape]
    arguments = input, transformed, biases, sizes, rates, combine, activation or "none", accuracy
    output: Tensor = call_plainly(torch.ops.fastseg.aspp_transformed.default, arguments)
    return output


def _empty_output(input: Tensor, channels: list[int], combine: str) -> Tensor:
    width = sum(channels) if combine == "concat" else channels[0]
    output: Tensor = input.new_empty(input.shape[0], width, *input.shape[2:])
    return output.contiguous(memory_format=format_of(input))


@torch.library.register_fake("fastseg::aspp")
def _(input, weights, biases, rates, combine, *names) -> Tensor:  # type: ignore[no-untyped-def]
    return _empty_output(input, [weight.shape[0] for weight in weights], combine)


@torch.library.register_fake("fastseg::aspp_transform")
def _(weights: list[Tensor], *layout) -> Tensor:  # type: ignore[no-untyped-def]
    size = torch.library.get_ctx().new_dynamic_size()
    return weights[0].new_empty(size, dtype=torch.float32)


@torch.library.register_fake("fastseg::aspp_transformed")
def _(  # type: ignore[no-untyped-def]
    input, transformed, biases, weight_shapes, rates, combine, *names
) -> Tensor:
    return _empty_output(input, list(weight_shapes[::4]), combine)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weights, biases, rates, ctx.combine, ctx.activation, *_ = inputs
    ctx.rates, ctx.branches, ctx.biases = list(rates), len(weights), len(biases)
    ctx.save_for_backward(input, *weights, None if ctx.activation == "none" else output)


def _grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    input, *weights, output = ctx.saved_tensors
    if output is not None:
        grad = activation_grad(grad, output, ctx.activation)
    outputs = [weight.shape[0] for weight in weights]
    grads = torch.split(grad, outputs, 1) if ctx.combine == "concat" else [grad] * len(weights)
    need = ctx.needs_input_grad
    grad_input, grad_weights, grad_biases = None, [], []
    for part, weight, rate in zip(grads, weights, ctx.rates, strict=True):
        kernel = tuple(weight.shape[2:])
        geometry = ConvGeometry.of(OP, kernel, rate=max(rate, 1), padding="same")
        wanted = [need[0], any_needed(need[1]), ctx.biases > 0 and any_needed(need[2])]
        for_input, for_weight, for_bias = convolution_grads(
            part, input, weight, [weight.shape[0]], geometry, wanted
        )
        if for_input is not None:
            grad_input = for_input if grad_input is None else grad_input + for_input
        grad_weights.append(for_weight)
        grad_biases.append(for_bias)
    others = len(need) - 3  # arguments that have their default value may not be among them
    return grad_input, grad_weights, grad_biases[: ctx.biases], *[None] * others


def any_needed(need: bool | Sequence[bool]) -> bool:
    return need if isinstance(need, bool) else any(need)


torch.library.register_autograd("fastseg::aspp", _grad, setup_context=_save)
refuse_gradient("aspp_transform", OP)
refuse_gradient("aspp_transformed", OP)
