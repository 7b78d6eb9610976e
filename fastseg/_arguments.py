"""What Python functions ask of their arguments, in the words of csrc/common/check.h.

Every message reads "<op>: <argument> must <rule>, got <finding>".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg._limits import MAX_ITERATIONS, MAX_LABELS, NORMALIZATIONS
from fastseg._readback import has_values

HALVES = (torch.float16, torch.bfloat16)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_tensor(op: str, name: str, argument: object) -> None:
    if not isinstance(argument, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(argument).__name__}")
    if argument.is_nested or argument.layout != torch.strided:
        layout = "nested" if argument.is_nested else str(argument.layout).removeprefix("torch.")
        raise TypeError(f"{op}: {name} must be a dense tensor, got a {layout} one")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{op}: {name} must have dtype float32 or float64, got {dtype_name(tensor)}"
        )


def check_energies(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64, *HALVES):
        raise TypeError(
            f"{op}: {name} must have dtype float32, float64, float16 or bfloat16, "
            f"got {dtype_name(tensor)}"
        )


def check_device(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """torch itself would take a mixture to one of the devices."""
    if tensor.device != other.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {other_name}, {other.device}, "
            f"got {tensor.device}"
        )


def check_like(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Same device and dtype."""
    check_device(op, name, tensor, other_name, other)
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {other_name}, {dtype_name(other)}, "
            f"got {dtype_name(tensor)}"
        )


def check_points(op: str, features_name: str, features: Tensor, name: str, values: Tensor) -> None:
    """``features`` ``(B, D, *spatial)`` beside ``values`` ``(B, C, *spatial)``."""
    batch, _, *spatial = values.shape
    if features.dim() == values.dim() and (
        [features.shape[0], *features.shape[2:]] == [batch, *spatial]
    ):
        return
    expected = ", ".join(map(str, [batch, "D", *spatial]))
    raise ValueError(
        f"{op}: {features_name} must have shape ({expected}) beside {name} "
        f"{tuple(values.shape)}, got {tuple(features.shape)}"
    )


def check_normalization(op: str, normalization: object) -> None:
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"{op}: normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}"
        )


def normalization_of_each(op: str, normalization: str | Sequence[str], kernels: int) -> list[str]:
    """One normalisation for each kernel."""
    if isinstance(normalization, str):
        check_normalization(op, normalization)
        return [normalization] * kernels
    if not isinstance(normalization, Sequence):
        raise TypeError(
            f"{op}: normalization must be one string or one for each kernel, "
            f"got {type(normalization).__name__}"
        )
    for kind in normalization:
        check_normalization(op, kind)
    if len(normalization) != kernels:
        raise ValueError(
            f"{op}: normalization must be one string or one for each kernel, {kernels}, "
            f"got {len(normalization)}"
        )
    return list(normalization)


def tensors_of_each(op: str, name: str, tensors: object, unary: Tensor) -> list[Tensor]:
    """One tensor for each kernel, of the device and dtype of ``unary``; float32 beside halves."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(
            f"{op}: {name} must be a list with one tensor for each kernel, "
            f"got {type(tensors).__name__}"
        )
    for k, tensor in enumerate(tensors):
        check_tensor(op, f"{name}[{k}]", tensor)
        if unary.dtype in HALVES and tensor.device == unary.device:
            _check_single(op, f"{name}[{k}]", tensor, unary)
        else:
            check_like(op, f"{name}[{k}]", tensor, "unary", unary)
    return list(tensors)


def _check_single(op: str, name: str, tensor: Tensor, unary: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise TypeError(
            f"{op}: {name} must have dtype float32 beside a unary of {dtype_name(unary)}, "
            f"got {dtype_name(tensor)}"
        )


def check_flag(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {value!r}")


def check_iterations(op: str, iterations: object) -> None:
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise TypeError(f"{op}: iterations must be an int, got {type(iterations).__name__}")
    if not 0 <= iterations <= MAX_ITERATIONS:
        raise ValueError(
            f"{op}: iterations must be between 0 and {MAX_ITERATIONS}, got {iterations}"
        )


def check_mean_field(
    op: str,
    unary: Tensor,
    features_name: str,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
) -> None:
    """Shapes and values; what ``tensors_of_each`` checks comes first."""
    shape = tuple(unary.shape)
    if unary.dim() < 3:
        raise ValueError(f"{op}: unary must have shape (B, L, *spatial), got {shape}")
    labels = unary.shape[1]
    if not 1 <= labels <= MAX_LABELS:
        raise ValueError(f"{op}: unary must have 1 to {MAX_LABELS} labels, got {labels}")
    if math.prod(shape[2:]) == 0:
        raise ValueError(f"{op}: unary must have at least one pixel, got shape {shape}")
    if len(transforms) != len(features):
        raise ValueError(
            f"{op}: transforms must have one entry for each of {features_name}, {len(features)}, "
            f"got {len(transforms)}"
        )
    for k, (points, transform) in enumerate(zip(features, transforms, strict=True)):
        name = f"{features_name}[{k}]"
        check_points(op, name, points, "unary", unary)
        if points.shape[1] == 0:
            raise ValueError(f"{op}: {name} must have at least 1 feature dimension, got 0")
        if tuple(transform.shape) not in ((), (labels,), (labels, labels)):
            raise ValueError(
                f"{op}: transforms[{k}] must have shape (), ({labels},) or ({labels}, {labels}), "
                f"got {tuple(transform.shape)}"
            )
    if has_values(unary):
        _check_values(op, unary, features_name, features, transforms)


def _check_values(
    op: str,
    unary: Tensor,
    features_name: str,
    features: Sequence[Tensor],
    transforms: Sequence[Tensor],
) -> None:
    checked = [unary.amin(1)]  # NaN where there is one
    for points, transform in zip(features, transforms, strict=True):
        checked += [*points.unbind(1), transform]
    finite = iter(torch.stack([torch.isfinite(each).all() for each in checked]).tolist())
    if not next(finite):
        raise ValueError(
            f"{op}: unary must hold no NaN and no -inf, and a finite energy for at least one "
            "label of each pixel, got a pixel that breaks this"
        )
    for k, (points, transform) in enumerate(zip(features, transforms, strict=True)):
        for d in range(points.shape[1]):
            if not next(finite):
                raise ValueError(
                    f"{op}: {features_name}[{k}] must be finite, got NaN or infinity in feature {d}"
                )
        if not next(finite):
            unusable = transform[~torch.isfinite(transform)][0].item()
            raise ValueError(f"{op}: transforms[{k}] must be finite, got {unusable}")
