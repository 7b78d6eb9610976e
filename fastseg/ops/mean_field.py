"""Mean-field inference in a fully connected CRF: kernels in csrc/mean_field/."""

from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg._arguments import (
    HALVES,
    check_energies,
    check_flag,
    check_iterations,
    check_mean_field,
    check_tensor,
    normalization_of_each,
    tensors_of_each,
)
from fastseg.ops.errors import user_errors
from fastseg.ops.mean_field_adjoint import Settings, apply_transform, mean_field_adjoint
from fastseg.ops.permutohedral import (
    GaussianFilter,
    channels_first,
    channels_last,
    permutohedral_lattice,
)

FEATURES_GRADIENTS = ("simplex", "gaussian")


@user_errors
def mean_field(
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    *,
    iterations: int = 10,
    normalization: str | Sequence[str] = "symmetric",
    self_message: bool = True,
    features_gradient: str = "simplex",
    composed: bool = False,
) -> Tensor:
    """Mean-field inference in a fully connected CRF with Gaussian kernels over the lattice.

    Algorithm 1 of Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with
    Gaussian Edge Potentials" (2011):

        Q = softmax(-U);  repeat:  Q = softmax(-U + sum_k A_k F_k Q)

    F_k is the filter of :func:`permutohedral_filter` over ``features[k]`` and A_k a linear map of
    the labels. :func:`fastseg.reference.mean_field_exact` is the same with exact filters.

    Float32 runs the whole inference in one call of a fused kernel, without the GIL. Float64, and
    float32 with ``composed=True``, run the same iterations as separate operators.

    Half precision is a way to store numbers: every sum is one of float32. On CUDA the unary, Q
    between the iterations and the lattices' values are kept in the dtype of ``unary``, which halves
    what an iteration reads and writes. A value in the lattice is kept relative to its vertex's
    share of the points, so that none is too large for float16. Q is that of float32 but for about
    1e-3 (float16) or 1e-2 (bfloat16). On the CPU, and with ``composed=True``, all is float32 but
    the result. Gradients are computed in float32.

    Differentiable with respect to ``unary``, ``features`` and ``transforms``. The backward runs the
    iterations again and keeps O(iterations * B * L * N) numbers. The gradient to ``features``
    comes in two kinds, which differ in nothing else:

    - ``"simplex"``: the exact derivative of this function within the simplices of the points,
      one-sided on grey and flat regions (see :func:`permutohedral_lattice`). The lattice is
      piecewise linear, and its slope is a poor guide to the Gaussian's: as the gradient of a
      width it is noise around the right value.
    - ``"gaussian"``: the derivative of the Gaussian, dk/df_i = (f_j - f_i) k, of which the sums
      are filtered by the lattice. The one to train widths with; D more filters for each.

    Measured against the gradient of :func:`fastseg.reference.mean_field_exact`, |difference| /
    |exact| over 60 cases together (ten crops of 32x48 from CamVid, 5 labels, 5 iterations,
    cross-entropy; sigma 80/13, 67/3 and 30/20; symmetric and after), ``"simplex"`` and
    ``"gaussian"``: sigma_xy of the position kernel 42 % and 23 %, sigma_xy of the bilateral kernel
    110 % and 20 %, its sigma_rgb 97 % and 43 %, with the right sign in 72 % and 92 % of the cases;
    the weights of the two kernels 21 % and 12 % with both.

    One call of the fused form is differentiable once, the composed form any number of times.

    On CUDA the fused form reads back once, how many vertices the lattices have and whether
    arguments are finite, and nothing while the stream is captured into a CUDA graph, where what is
    not finite makes Q NaN. The composed form and the backward cannot be captured: they build
    lattices with :func:`permutohedral_lattice`.

    Nothing is special at the border of an image. Two runs give identical bits, for every number
    of threads, and so do an image alone and the same image in a batch; gradients too. Two things
    are left to torch, whose bits depend on the number of threads: products with transforms of
    shape ``(L, L)`` in the backward and in the composed form, and the gradient to transforms
    through the composed form.

    Args:
        unary: -log(probs) or -logits, ``(B, L, *spatial)`` with L from 1 to 1000 and at least one
            pixel in one or more spatial axes, float32, float64, float16 or bfloat16. +inf rules a
            label out, not all of a pixel; NaN and -inf are refused. B may be 0.
        features: for each kernel positions and colours divided by their standard deviations,
            ``(B, D, *spatial)``, dtype of ``unary``, or float32 where that is half; see
            :func:`permutohedral_lattice`. No kernel at all gives softmax(-U).
        transforms: for each kernel A, ``()``, ``(L,)`` (diagonal) or ``(L, L)``, dtype of
            ``features``: minus the compatibility times the kernel's weight. +w is the Potts model
            of weight w, but for a constant that softmax removes.
        iterations: 0 to 100; 0 gives softmax(-U).
        normalization: ``"none"``, ``"mean"``, ``"before"``, ``"after"`` or ``"symmetric"``, one
            for all kernels, or one for each.
        self_message: whether a pixel hears itself.
        features_gradient: ``"simplex"`` or ``"gaussian"``, see above.
        composed: run separate operators also in float32; with ``"simplex"`` only.

    Returns:
        Q, ``(B, L, *spatial)``, contiguous, dtype of ``unary``; sums to one over the labels.

    Raises:
        ValueError: a shape, a size, a value or the number of kernels breaks a rule above.
        TypeError: not tensors, or other dtypes.
    """
    op = "mean_field"
    check_tensor(op, "unary", unary)
    check_energies(op, "unary", unary)
    features = tensors_of_each(op, "features", features, unary)
    transforms = tensors_of_each(op, "transforms", transforms, unary)
    normalizations = normalization_of_each(op, normalization, len(features))
    check_iterations(op, iterations)
    check_flag(op, "self_message", self_message)
    check_features_gradient(op, features_gradient)
    if composed and features_gradient != "simplex":
        raise ValueError(
            f"{op}: features_gradient must be 'simplex' where composed is true, "
            f"got {features_gradient!r}"
        )
    arguments = (unary, features, transforms, iterations, normalizations, self_message)
    composed = composed or unary.dtype == torch.float64
    if composed:
        check_mean_field(op, unary, "features", features, transforms)
    result: Tensor
    if composed and unary.dtype in HALVES:
        return _composed(unary.float(), *arguments[1:]).to(unary.dtype)
    if features_gradient == "gaussian":
        result = torch.ops.fastseg.mean_field_gaussian_gradient(*arguments)
    elif composed:
        result = _composed(*arguments)
    else:
        result = torch.ops.fastseg.mean_field(*arguments)
    return result


def check_features_gradient(op: str, features_gradient: object) -> None:
    if features_gradient not in FEATURES_GRADIENTS:
        raise ValueError(
            f"{op}: features_gradient must be one of {', '.join(FEATURES_GRADIENTS)}, "
            f"got {features_gradient!r}"
        )


def _composed(
    unary: Tensor,
    features: list[Tensor],
    transforms: list[Tensor],
    iterations: int,
    normalizations: list[str],
    self_message: bool,
) -> Tensor:
    """The iterations as separate differentiable operators."""
    filters = [
        GaussianFilter.over(permutohedral_lattice(points), kind, self_message)
        for points, kind in zip(features, normalizations, strict=True)
    ]
    scores = -channels_last(unary)
    q = torch.softmax(scores, 2)
    for _ in range(iterations):
        logits = scores
        for gaussian, transform in zip(filters, transforms, strict=True):
            logits = logits + apply_transform(transform, gaussian(q))
        q = torch.softmax(logits, 2)
    return channels_first(q, unary)


# The same inference, with another gradient to the features.
torch.library.define(
    "fastseg::mean_field_gaussian_gradient",
    "(Tensor unary, Tensor[] features, Tensor[] transforms, int iterations, "
    "str[] normalizations, bool self_message) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

# The gradient of both. It is an operator of its own, so that torch.compile does not unroll the
# iterations. An output that was not asked for is empty.
torch.library.define(
    "fastseg::mean_field_backward",
    "(Tensor grad, Tensor probs, Tensor unary, Tensor[] features, Tensor[] transforms, "
    "int iterations, str[] normalizations, bool self_message, bool gaussian_gradient, "
    "bool[] features_need_grad, bool[] transforms_need_grad) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("fastseg::mean_field_gaussian_gradient", ("cpu", "cuda"))
def _(
    unary: Tensor,
    features: list[Tensor],
    transforms: list[Tensor],
    iterations: int,
    normalizations: list[str],
    self_message: bool,
) -> Tensor:
    if unary.dtype == torch.float64:
        return _composed(unary, features, transforms, iterations, normalizations, self_message)
    result: Tensor = torch.ops.fastseg.mean_field(
        unary, features, transforms, iterations, normalizations, self_message
    )
    return result


@torch.library.impl("fastseg::mean_field_backward", ("cpu", "cuda"))
def _(
    grad: Tensor,
    probs: Tensor,
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    iterations: int,
    normalizations: Sequence[str],
    self_message: bool,
    gaussian_gradient: bool,
    features_need_grad: Sequence[bool],
    transforms_need_grad: Sequence[bool],
) -> list[Tensor]:
    settings = Settings(iterations, normalizations, self_message, gaussian_gradient)
    working = torch.float64 if unary.dtype == torch.float64 else torch.float32
    grad_unary, *others = mean_field_adjoint(
        grad.to(working),
        probs.to(working),
        unary.to(working),
        features,
        transforms,
        settings,
        features_need_grad,
        transforms_need_grad,
    )
    return [grad_unary.to(unary.dtype), *others]


@torch.library.register_fake("fastseg::mean_field")
@torch.library.register_fake("fastseg::mean_field_gaussian_gradient")
def _(
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    iterations: int,
    normalizations: Sequence[str],
    self_message: bool,
) -> Tensor:
    return unary.new_empty(unary.shape)


@torch.library.register_fake("fastseg::mean_field_backward")
def _(
    grad: Tensor,
    probs: Tensor,
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    iterations: int,
    normalizations: Sequence[str],
    self_message: bool,
    gaussian_gradient: bool,
    features_need_grad: Sequence[bool],
    transforms_need_grad: Sequence[bool],
) -> list[Tensor]:
    needed = [True, *features_need_grad, *transforms_need_grad]
    inputs = [unary, *features, *transforms]
    return [
        tensor.new_empty(tensor.shape if need else (0,))
        for tensor, need in zip(inputs, needed, strict=True)
    ]


def _save_mean_field(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    unary, features, transforms, *ctx.settings = inputs
    ctx.kernels = len(features)
    ctx.save_for_backward(output, unary, *features, *transforms)


def _grad_of(gaussian_gradient: bool):  # type: ignore[no-untyped-def]
    def mean_field_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        probs, unary, *kernels = ctx.saved_tensors
        features, transforms = kernels[: ctx.kernels], kernels[ctx.kernels :]
        _, features_need, transforms_need, *_ = ctx.needs_input_grad
        grad_unary, *grads = torch.ops.fastseg.mean_field_backward(
            grad,
            probs,
            unary,
            features,
            transforms,
            *ctx.settings,
            gaussian_gradient,
            features_need,
            transforms_need,
        )
        needed = [*features_need, *transforms_need]
        asked = [found if need else None for found, need in zip(grads, needed, strict=True)]
        # Of a list of strings torch makes one input, of an empty one an empty list of inputs.
        no_grad: list[None] | None = None if ctx.kernels else []
        return grad_unary, asked[: ctx.kernels], asked[ctx.kernels :], None, no_grad, None

    return mean_field_grad


def _refuse_second_derivative(ctx, grads):  # type: ignore[no-untyped-def]
    raise RuntimeError(
        "mean_field_backward: the fused form must not be differentiated twice; "
        "mean_field(..., composed=True) can be"
    )


torch.library.register_autograd(
    "fastseg::mean_field", _grad_of(gaussian_gradient=False), setup_context=_save_mean_field
)
torch.library.register_autograd(
    "fastseg::mean_field_gaussian_gradient",
    _grad_of(gaussian_gradient=True),
    setup_context=_save_mean_field,
)
torch.library.register_autograd("fastseg::mean_field_backward", _refuse_second_derivative)
