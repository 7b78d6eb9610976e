"""segmentation_models.pytorch: DeepLabV3 and DeepLabV3Plus on ResNet; the others are refused."""

from typing import Any

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

ORIGIN = "segmentation_models.pytorch"
ENCODER = (*below(r"encoder\.", STEM_AND_BLOCKS, "backbone."), (r"encoder\.fc\.", None))
SCORE: Rule = (r"segmentation_head\.0\.", "score.")
V3_RULES = (
    *ENCODER,
    # Names of the decoder in recent releases, and its places in a row in earlier ones.
    *aspp(r"decoder\.(?:aspp|0)"),
    *pair("decoder", "head", "(?:conv|1)", "(?:bn|2)"),
    SCORE,
)


def separable(theirs: str, ours: str, conv: str, norm: str) -> tuple[Rule, ...]:
    return (
        (rf"{theirs}\.{conv}\.0\.", f"{ours}.depthwise."),
        (rf"{theirs}\.{conv}\.1\.", f"{ours}.pointwise.conv."),
        (rf"{theirs}\.{norm}\.", f"{ours}.pointwise.norm."),
    )


V3PLUS_RULES = (
    *ENCODER,
    *pair(r"decoder\.aspp\.0\.convs\.0", "aspp.branches.branches.0"),
    *(
        rule
        for branch in range(3)
        for rule in separable(
            rf"decoder\.aspp\.0\.convs\.{branch + 1}", f"aspp.separable_branches.{branch}", "0", "1"
        )
    ),
    *pair(r"decoder\.aspp\.0\.convs\.4", "aspp.image_pooling.conv", "1", "2"),
    *pair(r"decoder\.aspp\.0\.project", "aspp.project"),
    *separable(r"decoder\.aspp", "head", "1", "2"),
    *pair(r"decoder\.block1", "reduce"),
    *separable(r"decoder\.block2", "decoder.0", "0", "1"),
    SCORE,
)


def matches(contents: Contents) -> bool:
    return "segmentation_head.0.weight" in contents.tensors


def plan(contents: Contents, request: Request) -> Plan:
    names = contents.tensors
    plus = "decoder.aspp.0.convs.0.0.weight" in names
    if not plus and not {"decoder.aspp.convs.0.0.weight", "decoder.0.convs.0.0.weight"} & set(
        names
    ):
        kind = "U-Net" if "decoder.blocks.0.conv1.0.weight" in names else "network of this decoder"
        raise CheckpointError(
            f"load_weights: of {ORIGIN} only DeepLabV3 and DeepLabV3Plus load, got its {kind}, "
            "which is none of the lecture's systems"
        )
    if "encoder.layer1.0.conv1.weight" not in names:
        raise CheckpointError(
            f"load_weights: the encoder of a {ORIGIN} file must be a ResNet, got another"
        )
    depth = resnet_depth(names, ORIGIN)
    tensors, dropped = renamed(names, V3PLUS_RULES if plus else V3_RULES)
    build = builder_on(
        "deeplabv3plus_{}_smp" if plus else "deeplabv3_{}_smp",
        f"resnet{depth}",
        len(tensors["score.weight"]),
        **from_config(contents.metadata.get("config")),
    )
    return Plan(ORIGIN, build, tensors, dropped=dropped)


def from_config(config: Any) -> dict[str, Any]:
    """Output stride and rates of the ``config.json`` beside a file, where they are given."""
    if not isinstance(config, dict):
        return {}
    options: dict[str, Any] = {}
    stride = config.get("encoder_output_stride")
    if stride in (8, 16):
        options["output_stride"] = options["train_output_stride"] = stride
    rates = config.get("decoder_atrous_rates")
    if isinstance(rates, list) and len(rates) == 3:
        # fastseg's are those at stride 16, and twice as large at 8.
        options["rates"] = tuple(int(rate) * (stride or 16) // 16 for rate in rates)
    return options


FORMATS = (Format(f"{ORIGIN}'s DeepLab", matches, plan),)
