"""Gaussian filtering over the permutohedral lattice: kernels in csrc/permutohedral/."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

import fastseg._C  # noqa: F401  loads the kernels into torch.ops.fastseg
from fastseg._arguments import (
    check_flag,
    check_floating,
    check_like,
    check_normalization,
    check_points,
    check_tensor,
)
from fastseg.ops.errors import user_errors

SMALLEST_NORM = 1e-20


class Lattice(NamedTuple):
    """The lattice of a batch: B images of N points, D feature dimensions, M vertices in all.

    Built by :func:`permutohedral_lattice`; every entry but ``barycentric`` holds integers that
    the operators check against one another and otherwise trust.
    """

    vertices: Tensor
    """``(B, N, D + 1)`` int32 in [0, M): the simplex around a point, by remainder."""
    barycentric: Tensor
    """``(B, N, D + 1)``, dtype of the features: weights of those vertices, sum one, in [0, 1]."""
    rank: Tensor
    """``(B, N, D + 1)`` int8 in 0..D: place of a coordinate among the point's differences to its
    remainder-0 vertex, the largest first."""
    neighbours: Tensor
    """``(D + 1, M, 2)`` int32 in [0, M) or -1: one step back and one forward along each axis."""
    segments: Tensor
    """``(M + 1,)`` int64: where the contributions to a vertex begin in ``contributors``."""
    contributors: Tensor
    """``(B * N * (D + 1),)`` int64: flat indices into ``vertices``, ascending in each segment."""


@user_errors
def permutohedral_lattice(features: Tensor) -> Lattice:
    """Place points in the permutohedral lattice, to filter any number of values over them.

    The lattice of Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral
    Lattice" (2010), sec. 3.1: features are lifted into the hyperplane of R^(D+1) whose
    coordinates sum to zero and scaled by sqrt(2/3) (D + 1) (p. 6), so that the blur has the
    standard deviation of one feature unit. Only vertices that some point touches exist. Images of
    a batch share one numbering and no vertex.

    ``barycentric`` is differentiable with respect to ``features``, any number of times: within
    a simplex it is linear. On the faces between simplices it is continuous and has no derivative.
    The one returned is that of the simplex in which the point was placed (equal differences are
    ranked by coordinate): one-sided. Grey and flat regions lie on faces, and so do pixel
    coordinates that are whole multiples of sigma.

    Two runs give identical bits, for every number of threads.

    Args:
        features: ``(B, D, *spatial)`` with D from 1 to 16 and at least one point, float32 or
            float64 (half precision is refused: coordinates need the bits), finite, positions and
            colours divided by their standard deviations: no unit. Their lattice coordinates,
            about (D + 1) * features, must fit in int32. B may be 0.

    Returns:
        A :class:`Lattice`. N is the product of ``spatial``, last axis fastest. M depends on the
        values.

    Raises:
        ValueError: a wrong rank, D outside 1..16, no point, NaN or infinity, or features too
            large.
        TypeError: not a tensor, or another dtype.
        RuntimeError: the stream is being captured into a CUDA graph: M, a shape, must be read back.
            What filters over the lattice can be captured.
    """
    check_tensor("permutohedral_lattice", "features", features)
    return Lattice(*torch.ops.fastseg.permutohedral_lattice(features))


@user_errors
def permutohedral_filter(
    values: Tensor,
    features: Tensor | None,
    *,
    lattice: Lattice | None = None,
    normalization: str = "none",
    self_message: bool = True,
) -> Tensor:
    """Filter ``values`` with a Gaussian in the space of ``features``, in time linear in N.

    Approximates y_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j by splat, blur and slice (Adams, Baek and
    Davis 2010, sec. 3.2 to 3.4; blur axis 0 first) times alpha = 1 / (1 + 2^-D), which gives a
    point alone on a vertex its own value back. With n = the filter of ones, per image:

    - ``"none"``: y
    - ``"mean"``: y / mean(n)
    - ``"before"``: the filter of v / n
    - ``"after"``: y / n; a constant stays constant
    - ``"symmetric"``: the filter of v / sqrt(n), divided by sqrt(n)

    The sum holds j = i unless ``self_message`` is false; n always holds it. What is taken away is
    a point's share in the lattice whose vertices all exist.

    Against the exact Gaussian ``"none"`` is too small: by 12 % for D = 2 and by up to half for
    D = 5, where mass is blurred into vertices that do not exist. The other four divide by what
    the lattice itself gives and need no correction.

    Differentiable with respect to ``values`` and ``features``, normalisation included, any number
    of times; see :func:`permutohedral_lattice` for the derivative on ties. Nothing is special at
    the border of an image. NaN and infinity in ``values`` spread to the points that they reach.
    Two runs give identical bits, for every number of threads, and so do an image alone and the
    same image in a batch.

    Args:
        values: ``(B, C, *spatial)``, float32 or float64; B and C may be 0.
        features: ``(B, D, *spatial)``, dtype of ``values``; see :func:`permutohedral_lattice`.
            None where ``lattice`` is given.
        lattice: what :func:`permutohedral_lattice` returned for the features, to filter over them
            again without building it again. ``features`` is not read then.
        normalization: one of the five above.
        self_message: whether a point's own value is among those it receives.

    Returns:
        ``(B, C, *spatial)``, contiguous, dtype of ``values``.

    Raises:
        ValueError: shapes that do not fit together, another normalisation, neither ``features``
            nor ``lattice``, and what :func:`permutohedral_lattice` refuses.
        TypeError: not tensors, or other dtypes.
    """
    op = "permutohedral_filter"
    check_tensor(op, "values", values)
    check_floating(op, "values", values)
    if values.dim() < 3:
        raise ValueError(
            f"{op}: values must have shape (B, C, *spatial), got {tuple(values.shape)}"
        )
    check_normalization(op, normalization)
    check_flag(op, "self_message", self_message)
    if lattice is None:
        if features is None:
            raise ValueError(f"{op}: features must be given where lattice is not, got None")
        check_tensor(op, "features", features)
        check_like(op, "features", features, "values", values)
        check_points(op, "features", features, "values", values)
        lattice = permutohedral_lattice(features)
    check_like(op, "lattice.barycentric", lattice.barycentric, "values", values)
    points = math.prod(values.shape[2:])
    if lattice.vertices.shape[:2] != (values.shape[0], points):
        raise ValueError(
            f"{op}: lattice.vertices must have shape ({values.shape[0]}, {points}, D + 1) beside "
            f"values {tuple(values.shape)}, got {tuple(lattice.vertices.shape)}"
        )
    gaussian = GaussianFilter.over(lattice, normalization, self_message)
    return channels_first(gaussian(channels_last(values)), values)


def channels_last(values: Tensor) -> Tensor:
    """``(B, C, *spatial)`` to ``(B, N, C)``, the layout that the operators work in."""
    return values.flatten(2).transpose(1, 2).contiguous()


def channels_first(values: Tensor, like: Tensor) -> Tensor:
    """``(B, N, C)`` to the shape of ``like``, ``(B, C, *spatial)``."""
    return values.transpose(1, 2).reshape(like.shape).contiguous()


def sum_points(values: Tensor) -> Tensor:
    """``(B, N, C)`` to ``(B, 1, C)``, each sum in one order: on the CPU that of the points.

    ``Tensor.sum`` adds in an order that depends on the number of threads and on the batch.
    """
    result: Tensor = torch.ops.fastseg.permutohedral_sum(values)
    return result


def repeat_for_points(value: Tensor, points: int) -> Tensor:
    """``(B, 1, C)`` to ``(B, points, C)``, with a gradient that is summed as in ``sum_points``."""
    result: Tensor = torch.ops.fastseg.permutohedral_repeat(value, points)
    return result


def blur_scale(dims: int) -> float:
    """alpha = 1 / (1 + 2^-D)."""
    return 1 / (1 + 2.0**-dims)


def coupling(dims: int, apart: int) -> float:
    """How much of a simplex's vertex the blur brings to the vertex that is ``apart`` remainders on.

    Ways of ``apart`` steps forward and of D + 1 - ``apart`` steps back lead there, half of the
    value for each step; from a vertex to itself no step, D + 1 forward and D + 1 back.
    """
    if apart == 0:
        return 1.0 + 2.0**-dims
    return 2.0**-apart + 2.0 ** -(dims + 1 - apart)


def self_share(barycentric: Tensor) -> Tensor:
    """``(B, N, 1)``: what splat, blur and slice return of a point's own value, before alpha."""
    size = barycentric.shape[2]
    pairs = coupling(size - 1, 0) * (barycentric * barycentric).sum(2, keepdim=True)
    for apart in range(1, size):
        product = barycentric[..., apart:] * barycentric[..., : size - apart]
        pairs = pairs + 2 * coupling(size - 1, apart) * product.sum(2, keepdim=True)
    return pairs


def splat(values: Tensor, lattice: Lattice) -> Tensor:
    """``(B, N, C)`` to ``(M, C)``."""
    result: Tensor = torch.ops.fastseg.permutohedral_splat(
        values, lattice.vertices, lattice.barycentric, lattice.segments, lattice.contributors
    )
    return result


def blur(values: Tensor, lattice: Lattice, reverse: bool = False) -> Tensor:
    """``(M, C)`` to ``(M, C)``; ``reverse`` is the transpose."""
    result: Tensor = torch.ops.fastseg.permutohedral_blur(values, lattice.neighbours, reverse)
    return result


def slice(values: Tensor, lattice: Lattice) -> Tensor:
    """``(M, C)`` to ``(B, N, C)``."""
    result: Tensor = torch.ops.fastseg.permutohedral_slice(
        values, lattice.vertices, lattice.barycentric, lattice.segments, lattice.contributors
    )
    return result


def vertex_products(values: Tensor, points: Tensor, lattice: Lattice) -> Tensor:
    """``(M, C)`` and ``(B, N, C)`` to ``(B, N, D + 1)``: inner products along each simplex."""
    result: Tensor = torch.ops.fastseg.permutohedral_vertex_products(
        values, points, lattice.vertices, lattice.segments, lattice.contributors
    )
    return result


class GaussianFilter(NamedTuple):
    """A normalised filter over a lattice, for values ``(B, N, C)``.

    F v = after * (S B S^T - share) (before * v) with the splat S^T, the blur B and the slice S.
    """

    lattice: Lattice
    before: Tensor | None  # (B, N, 1); None is one
    after: Tensor | float  # (B, N, 1) or a number; holds alpha
    share: Tensor | None  # (B, N, 1); None where a point hears itself

    @staticmethod
    def over(lattice: Lattice, normalization: str, self_message: bool) -> "GaussianFilter":
        alpha = blur_scale(lattice.barycentric.shape[2] - 1)
        share = None if self_message else self_share(lattice.barycentric)
        if normalization == "none":
            return GaussianFilter(lattice, None, alpha, share)
        ones = torch.ones_like(lattice.barycentric[..., :1])
        norm = alpha * slice(blur(splat(ones, lattice), lattice), lattice)
        if normalization == "mean":
            mean = sum_points(norm) / norm.shape[1]
            after = repeat_for_points(alpha / mean, norm.shape[1])
            return GaussianFilter(lattice, None, after, share)
        # Only operations that round correctly: others may differ between the vector and the
        # scalar end of a thread's share, and so with the number of threads.
        if normalization == "symmetric":
            root = (norm + SMALLEST_NORM).sqrt().reciprocal()
            return GaussianFilter(lattice, root, alpha * root, share)
        inverse = (norm + SMALLEST_NORM).reciprocal()
        if normalization == "before":
            return GaussianFilter(lattice, inverse, alpha, share)
        return GaussianFilter(lattice, None, alpha * inverse, share)

    def given(self, values: Tensor) -> Tensor:
        return values if self.before is None else self.before * values

    def __call__(self, values: Tensor) -> Tensor:
        given = self.given(values)
        filtered = slice(blur(splat(given, self.lattice), self.lattice), self.lattice)
        if self.share is not None:
            filtered = filtered - self.share * given
        return self.after * filtered


# The adjoint of the sum.
torch.library.define(
    "fastseg::permutohedral_repeat",
    "(Tensor value, SymInt points) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("fastseg::permutohedral_repeat", ("cpu", "cuda"))
def _(value: Tensor, points: int) -> Tensor:
    return value.repeat(1, points, 1)


@torch.library.register_fake("fastseg::permutohedral_lattice")
def _(features: Tensor) -> tuple[Tensor, ...]:
    batch, dims, *spatial = features.shape
    shape = (batch, math.prod(spatial), dims + 1)
    count = torch.library.get_ctx().new_dynamic_size()  # M
    return (
        features.new_empty(shape, dtype=torch.int32),
        features.new_empty(shape),
        features.new_empty(shape, dtype=torch.int8),
        features.new_empty((dims + 1, count, 2), dtype=torch.int32),
        features.new_empty((count + 1,), dtype=torch.int64),
        features.new_empty((math.prod(shape),), dtype=torch.int64),
    )


@torch.library.register_fake("fastseg::permutohedral_splat")
def _(
    values: Tensor, vertices: Tensor, barycentric: Tensor, segments: Tensor, contributors: Tensor
) -> Tensor:
    return values.new_empty(segments.shape[0] - 1, values.shape[2])


@torch.library.register_fake("fastseg::permutohedral_blur")
def _(lattice: Tensor, neighbours: Tensor, reverse: bool) -> Tensor:
    return lattice.new_empty(lattice.shape)


@torch.library.register_fake("fastseg::permutohedral_slice")
def _(
    lattice: Tensor,
    vertices: Tensor,
    barycentric: Tensor,
    segments: Tensor | None = None,
    contributors: Tensor | None = None,
) -> Tensor:
    return lattice.new_empty(vertices.shape[0], vertices.shape[1], lattice.shape[1])


@torch.library.register_fake("fastseg::permutohedral_vertex_products")
def _(
    lattice: Tensor,
    values: Tensor,
    vertices: Tensor,
    segments: Tensor | None = None,
    contributors: Tensor | None = None,
) -> Tensor:
    return lattice.new_empty(vertices.shape)


@torch.library.register_fake("fastseg::permutohedral_sum")
def _(values: Tensor, reverse: bool = False) -> Tensor:
    return values.new_empty(values.shape[0], 1, values.shape[2])


@torch.library.register_fake("fastseg::permutohedral_repeat")
def _(value: Tensor, points: int) -> Tensor:
    return value.new_empty(value.shape[0], points, value.shape[2])


def features_grad(grad_barycentric: Tensor, rank: Tensor) -> Tensor:
    """``(B, N, D + 1)`` to ``(B, N, D)``: the derivative of the weights within the simplex.

    With delta = the elevated point minus its remainder-0 vertex, delta_i / (D + 1) is added to
    the weight of remainder D - rank_i and taken from that of D + 1 - rank_i, where D + 1 is 0
    again (Adams, Baek and Davis 2010, p. 10); the rest undoes the elevation (p. 5).
    """
    size = rank.shape[2]  # D + 1
    place = rank.long()
    gained = grad_barycentric.gather(2, size - 1 - place)
    lost = grad_barycentric.gather(2, (size - place) % size)
    grad_elevated = (gained - lost) / size

    index = torch.arange(1, size, device=rank.device, dtype=grad_barycentric.dtype)
    scale = math.sqrt(2 / 3) * size / (index * (index + 1)).sqrt()
    below = grad_elevated.cumsum(2)[..., :-1]
    return scale * (below - index * grad_elevated[..., 1:])


def _save_lattice(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    (features,) = inputs
    ctx.save_for_backward(output[2])
    ctx.shape = features.shape


def _lattice_grad(ctx, _vertices, grad_barycentric: Tensor, *_):  # type: ignore[no-untyped-def]
    (rank,) = ctx.saved_tensors
    return features_grad(grad_barycentric, rank).transpose(1, 2).reshape(ctx.shape)


# Below, the second operand of a product is kept only where the first one needs a gradient. The
# operators that slice need `segments` and `contributors` for their gradient only, a splat.


def _check_contributors(op: str, contributors: Tensor | None) -> None:
    if contributors is None:
        raise ValueError(
            f"{op}: segments and contributors must be given where lattice needs a gradient, "
            "got None"
        )


def _save_splat(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    values, *lattice = inputs
    ctx.save_for_backward(values if ctx.needs_input_grad[2] else None, *lattice)


def _splat_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    values, vertices, barycentric, segments, contributors = ctx.saved_tensors
    ops = torch.ops.fastseg
    grad_values = grad_barycentric = None
    if ctx.needs_input_grad[0]:
        grad_values = ops.permutohedral_slice(grad, vertices, barycentric, segments, contributors)
    if ctx.needs_input_grad[2]:
        grad_barycentric = ops.permutohedral_vertex_products(
            grad, values, vertices, segments, contributors
        )
    return grad_values, None, grad_barycentric, None, None


def _save_blur(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, neighbours, ctx.reverse = inputs
    ctx.save_for_backward(neighbours)


def _blur_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    (neighbours,) = ctx.saved_tensors
    return torch.ops.fastseg.permutohedral_blur(grad, neighbours, not ctx.reverse), None, None


def _save_slice(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    lattice, *simplices = inputs
    ctx.save_for_backward(lattice if ctx.needs_input_grad[2] else None, *simplices)


def _slice_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    lattice, vertices, barycentric, segments, contributors = ctx.saved_tensors
    ops = torch.ops.fastseg
    grad_lattice = grad_barycentric = None
    if ctx.needs_input_grad[0]:
        _check_contributors("permutohedral_slice", contributors)
        grad_lattice = ops.permutohedral_splat(grad, vertices, barycentric, segments, contributors)
    if ctx.needs_input_grad[2]:
        grad_barycentric = ops.permutohedral_vertex_products(
            lattice, grad, vertices, segments, contributors
        )
    return grad_lattice, None, grad_barycentric, None, None


def _save_products(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    lattice, values, *simplices = inputs
    ctx.save_for_backward(
        lattice if ctx.needs_input_grad[1] else None,
        values if ctx.needs_input_grad[0] else None,
        *simplices,
    )


def _products_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    lattice, values, vertices, segments, contributors = ctx.saved_tensors
    ops = torch.ops.fastseg
    grad_lattice = grad_values = None
    if ctx.needs_input_grad[0]:
        _check_contributors("permutohedral_vertex_products", contributors)
        grad_lattice = ops.permutohedral_splat(values, vertices, grad, segments, contributors)
    if ctx.needs_input_grad[1]:
        grad_values = ops.permutohedral_slice(lattice, vertices, grad, segments, contributors)
    return grad_lattice, grad_values, None, None, None


def _save_sum(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.points = inputs[0].shape[1]


def _sum_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    return torch.ops.fastseg.permutohedral_repeat(grad, ctx.points), None


def _repeat_grad(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    return torch.ops.fastseg.permutohedral_sum(grad, True), None


torch.library.register_autograd(
    "fastseg::permutohedral_lattice", _lattice_grad, setup_context=_save_lattice
)
torch.library.register_autograd(
    "fastseg::permutohedral_splat", _splat_grad, setup_context=_save_splat
)
torch.library.register_autograd("fastseg::permutohedral_blur", _blur_grad, setup_context=_save_blur)
torch.library.register_autograd(
    "fastseg::permutohedral_slice", _slice_grad, setup_context=_save_slice
)
torch.library.register_autograd(
    "fastseg::permutohedral_vertex_products", _products_grad, setup_context=_save_products
)
torch.library.register_autograd("fastseg::permutohedral_sum", _sum_grad, setup_context=_save_sum)
torch.library.register_autograd("fastseg::permutohedral_repeat", _repeat_grad)
