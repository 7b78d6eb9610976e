"""A convolution with what follows it, on weights that are folded and transformed beforehand."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

import fastseg._C
from fastseg.inference.parameter_watch import ParameterWatch
from fastseg.nn import DilatedConv2d
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import (
    TORCH,
    Layer,
    can_prepack,
    chosen_algorithm,
    convolve_transformed,
    is_channels_last,
    prepack,
    run_prepacked,
    run_torch,
    to_channels_last,
    transform_weight,
    weight_layout,
)

Conv: TypeAlias = nn.Conv2d | DilatedConv2d
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_FORMS = 4  # of one layer's weights that are kept; each may be four times their size
MOST_PLANS = 64


class Settings(NamedTuple):
    """What the user of compile_for_inference chose."""

    accuracy: str
    deterministic: bool
    channels_last: bool


class Plan(NamedTuple):
    """How inputs of one shape and format are convolved."""

    algorithm: str
    weight: Tensor  # in the form that the algorithm reads


class FoldedWeights:
    """Weights and bias of a convolution with its batch norm, in the forms asked for so far."""

    def __init__(self, tensors: list[Tensor], conv: Conv, norm: nn.BatchNorm2d | None) -> None:
        self.watch = ParameterWatch(tensors)
        self.eps = None if norm is None else norm.eps
        self.scale, self.bias = fold(conv, norm)
        self.forms: dict[tuple[Any, ...], Tensor] = {}
        self.plans: dict[tuple[Any, ...], Plan] = {}

    def form(self, conv: Conv, key: tuple[Any, ...], make: Callable[[Tensor], Tensor]) -> Tensor:
        """The form of the weights that ``key`` names, made from the folded weights if it is new."""
        form = self.forms.get(key)
        if form is None:
            with torch.inference_mode(False), torch.no_grad():
                form = make(folded_weight(conv, self.scale))
            if len(self.forms) >= MOST_FORMS:  # what many sizes need is not all kept
                self.forms, self.plans = {}, {}
            self.forms[key] = form
        return form


def folded_weight(conv: Conv, scale: Tensor | None) -> Tensor:
    """float32 where a norm is folded in."""
    weight: Tensor = conv.weight.detach()
    return weight if scale is None else (weight.double() * scale[:, None, None, None]).float()


def fold(conv: Conv, norm: nn.BatchNorm2d | None) -> tuple[Tensor | None, Tensor | None]:
    """Scale of each output channel, float64, and the bias that is left; None where there is none.

    gamma (y + b - mean) / sqrt(var + eps) + beta = scale y + (beta + scale (b - mean)).
    """
    bias: Tensor | None = None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return None, bias
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift.to(conv.weight.dtype)


class FusedConv:
    """Convolution, batch norm, residual and ReLU of existing modules as one call.

    The modules keep their parameters; what is computed from them is computed again when they
    change, and is neither copied nor pickled.
    """

    def __init__(
        self,
        conv: Conv,
        norm: nn.BatchNorm2d | None,
        settings: Settings,
    ) -> None:
        self.conv, self.norm, self.settings = conv, norm, settings
        self.folded: FoldedWeights | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "folded": None}

    def forget(self) -> None:
        self.folded = None

    def tensors(self) -> list[Tensor]:
        """All that the result depends on, beside the input."""
        conv, norm = self.conv._parameters, self.norm
        found: list[Tensor | None] = [conv["weight"], conv["bias"]]
        if norm is not None:
            found += [*norm._parameters.values(), *norm._buffers.values()]
        return [tensor for tensor in found if tensor is not None]

    def __call__(self, input: Tensor, residual: Tensor | None, relu: bool) -> Tensor | None:
        """What the modules would give but for rounding; None where only they can tell."""
        tensors = self.tensors()
        if not self.serves(input, residual, tensors):
            return None
        geometry, shape = geometry_of(self.conv), self.conv.weight.shape
        if residual is not None:
            size = geometry.output_size(input.shape[2:], shape[2:])
            if residual.shape != (input.shape[0], shape[0], *size):
                return None  # broadcast
        folded = self.up_to_date(tensors)
        if self.settings.channels_last and not is_channels_last(input):
            input = to_channels_last(input)
        channels_last = is_channels_last(input)
        key = (
            *(input.shape, input.stride(), input.dtype),
            *(geometry, fastseg._C.instruction_set()),
        )
        plan = folded.plans.get(key)
        if plan is None:
            plan = self.plan(input, geometry, channels_last, folded)
            if len(folded.plans) >= MOST_PLANS:
                folded.plans = {}
            folded.plans[key] = plan
        layer = Layer(
            input, plan.weight, folded.bias, residual, geometry, "relu" if relu else "none"
        )
        if plan.algorithm == TORCH:
            return run_prepacked(layer) if plan.weight.is_mkldnn else run_torch(layer)
        return convolve_transformed(layer, shape, plan.algorithm)

    def up_to_date(self, tensors: list[Tensor]) -> FoldedWeights:
        folded = self.folded
        eps = None if self.norm is None else self.norm.eps
        if folded is None or folded.eps != eps or not folded.watch.unchanged(tensors):
            with torch.inference_mode(False), torch.no_grad():
                folded = FoldedWeights(tensors, self.conv, self.norm)
            self.folded = folded
        return folded

    def serves(self, input: Tensor, residual: Tensor | None, tensors: list[Tensor]) -> bool:
        conv, norm = self.conv, self.norm
        if conv.training or (norm is not None and norm.training):
            self.forget()  # what trains may write in ways that no one counts
            return False
        if has_hooks(conv) or (norm is not None and (has_hooks(norm) or norm.running_var is None)):
            return False
        if not is_plain_input(input) or not (residual is None or is_plain_input(residual)):
            return False
        weight = tensors[0]
        if weight.dtype != input.dtype or input.shape[1] != weight.shape[1] * conv_groups(conv):
            return False
        if residual is not None and residual.dtype != input.dtype:
            return False
        images = [input] if residual is None else [input, residual]
        if torch.is_grad_enabled() and any(t.requires_grad for t in images + tensors):
            self.forget()  # the next step of an optimiser may be such a way
            return False
        return all(tensor.is_cpu and not tensor.is_inference() for tensor in tensors)

    def plan(
        self, input: Tensor, geometry: ConvGeometry, channels_last: bool, folded: FoldedWeights
    ) -> Plan:
        conv, size = self.conv, (input.shape[2], input.shape[3])
        algorithm = chosen_algorithm(
            tuple(input.shape),
            tuple(conv.weight.shape),
            geometry,
            channels_last,
            self.settings.accuracy,
            self.settings.deterministic,
            True,
            fastseg._C.instruction_set(),
        )
        bare = Layer(input, conv.weight, None, None, geometry, "none")
        if algorithm == TORCH and can_prepack(bare):
            key: tuple[Any, ...] = ("oneDNN", geometry, input.shape)

            def make(weight: Tensor) -> Tensor:
                return prepack(weight, geometry, input.shape)
        elif algorithm == TORCH:
            format = torch.channels_last if channels_last else torch.contiguous_format
            key = (TORCH, format)

            def make(weight: Tensor) -> Tensor:
                return weight.to(input.dtype, memory_format=format)
        else:
            key = (
                algorithm,
                weight_layout(tuple(conv.weight.shape), geometry, size, algorithm),
                fastseg._C.instruction_set(),
            )

            def make(weight: Tensor) -> Tensor:
                return transform_weight(weight, geometry, size, algorithm)

        return Plan(algorithm, folded.form(conv, key, make))


def conv_groups(conv: Conv) -> int:
    return conv.geometry.groups if isinstance(conv, DilatedConv2d) else conv.groups


def geometry_of(conv: Conv) -> ConvGeometry:
    if isinstance(conv, DilatedConv2d):
        return conv.geometry
    sizes: Any = conv.kernel_size, conv.dilation, conv.padding, conv.stride, conv.groups
    return geometry_from(*sizes)


@lru_cache(maxsize=1024)
def geometry_from(
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    padding: Any,
    stride: tuple[int, int],
    groups: int,
) -> ConvGeometry:
    """Of the attributes of ``torch.nn.Conv2d``."""
    return ConvGeometry.of(
        "compile_for_inference",
        kernel_size,
        rate=dilation,
        padding=padding,
        stride=stride,
        groups=groups,
    )


def is_plain_input(input: object) -> bool:
    """An image that the kernels read as the modules would."""
    return (
        type(input) is Tensor
        and input.is_cpu
        and input.dtype in FLOATS
        and input.dim() == 4
        and input.layout is torch.strided
        and input.numel() > 0
    )


def has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
