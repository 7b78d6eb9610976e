"""Readable definition of atrous spatial pyramid pooling: one convolution after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.reference.dilated_conv import activated, dilated_conv2d


def aspp(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    rates: Sequence[int],
    combine: str = "sum",
    activation: str | None = None,
) -> Tensor:
    """Same contract as :func:`fastseg.ops.aspp`, in float64 arithmetic."""
    image = input.double()
    outputs = []
    for k, (weight, rate) in enumerate(zip(weights, rates, strict=True)):
        bias = biases[k].double() if biases else None
        outputs.append(
            dilated_conv2d(image, weight.double(), bias, rate=max(rate, 1), padding="same")
        )
    total = torch.stack(outputs).sum(0) if combine == "sum" else torch.cat(outputs, dim=1)
    return activated(total, activation).to(input.dtype)
