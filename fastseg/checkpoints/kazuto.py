"""kazuto1011's deeplab-pytorch, and isht7's pytorch-deeplab-resnet, which came before it."""

import re
from typing import Any

from fastseg.backbones import ResNet
from fastseg.checkpoints.plan import (
    Contents,
    Format,
    Plan,
    Request,
    Tensors,
    builder,
    choose_variant,
)
from fastseg.checkpoints.rename import STEM_AND_BLOCKS, Rule, below, pair, renamed, resnet_depth
from fastseg.models.deeplab_v2 import ASPP_L, DeepLabV2ResNet
from fastseg.models.input_convention import DEEPLAB
from fastseg.models.multi_scale import MultiScale

ORIGIN = "kazuto"
RATES = {"v2": ASPP_L, "v2s": (3, 6, 9, 12)}
VARIANTS = {"v2": ("deeplabv2",), "v2s": ("deeplabv2s",)}
BLOCKS: tuple[Rule, ...] = (
    *pair(r"layer1\.conv1", "backbone.stem", "conv", "bn"),
    *(
        rule
        for layer in range(1, 5)
        for theirs, ours in (
            ("reduce", "conv1"),
            ("conv3x3", "conv2"),
            ("increase", "conv3"),
            ("(?:shortcut|proj)", "shortcut"),
        )
        for rule in pair(
            rf"layer{layer + 1}\.block(\d+)\.{theirs}",
            rf"backbone.layer{layer}.\1.{ours}",
            "conv",
            "bn",
        )
    ),
)
V2_HEAD: tuple[Rule, ...] = ((r"aspp\.(?:stages\.)?c(\d)\.", r"aspp.branches.\1."),)
V3_HEAD = (
    *pair(r"aspp\.stages\.c(\d)", r"aspp.branches.branches.\1", "conv", "bn"),
    *pair(r"aspp\.stages\.imagepool\.conv", "aspp.image_pooling.conv", "conv", "bn"),
    *pair("fc1", "aspp.project", "conv", "bn"),
)
DECODER = (
    *pair("reduce", "reduce", "conv", "bn"),
    *pair(r"fc2\.conv1", "decoder.0", "conv", "bn"),
    *pair(r"fc2\.conv2", "decoder.1", "conv", "bn"),
    (r"fc2\.conv3\.", "score."),
)
SCORE: tuple[Rule, ...] = ((r"fc2\.", "score."),)


def counted_from_zero(tensors: Tensors) -> Tensors:
    """``block1`` becomes ``block0``, as the blocks of fastseg are counted."""

    def one_less(match: "re.Match[str]") -> str:
        return f".block{int(match[1]) - 1}."

    return {re.sub(r"\.block(\d+)\.", one_less, name): value for name, value in tensors.items()}


def bare(contents: Contents) -> tuple[Tensors, bool]:
    """Names without the prefix of the network on several sizes, and whether there was one."""
    names = contents.tensors
    for prefix in ("base.", "scale."):
        if all(name.startswith(prefix) for name in names):
            return {name.removeprefix(prefix): t for name, t in names.items()}, True
    return dict(names), False


def is_kazuto(contents: Contents) -> bool:
    return any(name.endswith("layer1.conv1.conv.weight") for name in contents.tensors)


def plan(contents: Contents, request: Request) -> Plan:
    tensors, several = bare(contents)
    tensors = counted_from_zero(tensors)
    if "fc.weight" in tensors:
        return classifier(tensors) if tensors["fc.weight"].dim() == 2 else plain_head(tensors)
    if "aspp.stages.c0.conv.weight" not in tensors:
        return v2(tensors, several, request)
    plus = "reduce.conv.weight" in tensors
    rules = (*BLOCKS, *V3_HEAD, *(DECODER if plus else SCORE))
    tensors, dropped = renamed(tensors, rules)
    options = options_of(tensors)
    system = f"deeplabv3{'plus' if plus else ''}_resnet101_msc"
    return wrapped(system, tensors, several, dropped, **options)


def v2(tensors: Tensors, several: bool, request: Request) -> Plan:
    chosen = choose_variant(request, VARIANTS, of_model(request), "v2 and v2s")
    tensors, dropped = renamed(tensors, (*BLOCKS, *V2_HEAD))
    options = {**options_of(tensors), "rates": RATES[chosen], "align_corners": False}
    system = "deeplabv2_resnet101_msc" if several else "deeplabv2_resnet101"
    spellings = (chosen, *VARIANTS[chosen])
    return wrapped(system, tensors, several, dropped, spellings, **options)


def of_model(request: Request) -> str | None:
    """The variant that the model to be filled is."""
    model = request.model
    if isinstance(model, MultiScale):
        model = model.network
    if not isinstance(model, DeepLabV2ResNet):
        return None
    return next((name for name, rates in RATES.items() if tuple(model.aspp.rates) == rates), None)


def options_of(tensors: Tensors) -> dict[str, Any]:
    depth = resnet_depth(tensors, ORIGIN)
    return (
        {"depth": depth} if "aspp.branches.0.weight" in tensors else {"backbone": f"resnet{depth}"}
    )


def wrapped(
    system: str,
    tensors: Tensors,
    several: bool,
    dropped: list[str],
    variants: tuple[str, ...] = (),
    **options: Any,
) -> Plan:
    score = "score.weight" if "score.weight" in tensors else "aspp.branches.0.weight"
    build = builder(system, len(tensors[score]), **options)
    if several:
        tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
    return Plan(ORIGIN, build, tensors, DEEPLAB, dropped, variants=variants)


def plain_head(tensors: Tensors) -> Plan:
    """The network that v2 starts from: one 1x1 convolution, trained on COCO's 91 classes."""
    tensors, dropped = renamed(tensors, (*BLOCKS, (r"fc\.", "aspp.branches.0.")))
    options = {**options_of(tensors), "rates": (0,), "align_corners": False}
    return wrapped("deeplabv2_resnet101", tensors, False, dropped, **options)


def classifier(tensors: Tensors) -> Plan:
    tensors, dropped = renamed(tensors, (*below("", BLOCKS, ""), (r"fc\.", None)))
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    depth = resnet_depth(tensors, ORIGIN)
    return Plan(ORIGIN, lambda: ResNet(depth, convention="caffe"), tensors, DEEPLAB, dropped)


def is_isht7(contents: Contents) -> bool:
    return "Scale.layer5.conv2d_list.0.weight" in contents.tensors


def isht7(contents: Contents, request: Request) -> Plan:
    rules = (
        *below(r"Scale\.", STEM_AND_BLOCKS, "network.backbone."),
        (r"Scale\.layer5\.conv2d_list\.(\d)\.", r"network.aspp.branches.\1."),
    )
    depth = resnet_depth(contents.tensors, "isht7")
    tensors, dropped = renamed(contents.tensors, rules)
    classes = len(tensors["network.aspp.branches.0.weight"])
    build = builder("deeplabv2_resnet101_msc", classes, depth=depth, add_one=True)
    return Plan("isht7", build, tensors, DEEPLAB, dropped)


FORMATS = (
    Format("kazuto's DeepLab and ResNet", is_kazuto, plan),
    Format("isht7's DeepLab v2", is_isht7, isht7),
)
