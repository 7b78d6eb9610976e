"""jfzhang95's pytorch-deeplab-xception: v3+ on ResNet-101."""

from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request, builder
from fastseg.checkpoints.rename import STEM_AND_BLOCKS, Rule, below, pair, renamed, resnet_depth

ORIGIN = "jfzhang"
RULES = (
    *below(r"backbone\.", STEM_AND_BLOCKS, "backbone."),
    *(
        rule
        for branch in range(4)
        for rule in pair(
            rf"aspp\.aspp{branch + 1}",
            f"aspp.branches.branches.{branch}",
            "atrous_conv",
            "bn",
        )
    ),
    *pair(r"aspp\.global_avg_pool", "aspp.image_pooling.conv", "1", "2"),
    *pair("aspp", "aspp.project", "conv1", "bn1"),
    *pair("decoder", "reduce", "conv1", "bn1"),
    *pair(r"decoder\.last_conv", "decoder.0"),
)
WITH_DROPOUT: tuple[Rule, ...] = (
    *pair(r"decoder\.last_conv", "decoder.1", "4", "5"),
    (r"decoder\.last_conv\.8\.", "score."),
)
WITHOUT_DROPOUT: tuple[Rule, ...] = (
    *pair(r"decoder\.last_conv", "decoder.1", "3", "4"),
    (r"decoder\.last_conv\.6\.", "score."),
)
"""Of the first release, whose layers are numbered otherwise."""


def matches(contents: Contents) -> bool:
    return "aspp.aspp1.atrous_conv.weight" in contents.tensors


def plan(contents: Contents, request: Request) -> Plan:
    if "backbone.layer1.0.conv1.weight" not in contents.tensors:
        raise CheckpointError(
            "load_weights: the backbone of a jfzhang file must be a ResNet, got its Xception, DRN "
            "or MobileNet, which fastseg does not have"
        )
    depth = resnet_depth(contents.tensors, ORIGIN)
    first = "decoder.last_conv.6.weight" in contents.tensors
    rules = (*RULES, *(WITHOUT_DROPOUT if first else WITH_DROPOUT))
    tensors, dropped = renamed(contents.tensors, rules)
    system, classes = "deeplabv3plus_resnet101_jfzhang", len(tensors["score.weight"])
    build = builder(system, classes, backbone=f"resnet{depth}")
    return Plan(ORIGIN, build, tensors, dropped=dropped)


FORMATS = (Format("jfzhang's DeepLab v3+", matches, plan),)
