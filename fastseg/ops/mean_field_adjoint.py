"""The adjoint of mean-field inference, written out: what ``fastseg::mean_field_backward`` does.

The iterations are run forward once more and then gone through backwards. Values are
``(B, N, C)``; nothing here is recorded by autograd.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastseg.ops.permutohedral import (
    GaussianFilter,
    Lattice,
    blur,
    blur_scale,
    channels_first,
    channels_last,
    coupling,
    features_grad,
    permutohedral_lattice,
    slice,
    splat,
    sum_points,
    vertex_products,
)


def apply_transform(transform: Tensor, values: Tensor) -> Tensor:
    """A v over the labels of ``values`` ``(B, N, L)``."""
    return values @ transform.T if transform.dim() == 2 else values * transform


def softmax_grad(q: Tensor, grad: Tensor) -> Tensor:
    """Gradient to the logits, ``(B, N, L)``."""
    return q * (grad - (q * grad).sum(2, keepdim=True))


class Passage(NamedTuple):
    """Values on their way through the lattice: S B S^T points, or its transpose."""

    points: Tensor  # (B, N, C)
    blurred: Tensor  # (M, C)
    sliced: Tensor  # (B, N, C)


def passage(points: Tensor, lattice: Lattice, reverse: bool = False) -> Passage:
    blurred = blur(splat(points, lattice), lattice, reverse)
    return Passage(points, blurred, slice(blurred, lattice))


class FeaturesGrad(Protocol):
    """Gradient to the features, summed over bilinear forms <grad, S B S^T v>."""

    def add(self, values: Passage, grad: Passage) -> None:
        """Adds one form: the passage of v, and that of grad through the transpose."""

    def add_share(self, grad: Tensor) -> None:
        """Adds the gradient to a point's own share, ``(B, N, 1)``."""

    def total(self) -> Tensor:
        """``(B, N, D)``."""


class SimplexGrad:
    """The derivative of the lattice: of the barycentric weights within each simplex.

    Weights take part in the slice, with <blurred v, grad> at each vertex of the simplex, and in
    the splat, where v and grad change roles.
    """

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.grad_barycentric = torch.zeros_like(lattice.barycentric)

    def add(self, values: Passage, grad: Passage) -> None:
        self.grad_barycentric += vertex_products(values.blurred, grad.points, self.lattice)
        self.grad_barycentric += vertex_products(grad.blurred, values.points, self.lattice)

    def add_share(self, grad: Tensor) -> None:
        self.grad_barycentric += grad * self_share_grad(self.lattice.barycentric)

    def total(self) -> Tensor:
        return features_grad(self.grad_barycentric, self.lattice.rank)


class GaussianGrad:
    """The derivative of the Gaussian that the lattice approximates: dk/df_i = (f_j - f_i) k_ij.

    For each feature, <grad, K(f v) - f K v> and its mirror, with the lattice's filter for K. A
    point's own share is constant.
    """

    def __init__(self, lattice: Lattice, features: Tensor) -> None:
        self.lattice = lattice
        points = channels_last(features)
        # Only differences count; small numbers keep more of their bits.
        self.features = points - sum_points(points) / points.shape[1]
        self.grad = torch.zeros_like(points)

    def add(self, values: Passage, grad: Passage) -> None:
        for d in range(self.features.shape[2]):
            feature = self.features[..., d : d + 1]
            moved = passage(feature * values.points, self.lattice).sliced
            moved -= feature * values.sliced
            mirrored = passage(feature * grad.points, self.lattice, reverse=True).sliced
            mirrored -= feature * grad.sliced
            self.grad[..., d] += (moved * grad.points + mirrored * values.points).sum(2)

    def add_share(self, grad: Tensor) -> None:
        pass

    def total(self) -> Tensor:
        return self.grad


class FilterAdjoint:
    """The message A F q of one kernel and its adjoint, with the gradients that pile up there.

    F q = after * (S B S^T - share) (before * q); see :class:`GaussianFilter`.
    """

    def __init__(
        self,
        gaussian: GaussianFilter,
        normalization: str,
        transform: Tensor,
        features_grad: FeaturesGrad | None,
        transform_needs_grad: bool,
    ) -> None:
        self.gaussian = gaussian
        self.normalization = normalization
        self.transform = transform
        self.transform_grad = torch.zeros_like(transform) if transform_needs_grad else None
        self.features_grad = features_grad
        self.grad_before = torch.zeros_like(gaussian.lattice.barycentric[..., :1])
        self.grad_after = torch.zeros_like(self.grad_before)
        # Blurred vertices of each iteration, kept where they are fewer than the points.
        batch, points, _ = self.grad_before.shape
        few = gaussian.lattice.neighbours.shape[1] <= batch * points
        self.keep = few and (transform_needs_grad or features_grad is not None)
        self.kept: list[Tensor] = []

    def message(self, q: Tensor) -> Tensor:
        values = passage(self.gaussian.given(q), self.gaussian.lattice)
        if self.keep:
            self.kept.append(values.blurred)
        return apply_transform(self.transform, self.gaussian.after * self._unshared(values))

    def _unshared(self, values: Passage) -> Tensor:
        share = self.gaussian.share
        return values.sliced if share is None else values.sliced - share * values.points

    def backward(self, grad: Tensor, q: Tensor, step: int) -> Tensor:
        """Gradient to ``q`` of iteration ``step`` from that of its message."""
        gaussian, lattice = self.gaussian, self.gaussian.lattice
        transpose = self.transform.mT if self.transform.dim() == 2 else self.transform
        grad_message = apply_transform(transpose, grad)
        grads = passage(gaussian.after * grad_message, lattice, reverse=True)
        grad_given = self._unshared(grads)
        if self.features_grad is not None or self.transform_grad is not None:
            values = self._passage_of(gaussian.given(q), step)
            filtered = self._unshared(values)
            if self.transform_grad is not None:
                self._add_transform_grad(grad, gaussian.after * filtered)
            if self.features_grad is not None:
                self.features_grad.add(values, grads)
                if gaussian.share is not None:
                    product = values.points * grads.points
                    self.features_grad.add_share(-product.sum(2, keepdim=True))
                self.grad_before += (q * grad_given).sum(2, keepdim=True)
                self.grad_after += (grad_message * filtered).sum(2, keepdim=True)
        return gaussian.given(grad_given)

    def _passage_of(self, given: Tensor, step: int) -> Passage:
        """The passage of iteration ``step`` again; steps come in falling order."""
        if step == len(self.kept) - 1:
            blurred = self.kept.pop()
            return Passage(given, blurred, slice(blurred, self.gaussian.lattice))
        return passage(given, self.gaussian.lattice)

    def _add_transform_grad(self, grad: Tensor, message: Tensor) -> None:
        assert self.transform_grad is not None
        if self.transform.dim() == 2:
            self.transform_grad += grad.flatten(0, 1).T @ message.flatten(0, 1)
            return
        product = grad * message
        if self.transform.dim() == 0:
            product = product.sum(2, keepdim=True)
        self.transform_grad += sum_points(product).sum(0).reshape(self.transform.shape)

    def total_features_grad(self) -> Tensor:
        """``(B, N, D)``, once all iterations have been gone through."""
        assert self.features_grad is not None
        grad_norm = self._norm_grad()
        if grad_norm is not None:
            lattice = self.gaussian.lattice
            ones = passage(torch.ones_like(grad_norm), lattice)
            self.features_grad.add(ones, passage(grad_norm, lattice, reverse=True))
        return self.features_grad.total()

    def _norm_grad(self) -> Tensor | None:
        """Gradient to S B S^T 1, ``(B, N, 1)``; the norm n is alpha times that."""
        before, after = self.gaussian.before, self.gaussian.after
        alpha = blur_scale(self.gaussian.lattice.rank.shape[2] - 1)
        if isinstance(after, Tensor):
            if before is not None:  # symmetric: before = n^(-1/2), after = alpha before
                grad_root = self.grad_before + alpha * self.grad_after
                return -alpha / 2 * before * before * before * grad_root
            if self.normalization == "mean":  # after = alpha / mean(n), the same for an image
                return -after * after * (sum_points(self.grad_after) / self.grad_after.shape[1])
            return -after * after * self.grad_after  # after = alpha / n
        if before is not None:  # before = 1 / n
            return -alpha * before * before * self.grad_before
        return None


def self_share_grad(barycentric: Tensor) -> Tensor:
    """Derivative of :func:`fastseg.ops.permutohedral.self_share`, ``(B, N, D + 1)``."""
    size = barycentric.shape[2]
    grad = 2 * coupling(size - 1, 0) * barycentric
    for apart in range(1, size):
        pair = 2 * coupling(size - 1, apart)
        grad[..., apart:] += pair * barycentric[..., : size - apart]
        grad[..., : size - apart] += pair * barycentric[..., apart:]
    return grad


class Settings(NamedTuple):
    """What inference was run with."""

    iterations: int
    normalizations: Sequence[str]
    self_message: bool
    gaussian_gradient: bool


def mean_field_adjoint(
    grad: Tensor,
    probs: Tensor,
    unary: Tensor,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
    settings: Settings,
    features_need_grad: Sequence[bool],
    transforms_need_grad: Sequence[bool],
) -> list[Tensor]:
    """Gradients to unary, features and transforms; empty tensors for those not needed."""

    def adjoint(k: int) -> FilterAdjoint:
        lattice = permutohedral_lattice(features[k])
        kind = settings.normalizations[k]
        collected: FeaturesGrad | None = None
        if features_need_grad[k]:
            smooth = settings.gaussian_gradient
            collected = GaussianGrad(lattice, features[k]) if smooth else SimplexGrad(lattice)
        gaussian = GaussianFilter.over(lattice, kind, settings.self_message)
        return FilterAdjoint(gaussian, kind, transforms[k], collected, transforms_need_grad[k])

    adjoints = [adjoint(k) for k in range(len(features))]
    scores = -channels_last(unary)
    fields = [torch.softmax(scores, 2)]  # Q before each iteration, and at last the result
    for _ in range(settings.iterations - 1):
        logits = scores
        for kernel in adjoints:
            logits = logits + kernel.message(fields[-1])
        fields.append(torch.softmax(logits, 2))
    if settings.iterations:
        fields.append(channels_last(probs))

    grad_scores = torch.zeros_like(scores)
    grad_q = channels_last(grad)
    for step in reversed(range(settings.iterations)):
        grad_logits = softmax_grad(fields.pop(), grad_q)
        grad_scores += grad_logits
        grad_q = torch.zeros_like(grad_q)
        for kernel in adjoints:
            grad_q += kernel.backward(grad_logits, fields[step], step)
    grad_scores += softmax_grad(fields.pop(), grad_q)

    return [
        channels_first(-grad_scores, unary),
        *(
            unary.new_empty(0)
            if kernel.features_grad is None
            else channels_first(kernel.total_features_grad(), points)
            for kernel, points in zip(adjoints, features, strict=True)
        ),
        *(
            unary.new_empty(0) if kernel.transform_grad is None else kernel.transform_grad
            for kernel in adjoints
        ),
    ]
