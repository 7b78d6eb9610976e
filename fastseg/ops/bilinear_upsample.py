"""Bilinear upsampling, alone and fused with what follows it: kernels in csrc/bilinear_upsample/."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg._arguments import check_device, check_tensor
from fastseg.ops.errors import user_errors

Size = int | Sequence[int]
Scale = float | Sequence[float]

LABEL_DTYPES = {torch.int64: "int64", torch.uint8: "uint8"}


@user_errors
def bilinear_upsample(
    input: Tensor,
    size: Size | None = None,
    align_corners: bool = False,
    scale: Scale | None = None,
) -> Tensor:
    """Resize a score map, to a larger or a smaller one, by bilinear interpolation.

    With s source samples and S outputs along an axis, output i lies at source position

    - ``align_corners=True``: i (s - 1) / (S - 1), so that the first and the last centres meet
      (Caffe's ``Interp``, DeepLab v1 and v2);
    - ``align_corners=False``: (i + 1/2) step - 1/2, but not below 0, with step = s / S, or
      1 / ``scale`` where a scale is given; so that the borders meet

    and is the mean of its two neighbours weighted by nearness; the last sample repeats beyond the
    border. These are the coordinates of ``F.interpolate(mode="bilinear", antialias=False)``. They
    are computed in float64 for every dtype, where torch computes them in float32: results are
    nearer to torch's in float64 than torch's in float32 are.

    The fixed-weight form of the upsampling in FCN (Long et al. 2015, sec. 3.3) up to its border.
    Differentiable any number of times: linear, and its adjoint has itself as adjoint. Infinity and
    NaN spread to all outputs between the samples, also where their weight is zero, as in torch.
    Two runs give identical bits, for every number of threads.

    Args:
        input: scores or logits, ``(B, C, h, w)``, float32, float64, float16 or bfloat16, C, h and
            w at least 1; B may be 0. Half precision is interpolated in float32. Dense NCHW and
            channels_last memory is read in place.
        size: ``(H, W)``, or one number for both. May be left out where ``scale`` is given: then
            floor(h * scale) and floor(w * scale), as ``F.interpolate(scale_factor=)`` has it.
        align_corners: see above.
        scale: outputs per source sample, positive, one number or (vertical, horizontal). Sets the
            step, whatever the sizes; no effect with ``align_corners``. Left out, the step follows
            from the sizes, as with ``F.interpolate(size=)`` or ``recompute_scale_factor=True``.

    Returns:
        ``(B, C, H, W)``, dtype of ``input``; channels_last where ``input`` is, else contiguous.

    Raises:
        ValueError: a wrong rank or size, a scale that is not positive, or neither size nor scale.
        TypeError: not a tensor, another dtype, or sizes that are not integers.
    """
    op = "bilinear_upsample"
    check_tensor(op, "input", input)
    result: Tensor = torch.ops.fastseg.bilinear_upsample(
        input, *placement(op, input, size, align_corners, scale)
    )
    return result


@user_errors
def upsample_argmax(
    logits: Tensor,
    size: Size | None = None,
    align_corners: bool = False,
    scale: Scale | None = None,
    *,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Labels of the upsampled logits, ``bilinear_upsample(logits, ...).argmax(1)``.

    The upsampled logits are not made. Equal logits give the lowest class; NaN wins over all
    numbers, the first of them, as in torch. Labels equal those of float64 arithmetic, except where
    the two largest differ by less than 1e-6 of the larger: pixels that single precision leaves in
    doubt are decided in double. Not differentiable. Two runs give identical bits, for every number
    of threads.

    Args:
        logits: ``(B, C, h, w)``, as the input of :func:`bilinear_upsample`.
        size, align_corners, scale: as there.
        dtype: ``torch.int64``, or ``torch.uint8`` for up to 256 classes.

    Returns:
        ``(B, H, W)`` labels in [0, C), contiguous.

    Raises:
        ValueError, TypeError: as :func:`bilinear_upsample`; another dtype, or more than 256
            classes in uint8.
    """
    op = "upsample_argmax"
    check_tensor(op, "logits", logits)
    if dtype not in LABEL_DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise TypeError(f"{op}: dtype must be int64 or uint8, got {name}")
    size, *rest = placement(op, logits, size, align_corners, scale)
    result: Tensor = torch.ops.fastseg.upsample_argmax(logits, size, LABEL_DTYPES[dtype], *rest)
    return result


@user_errors
def upsample_softmax(
    logits: Tensor,
    size: Size | None = None,
    align_corners: bool = False,
    scale: Scale | None = None,
) -> Tensor:
    """Probabilities of the upsampled logits, ``bilinear_upsample(logits, ...).softmax(1)``.

    The upsampled logits are not made; the gradient reads the probabilities. Differentiable any
    number of times (the second derivative is composed of torch's operators and makes arrays of
    the size of the output). NaN, and +inf, make all classes of a pixel NaN, as in torch; -inf rules
    a class out, but where its weight is zero it gives NaN, as in torch. Two runs give identical
    bits, for every number of threads.

    Args:
        logits: ``(B, C, h, w)``, as the input of :func:`bilinear_upsample`.
        size, align_corners, scale: as there.

    Returns:
        ``(B, C, H, W)``, dtype of ``logits``, sums to one over the classes; channels_last where
        ``logits`` is, else contiguous.

    Raises:
        ValueError, TypeError: as :func:`bilinear_upsample`.
    """
    op = "upsample_softmax"
    check_tensor(op, "logits", logits)
    result: Tensor = torch.ops.fastseg.upsample_softmax(
        logits, *placement(op, logits, size, align_corners, scale)
    )
    return result


@user_errors
def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    ignore_index: int = 255,
    reduction: str = "mean",
    *,
    align_corners: bool = False,
    scale: Scale | None = None,
) -> Tensor:
    """Cross-entropy of the upsampled logits, without making them in the forward or the backward.

    With v the logits upsampled to the size of ``labels``, a pixel of label t loses

        l = omega (log sum_c exp v_c - v_t),   omega = weight[t] * pixel_weight

    and nothing where its label is ``ignore_index``. ``"mean"`` is sum l / sum omega over the pixels
    that are not ignored (``F.cross_entropy`` with one pixel weight for all), NaN where there is
    none, with a gradient of zero; ``"sum"`` is sum l. ``pixel_weight`` is the weight map of U-Net
    (Ronneberger et al. 2015, eq. 1).

    Differentiable once with respect to ``logits``: with ``"mean"`` and ``"sum"`` the gradient at
    the source samples is made together with the loss, and only that is kept. Not twice: the
    gradient's derivative would need the probabilities of all pixels, which are never stored;
    compose :func:`bilinear_upsample` with ``F.cross_entropy`` where it is needed. Where
    ``pixel_weight`` requires a gradient it gets one, and arrays of one number a pixel are made.
    Two runs give identical bits, for every number of threads. On a GPU, of which nothing is read
    back, a label that is no class cannot be refused: its loss is NaN, and so are mean and sum.

    Args:
        logits: ``(B, C, h, w)``, as the input of :func:`bilinear_upsample`.
        labels: ``(B, H, W)`` int64 or uint8, in [0, C) or ``ignore_index``.
        weight: ``(C,)``, floating; None is one for all. Gets no gradient.
        pixel_weight: ``(B, H, W)``, floating, in any units; None is one for all.
        ignore_index: any integer. May be one of the classes.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        align_corners, scale: as in :func:`bilinear_upsample`.

    Returns:
        ``()``, or ``(B, H, W)`` for ``"none"``; float64 for float64 logits, else float32, since
        sums over an image leave the range of half precision.

    Raises:
        ValueError: shapes that do not fit together, a label outside [0, C) that is not
            ``ignore_index``, another reduction, a ``weight`` that requires a gradient, tensors on
            different devices, and what :func:`bilinear_upsample` refuses.
        TypeError: not tensors, or other dtypes.
    """
    op = "upsample_cross_entropy"
    operands = [("logits", logits), ("labels", labels)]
    operands += [("weight", weight)] if weight is not None else []
    operands += [("pixel_weight", pixel_weight)] if pixel_weight is not None else []
    for name, tensor in operands:
        check_tensor(op, name, tensor)
        check_device(op, name, tensor, "logits", logits)
    if weight is not None and weight.requires_grad:
        raise ValueError(f"{op}: weight must not require a gradient, got one that does")
    check_integer(op, "ignore_index", ignore_index)
    _, *rest = placement(op, logits, (1, 1), align_corners, scale)
    ops = torch.ops.fastseg
    grad_mode = torch.is_grad_enabled()
    if grad_mode and pixel_weight is not None and pixel_weight.requires_grad:
        plain = (logits, labels, weight, None, ignore_index, "none", *rest)
        return _weigh(ops.upsample_cross_entropy(*plain), labels, weight, pixel_weight,
                      ignore_index, reduction)  # fmt: skip
    arguments = (logits, labels, weight, pixel_weight, ignore_index, reduction, *rest)
    result: Tensor
    if grad_mode and logits.requires_grad and reduction in ("sum", "mean"):
        result, _ = ops.upsample_cross_entropy_and_gradient(*arguments)
    else:
        result = ops.upsample_cross_entropy(*arguments)
    return result


def _weigh(
    losses: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """The last step as torch's operators, differentiable with respect to ``pixel_weight``."""
    op = "upsample_cross_entropy"
    if pixel_weight.shape != labels.shape:
        raise ValueError(
            f"{op}: pixel_weight must have shape {tuple(labels.shape)}, "
            f"got {tuple(pixel_weight.shape)}"
        )
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"{op}: reduction must be one of none, sum, mean, got {reduction!r}")
    counted = labels != ignore_index
    weighed = torch.where(counted, losses * pixel_weight, 0.0).to(losses.dtype)
    if reduction == "none":
        return weighed
    if reduction == "sum":
        return weighed.sum()
    omega = pixel_weight if weight is None else pixel_weight * weight[labels.long() * counted]
    return weighed.sum() / torch.where(counted, omega, 0.0).to(losses.dtype).sum()


def placement(
    op: str, input: Tensor, size: object, align_corners: bool, scale: object
) -> tuple[list[int], bool, float | None, float | None]:
    """The output's size and what else the operators ask about it."""
    scales = scale_pair(op, scale)
    if size is None:
        if scales is None:
            raise ValueError(f"{op}: size or scale must be given, got neither")
        if input.dim() != 4:
            shape = tuple(input.shape)
            raise ValueError(f"{op}: {_score_name(op)} must have shape (B, C, H, W), got {shape}")
        sizes = [scaled(n, s) for n, s in zip(input.shape[2:], scales, strict=True)]
    else:
        sizes = size_pair(op, size)
    return sizes, align_corners, *(scales or (None, None))


def scaled(length: int, scale: float) -> int:
    """floor(length * scale), also of the symbols that stand for lengths in a traced graph."""
    if isinstance(length, int):
        return int(length * scale)
    result: int = length * int(scale) if scale == int(scale) else torch.sym_int(length * scale)
    return result


def _score_name(op: str) -> str:
    return "input" if op == "bilinear_upsample" else "logits"


def size_pair(op: str, size: object) -> list[Any]:
    if isinstance(size, int | torch.SymInt) and not isinstance(size, bool):
        return [size, size]
    if not isinstance(size, Sequence) or isinstance(size, str):
        raise TypeError(f"{op}: size must be an int or (height, width), got {size!r}")
    for i, number in enumerate(size):
        check_integer(op, f"size[{i}]", number)
    return list(size)


def scale_pair(op: str, scale: object) -> tuple[float, float] | None:
    if scale is None:
        return None
    both: Sequence[Any] = scale if isinstance(scale, Sequence) else (scale, scale)
    for number in both:
        if isinstance(number, bool | str) or not isinstance(number, int | float | torch.SymFloat):
            raise TypeError(f"{op}: scale must be a number or two, got {scale!r}")
    if len(both) != 2:
        raise ValueError(f"{op}: scale must be a number or (vertical, horizontal), got {scale!r}")
    for i, number in enumerate(both):
        if not 0 < number < float("inf"):
            raise ValueError(f"{op}: scale[{i}] must be positive and finite, got {number}")
    return float(both[0]), float(both[1])


def check_integer(op: str, name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(f"{op}: {name} must be an int, got {type(number).__name__}")


# Fakes


def empty_like_scores(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Uninitialised ``(B, C, *size)`` in the memory format that the kernels choose."""
    shape = (scores.shape[0], scores.shape[1], *size)
    contiguous = scores.is_contiguous() or scores.shape[1] == 1 or scores.stride(1) != 1
    return torch.empty(
        shape,
        dtype=scores.dtype,
        device=scores.device,
        memory_format=torch.contiguous_format if contiguous else torch.channels_last,
    )


@torch.library.register_fake("fastseg::bilinear_upsample")
@torch.library.register_fake("fastseg::upsample_softmax")
def _(
    input: Tensor,
    size: Sequence[int],
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    return empty_like_scores(input, size)


@torch.library.register_fake("fastseg::bilinear_upsample_backward")
def _(
    grad: Tensor,
    input_size: Sequence[int],
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    return empty_like_scores(grad, input_size)


@torch.library.register_fake("fastseg::upsample_argmax")
def _(
    logits: Tensor,
    size: Sequence[int],
    dtype: str,
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    label_dtype = torch.uint8 if dtype == "uint8" else torch.int64
    return logits.new_empty((logits.shape[0], *size), dtype=label_dtype)


@torch.library.register_fake("fastseg::upsample_softmax_backward")
def _(
    grad: Tensor,
    probs: Tensor,
    input_size: Sequence[int],
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    return empty_like_scores(probs, input_size)


def _empty_loss(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.new_empty(labels.shape if reduction == "none" else (), dtype=dtype)


@torch.library.register_fake("fastseg::upsample_cross_entropy")
def _(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    return _empty_loss(logits, labels, reduction)


@torch.library.register_fake("fastseg::upsample_cross_entropy_and_gradient")
def _(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> tuple[Tensor, Tensor]:
    loss = _empty_loss(logits, labels, reduction)
    return loss, empty_like_scores(logits, logits.shape[2:]).to(loss.dtype)


@torch.library.register_fake("fastseg::upsample_cross_entropy_backward")
def _(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    return empty_like_scores(logits, logits.shape[2:])


# Gradients


def _save_upsample(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, _, *ctx.rest = inputs
    ctx.input_size = input.shape[2:]


def _upsample_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    grad_input = torch.ops.fastseg.bilinear_upsample_backward(grad, ctx.input_size, *ctx.rest)
    return grad_input, None, None, None, None


def _upsample_backward_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    # The op is linear: the adjoint of its adjoint is the op itself.
    grad_grad = torch.ops.fastseg.bilinear_upsample(grad, ctx.input_size, *ctx.rest)
    return grad_grad, None, None, None, None


def _save_softmax(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    logits, _, *ctx.rest = inputs
    ctx.input_size = logits.shape[2:]
    ctx.save_for_backward(output)


def _softmax_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    (probs,) = ctx.saved_tensors
    grad_logits = torch.ops.fastseg.upsample_softmax_backward(
        grad, probs, ctx.input_size, *ctx.rest
    )
    return grad_logits, None, None, None, None


def _save_softmax_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    grad, probs, _, *ctx.rest = inputs
    ctx.save_for_backward(grad, probs)


def _softmax_backward_grad(ctx, grad_output: Tensor):  # type: ignore[no-untyped-def]
    # y = U^T (p g - p sum(p g)) with the sum over the classes; u = U grad_output.
    grad, probs = ctx.saved_tensors
    u = torch.ops.fastseg.bilinear_upsample(grad_output, probs.shape[2:], *ctx.rest)
    mean_grad = (probs * grad).sum(1, keepdim=True)
    mean_u = (probs * u).sum(1, keepdim=True)
    grad_grad = probs * (u - mean_u)
    grad_probs = u * (grad - mean_grad) - grad * mean_u
    return grad_grad, grad_probs, None, None, None, None


def _save_cross_entropy(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.ignore_index, ctx.reduction, ctx.align_corners, ctx.sh, ctx.sw = inputs
    ctx.save_for_backward(*tensors)


def _cross_entropy_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    rest = ctx.ignore_index, ctx.reduction, ctx.align_corners, ctx.sh, ctx.sw
    grad_logits = torch.ops.fastseg.upsample_cross_entropy_backward(grad, *ctx.saved_tensors, *rest)
    return grad_logits, *[None] * 8


# The gradient that was made together with the loss, times the one that reached the loss: in
# float32 until here, where a loss scale may keep it in the range of half precision. The logits are
# an input so that a second derivative meets the refusal below.
torch.library.define(
    "fastseg::upsample_cross_entropy_scaled_gradient",
    "(Tensor grad, Tensor gradient, Tensor logits) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("fastseg::upsample_cross_entropy_scaled_gradient", ("cpu", "cuda"))
@torch.library.register_fake("fastseg::upsample_cross_entropy_scaled_gradient")
def _(grad: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    return (gradient * grad).to(logits.dtype)


def _save_both(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(gradient, inputs[0])


def _both_grad(ctx, grad: Tensor, _):  # type: ignore[no-untyped-def]
    grad_logits = torch.ops.fastseg.upsample_cross_entropy_scaled_gradient(grad, *ctx.saved_tensors)
    return grad_logits, *[None] * 8


def _refuse_second_derivative(ctx, grad):  # type: ignore[no-untyped-def]
    raise RuntimeError(
        "upsample_cross_entropy: the loss must not be differentiated twice, which needs the "
        "probabilities of all pixels; F.cross_entropy of bilinear_upsample can be"
    )


torch.library.register_autograd(
    "fastseg::bilinear_upsample", _upsample_grad, setup_context=_save_upsample
)
torch.library.register_autograd(
    "fastseg::bilinear_upsample_backward", _upsample_backward_grad, setup_context=_save_upsample
)
torch.library.register_autograd(
    "fastseg::upsample_softmax", _softmax_grad, setup_context=_save_softmax
)
torch.library.register_autograd(
    "fastseg::upsample_softmax_backward",
    _softmax_backward_grad,
    setup_context=_save_softmax_backward,
)
torch.library.register_autograd(
    "fastseg::upsample_cross_entropy", _cross_entropy_grad, setup_context=_save_cross_entropy
)
torch.library.register_autograd(
    "fastseg::upsample_cross_entropy_and_gradient", _both_grad, setup_context=_save_both
)
torch.library.register_autograd(
    "fastseg::upsample_cross_entropy_backward", _refuse_second_derivative
)
torch.library.register_autograd(
    "fastseg::upsample_cross_entropy_scaled_gradient", _refuse_second_derivative
)
