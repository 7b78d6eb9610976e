"""pydensecrf's fully connected CRF (Kraehenbuehl and Koltun 2011), on fastseg's kernels.

Energies of N pixels and L labels are float32 arrays ``(L, N)``, the pixels of an image row by row.
One mean-field update is

    Q = softmax(-U + sum_k A_k F_k Q)

where F_k is kernel k's Gaussian filter and A_k comes from its ``compat``, with pydensecrf's signs:
a number w is a Potts model, A = w; a vector c of length L, A = -diag(c); a matrix C ``(L, L)``,
A = -(C + C^T) / 2, so that only the symmetric part of C counts.
"""

import math
from enum import IntEnum
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import _numpy
from fastseg.pydensecrf import arguments, eigen
from fastseg.pydensecrf.eigen import MatrixXf

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
    "eigen",
]


class KernelType(IntEnum):
    """Which part of a kernel's precision matrix could be learned; inference is the same for all."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How a kernel K is normalised by its row sums n.

    ``NO_NORMALIZATION`` is K itself, ``NORMALIZE_BEFORE`` K diag(1/n), ``NORMALIZE_AFTER``
    diag(1/n) K and ``NORMALIZE_SYMMETRIC`` diag(1/sqrt(n)) K diag(1/sqrt(n)).
    """

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC

# fastseg's name of each normalisation. Not "mean": pydensecrf computes the mean row sum for
# NO_NORMALIZATION and applies it nowhere.
_NORMALIZATIONS = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}

# The most updates that one call of the kernels serves.
_ITERATIONS_PER_CALL = 100


class Unary:
    """Base of :class:`ConstUnary` and :class:`LogisticUnary`; it holds no energies itself."""

    _energies: NDArray[np.float32] | None = None


class ConstUnary(Unary):
    """Unary energies: ``u``, ``(L, N)`` float32, copied."""

    def __init__(self, u: object) -> None:
        self._energies = arguments.array("ConstUnary", "u", u, np.float32, 2).copy()


class LogisticUnary(Unary):
    """Unary energies ``L @ f``: ``L`` ``(labels, F)`` and ``f`` ``(F, N)``, float32."""

    def __init__(self, L: object, f: object) -> None:
        self._energies = _logistic_energies("LogisticUnary", "L", L, f)


class DenseCRF:
    """A fully connected CRF over ``nvar`` variables with ``nlabels`` labels each.

    As in pydensecrf further arguments are ignored, for the sake of subclasses; a subclass calls
    ``super().__init__`` with the sizes.
    """

    def __init__(self, nvar: int, nlabels: int, *_: object, **__: object) -> None:
        self._create("DenseCRF", {"nvar": nvar}, nlabels)

    def _create(self, op: str, sizes: dict[str, int], nlabels: int) -> None:
        spatial = {name: arguments.integer(op, name, size) for name, size in sizes.items()}
        for name, size in spatial.items():
            if size < 0:
                raise ValueError(f"{op}: {name} must not be negative, got {size}")
        labels = arguments.integer(op, "nlabels", nlabels)
        if labels < 1:
            raise ValueError(f"{op}: nlabels must be at least 1, got {labels}")
        self._shape = (labels, math.prod(spatial.values()))
        self._spatial = tuple(spatial.values())
        self._unary: NDArray[np.float32] | None = None
        self._kernels = 0
        # The kernels refuse an image without pixels; every result is an empty array then.
        self._field = _numpy.MeanField(self._spatial, labels) if self._shape[1] else None

    def __getattr__(self, name: str) -> Any:
        if name in ("_shape", "_spatial", "_unary", "_kernels", "_field"):
            kind = type(self).__name__
            raise TypeError(f"{kind}: {kind}.__init__ must call super().__init__ with the sizes")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} objects cannot be copied or pickled")

    def setUnary(self, u: Unary) -> None:
        """Set the unary energies from a :class:`ConstUnary` or :class:`LogisticUnary`.

        It may be used again, for this CRF or another one of the same size.
        """
        values = u._energies if isinstance(u, Unary) else None
        if values is None:
            raise TypeError(
                f"setUnary: u must be a ConstUnary or a LogisticUnary, got {type(u).__name__}"
                f"{' without energies' if isinstance(u, Unary) else ''}"
            )
        self._unary = self._of_right_shape("setUnary", values)

    def setUnaryEnergy(self, u: object, f: object = None) -> None:
        """Set the unary energies, minus the logarithm of a probability, and copy them.

        Args:
            u: ``(nlabels, nvar)`` float32. +inf forbids a label. NaN, -inf and a pixel whose labels
                are all forbidden are refused when inference runs.
            f: if given, the energies are ``u @ f``: ``u`` ``(nlabels, F)``, ``f`` ``(F, nvar)``.

        Raises:
            ValueError: wrong dtype, number of dimensions or shape.
            TypeError: not an array.
        """
        if f is None:
            values = arguments.array("setUnaryEnergy", "u", u, np.float32, 2, _hint(u))
            self._unary = self._of_right_shape("setUnaryEnergy", values).copy()
        else:
            values = _logistic_energies("setUnaryEnergy", "u", u, f)
            self._unary = self._of_right_shape("setUnaryEnergy", values)

    def addPairwiseEnergy(
        self,
        features: object,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel of the given features; its lattice is built at once.

        Args:
            features: ``(D, nvar)`` float32, in units of the kernel's standard deviation, D from 1
                to 16.
            compat: a number, ``(nlabels,)`` or ``(nlabels, nlabels)`` float32; see the module.
            kernel: accepted and without effect on inference.
            normalization: see :class:`NormalizationType`.

        Raises:
            ValueError: wrong dtype or shape, a feature that is not finite or too large.
            TypeError: not an array, not a number.
        """
        op = "addPairwiseEnergy"
        values = arguments.array(op, "features", features, np.float32, 2, _hint(features))
        if values.shape[1] != self._shape[1]:
            raise ValueError(
                f"{op}: features must have shape (D, nvar) = (D, {self._shape[1]}), "
                f"got {values.shape}"
            )
        self._add_kernel(op, values, *self._read_kernel(op, compat, kernel, normalization))

    def inference(self, niter: int) -> MatrixXf:
        """Q after ``niter`` updates, ``(nlabels, nvar)``; a negative number counts as none."""
        return eigen.wrap_matrix(self._run(max(arguments.integer("inference", "niter", niter), 0)))

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:
        """Q before the first update, and two matrices that :meth:`stepInference` asks for.

        Q is softmax(-U), or zero, as in pydensecrf, where no unary was set.
        """
        q = np.zeros(self._shape, np.float32) if self._unary is None else self._run(0)
        return eigen.wrap_matrix(q), MatrixXf(), MatrixXf()

    def stepInference(self, Q: MatrixXf, tmp1: MatrixXf, tmp2: MatrixXf) -> None:
        """Write one update of ``Q`` into ``Q``; ``tmp1`` and ``tmp2`` are not used."""
        q = self._read_q("stepInference", "Q", Q)
        for name, matrix in (("tmp1", tmp1), ("tmp2", tmp2)):
            if matrix is not None and not isinstance(matrix, MatrixXf):
                raise TypeError(
                    f"stepInference: {name} must be an eigen.MatrixXf, got {type(matrix).__name__}"
                )
        q[...] = self._run(1, q)

    def klDivergence(self, Q: MatrixXf) -> float:
        """What mean field minimises: sum Q ln Q + sum U Q - sum Q (sum_k A_k F_k Q).

        As in pydensecrf every pair of pixels counts twice and the constant ln Z is left out.
        """
        q = self._read_q("klDivergence", "Q", Q)
        logarithm = np.maximum(q, np.float32(1e-20))
        divergence = _inner_product(q, np.log(logarithm, out=logarithm))
        if self._unary is not None:
            # A label with energy +inf has Q = 0, and its product is to be 0.
            divergence += _inner_product(q, np.minimum(self._unary, np.float32(1e30)))
        if self._kernels and self._field is not None:
            divergence -= _inner_product(q, self._field.message(q))
        return divergence

    def _of_right_shape(self, op: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if values.shape == self._shape:
            return values
        raise ValueError(
            f"{op}: u must have shape (nlabels, nvar) = {self._shape}, got {values.shape}"
        )

    def _read_q(self, op: str, name: str, q: MatrixXf) -> NDArray[np.float32]:
        if not isinstance(q, MatrixXf):
            raise TypeError(
                f"{op}: {name} must be an eigen.MatrixXf, got {type(q).__name__}"
                f"{'; eigen.matrixXf(array) makes one' if isinstance(q, np.ndarray) else ''}"
            )
        values: NDArray[np.float32] = np.asarray(q)
        if values.shape != self._shape:
            raise ValueError(
                f"{op}: {name} must have shape (nlabels, nvar) = {self._shape}, got {values.shape}"
            )
        return values

    def _read_kernel(
        self, op: str, compat: Any, kernel: int, normalization: int
    ) -> tuple[NDArray[np.float32], str]:
        """The transform A of a kernel and fastseg's name of its normalisation."""
        _member(op, "kernel", KernelType, kernel)
        name = _NORMALIZATIONS[_member(op, "normalization", NormalizationType, normalization)]
        return _transform(op, compat, self._shape[0]), name

    def _add_kernel(
        self,
        op: str,
        features: NDArray[np.float32],
        transform: NDArray[np.float32],
        normalization: str,
    ) -> None:
        if self._field is not None:
            try:
                self._field.add_kernel(features, transform, normalization, True)
            except ValueError as error:
                finding = str(error).removeprefix("MeanField.add_kernel: ")
                raise ValueError(f"{op}: {finding}") from None
        self._kernels += 1

    def _run(self, count: int, initial: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Q after ``count`` updates that start from softmax(-U), or from ``initial``."""
        unary = np.zeros(self._shape, np.float32) if self._unary is None else self._unary
        if self._field is None:
            return np.empty(self._shape, np.float32)
        q: NDArray[np.float32] | None = initial
        while count > _ITERATIONS_PER_CALL:
            q = self._field.run(unary, _ITERATIONS_PER_CALL, q)
            count -= _ITERATIONS_PER_CALL
        return self._field.run(unary, count, q)


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over an image: width first, then height.

    Arrays keep NumPy's order: an image is ``(h, w, 3)`` and the pixels of ``(nlabels, h * w)`` run
    row by row.
    """

    def __init__(self, w: int, h: int, nlabels: int, *_: object, **__: object) -> None:
        self._create("DenseCRF2D", {"h": h, "w": w}, nlabels)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of the position: exp(-|p_i - p_j|^2 / (2 sxy^2)).

        Args:
            sxy: standard deviation in pixels, a number or (x, y).
            compat, kernel, normalization: as in :meth:`addPairwiseEnergy`.
        """
        op = "addPairwiseGaussian"
        sigma_xy = arguments.sigmas(op, "sxy", sxy, 2)
        spec = self._read_kernel(op, compat, kernel, normalization)
        self._add_image_kernel(op, sigma_xy, None, (), spec)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: object,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of position and colour.

        exp(-|p_i - p_j|^2 / (2 sxy^2) - |I_i - I_j|^2 / (2 srgb^2))

        Args:
            sxy: standard deviation of the position in pixels, a number or (x, y).
            srgb: standard deviation of the colour on the scale 0-255, a number or (r, g, b).
            rgbim: ``(h, w, 3)`` uint8.
            compat, kernel, normalization: as in :meth:`addPairwiseEnergy`.
        """
        op = "addPairwiseBilateral"
        image = self._read_image(op, rgbim)
        sigma_xy = arguments.sigmas(op, "sxy", sxy, 2)
        sigma_rgb = arguments.sigmas(op, "srgb", srgb, 3)
        spec = self._read_kernel(op, compat, kernel, normalization)
        self._add_image_kernel(op, sigma_xy, image, sigma_rgb, spec)

    def _read_image(self, op: str, rgbim: object) -> NDArray[np.uint8]:
        image = arguments.buffer(op, "rgbim", rgbim)
        if image.dtype == np.bool_:
            image = image.view(np.uint8)
        image = arguments.array(op, "rgbim", image, np.uint8, 3, _image_hint(image))
        if image.shape == (*self._spatial, 3):
            return image
        if image.shape[:2] == self._spatial:
            hint = "; utils.create_pairwise_bilateral and addPairwiseEnergy serve other images"
        elif image.shape[:2] == self._spatial[::-1]:
            hint = "; DenseCRF2D takes the width first, an image has the height first"
        else:
            hint = ""
        raise ValueError(
            f"{op}: rgbim must have shape (h, w, 3) = {(*self._spatial, 3)}, "
            f"got {image.shape}{hint}"
        )

    def _add_image_kernel(
        self,
        op: str,
        sigma_xy: tuple[float, ...],
        image: NDArray[np.uint8] | None,
        sigma_rgb: tuple[float, ...],
        spec: tuple[NDArray[np.float32], str],
    ) -> None:
        if self._field is None:
            return
        features = _numpy.image_features(self._spatial, sigma_xy, image, sigma_rgb)
        # The features are finite by construction: only their size can be refused.
        given = f"sxy ({', '.join(f'{sigma:g}' for sigma in sigma_xy)})"
        if sigma_rgb:
            given += f" and srgb ({', '.join(f'{sigma:g}' for sigma in sigma_rgb)})"
        self._add_kernel(f"{op}: with {given}", features, *spec)


def _inner_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The sum of ``a * b`` in double precision."""
    return float(np.einsum("ln,ln->", a, b, dtype=np.float64))


def _logistic_energies(op: str, name: str, weights: object, f: object) -> NDArray[np.float32]:
    left = arguments.array(op, name, weights, np.float32, 2, _hint(weights))
    right = arguments.array(op, "f", f, np.float32, 2, _hint(f))
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"{op}: f must have as many rows as {name} has columns, {left.shape[1]}, "
            f"got shape {right.shape}"
        )
    product: NDArray[np.float32] = left @ right
    return product


def _member(op: str, name: str, kind: Any, value: object) -> Any:
    number = arguments.integer(op, name, value)
    if number in set(kind):
        return kind(number)
    choices = ", ".join(f"{member.name} ({member.value})" for member in kind)
    raise ValueError(f"{op}: {name} must be one of {choices}, got {value!r}")


def _transform(op: str, compat: Any, labels: int) -> NDArray[np.float32]:
    """A of the update, from pydensecrf's ``compat``."""
    if isinstance(compat, Number):
        values = np.array(arguments.real(op, "compat", compat))
        sign = 1.0
    else:
        values = arguments.buffer(op, "compat", compat)
        if values.ndim not in (1, 2):
            raise ValueError(
                f"{op}: compat must be a number or have 1 or 2 dimensions, got shape {values.shape}"
            )
        values = arguments.array(op, "compat", values, np.float32, values.ndim, _hint(values))
        if values.shape not in ((labels,), (labels, labels)):
            raise ValueError(
                f"{op}: compat must be a number or have shape ({labels},) or ({labels}, {labels}), "
                f"got {values.shape}"
            )
        sign = -1.0
    if not (np.abs(values) <= arguments.FLOAT32_MAX).all():
        raise ValueError(f"{op}: compat must be finite in float32, got {compat!r}")
    if values.ndim == 2:
        values = (values + values.T) / 2
    return (sign * values).astype(np.float32)


def _hint(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    return "; array.astype(np.float32) converts it" if isinstance(dtype, np.dtype) else ""


def _image_hint(image: NDArray[Any]) -> str:
    if image.dtype.kind != "f":
        return "; the values 0-255 of an image are uint8"
    if image.size and np.nanmax(image) <= 1:
        return "; its values end at 1 and 0-255 is meant: (255 * image).round().astype(np.uint8)"
    return "; image.round().astype(np.uint8) converts values of 0-255"
