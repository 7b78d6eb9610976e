"""Pairwise kernels of a fully connected CRF: what a Gaussian compares, how wide, how heavy.

A kernel turns pixels into features f_i whose differences are measured in standard deviations, so
that k_ij = exp(-|f_i - f_j|^2 / 2); Kraehenbuehl and Koltun, "Efficient Inference in Fully
Connected CRFs with Gaussian Edge Potentials" (2011), eq. 3.
"""

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastseg._arguments import check_normalization, check_tensor, dtype_name
from fastseg._readback import bounds_of, has_values
from fastseg.crf.parameter_bounds import bounds_of_parameter
from fastseg.nn.recipe import Recorded

Values = float | Sequence[float] | Sequence[Sequence[float]] | Tensor


class PairwiseKernel(Recorded):
    """A kernel's weight and normalisation; a subclass says which features it compares.

    Subclasses write ``forward(unary, image, features)`` and return ``(B, D, *spatial)`` features
    in standard deviations, dtype and device of ``unary``.

    Attributes:
        weight: parameter ``()``, ``(L,)`` or ``(L, L)``: W in the message W F Q.
        normalization: of this kernel alone, or None for the CRF's own.
    """

    settings = ("normalization",)
    weight: nn.Parameter

    def __init__(
        self, weight: Values, *, train_weight: bool = False, normalization: str | None = None
    ) -> None:
        super().__init__()
        if normalization is not None:
            check_normalization(self._op(), normalization)
        self.weight = self._parameter("weight", weight, train_weight)
        if self.weight.dim() > 2 or self.weight.numel() == 0 or self._not_square(self.weight):
            raise ValueError(
                f"{self._op()}: weight must have shape (), (L,) or (L, L), "
                f"got {tuple(self.weight.shape)}"
            )
        check_finite(self._op(), "weight", self.weight)
        self.normalization = normalization

    def forward(self, unary: Tensor, image: Tensor | None, features: Tensor | None) -> Tensor:
        """Features ``(B, D, *spatial)`` of the pixels of ``unary`` ``(B, L, *spatial)``."""
        raise NotImplementedError(f"{self._op()} must define forward")

    @staticmethod
    def _not_square(weight: Tensor) -> bool:
        return weight.dim() == 2 and weight.shape[0] != weight.shape[1]

    def _op(self) -> str:
        return type(self).__name__

    def _parameter(self, name: str, value: Values, trainable: bool) -> nn.Parameter:
        try:
            tensor = torch.as_tensor(value).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{self._op()}: {name} must be made of numbers, got {value!r}"
            ) from None
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"{self._op()}: {name} must be made of real numbers, got {value!r}")
        if not tensor.is_floating_point():
            tensor = tensor.to(torch.get_default_dtype())
        return nn.Parameter(tensor, requires_grad=trainable)

    def _width(self, name: str, value: Values, trainable: bool) -> nn.Parameter:
        width = self._parameter(name, value, trainable)
        if width.dim() > 1 or width.numel() == 0:
            raise ValueError(
                f"{self._op()}: {name} must be one width or one for each axis, "
                f"got shape {tuple(width.shape)}"
            )
        self._check_width(name, width, value)
        return width

    def _check_width(self, name: str, width: Tensor, given: object = None) -> None:
        """Also at every forward: a step of training or a loaded state may have moved a width."""
        # While a graph is traced a negative width gives the same kernel as its magnitude, and zero
        # or NaN gives features that the operator refuses.
        if not has_values(width):
            return
        low, high = bounds_of_parameter(width)
        if not 0 < low <= high < math.inf:  # false for NaN
            finding = width.detach().tolist() if given is None else given
            raise ValueError(f"{self._op()}: {name} must be positive and finite, got {finding}")

    def _summary(self, *names: str) -> str:
        parts = []
        for name in (*names, "weight"):
            parameter = getattr(self, name)
            shown = (
                f"{parameter.detach().tolist():.6g}"
                if parameter.dim() == 0
                else str(tuple(parameter.shape))
            )
            parts.append(f"{name}={shown}" + (" (trained)" if parameter.requires_grad else ""))
        if self.normalization is not None:
            parts.append(f"normalization={self.normalization!r}")
        return ", ".join(parts)


class GaussianKernel(PairwiseKernel):
    """The position kernel: exp(-|p_i - p_j|^2 / (2 sigma_xy^2)), the smoothness term.

    Eq. 3, second kernel, of Kraehenbuehl and Koltun (2011); w2 and sigma_gamma in DeepLab.

    Args:
        sigma_xy: width in pixels, positive and finite: one number, or one for each axis in the
            order x, y or x, y, z (z is the axis D of a volume).
        weight: one number, one for each label ``(L,)``, or a matrix ``(L, L)``.
        train_weight, train_sigma: whether backpropagation reaches them.
        normalization: for this kernel instead of the CRF's: ``"none"``, ``"mean"``, ``"before"``,
            ``"after"`` or ``"symmetric"``.

    Shapes:
        unary ``(B, L, *spatial)`` to features ``(B, 2 or 3, *spatial)``, x first, the same for
        every image of the batch.

    Raises:
        ValueError: a width that is not positive and finite, or not one for each axis; the shape
            of the weight.
        TypeError: something else than real numbers.
    """

    sigma_xy: nn.Parameter

    def __init__(
        self,
        sigma_xy: Values = 3.0,
        weight: Values = 3.0,
        *,
        train_weight: bool = False,
        train_sigma: bool = False,
        normalization: str | None = None,
    ) -> None:
        super().__init__(weight, train_weight=train_weight, normalization=normalization)
        self.sigma_xy = self._width("sigma_xy", sigma_xy, train_sigma)

    def forward(
        self, unary: Tensor, image: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        self._check_width("sigma_xy", self.sigma_xy)
        places = torch.stack(positions(self._op(), unary, self.sigma_xy))
        return places.expand(unary.shape[0], *places.shape)

    def extra_repr(self) -> str:
        return self._summary("sigma_xy")


class BilateralKernel(PairwiseKernel):
    """The appearance kernel, over positions and colours.

        exp(-|p_i - p_j|^2 / (2 sigma_xy^2) - |I_i - I_j|^2 / (2 sigma_rgb^2))

    Eq. 3, first kernel, of Kraehenbuehl and Koltun (2011); w1, sigma_alpha and sigma_beta in
    DeepLab. Two pixels of one colour are at distance zero in the second term: a grey or flat
    image leaves the position part alone.

    Args:
        sigma_xy: width in pixels, positive and finite: one number, or one for each axis in the
            order x, y or x, y, z.
        sigma_rgb: width in the units of the image, which are 0-255 for photographs: one number,
            or one for each channel. Positive and finite.
        weight: one number, one for each label ``(L,)``, or a matrix ``(L, L)``.
        train_weight, train_sigma: whether backpropagation reaches the weight and both widths.
        normalization: for this kernel instead of the CRF's.

    Shapes:
        unary ``(B, L, *spatial)`` and image ``(B, C, *spatial)`` to features
        ``(B, 2 or 3 + C, *spatial)``: x, y (and z), then the channels. The image may have any
        layout in memory, any number of channels and any integer or floating dtype; it is read in
        the dtype of ``unary``.

    Raises:
        ValueError: a width that is not positive and finite; no image, or not of the batch and
            size of ``unary``; one width for each channel where the image has another number.
        TypeError: a bool or complex image.
    """

    sigma_xy: nn.Parameter
    sigma_rgb: nn.Parameter

    def __init__(
        self,
        sigma_xy: Values = 80.0,
        sigma_rgb: Values = 13.0,
        weight: Values = 10.0,
        *,
        train_weight: bool = False,
        train_sigma: bool = False,
        normalization: str | None = None,
    ) -> None:
        super().__init__(weight, train_weight=train_weight, normalization=normalization)
        self.sigma_xy = self._width("sigma_xy", sigma_xy, train_sigma)
        self.sigma_rgb = self._width("sigma_rgb", sigma_rgb, train_sigma)

    def forward(
        self, unary: Tensor, image: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        self._check_width("sigma_xy", self.sigma_xy)
        self._check_width("sigma_rgb", self.sigma_rgb)
        image = check_image(self._op(), image, unary)
        channels = image.shape[1]
        if self.sigma_rgb.dim() == 1 and len(self.sigma_rgb) not in (1, channels):
            raise ValueError(
                f"{self._op()}: sigma_rgb must be one width or one for each of the {channels} "
                f"channels of image, got {len(self.sigma_rgb)}"
            )
        places = positions(self._op(), unary, self.sigma_xy)
        # One pass of large memory: the parts are written where they belong.
        size = (unary.shape[0], len(places) + channels, *unary.shape[2:])
        result = unary.new_empty(size)
        for axis, place in enumerate(places):
            result[:, axis] = place
        width = per_row(self.sigma_rgb.to(unary), unary.dim())
        result[:, len(places) :].copy_(image).div_(width)
        return result

    def expects_colours(self) -> bool:
        """Whether the widths are meant for values beyond [0, 1]: some sigma_rgb is 1 or more.

        False where they cannot be looked at.
        """
        return has_values(self.sigma_rgb) and bounds_of_parameter(self.sigma_rgb)[1] >= 1

    def extra_repr(self) -> str:
        return self._summary("sigma_xy", "sigma_rgb")


class FeatureKernel(PairwiseKernel):
    """A kernel over features of your own: exp(-sum_d (f_id - f_jd)^2 / (2 sigma_d^2)).

    Eq. 2 of Kraehenbuehl and Koltun (2011) in its general form. Gradients reach the features, so
    they may come from a network.

    Args:
        weight: one number, one for each label ``(L,)``, or a matrix ``(L, L)``.
        sigma: width in the units of the features: one number, or one for each dimension. Positive
            and finite.
        train_weight, train_sigma: whether backpropagation reaches them.
        normalization: for this kernel instead of the CRF's.

    Shapes:
        unary ``(B, L, *spatial)`` and features ``(B, D, *spatial)`` to ``(B, D, *spatial)``.
        D is 1 to 16 on the lattice. Any real floating or integer dtype, read in that of
        ``unary``.

    Raises:
        ValueError: a width that is not positive and finite; no features, or not of the batch and
            size of ``unary``; one width for each dimension where there is another number.
        TypeError: bool or complex features.
    """

    sigma: nn.Parameter

    def __init__(
        self,
        weight: Values = 1.0,
        sigma: Values = 1.0,
        *,
        train_weight: bool = False,
        train_sigma: bool = False,
        normalization: str | None = None,
    ) -> None:
        super().__init__(weight, train_weight=train_weight, normalization=normalization)
        self.sigma = self._width("sigma", sigma, train_sigma)

    def forward(
        self, unary: Tensor, image: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        self._check_width("sigma", self.sigma)
        features = check_image(self._op(), features, unary, name="features", letter="D")
        if self.sigma.dim() == 1 and len(self.sigma) not in (1, features.shape[1]):
            raise ValueError(
                f"{self._op()}: sigma must be one width or one for each of the "
                f"{features.shape[1]} dimensions of features, got {len(self.sigma)}"
            )
        return features.to(unary) / per_row(self.sigma.to(unary), unary.dim())

    def extra_repr(self) -> str:
        return self._summary("sigma")


def positions(op: str, unary: Tensor, sigma_xy: Tensor) -> list[Tensor]:
    """Pixel coordinates over their widths, ``(*spatial)`` each: x, which is the last axis, first.

    ``unary`` ``(B, L, *spatial)`` gives sizes, dtype and device. They are views of one line of
    numbers each.
    """
    spatial = unary.shape[2:]
    if sigma_xy.dim() == 1 and len(sigma_xy) not in (1, len(spatial)):
        raise ValueError(
            f"{op}: sigma_xy must be one width or one for each of the {len(spatial)} axes, "
            f"got {len(sigma_xy)}"
        )
    widths = sigma_xy.to(unary).expand(len(spatial))
    places = []
    for axis, width in zip(reversed(range(len(spatial))), widths, strict=True):
        line = torch.arange(spatial[axis], dtype=unary.dtype, device=unary.device) / width
        places.append(line.reshape(-1, *[1] * (len(spatial) - 1 - axis)).expand(spatial))
    return places


def per_row(width: Tensor, dims: int) -> Tensor:
    """One width or ``(rows,)`` of them, shaped to divide a tensor ``(B, rows, *spatial)``."""
    return width.reshape(1, -1, *[1] * (dims - 2))


def check_finite(op: str, name: str, parameter: Tensor) -> None:
    if not has_values(parameter) or all(map(math.isfinite, bounds_of_parameter(parameter))):
        return
    raise ValueError(f"{op}: {name} must be finite, got {parameter.detach().tolist()}")


def check_image(
    op: str, image: Tensor | None, unary: Tensor, *, name: str = "image", letter: str = "C"
) -> Tensor:
    """``image`` if it is a real ``(B, C, *spatial)`` tensor that fits ``unary``."""
    if image is None:
        raise ValueError(
            f"{op}: {name} must be a tensor of shape {_shape_beside(unary, letter)}, got None"
        )
    check_tensor(op, name, image)
    if image.dtype == torch.bool or image.is_complex():
        raise TypeError(
            f"{op}: {name} must have an integer or floating dtype, got {dtype_name(image)}"
        )
    fits = image.dim() == unary.dim() and image.shape[2:] == unary.shape[2:]
    if not fits or image.shape[0] != unary.shape[0] or image.shape[1] == 0:
        raise ValueError(
            f"{op}: {name} must have shape {_shape_beside(unary, letter)} like the scores, "
            f"got {tuple(image.shape)}"
        )
    if image.device != unary.device:
        raise ValueError(
            f"{op}: {name} must be on the device of the scores, {unary.device}, got {image.device}"
        )
    return image


def _shape_beside(unary: Tensor, letter: str) -> str:
    return f"({', '.join(map(str, [unary.shape[0], letter, *unary.shape[2:]]))})"


def warn_of_unit_range(
    op: str, image: Tensor | None, kernels: Iterable[nn.Module], stacklevel: int
) -> None:
    """Warns once where a floating image lies in [0, 1] and a kernel's sigma_rgb is 1 or more.

    Colours then differ by less than one standard deviation and the kernel barely sees them. A
    constant image is passed over: whatever its scale, it has no colours to compare.
    """
    if not isinstance(image, Tensor) or image.layout != torch.strided:
        return  # check_image says what is wrong
    if not image.is_floating_point() or not has_values(image):
        return
    expecting = any(k.expects_colours() for k in kernels if isinstance(k, BilateralKernel))
    if not expecting or image.numel() == 0:
        return
    low, high = bounds_of(image)
    if 0 <= low < high <= 1:
        warnings.warn(
            f"{op}: image should hold 0-255 values where sigma_rgb is 1 or more, got values from "
            f"{low:.4g} to {high:.4g}; multiply the image by 255, or divide sigma_rgb by 255",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
