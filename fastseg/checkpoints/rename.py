"""Name maps: the first rule whose pattern a name starts with says its new name."""

import re
from collections.abc import Iterable, Sequence

from fastseg.backbones.resnet import DEPTHS
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Tensors

Rule = tuple[str, str | None]
"""A regular expression for the start of a name, and what replaces it; None drops the tensor."""

STEM_AND_BLOCKS: tuple[Rule, ...] = (
    (r"conv1\.", "stem.conv."),
    (r"bn1\.", "stem.norm."),
    (r"(layer[1-4]\.\d+)\.conv([123])\.", r"\1.conv\2.conv."),
    (r"(layer[1-4]\.\d+)\.bn([123])\.", r"\1.conv\2.norm."),
    (r"(layer[1-4]\.\d+)\.downsample\.0\.", r"\1.shortcut.conv."),
    (r"(layer[1-4]\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)
"""Of a ResNet by torchvision's names, which most others have too."""


def pair(theirs: str, ours: str, conv: str = "0", norm: str = "1") -> tuple[Rule, Rule]:
    """Rules for a convolution and its batch norm, ``theirs.0`` and ``theirs.1`` unless said."""
    return (rf"{theirs}\.{conv}\.", f"{ours}.conv."), (rf"{theirs}\.{norm}\.", f"{ours}.norm.")


def below(theirs: str, rules: Iterable[Rule], ours: str) -> tuple[Rule, ...]:
    """The rules with a prefix on both sides."""
    return tuple((theirs + pattern, None if new is None else ours + new) for pattern, new in rules)


def aspp(theirs: str, ours: str = "aspp") -> tuple[Rule, ...]:
    """Rules for ASPP by torchvision's names: five branches and the projection."""
    branch, image = r"\.convs\.([0-3])", r"\.convs\.4"
    return (
        *pair(theirs + branch, rf"{ours}.branches.branches.\1"),
        *pair(theirs + image, f"{ours}.image_pooling.conv", "1", "2"),
        *pair(theirs + r"\.project", f"{ours}.project"),
    )


def renamed(tensors: Tensors, rules: Sequence[Rule]) -> tuple[Tensors, list[str]]:
    """Tensors by their new names, and the names that were dropped.

    A name that no rule knows stays, for the caller to report.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    result: Tensors = {}
    dropped = []
    for name, tensor in tensors.items():
        for pattern, new in compiled:
            match = pattern.match(name)
            if match is None:
                continue
            if new is None:
                dropped.append(name)
            else:
                result[match.expand(new) + name[match.end() :]] = tensor
            break
        else:
            result[name] = tensor
    return result, dropped


def without_biases(tensors: Tensors) -> Tensors:
    """Biases of convolutions before a batch norm, as some files have them, in the norm's mean."""
    result = dict(tensors)
    for name in tensors:
        mean = name.removesuffix("conv.bias") + "norm.running_mean"
        if name.endswith(".conv.bias") and mean in result:
            result[mean] = result[mean] - result.pop(name)
    return result


def resnet_depth(names: Iterable[str], origin: str) -> int:
    """Of the ResNet whose blocks are ``layer1.0.`` to ``layer4.N.``, wherever in the names.

    Raises:
        CheckpointError: no ResNet has these blocks.
    """
    blocks = set(re.findall(r"(?:^|\.)layer([1-4])\.(\d+)\.(conv[123])\.", "\n".join(names), re.M))
    counts = tuple(len({index for layer, index, _ in blocks if layer == key}) for key in "1234")
    bottleneck = any(conv == "conv3" for _, _, conv in blocks)
    for depth, expected in DEPTHS.items():
        if counts == expected and bottleneck == (depth >= 50):
            return depth
    kind = "bottlenecks" if bottleneck else "basic blocks"
    raise CheckpointError(
        f"load_weights: the backbone of the {origin} file must be a ResNet of depth "
        f"{', '.join(map(str, DEPTHS))}, got {counts} {kind}"
    )
