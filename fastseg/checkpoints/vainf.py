"""VainF's DeepLabV3Plus-Pytorch: v3 and v3+ on ResNet, MobileNetV2 and Xception."""

import torch
from torch import Tensor

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request, builder_on
from fastseg.checkpoints.rename import (
    STEM_AND_BLOCKS,
    Rule,
    aspp,
    below,
    pair,
    renamed,
    resnet_depth,
)
from fastseg.checkpoints.torchvision import MOBILENET

ORIGIN = "VainF"
V3_HEAD = (
    *aspp(r"classifier\.classifier\.0"),
    *pair(r"classifier\.classifier", "head", "1", "2"),
    (r"classifier\.classifier\.4\.", "score."),
)
V3PLUS_HEAD = (
    *pair(r"classifier\.project", "reduce"),
    *aspp(r"classifier\.aspp"),
    *pair(r"classifier\.classifier", "decoder.0"),
    (r"classifier\.classifier\.3\.", "score."),
)
SEPARABLE: tuple[Rule, ...] = (
    (r"conv([12])\.", r"conv\1.conv."),
    (r"bn([12])\.", r"conv\1.norm."),
    (r"conv3\.conv1\.", "conv3.depthwise."),
    (r"conv3\.pointwise\.", "conv3.pointwise.conv."),
    (r"bn3\.", "conv3.pointwise.norm."),
    (r"conv4\.conv1\.", "conv4.depthwise."),
    (r"conv4\.pointwise\.", "conv4.pointwise."),
    *(
        rule
        for block in range(1, 13)
        for rule in (
            (rf"block{block}\.skip\.", f"blocks.{block - 1}.shortcut.conv."),
            (rf"block{block}\.skipbn\.", f"blocks.{block - 1}.shortcut.norm."),
            # A ReLU stands first in all blocks but the first: conv and norm are 0, 1 or 1, 2.
            *(
                rule
                for index in range(3)
                for start in [3 * index + (block > 1)]
                for name in [f"blocks.{block - 1}.convs.{index}"]
                for rule in (
                    (rf"block{block}\.rep\.{start}\.conv1\.", f"{name}.depthwise."),
                    (rf"block{block}\.rep\.{start}\.pointwise\.", f"{name}.pointwise.conv."),
                    (rf"block{block}\.rep\.{start + 1}\.", f"{name}.pointwise.norm."),
                )
            ),
        )
    ),
)
"""Of its Xception."""


def matches(contents: Contents) -> bool:
    return (
        "classifier.classifier.0.convs.0.0.weight" in contents.tensors
        or "classifier.project.0.weight" in contents.tensors
    )


def plan(contents: Contents, request: Request) -> Plan:
    plus = "classifier.project.0.weight" in contents.tensors
    backbone, rules = backbone_of(contents)
    head = V3PLUS_HEAD if plus else V3_HEAD
    tensors, dropped = renamed(contents.tensors, (*rules, *head))
    if plus:
        name = "decoder.0.conv.weight"
        tensors[name] = encoder_first(tensors[name])
    pattern = "deeplabv3plus_{}_vainf" if plus else "deeplabv3_{}_vainf"
    build = builder_on(pattern, backbone, len(tensors["score.weight"]))
    return Plan(ORIGIN, build, tensors, dropped=dropped)


def backbone_of(contents: Contents) -> tuple[str, tuple[Rule, ...]]:
    names = contents.tensors
    if "backbone.layer1.0.conv1.weight" in names and "backbone.conv1.weight" in names:
        rules = below(r"backbone\.", STEM_AND_BLOCKS, "backbone.")
        return f"resnet{resnet_depth(names, ORIGIN)}", rules
    if "backbone.low_level_features.0.0.weight" in names:
        prefix = r"backbone\.(?:low|high)_level_features\."
        return "mobilenet_v2", below(prefix, MOBILENET, "backbone.")
    if "backbone.block1.rep.0.conv1.weight" in names:
        return "xception", below(r"backbone\.", SEPARABLE, "backbone.")
    raise CheckpointError(
        "load_weights: the backbone of a VainF file must be a ResNet, MobileNetV2 or Xception, got "
        "another, such as HRNet, which fastseg does not have"
    )


def encoder_first(weight: Tensor) -> Tensor:
    """Input channels in fastseg's order: its decoder has the low-level map last, theirs first."""
    low = weight.shape[1] - 256
    return torch.cat([weight[:, low:], weight[:, :low]], dim=1)


FORMATS = (Format("VainF's DeepLab v3 and v3+", matches, plan),)
