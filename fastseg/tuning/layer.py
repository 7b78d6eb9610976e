"""A convolution or a spatial pyramid, by its shapes: its class, its tensors, how it is called."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fastseg.ops import aspp, dilated_conv2d
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.tuning.shape_class import pyramid_class, shape_class


class Layer(Protocol):
    """What is measured of one operator."""

    @property
    def op(self) -> str:
        """As tables name the operator."""
        ...

    def shape_class(self, dtype: torch.dtype, *, tf32: bool, channels_last: bool) -> str: ...

    def tensors(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Input as after a ReLU, weights that keep its scale, and biases; float32 on the CPU."""
        ...

    def run(
        self, input: Tensor, weights: list[Tensor], biases: list[Tensor], algorithm: str
    ) -> Tensor:
        """fastseg's operator with ReLU; ValueError where the algorithm does not serve the layer."""
        ...

    def run_torch(self, input: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """The same by torch's functions alone."""
        ...


class ConvLayer(NamedTuple):
    """What a convolution is given: ``(B, C, H, W)``, ``(O, C / groups, KH, KW)``, geometry."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    geometry: ConvGeometry

    @property
    def op(self) -> str:
        return "dilated_conv2d"

    def __str__(self) -> str:
        """``"1x512x65x65 by 512x512x3x3, rate 2, padding 2"``; what is 1, 0 or none is left out."""
        rate, padding, stride, groups = self.geometry
        text = f"{times(self.input_shape)} by {times(self.weight_shape)}"
        for name, values, default in (
            ("rate", rate, 1),
            ("padding", padding, 0),
            ("stride", stride, 1),
            ("groups", (groups,), 1),
        ):
            distinct = tuple(dict.fromkeys(values))
            if distinct != (default,):
                text += f", {name} {times(distinct if len(distinct) == 1 else values)}"
        return text

    def shape_class(self, dtype: torch.dtype, *, tf32: bool, channels_last: bool) -> str:
        return shape_class(*self, dtype, tf32=tf32, channels_last=channels_last)

    def tensors(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return random_tensors(self.input_shape, [self.weight_shape])

    def run(
        self, input: Tensor, weights: list[Tensor], biases: list[Tensor], algorithm: str
    ) -> Tensor:
        rate, padding, stride, groups = self.geometry
        return dilated_conv2d(
            input,
            weights[0],
            biases[0],
            rate=rate,
            padding=padding,
            stride=stride,
            groups=groups,
            activation="relu",
            algorithm=algorithm,
        )

    def run_torch(self, input: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        rate, (top, bottom, left, right), stride, groups = self.geometry
        image = functional.pad(input, (left, right, top, bottom))
        return functional.conv2d(image, weights[0], biases[0], stride, 0, rate, groups).relu_()


class PyramidLayer(NamedTuple):
    """What a pyramid is given: ``(B, C, H, W)``, ``(O, C, KH, KW)`` and rate of each branch."""

    input_shape: tuple[int, ...]
    weight_shapes: tuple[tuple[int, ...], ...]
    rates: tuple[int, ...]
    combine: str

    @property
    def op(self) -> str:
        return "aspp"

    def __str__(self) -> str:
        """``"1x2048x65x65 by sum of 21x2048x3x3 rate 6, 21x2048x3x3 rate 12"``."""
        branches = zip(self.weight_shapes, self.rates, strict=True)
        text = ", ".join(f"{times(shape)} rate {rate}" for shape, rate in branches)
        return f"{times(self.input_shape)} by {self.combine} of {text}"

    def geometries(self) -> tuple[ConvGeometry, ...]:
        return tuple(
            ConvGeometry.of(self.op, shape[2:], rate=max(rate, 1), padding="same")
            for shape, rate in zip(self.weight_shapes, self.rates, strict=True)
        )

    def shape_class(self, dtype: torch.dtype, *, tf32: bool, channels_last: bool) -> str:
        return pyramid_class(
            self.input_shape,
            self.weight_shapes,
            self.geometries(),
            self.combine,
            dtype,
            tf32=tf32,
            channels_last=channels_last,
        )

    def tensors(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return random_tensors(self.input_shape, self.weight_shapes)

    def run(
        self, input: Tensor, weights: list[Tensor], biases: list[Tensor], algorithm: str
    ) -> Tensor:
        return aspp(input, weights, biases, self.rates, self.combine, "relu", algorithm=algorithm)

    def run_torch(self, input: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        branches = zip(weights, biases, self.geometries(), strict=True)
        outputs = [
            functional.conv2d(input, weight, bias, padding=g.padding[::2], dilation=g.rate)
            for weight, bias, g in branches
        ]
        if self.combine == "concat":
            return torch.cat(outputs, dim=1).relu_()
        return torch.stack(outputs).sum(dim=0).relu_()


def times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))


def random_tensors(
    input_shape: Sequence[int], weight_shapes: Sequence[Sequence[int]]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=generator)

    weights = [
        normal(shape) * (2 / torch.Size(shape[1:]).numel()) ** 0.5 for shape in weight_shapes
    ]
    biases = [0.1 * normal(shape[:1]) for shape in weight_shapes]
    return normal(input_shape).relu_(), weights, biases
