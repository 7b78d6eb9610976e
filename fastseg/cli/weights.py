"""Models for the commands that run one: by name, from a file of weights."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from fastseg.cli.console import usage_error

if TYPE_CHECKING:
    from torch import nn

# Which of two networks with equal names and shapes a system is, see fastseg.load_weights.
VARIANTS = {
    "fcn8s": "fcn8s",
    "fcn8s_at_once": "fcn8s_at_once",
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

    In float32, whatever the file holds: photographs are run in it.

    Raises:
        CheckpointError: the file is not of that system, or cannot be read.
        OSError: the file cannot be opened.
    """
    import fastseg
    from fastseg.checkpoints import CheckpointError
    from fastseg.models import WithCRF, build
    from fastseg.models.network import Network

    if name is not None:
        check_name(name)
    try:
        model = fastseg.load_weights(None, weights, variant)
    except CheckpointError:
        if variant is not None or name not in VARIANTS:
            raise
        variant = VARIANTS[name]
        model = fastseg.load_weights(None, weights, variant)
    if not isinstance(model, Network | WithCRF):
        raise CheckpointError(
            f"{weights}: must hold a segmentation network, got a {type(model).__name__} backbone"
        )
    if name is not None and model.system != name:
        found = model.system or type(model).__name__
        model = build(name, model.num_classes)
        try:
            fastseg.load_weights(model, weights, variant)
        except CheckpointError as error:
            raise CheckpointError(
                f"{weights}: must hold weights of {name}, got those of {found}; without --model it "
                "is taken as that"
            ) from error
    return model.float().eval()
