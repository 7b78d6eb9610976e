"""Whether weights of one model give the same results in another."""

import inspect
from typing import Any

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Tensors
from fastseg.models.multi_scale import MultiScale
from fastseg.nn.recipe import Recorded

FREE = {
    "add_one",
    "aux",
    "average_pool",
    "dropout",
    "frozen_norm",
    "grid",
    "iterations",
    "learn_upsampling",
    "network",
    "norm_momentum",
    "output_stride",
    "scales",
    "train_iterations",
    "train_output_stride",
}
"""Arguments that a user may choose for any weights."""
GEOMETRY = {
    "ceil_mode",
    "first_padding",
    "multi_grid",
    "pool_kernels",
    "pool_paddings",
    "pool_strides",
    "rates",
}
"""Arguments by which a network changes the backbone that it takes from a classifier."""


def check_agreement(target: Recorded, built: Recorded, origin: str) -> None:
    """Raises CheckpointError unless ``target`` computes what ``built`` does with equal weights."""
    target, built = inner(target, built)
    if type(target) is not type(built):
        raise CheckpointError(
            f"load_weights: model must be a {type(built).__name__} for this file of {origin}, got "
            f"a {type(target).__name__}; {how_to_build(built)}"
        )
    ours, theirs = effective(target), effective(built)
    if ours.get("num_classes") != theirs.get("num_classes"):
        raise CheckpointError(
            f"load_weights: num_classes of the model must be {theirs.get('num_classes')} as in the "
            f"file, got {ours.get('num_classes')}; strict=False loads all but the scores"
        )
    free = FREE if hasattr(target, "num_classes") else FREE | GEOMETRY
    for name in theirs:
        if name not in free and ours[name] != theirs[name]:
            raise CheckpointError(
                f"load_weights: {name} of the model must be {theirs[name]!r} for this file of "
                f"{origin}, got {ours[name]!r}; {how_to_build(built)}"
            )
    if isinstance(target, MultiScale) and isinstance(built, MultiScale):
        check_agreement(target.network, built.network, origin)


def how_to_build(built: Recorded) -> str:
    if built.system is None:
        return "load_weights(None, path) builds the right one"
    return f"load_weights(None, path) builds {built.system}"


def effective(model: Recorded) -> dict[str, Any]:
    """Arguments with the defaults of those not given, in the kinds that JSON has."""
    parameters = inspect.signature(type(model).__init__).parameters
    values = {
        name: model.arguments.get(name, parameter.default)
        for name, parameter in parameters.items()
        if name != "self"
    }
    values |= {name: getattr(model, name) for name in model.settings if name in values}
    return {k: tuple(v) if isinstance(v, list | range) else v for k, v in values.items()}


def inner(target: Recorded, built: Recorded) -> tuple[Recorded, Recorded]:
    """Both with or both without the several sizes of :class:`MultiScale`, whose weights are one."""
    if isinstance(built, MultiScale) and not isinstance(target, MultiScale):
        return target, built.network
    if isinstance(target, MultiScale) and not isinstance(built, MultiScale):
        return target.network, built
    return target, built


def fitted_names(target: Recorded, built: Recorded, tensors: Tensors) -> Tensors:
    """``tensors`` by the names of ``target``, which may wrap ``built`` or lack its wrapping."""
    prefix = "network."
    if isinstance(built, MultiScale) and not isinstance(target, MultiScale):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if isinstance(target, MultiScale) and not isinstance(built, MultiScale):
        return {prefix + name: tensor for name, tensor in tensors.items()}
    if getattr(target, "aux_head", True) is None:
        return {k: tensor for k, tensor in tensors.items() if not k.startswith("aux_head.")}
    return tensors
