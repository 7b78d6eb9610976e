"""Models for the commands that run one: by name, from a file of weights."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from fastseg.cli.console import make_console, say, usage_error

if TYPE_CHECKING:
    from torch import nn

    from fastseg.models import WithCRF
    from fastseg.models.network import Network

# Which of two networks with equal names and shapes a system is, see fastseg.load_weights.
VARIANTS = {
    "fcn8s": "fcn8s",
    "fcn8s_at_once": "fcn8s_at_once",
    "deeplabv1_base": "base",
    "deeplabv1_4x4": "4x4",
    "deeplabv1_largefov": "v1",
    "deeplabv2_vgg16_largefov": "v2",
    "deeplabv2_vgg16_aspp_s": "aspp-s",
    "deeplabv2_vgg16_aspp_l": "aspp-l",
    "deeplabv2_resnet101": "v2",
    "deeplabv2_resnet101_msc": "v2",
}


def check_name(name: str, argument: str = "--model") -> None:
    """Raises typer.Exit unless ``name`` is a system."""
    from fastseg.models import list_systems

    systems = list_systems()
    if name in systems:
        return
    near = difflib.get_close_matches(name.lower().replace("-", "_"), systems, n=4, cutoff=0.4)
    advice = f"; did you mean {', '.join(near)}?" if near else ""
    raise usage_error(f"{argument} must be a name that `fastseg models` lists, got {name}{advice}")


def load_model(name: str | None, weights: Path, variant: str | None) -> "nn.Module":
    """The network that the file ``weights`` holds, which is the system ``name`` if one is given.

    In float32, whatever the file holds: photographs are run in it. A choice that the file left
    open is printed.

    Raises:
        CheckpointError: the file is not of that system, or cannot be read.
        OSError: the file cannot be opened.
    """
    if name is None:
        model = load_network(weights, variant)
    else:
        check_name(name)
        model = load_system(name, weights, variant)
    note = model.load_report.note  # type: ignore[union-attr]
    if note:
        say(make_console(stderr=True), "bold", "note", f"{weights}: {note}")
    return model.float().eval()


def load_network(weights: Path, variant: str | None) -> "Network | WithCRF":
    import fastseg
    from fastseg.checkpoints import CheckpointError
    from fastseg.models import WithCRF
    from fastseg.models.network import Network

    model = fastseg.load_weights(None, weights, variant)
    if not isinstance(model, Network | WithCRF):
        raise CheckpointError(
            f"{weights}: must hold a segmentation network, got a {type(model).__name__} backbone"
        )
    return model


def load_system(name: str, weights: Path, variant: str | None) -> "Network | WithCRF":
    """The system ``name`` with the weights of a file, whoever wrote it."""
    import fastseg
    from fastseg.checkpoints import CheckpointError
    from fastseg.checkpoints.own import classes_of
    from fastseg.models import build

    own = VARIANTS.get(name) if variant is None else variant
    try:
        try:
            model, variant = load_network(weights, own), own
        except CheckpointError:
            if own == variant:
                raise
            model = load_network(weights, variant)
    except CheckpointError:
        # A state_dict() has names of this system alone: no variant of any file.
        num_classes = classes_of(name, weights)
        if num_classes is None:
            raise
        model = build(name, num_classes)
        fastseg.load_weights(model, weights)
        return model
    if model.system == name:
        return model
    found, model = model.system or type(model).__name__, build(name, model.num_classes)
    try:
        fastseg.load_weights(model, weights, variant)
    except CheckpointError as error:
        raise CheckpointError(
            f"{weights}: must hold weights of {name}, got those of {found}; without --model it "
            "is taken as that"
        ) from error
    return model
