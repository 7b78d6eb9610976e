"""Files that are recognised and have no network here."""

from collections.abc import Callable

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request


def refuse(name: str, reason: str) -> Callable[[Contents, Request], Plan]:
    def plan(contents: Contents, request: Request) -> Plan:
        raise CheckpointError(f"load_weights: this is a file of {name}, {reason}")

    return plan


def has(*names: str) -> Callable[[Contents], bool]:
    return lambda contents: all(name in contents.tensors for name in names)


OTHER = "which is none of the lecture's systems"

FORMATS = (
    Format("LR-ASPP", has("classifier.low_classifier.weight"), refuse("LR-ASPP", OTHER)),
    Format(
        "torchvision's DeepLab v3 on MobileNetV3",
        has("classifier.0.convs.0.0.weight", "backbone.0.0.weight"),
        refuse("torchvision's DeepLab v3 on MobileNetV3", "a backbone that fastseg does not have"),
    ),
    Format(
        "MobileNetV3",
        has("features.0.0.weight", "features.1.block.0.0.weight"),
        refuse("MobileNetV3", "a backbone that fastseg does not have"),
    ),
    Format(
        "mmsegmentation",
        lambda contents: any(name.startswith("decode_head.") for name in contents.tensors),
        refuse("mmsegmentation", "whose heads and backbones differ from those of the papers"),
    ),
)
