"""The fully connected CRF as a module: unary scores and an image in, refined probabilities out."""

import math
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastseg._arguments import (
    HALVES,
    check_flag,
    check_normalization,
    check_tensor,
    dtype_name,
)
from fastseg._limits import MAX_ITERATIONS, MAX_LABELS, PROBABILITY_FLOOR
from fastseg._readback import bounds_of, has_values
from fastseg.crf.kernels import (
    BilateralKernel,
    FeatureKernel,
    GaussianKernel,
    PairwiseKernel,
    Values,
    check_finite,
    warn_of_unit_range,
)
from fastseg.crf.presets import PRESETS
from fastseg.nn.recipe import Recorded
from fastseg.ops import mean_field, permutohedral_filter
from fastseg.ops.mean_field import check_features_gradient
from fastseg.reference.mean_field import mean_field_exact

KINDS = ("logits", "probabilities")
DISTANCES = ("euclidean", "chebyshev")

# How far probabilities may leave [0, 1], and their sum one: rounding in bfloat16 and the overshoot
# of resampling stay below, logits and 0-255 masks do not.
RANGE_SLACK = 1e-3
SUM_SLACK = 1e-2


class DenseCRF(Recorded):
    """Mean-field inference in a fully connected CRF with Gaussian kernels.

    Algorithm 1 of Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with
    Gaussian Edge Potentials" (2011). With the compatibility C (mu in the paper), a kernel's weight
    W_k and its normalised Gaussian filter F_k,

        Q = softmax(-U);  repeat:  Q = softmax(-U - C sum_k W_k F_k Q).

    Without a compatibility C is the Potts model, 1 for two different labels and 0 for equal ones;
    it is computed as +sum_k W_k F_k Q, which differs by what softmax removes. The iterations are
    differentiable: this is the layer of CRF-RNN (Zheng et al., "Conditional Random Fields as
    Recurrent Neural Networks", 2015).

    Gradients to scores, weights and compatibility are the exact slopes of what the lattice
    computes; they are within 1 to 3 % (of their largest entry) of the slopes of the exact
    definition (24x32 image, two labels, 3 iterations). The gradient to features, and so to widths
    and image, has two kinds; see :func:`fastseg.ops.mean_field`:

    - ``features_gradient="gaussian"``: the Gaussian's own derivative, its sums filtered by the
      lattice. What widths train with.
    - ``"simplex"``: the exact slope within the simplices that the pixels lie in. The lattice is
      piecewise linear and its slope scatters about the Gaussian's. Where a pixel crosses a face a
      vertex may come into being, and Q has a small step (1e-5 in a mean loss).

    Three widths trained at once, from 0.5 to 2 times the true ones, towards the Q of the true ones
    (16 runs: two settings, teacher on the lattice and exact; twelve photographs of 48x64, 60 steps
    of Adam): ``"gaussian"`` ends 2 to 3 % from the truth in the mean and 13 % at worst,
    ``"simplex"`` 4 to 13 % and 44 %, at 2.5 times the divergence. It costs time in backward alone,
    and only where features need a gradient: 2.7 times ``"simplex"`` with 5 labels, 3.0 times with
    21 (120x160).

    Published settings hold only under the normalisation that they were found with: ``"after"``
    for DeepLab and CRF-RNN, ``"symmetric"`` for pydensecrf.

    ``"none"`` has two meanings. As it is (``true_kernel=False``) it is what the lattice sums,
    which is also what pydensecrf does under NO_NORMALIZATION. The sum of the textbook energy is
    larger: the lattice's rows hold 0.88 of it for positions alone and 0.49 to 0.61 for positions
    and three colours (photographs of 48x64 and 96x128, usual widths). ``true_kernel=True``
    multiplies by the ratio of the two for evenly spread features, after which these read 1.00 and
    0.69 to 0.87; what is missing then is mass blurred towards lattice vertices without pixels.
    ``exact=True`` is the textbook's. In every other normalisation the factor cancels.

    On CUDA a call waits for the GPU once, to read back how many vertices the lattices have and
    whether all is finite; once more for the range of a floating image where a sigma_rgb is 1 or
    more, and once for that of probabilities. Parameters are read once for each change of them; one
    made through ``.data`` is not seen, though the operator still refuses what is not finite. While
    the stream is captured into a CUDA graph nothing is read back and no value is refused: what is
    not finite makes Q NaN, the sign of a width does not matter, and probabilities are taken as
    they are. Lattices then get memory for as many vertices as there might be, B N (D + 1).
    Everything must be on the GPU before. :meth:`logits`, float64 and gradients build lattices that
    cannot be captured, and raise a RuntimeError.

    Args:
        kernels: what is compared: :class:`GaussianKernel`, :class:`BilateralKernel`,
            :class:`FeatureKernel`, or your own :class:`PairwiseKernel`. Any number.
        compatibility: C, the price of two labels beside each other. None for Potts, ``(L,)`` for a
            diagonal (negative rewards equal labels), ``(L, L)`` for a full matrix; or the words
            ``"diagonal"`` and ``"full"``, which need ``labels`` and start as Potts: -1 on the
            diagonal and 0 elsewhere.
        labels: L, 1 to 1000, where it is to be checked or the compatibility is a word.
        iterations: updates of Q, 0 to 100; 0 returns softmax(-U).
        train_iterations: updates in training mode; None for the same number. CRF-RNN takes 5
            in training and 10 afterwards.
        normalization: ``"symmetric"``, ``"after"``, ``"before"``, ``"mean"`` or ``"none"``, for
            every kernel that names none of its own.
        self_message: whether a pixel hears itself, as in every published implementation. The
            algorithm as printed sums over j != i: false.
        true_kernel: bring the lattice's ``"none"`` closer to the textbook's sum, see above.
        train_compatibility: whether backpropagation reaches the compatibility.
        exact: sum over all pairs of pixels, O(N^2), in place of the lattice.
        distance: ``"euclidean"``, or ``"chebyshev"`` between positions, which only ``exact`` has.
        features_gradient: ``"gaussian"`` or ``"simplex"``, see above; of no account where no
            features need a gradient, and with ``exact``, whose slope is the Gaussian's.
        half_storage: on CUDA, keep the unary, Q between the updates and the lattices' values of
            half and bfloat16 scores in their own dtype: half of the traffic, and Q within about
            1e-3 (half) or 1e-2 (bfloat16) of what it is otherwise; see
            :func:`fastseg.ops.mean_field`. Of no account to other scores, and with ``exact``.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
    """

    settings = ("iterations", "train_iterations", "normalization")
    compatibility: nn.Parameter | None

    def __init__(
        self,
        kernels: Iterable[PairwiseKernel],
        compatibility: Values | str | None = None,
        *,
        labels: int | None = None,
        iterations: int = 10,
        train_iterations: int | None = None,
        normalization: str = "symmetric",
        self_message: bool = True,
        true_kernel: bool = False,
        train_compatibility: bool = False,
        exact: bool = False,
        distance: str = "euclidean",
        features_gradient: str = "gaussian",
        half_storage: bool = False,
    ) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(checked_kernels("DenseCRF", kernels))
        check_normalization("DenseCRF", normalization)
        _check_count("iterations", iterations, 0, MAX_ITERATIONS)
        if train_iterations is not None:
            _check_count("train_iterations", train_iterations, 0, MAX_ITERATIONS)
        if labels is not None:
            _check_count("labels", labels, 1, MAX_LABELS)
        for name, flag in (
            ("self_message", self_message),
            ("true_kernel", true_kernel),
            ("train_compatibility", train_compatibility),
            ("exact", exact),
            ("half_storage", half_storage),
        ):
            check_flag("DenseCRF", name, flag)
        check_distance("DenseCRF", distance, exact)
        check_features_gradient("DenseCRF", features_gradient)
        matrix = compatibility_matrix("DenseCRF", compatibility, labels)
        self.register_parameter(
            "compatibility",
            None if matrix is None else nn.Parameter(matrix, requires_grad=train_compatibility),
        )
        if matrix is None and train_compatibility:
            raise ValueError(
                "DenseCRF: compatibility must be a tensor, 'diagonal' or 'full' where "
                "train_compatibility is true, got None"
            )
        self.labels = labels
        self.iterations = iterations
        self.train_iterations = train_iterations
        self.normalization = normalization
        self.self_message = self_message
        self.true_kernel = true_kernel
        self.exact = exact
        self.distance = distance
        self.features_gradient = features_gradient
        self.half_storage = half_storage

    def forward(
        self,
        scores: Tensor,
        image: Tensor | None = None,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        kind: str = "logits",
    ) -> Tensor:
        """Refine ``scores`` with the pixels of ``image``.

        Args:
            scores: ``(B, L, H, W)`` or ``(B, L, D, H, W)``, at the size of the image, any floating
                dtype and layout in memory. Finite; a logit may be -inf, which rules its label out
                at that pixel. There is always a batch dimension.
            image: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, 0-255, any integer or floating dtype;
                None where no kernel looks at it. A floating image within [0, 1] draws a warning
                if a kernel's sigma_rgb is 1 or more.
            features: ``(B, D, *spatial)`` for the :class:`FeatureKernel`, or one for each of them
                in the order of ``kernels``.
            kind: ``"logits"``: the unary is their negative, for softmax removes the rest of
                -log softmax. ``"probabilities"``: the unary is -log of them clipped at 1e-5 (with
                no gradient below), after a check that they lie in [0, 1] and sum to one.

        Returns:
            Q, the probabilities after the last update: shape and dtype of ``scores``, contiguous.
            Half and bfloat16 are computed in float32, also under autocast, and kept in it between
            the updates unless ``half_storage`` is true; float64 is computed in
            float64, slower, from differentiable operators one by one. An empty batch gives an
            empty Q; the border is no special place. Two runs give the same bits, for any number
            of threads (``exact=True``: for the same number).

        Raises:
            ValueError, TypeError: an argument breaks a rule above. Inside ``torch.compile`` shapes
                and dtypes are checked as always, and of the values only what the operator checks:
                scores and features are finite and fit the lattice.
        """
        return self._refine(scores, image, features, kind).to(scores.dtype)

    def logits(self, scores: Tensor, image: Tensor | None = None) -> Tensor:
        """What the softmax of the last update is taken of: -U - C sum_k W_k F_k Q.

        To be trained through with a cross-entropy of logits, which probabilities near 0 and 1
        are too coarse for. With no iterations these are the scores.

        Args:
            scores: logits, see :meth:`forward`.
            image: see :meth:`forward`.

        Returns:
            The shape of ``scores``, at least float32. Where widths are trained on the lattice,
            the last update's gradient to them is the ``"simplex"`` one.

        Raises:
            ValueError, TypeError: see :meth:`forward`.
        """
        return self._refine(scores, image, softmax=False)

    def _refine(
        self,
        scores: Tensor,
        image: Tensor | None,
        features: Tensor | Sequence[Tensor] | None = None,
        kind: str = "logits",
        *,
        softmax: bool = True,
    ) -> Tensor:
        _check_scores(scores, kind, self.labels)
        warn_of_unit_range("DenseCRF", image, self.kernels, stacklevel=5)
        with no_autocast(scores):
            unary = unary_energy("DenseCRF", scores, kind)
            embedded = embed("DenseCRF", self.kernels, unary, image, features)
            transforms = self._transforms(unary, embedded)
            return self._infer(unary, embedded, transforms, scores, image, softmax)

    def _infer(
        self,
        unary: Tensor,
        embedded: list[Tensor],
        transforms: list[Tensor],
        scores: Tensor,
        image: Tensor | None,
        softmax: bool,
    ) -> Tensor:
        iterations = self.iterations
        if self.training and self.train_iterations is not None:
            iterations = self.train_iterations
        settings: dict[str, Any] = {
            "iterations": iterations,
            "normalization": [k.normalization or self.normalization for k in self._kernels()],
            "self_message": self.self_message,
        }
        if self.exact:
            if has_values(unary):
                _check_values(self.kernels, scores, image)
            return mean_field_exact(
                unary, embedded, transforms, distance=self.distance, softmax=softmax, **settings
            )
        # Where features need no gradient both kinds are one, and the plain operator is
        # differentiable twice in float64.
        if any(points.requires_grad for points in embedded):
            settings["features_gradient"] = self.features_gradient
        run = mean_field if softmax else mean_field_logits
        if softmax and self.half_storage and scores.dtype in HALVES:
            unary = unary.to(scores.dtype)
        if not has_values(unary):
            return run(unary, embedded, transforms, **settings)
        try:
            return run(unary, embedded, transforms, **settings)
        except ValueError as error:
            # The operator speaks of unary and features; the caller gave scores, image and widths.
            _check_values(self.kernels, scores, image)
            found = re.search(r"features\[(\d+)\]", str(error))
            if found is None:
                raise
            kernel = self.kernels[int(found[1])]
            raise ValueError(f"{error}; these are the features of {kernel!r}") from None

    def _kernels(self) -> list[PairwiseKernel]:
        return [kernel for kernel in self.kernels if isinstance(kernel, PairwiseKernel)]

    def _transforms(self, unary: Tensor, embedded: list[Tensor]) -> list[Tensor]:
        """A_k of each kernel: what the filtered Q is multiplied by and added to -U."""
        labels = unary.shape[1]
        compatibility = None
        if self.compatibility is not None:
            check_finite("DenseCRF", "compatibility", self.compatibility)
            compatibility = self.compatibility.to(unary)
            if len(compatibility) != labels:
                shape = tuple(compatibility.shape)
                raise ValueError(
                    f"DenseCRF: scores must have the {shape[0]} labels of the compatibility "
                    f"{shape}, got {labels}"
                )
        transforms = []
        for i, (kernel, features) in enumerate(zip(self._kernels(), embedded, strict=True)):
            transform = label_transform(compatibility, checked_weight("DenseCRF", i, kernel, unary))
            literal = (kernel.normalization or self.normalization) == "none"
            if literal and self.true_kernel and not self.exact:
                transform = transform * lattice_deficit(features.shape[1])
            transforms.append(transform)
        return transforms

    def extra_repr(self) -> str:
        parts = []
        if self.compatibility is None:
            parts.append("compatibility='potts'")
        else:
            trained = " (trained)" if self.compatibility.requires_grad else ""
            parts.append(f"compatibility={tuple(self.compatibility.shape)}{trained}")
        parts.append(f"iterations={self.iterations}")
        if self.train_iterations is not None:
            parts.append(f"train_iterations={self.train_iterations}")
        parts.append(f"normalization={self.normalization!r}")
        parts.append(f"self_message={self.self_message}")
        if self.true_kernel:
            parts.append("true_kernel=True")
        if self.exact:
            parts.append(f"exact=True, distance={self.distance!r}")
        elif self.features_gradient != "gaussian":
            parts.append(f"features_gradient={self.features_gradient!r}")
        if self.half_storage:
            parts.append("half_storage=True")
        return ", ".join(parts)

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        iterations: int | None = None,
        normalization: str | None = None,
        train_weight: bool = False,
        train_sigma: bool = False,
        features_gradient: str = "gaussian",
    ) -> "DenseCRF":
        """A published setting of :data:`fastseg.crf.PRESETS`, with its own normalisation.

        Args:
            name: a key of the table, such as ``"deeplab-resnet"`` or ``"pydensecrf"``.
            iterations: another number, in and out of training, than the published one.
            normalization: another one than the numbers were found with.
            train_weight, train_sigma: whether backpropagation reaches the kernels' weights and
                widths.
            features_gradient: as for the class.
        """
        if name not in PRESETS:
            raise ValueError(
                f"DenseCRF.preset: name must be one of {', '.join(PRESETS)}, got {name!r}"
            )
        preset = PRESETS[name]
        position = GaussianKernel(
            preset.position_sigma_xy,
            preset.position_weight,
            train_weight=train_weight,
            train_sigma=train_sigma,
        )
        bilateral = BilateralKernel(
            preset.sigma_xy,
            preset.sigma_rgb,
            preset.weight,
            train_weight=train_weight,
            train_sigma=train_sigma,
        )
        same = preset.train_iterations == preset.iterations or iterations is not None
        return cls(
            [position, bilateral],
            iterations=preset.iterations if iterations is None else iterations,
            train_iterations=None if same else preset.train_iterations,
            normalization=preset.normalization if normalization is None else normalization,
            features_gradient=features_gradient,
        )

    @classmethod
    def crf_rnn(
        cls,
        labels: int,
        *,
        iterations: int = 10,
        train_iterations: int = 5,
        train_sigma: bool = False,
        features_gradient: str = "gaussian",
    ) -> "DenseCRF":
        """The trainable CRF of Zheng et al. (2015), as it is initialised.

        Kernel weights are matrices that start as 3 I (position, sigma 3) and 5 I (bilateral,
        160/3), the compatibility a matrix that starts as -I, which is Potts but for a constant.
        Here the message is subtracted after the compatibility, as in the paper. Checkpoints of
        ports that add it hold the opposite sign: load the negative of their compatibility.
        """
        _check_count("labels", labels, 1, MAX_LABELS)
        preset = PRESETS["crf-rnn"]
        identity = torch.eye(labels)
        position = GaussianKernel(
            preset.position_sigma_xy,
            preset.position_weight * identity,
            train_weight=True,
            train_sigma=train_sigma,
        )
        bilateral = BilateralKernel(
            preset.sigma_xy,
            preset.sigma_rgb,
            preset.weight * identity,
            train_weight=True,
            train_sigma=train_sigma,
        )
        return cls(
            [position, bilateral],
            "full",
            labels=labels,
            iterations=iterations,
            train_iterations=train_iterations,
            normalization=preset.normalization,
            train_compatibility=True,
            features_gradient=features_gradient,
        )


def mean_field_logits(
    unary: Tensor,
    features: list[Tensor],
    transforms: list[Tensor],
    *,
    iterations: int,
    normalization: list[str],
    self_message: bool,
    **settings: Any,
) -> Tensor:
    """What :func:`fastseg.ops.mean_field` takes its last softmax of: one filter more, and none."""
    logits = -unary
    if iterations == 0:
        return logits
    q = mean_field(
        unary,
        features,
        transforms,
        iterations=iterations - 1,
        normalization=normalization,
        self_message=self_message,
        **settings,
    )
    for points, transform, kind in zip(features, transforms, normalization, strict=True):
        message = permutohedral_filter(q, points, normalization=kind, self_message=self_message)
        if transform.dim() == 2:
            message = torch.einsum("lm,bm...->bl...", transform, message)
        else:
            message = transform.view(-1, *(1,) * (message.dim() - 2)) * message
        logits = logits + message
    return logits


def no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Keeps the float32 of what follows; the meta device knows no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def unary_energy(op: str, scores: Tensor, kind: str) -> Tensor:
    """-logits, or -log of probabilities clipped at ``PROBABILITY_FLOOR``; float32 or float64."""
    working = scores.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    if kind == "logits":
        return -working
    if has_values(working):
        check_probabilities(op, working)
    return working.clamp_min(PROBABILITY_FLOOR).log().neg_()


def check_probabilities(op: str, probs: Tensor) -> None:
    """Raises unless probabilities ``(B, L, *spatial)`` lie in [0, 1] and sum to about one."""
    if probs.numel() == 0:
        return
    low, high, least_sum, largest_sum = bounds_of(probs, probs.detach().sum(1))
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # false for NaN
        raise ValueError(
            f"{op}: scores must lie in [0, 1] where kind is 'probabilities', "
            f"got values from {low:.6g} to {high:.6g}"
        )
    if least_sum < 1 - SUM_SLACK or largest_sum > 1 + SUM_SLACK:
        raise ValueError(
            f"{op}: scores must sum to 1 over the labels where kind is 'probabilities', "
            f"got sums from {least_sum:.6g} to {largest_sum:.6g}"
        )


def embed(
    op: str,
    kernels: Iterable[nn.Module],
    unary: Tensor,
    image: Tensor | None,
    features: Tensor | Sequence[Tensor] | None,
) -> list[Tensor]:
    """The features of every kernel; those of each FeatureKernel are taken from ``features``."""
    kernels = list(kernels)
    wanted = sum(isinstance(kernel, FeatureKernel) for kernel in kernels)
    given = [features] if isinstance(features, Tensor) else list(features or [])
    if len(given) != wanted:
        raise ValueError(
            f"{op}: features must be one tensor for each of the {wanted} FeatureKernels, "
            f"got {len(given)}"
        )
    following = iter(given)
    return [
        kernel(unary, image, next(following) if isinstance(kernel, FeatureKernel) else None)
        for kernel in kernels
    ]


def compatibility_matrix(
    op: str, compatibility: Values | str | None, labels: int | None
) -> Tensor | None:
    """The compatibility as a floating tensor ``(L,)`` or ``(L, L)``; None for Potts."""
    if compatibility is None:
        return None
    if isinstance(compatibility, str):
        if compatibility not in ("diagonal", "full"):
            raise ValueError(
                f"{op}: compatibility must be None, 'diagonal', 'full' or a tensor, "
                f"got {compatibility!r}"
            )
        if labels is None:
            raise ValueError(
                f"{op}: labels must be given where compatibility is {compatibility!r}, got None"
            )
        return -torch.ones(labels) if compatibility == "diagonal" else -torch.eye(labels)
    try:
        matrix = torch.as_tensor(compatibility).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{op}: compatibility must be made of numbers, (L,) or (L, L), got {compatibility!r}"
        ) from None
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(f"{op}: compatibility must be real, got {dtype_name(matrix)}")
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.get_default_dtype())
    square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
    if matrix.numel() == 0 or not (matrix.dim() == 1 or square):
        raise ValueError(
            f"{op}: compatibility must have shape (L,) or (L, L), got {tuple(matrix.shape)}"
        )
    if labels is not None and len(matrix) != labels:
        raise ValueError(
            f"{op}: compatibility must have shape ({labels},) or ({labels}, {labels}) for "
            f"{labels} labels, got {tuple(matrix.shape)}"
        )
    check_finite(op, "compatibility", matrix)
    return matrix


def lattice_deficit(dims: int) -> float:
    """Sum of the Gaussian over sum of the lattice filter, for evenly spread features.

    The Gaussian's integral is (2 pi)^(D/2). The filter has total weight alpha 2^(D+1), with
    alpha = 1 / (1 + 2^-D), and a vertex of the scaled lattice A*_D takes the mass of a volume
    (3/2)^(D/2) / sqrt(D + 1) in units of the standard deviation (Adams et al. 2010, section 3).
    1.09, 1.13, 1.21 and 1.42 for D = 1, 2, 3 and 5.
    """
    alpha: float = 1 / (1 + 2.0**-dims)
    volume: float = 1.5 ** (dims / 2) / math.sqrt(dims + 1)
    integral: float = (2 * math.pi) ** (dims / 2)
    return integral / (alpha * 2.0 ** (dims + 1) * volume)


def label_transform(compatibility: Tensor | None, weight: Tensor) -> Tensor:
    """A = -C W in the smallest form that holds it; +W for Potts, equal but for a constant."""
    if compatibility is None:
        return weight
    if compatibility.dim() == 1:
        if weight.dim() == 2:
            return -compatibility[:, None] * weight
        return -compatibility * weight
    if weight.dim() == 2:
        return -compatibility @ weight
    return -compatibility * weight  # a vector W scales the columns


def checked_weight(op: str, index: int, kernel: nn.Module, unary: Tensor) -> Tensor:
    """The weight of ``kernels[index]`` in the dtype of ``unary``, if it fits the labels."""
    labels = unary.shape[1]
    weight: Tensor = kernel.weight  # type: ignore[assignment]
    if tuple(weight.shape) not in ((), (labels,), (labels, labels)):
        raise ValueError(
            f"{op}: kernels[{index}].weight must have shape (), ({labels},) or "
            f"({labels}, {labels}) for the {labels} labels of scores, got {tuple(weight.shape)}"
        )
    check_finite(op, f"kernels[{index}].weight", weight)
    return weight.to(unary)


def check_distance(op: str, distance: str, exact: bool) -> None:
    if distance not in DISTANCES:
        raise ValueError(f"{op}: distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if distance == "chebyshev" and not exact:
        raise ValueError(
            f"{op}: distance must be 'euclidean' for kernels on the lattice, got 'chebyshev'; "
            "exact=True serves both"
        )


def checked_kernels(op: str, kernels: Iterable[PairwiseKernel]) -> list[PairwiseKernel]:
    if not isinstance(kernels, Iterable):
        raise TypeError(f"{op}: kernels must be a sequence of kernels, got {kernels!r}")
    checked = list(kernels)
    for i, kernel in enumerate(checked):
        if not isinstance(kernel, PairwiseKernel):
            raise TypeError(
                f"{op}: kernels[{i}] must be a PairwiseKernel, got {type(kernel).__name__}"
            )
    return checked


def _check_count(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"DenseCRF: {name} must be an int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"DenseCRF: {name} must be between {least} and {most}, got {value}")


def _check_scores(scores: Tensor, kind: str, labels: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"DenseCRF: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_tensor("DenseCRF", "scores", scores)
    if not scores.is_floating_point():
        raise TypeError(f"DenseCRF: scores must have a floating dtype, got {dtype_name(scores)}")
    if scores.dim() not in (4, 5):
        hint = "; scores[None] adds the batch dimension" if scores.dim() == 3 else ""
        raise ValueError(
            "DenseCRF: scores must have shape (B, L, H, W) or (B, L, D, H, W), "
            f"got {tuple(scores.shape)}{hint}"
        )
    if 0 in scores.shape[1:]:
        raise ValueError(
            "DenseCRF: scores must have at least one label and one pixel, "
            f"got {tuple(scores.shape)}"
        )
    if scores.shape[1] > MAX_LABELS:
        raise ValueError(
            f"DenseCRF: scores must have 1 to {MAX_LABELS} labels, got {scores.shape[1]}"
        )
    if labels is not None and scores.shape[1] != labels:
        raise ValueError(
            f"DenseCRF: scores must have {labels} labels in dimension 1, got {tuple(scores.shape)}"
        )


def _check_values(kernels: Iterable[nn.Module], scores: Tensor, image: Tensor | None) -> None:
    """Names the value of the caller's that cannot be served, if there is one.

    Whether there is one is read back at once.
    """
    scores = scores.detach()
    wrong = torch.isnan(scores) | torch.isposinf(scores)
    barred = torch.isneginf(scores).all(1)
    faults = [wrong.any(), barred.any()]
    reads_image = any(not isinstance(k, (GaussianKernel, FeatureKernel)) for k in kernels)
    if image is not None and reads_image and image.is_floating_point():
        faults.append((~torch.isfinite(image.detach())).any())
    wrong_scores, wrong_pixels, wrong_image = (*torch.stack(faults).tolist(), False)[:3]
    if wrong_scores:
        first = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            "DenseCRF: scores must be finite, or -inf for a label that is ruled out, "
            f"got {float(scores[first])} at {first} and {int(wrong.sum())} such values in all"
        )
    if wrong_pixels:
        batch, *pixel = barred.nonzero()[0].tolist()
        at = ", ".join(map(str, [batch, ":", *pixel]))
        raise ValueError(
            f"DenseCRF: scores must leave at least one label to each pixel, got only -inf at ({at})"
        )
    if wrong_image and image is not None:
        wrong = ~torch.isfinite(image.detach())
        first = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"DenseCRF: image must be finite, got {float(image[first])} at {first} and "
            f"{int(wrong.sum())} such values in all"
        )
