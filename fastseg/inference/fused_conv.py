"""A convolution with what follows it, on weights that are folded and transformed beforehand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastseg._C
from fastseg.inference.conv_modules import (
    Conv,
    geometry_of,
    is_convolution_turned_round,
    weight_of,
    weight_shape_of,
)
from fastseg.inference.parameter_watch import ParameterWatch
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import (
    TORCH,
    Convolve,
    Layer,
    can_prepack,
    chosen_algorithm,
    is_channels_last,
    prepack,
    prepacked_call,
    run_torch,
    to_channels_last,
    transform_weight,
    transformed_call,
    weight_layout,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_FORMS = 4  # of one layer's weights that are kept; each may be four times their size
MOST_PLANS = 64
PREPACKED_FROM = 200_000  # products, as the cost model has it


class Settings(NamedTuple):
    """What the user of compile_for_inference chose."""

    accuracy: str
    deterministic: bool
    channels_last: bool


class Plan(NamedTuple):
    """How inputs of one shape and format are convolved."""

    geometry: ConvGeometry
    algorithm: str
    convolve: Convolve
    to_channels_last: bool  # whether the input is brought there first
    output_shape: tuple[int, ...]


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
    """float32 where a norm is folded in, by products in float64 of some outputs at a time."""
    weight = weight_of(conv)
    if scale is None:
        return weight
    folded = torch.empty(weight.shape)
    for first in range(0, len(weight), 64):
        part = slice(first, first + 64)
        folded[part] = weight[part].double() * scale[part, None, None, None]
    return folded


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
        """All that the result depends on, beside the input; the weight first."""
        conv, norm = self.conv._parameters, self.norm
        found: list[Tensor | None] = [conv["weight"], conv["bias"]]
        if norm is not None:
            found += [*norm._parameters.values(), *norm._buffers.values()]
        return [tensor for tensor in found if tensor is not None]

    # Called for every layer of a model: what small ones take beside their kernel is what is here.
    def __call__(self, input: Tensor, residual: Tensor | None, activation: str) -> Tensor | None:
        """What the modules would give but for rounding; None where only they can tell."""
        tensors = self.tensors()
        if not self.serves(input, residual, tensors):
            return None
        folded = self.up_to_date(tensors)
        if folded is None:
            return None
        geometry = geometry_of(self.conv)
        key = input.shape, input.stride(), input.dtype, fastseg._C.instruction_set()
        plan = folded.plans.get(key)
        if plan is None or plan.geometry != geometry:
            plan = self.plan(input, geometry, folded)
            if plan is None:
                return None
            if len(folded.plans) >= MOST_PLANS:
                folded.plans = {}
            folded.plans[key] = plan
        if residual is not None and residual.shape != plan.output_shape:
            return None  # broadcast
        if plan.to_channels_last:
            input = to_channels_last(input)
        return plan.convolve(input, folded.bias, residual, activation)

    def serves(self, input: Tensor, residual: Tensor | None, tensors: list[Tensor]) -> bool:
        """Whether these inputs can be served as long as the weights can; shapes are not judged."""
        conv, norm = self.conv, self.norm
        if conv.training or (norm is not None and norm.training):
            self.forget()  # what trains may write in ways that no one counts
            return False
        if has_hooks(conv):
            return False
        if norm is not None and (has_hooks(norm) or norm._buffers["running_var"] is None):
            return False
        if not is_plain_input(input) or input.dtype != tensors[0].dtype:
            return False
        if residual is not None and not (
            is_plain_input(residual) and residual.dtype == input.dtype
        ):
            return False
        if torch.is_grad_enabled():
            images = [input] if residual is None else [input, residual]
            if any(tensor.requires_grad for tensor in images + tensors):
                self.forget()  # the next step of an optimiser may be such a way
                return False
        return True

    def up_to_date(self, tensors: list[Tensor]) -> FoldedWeights | None:
        """None for weights on other devices, and for those that count no changes."""
        folded = self.folded
        eps = None if self.norm is None else self.norm.eps
        if folded is None or folded.eps != eps or not folded.watch.unchanged(tensors):
            if not all(tensor.is_cpu and not tensor.is_inference() for tensor in tensors):
                return None
            with torch.inference_mode(False), torch.no_grad():
                folded = FoldedWeights(tensors, self.conv, self.norm)
            self.folded = folded
        return folded

    def plan(self, input: Tensor, geometry: ConvGeometry, folded: FoldedWeights) -> Plan | None:
        """None where the input has not the channels of the weights, or a stride was changed."""
        conv, size = self.conv, (input.shape[2], input.shape[3])
        if isinstance(conv, nn.ConvTranspose2d) and not is_convolution_turned_round(conv):
            return None
        weight_shape = weight_shape_of(conv)
        if input.shape[1] != weight_shape[1] * geometry.groups:
            return None
        convert = self.settings.channels_last and not is_channels_last(input)
        if convert:
            input = to_channels_last(input)
        channels_last = is_channels_last(input)
        algorithm = chosen_algorithm(
            tuple(input.shape),
            weight_shape,
            geometry,
            channels_last,
            self.settings.accuracy,
            self.settings.deterministic,
            True,
            fastseg._C.instruction_set(),
        )
        of_its_shape = input.new_empty(()).expand(weight_shape)
        bare = Layer(input, of_its_shape, None, None, geometry, "none")
        convolve: Convolve
        if algorithm == TORCH and can_prepack(bare) and is_worth_prepacking(bare):
            packed = folded.form(
                conv,
                ("oneDNN", geometry, input.shape),
                lambda weight: prepack(weight, geometry, input.shape),
            )
            convolve = prepacked_call(packed, geometry)
        elif algorithm == TORCH:
            format = torch.channels_last if channels_last else torch.contiguous_format
            ordered = folded.form(
                conv,
                (TORCH, format),
                lambda weight: weight.to(input.dtype, memory_format=format),
            )

            def convolve(
                input: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
            ) -> Tensor:
                return run_torch(Layer(input, ordered, bias, residual, geometry, activation))

        else:
            layout = weight_layout(weight_shape, geometry, size, algorithm)
            transformed = folded.form(
                conv,
                (algorithm, layout, fastseg._C.instruction_set()),
                lambda weight: transform_weight(weight, geometry, size, algorithm),
            )
            convolve = transformed_call(transformed, weight_shape, geometry, algorithm)
        return Plan(geometry, algorithm, convolve, convert, bare.output_shape())


def is_worth_prepacking(layer: Layer) -> bool:
    """Whether the time that oneDNN saves is more than what its operator takes to begin."""
    _, channels, *size = layer.output_shape()
    products = channels * size[0] * size[1] * layer.input.shape[0] * layer.weight[0].numel()
    return layer.geometry.groups > 1 or products >= PREPACKED_FROM


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
