"""Descriptions of models, in JSON: written beside their weights, and built from again."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fastseg import backbones, crf, models
from fastseg.checkpoints.errors import CheckpointError
from fastseg.models.input_convention import InputConvention
from fastseg.models.network import Network
from fastseg.nn.recipe import Recorded, recipe_of, settings_of

CLASSES: Mapping[str, type[Recorded]] = {
    kind.__name__: kind
    for kind in (
        models.CRFRNN,
        models.DeconvNet,
        models.DeepLabV1,
        models.DeepLabV2ResNet,
        models.DeepLabV2VGG16,
        models.DeepLabV3,
        models.DeepLabV3Plus,
        models.FCN8s,
        models.FCN16s,
        models.FCN32s,
        models.FCNAlexNet,
        models.FCNResNet,
        models.MultiScale,
        models.UNet,
        models.WithCRF,
        backbones.AlexNet,
        backbones.AlignedXception,
        backbones.Classifier,
        backbones.MobileNetV2,
        backbones.ResNet,
        backbones.VGG16,
        backbones.Xception,
        crf.BilateralKernel,
        crf.DenseCRF,
        crf.FeatureKernel,
        crf.GaussianKernel,
    )
}
"""What a description may name: nothing else is ever built from a file."""


def describe(model: nn.Module) -> dict[str, Any]:
    """Class, arguments, settings, system and input convention of a model.

    Raises:
        TypeError: a class that is not in :data:`CLASSES`, or arguments that JSON does not hold.
    """
    if CLASSES.get(type(model).__name__) is not type(model):
        raise TypeError(
            "save_weights: model must be a network or backbone of fastseg, "
            f"got {type(model).__name__}"
        )
    description: dict[str, Any] = {"version": 1, "model": recipe_of(model)}
    settings = settings_of(model)
    if settings:
        description["settings"] = settings
    convention = getattr(model, "input_convention", None)
    if convention is not None:
        description["input_convention"] = convention.to_dict()
    if getattr(model, "system", None) is not None:
        description["system"] = model.system
    backbones = {
        name: module.input_convention.to_dict() for name, module in with_own_pixels(model).items()
    }
    if backbones:
        description["backbones"] = backbones
    return description


def with_own_pixels(model: nn.Module) -> dict[str, Recorded]:
    """Backbones in ``model`` that have a convention of their own, from a classifier's file."""
    return {
        name: module
        for name, module in model.named_modules()
        if name
        and isinstance(module, Recorded)
        and not isinstance(module, Network)
        and isinstance(vars(module).get("input_convention"), InputConvention)
    }


def rebuild(description: Mapping[str, Any]) -> Recorded:
    """The model of a description, in evaluation mode.

    Raises:
        CheckpointError: the description cannot be followed.
    """
    try:
        if description["version"] != 1:
            raise CheckpointError(
                f"load_weights: version of the file must be 1, got {description['version']!r}; "
                "a newer fastseg reads it"
            )
        model = _built(description["model"])
        for name, settings in description.get("settings", {}).items():
            _set(model.get_submodule(name), settings)
        if "input_convention" in description:
            model.input_convention = InputConvention.from_dict(description["input_convention"])
        system = description.get("system")
        if system is not None:
            model.system = str(system)
        for name, convention in description.get("backbones", {}).items():
            backbone = model.get_submodule(name)
            backbone.input_convention = InputConvention.from_dict(convention)  # type: ignore[assignment]
        model.eval()
    except CheckpointError:
        raise
    except Exception as error:
        # Arguments from a file are anything: sizes without a limit too, which torch and memory meet
        # with errors of their own.
        raise CheckpointError(
            f"load_weights: the file's description of its model cannot be followed: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return model


def _built(recipe: Mapping[str, Any]) -> Recorded:
    name, arguments = recipe["class"], dict(recipe["arguments"])
    if name not in CLASSES:
        raise CheckpointError(
            f"load_weights: the class of the model must be one of {', '.join(CLASSES)}, "
            f"got {name!r}"
        )
    return CLASSES[name](**{key: _argument(value) for key, value in arguments.items()})


def _set(module: nn.Module, settings: Mapping[str, Any]) -> None:
    known = module.settings if isinstance(module, Recorded) else ()
    for key, value in settings.items():
        if key not in known or not isinstance(value, bool | int | float | str | None):
            raise CheckpointError(
                f"load_weights: settings of {type(module).__name__} must be words or numbers for "
                f"{', '.join(known) or 'nothing'}, got {key} = {value!r}"
            )
        setattr(module, key, value)


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _built(value)
    return tuple(map(_argument, value)) if isinstance(value, list) else value
