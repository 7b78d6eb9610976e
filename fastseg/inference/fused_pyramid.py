"""A spatial pyramid on weights that are folded and transformed beforehand."""

from typing import Any

import torch
from torch import Tensor

import fastseg._C
from fastseg.inference.conv_modules import geometry_of, weight_shape_of
from fastseg.inference.fused_conv import (
    MOST_FORMS,
    FoldedWeights,
    FusedConv,
    Settings,
    folded_weight,
    has_hooks,
)
from fastseg.inference.fused_forward import FusedForward, is_watched
from fastseg.nn import ASPP
from fastseg.ops.aspp import pool_transformed, transform_weights, weights_layout
from fastseg.ops.conv_geometry import ConvGeometry


class FusedPyramid(FusedForward):
    """:class:`fastseg.nn.ASPP`, its branches with their norms."""

    def __init__(self, module: ASPP, convs: list[FusedConv], settings: Settings) -> None:
        super().__init__(module)
        self.convs, self.branches, self.settings = convs, list(module.branches), settings
        self.made: tuple[list[FoldedWeights], dict[Any, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "made": None}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        output = None
        if len(arguments) == 1 and not named and not is_watched():
            output = self.pool(arguments[0])
        if output is not None:
            return output
        for conv in self.convs:
            conv.forget()  # as the first did, if it was training that it met
        return self.as_before(*arguments, **named)

    def pool(self, input: Tensor) -> Tensor | None:
        module: Any = self.module
        branches, folded = [*module.branches], []
        if branches != self.branches or any(has_hooks(branch) for branch in branches):
            return None
        for conv in self.convs:
            tensors = conv.tensors()
            channels = weight_shape_of(conv.conv)[1]
            if not conv.serves(input, None, tensors) or input.shape[1] != channels:
                return None
            of_branch = conv.up_to_date(tensors)
            if of_branch is None:
                return None
            folded.append(of_branch)
        rates = [rate for conv in self.convs if (rate := rate_of(conv)) is not None]
        biases = [f.bias for f in folded if f.bias is not None]
        if len(rates) < len(folded) or len(biases) not in (0, len(folded)):
            return None
        accuracy, size = self.settings.accuracy, (input.shape[2], input.shape[3])
        shapes = tuple(weight_shape_of(conv.conv) for conv in self.convs)
        layout = weights_layout(shapes, size, tuple(rates), module.combine, accuracy)
        key = (tuple(rates), layout, module.combine, fastseg._C.instruction_set())
        forms = self.forms_of(folded)
        form = forms.get(key)
        if form is None:
            with torch.inference_mode(False), torch.no_grad():
                pairs = zip(self.convs, folded, strict=True)
                weights = [folded_weight(conv.conv, f.scale) for conv, f in pairs]
                form = transform_weights(weights, size, rates, module.combine, accuracy)
            if len(forms) >= MOST_FORMS:
                forms.clear()
            forms[key] = form
        return pool_transformed(
            input, form, biases, shapes, rates, module.combine, module.activation, accuracy
        )

    def forms_of(self, folded: list[FoldedWeights]) -> dict[Any, Tensor]:
        """The forms made of these folded weights so far."""
        made = self.made
        if made is None or any(a is not b for a, b in zip(made[0], folded, strict=True)):
            made = self.made = (folded, {})
        return made[1]


def rate_of(fused: FusedConv) -> int | None:
    """Of a branch that keeps the size of its input; None for any other geometry."""
    conv = fused.conv
    geometry, kernel = geometry_of(conv), conv.kernel_size
    rate = geometry.rate[0]
    same = ConvGeometry.of("aspp", kernel, rate=rate, padding="same")
    return rate if geometry == same and kernel[0] % 2 == kernel[1] % 2 == 1 else None
