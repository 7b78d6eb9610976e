"""torchvision's FCN and DeepLab v3, and the classifiers whose backbones fastseg has."""

import re
from collections.abc import Callable
from dataclasses import replace

import torch

from fastseg.backbones import VGG16, AlexNet, Classifier, MobileNetV2, ResNet
from fastseg.backbones.vgg import STAGES
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import (
    Contents,
    Format,
    Plan,
    Request,
    builder,
    builder_on,
    choose_variant,
)
from fastseg.checkpoints.rename import STEM_AND_BLOCKS, Rule, aspp, below, pair, renamed
from fastseg.checkpoints.rename import resnet_depth as depth_of
from fastseg.models.implementations import SHORT_SIDE_520
from fastseg.models.input_convention import IMAGENET, VGG, InputConvention
from fastseg.nn.recipe import Recorded

ORIGIN = "torchvision"
BACKBONE = below(r"backbone\.", STEM_AND_BLOCKS, "backbone.")
AUX = (*pair("aux_classifier", "aux_head.reduce"), (r"aux_classifier\.4\.", "aux_head.score."))
FCN_RULES = (
    *BACKBONE,
    *AUX,
    *pair("classifier", "head.reduce"),
    (r"classifier\.4\.", "head.score."),
)
V3_RULES = (
    *BACKBONE,
    *AUX,
    *aspp(r"classifier\.0"),
    *pair("classifier", "head", "1", "2"),
    (r"classifier\.4\.", "score."),
)

VGG_FEATURES_MEAN = (0.48235, 0.45882, 0.40784)
VGG_FEATURES = replace(IMAGENET, mean=VGG_FEATURES_MEAN, std=(1 / 255,) * 3)
"""Of torchvision's VGG-16 weights without a classifier: RGB in 0-255 less a mean."""
FROM_CAFFE_MD5 = "aa75b158f4181e7f6230029eb96c1b13"
"""Of wkentaro's vgg16_from_caffe.pth, which has torchvision's names and Caffe's pixels."""
SHA256 = {"397923af": "torchvision", "88682ab5": "features"}
"""How the sums of torchvision's own files begin, as their names say."""
VGG_VARIANTS = {"torchvision": IMAGENET, "caffe": VGG, "features": VGG_FEATURES}

MOBILENET: tuple[Rule, ...] = (
    *pair(r"0", "stem"),
    *pair(r"1\.conv\.0", "blocks.0.depthwise"),
    *pair(r"1\.conv", "blocks.0.project", "1", "2"),
    *(
        rule
        for block in range(2, 18)
        for rule in (
            *pair(rf"{block}\.conv\.0", f"blocks.{block - 1}.expand"),
            *pair(rf"{block}\.conv\.1", f"blocks.{block - 1}.depthwise"),
            *pair(rf"{block}\.conv", f"blocks.{block - 1}.project", "2", "3"),
        )
    ),
)
"""Of MobileNetV2's blocks by their number, which also others kept."""


def is_fcn(contents: Contents) -> bool:
    names = contents.tensors
    v3 = "classifier.0.convs.0.0.weight" in names
    return "classifier.4.weight" in names and "backbone.conv1.weight" in names and not v3


def fcn(contents: Contents, request: Request) -> Plan:
    tensors, dropped = renamed(contents.tensors, FCN_RULES)
    depth = depth_of(contents.tensors, ORIGIN)
    aux = any(name.startswith("aux_head.") for name in tensors)
    known = f"fcn_resnet{depth if depth in (50, 101) else 50}"
    build = builder(known, len(tensors["head.score.weight"]), depth=depth, aux=aux)
    return Plan(ORIGIN, build, tensors, SHORT_SIDE_520, dropped)


def is_v3(contents: Contents) -> bool:
    names = contents.tensors
    return "classifier.0.convs.0.0.weight" in names and "backbone.conv1.weight" in names


def v3(contents: Contents, request: Request) -> Plan:
    tensors, dropped = renamed(contents.tensors, V3_RULES)
    backbone = f"resnet{depth_of(contents.tensors, ORIGIN)}"
    aux = any(name.startswith("aux_head.") for name in tensors)
    classes = len(tensors["score.weight"])
    build = builder_on("deeplabv3_{}_torchvision", backbone, classes, aux=aux)
    return Plan(ORIGIN, build, tensors, SHORT_SIDE_520, dropped)


def is_resnet(contents: Contents) -> bool:
    names = contents.tensors
    return {"conv1.weight", "layer1.0.conv1.weight"} <= set(names)


def resnet(contents: Contents, request: Request) -> Plan:
    tensors, dropped = renamed(contents.tensors, (*STEM_AND_BLOCKS, (r"fc\.", None)))
    depth = depth_of(contents.tensors, ORIGIN)
    return Plan(ORIGIN, lambda: ResNet(depth), tensors, IMAGENET, dropped)


def is_mobilenet(contents: Contents) -> bool:
    return "features.0.0.weight" in contents.tensors and "features.1.conv.0.0.weight" in (
        contents.tensors
    )


def mobilenet(contents: Contents, request: Request) -> Plan:
    rules = (
        (r"features\.18\.", None),
        (r"classifier\.", None),
        *below(r"features\.", MOBILENET, ""),
    )
    tensors, dropped = renamed(contents.tensors, rules)
    return Plan(ORIGIN, MobileNetV2, tensors, IMAGENET, dropped)


def is_sequential(contents: Contents) -> bool:
    """VGG and AlexNet: ``features`` in a row."""
    return contents.tensors.get("features.0.weight", torch.empty(0)).dim() == 4


def sequential(contents: Contents, request: Request) -> Plan:
    first = contents.tensors["features.0.weight"]
    norm = "features.1.running_mean" in contents.tensors
    if first.shape[2:] == (11, 11):
        return classifier(contents, request, alexnet_rules(), AlexNet, (1, 4, 6), IMAGENET)
    rules = vgg_rules(contents, norm)
    convention, note = (IMAGENET, "") if norm else vgg_pixels(contents, request)

    def backbone() -> VGG16:
        return VGG16(batch_norm=norm)

    plan = classifier(contents, request, rules, backbone, (0, 3, 6), convention)
    plan.note = note
    plan.variants = ("torchvision",) if norm else tuple(VGG_VARIANTS)
    return plan


def classifier(
    contents: Contents,
    request: Request,
    rules: tuple[Rule, ...],
    backbone: Callable[[], AlexNet | VGG16],
    layers: tuple[int, int, int],
    convention: InputConvention,
) -> Plan:
    """The backbone alone, or with fc6 to fc8 where the caller brings a :class:`Classifier`."""
    if not isinstance(request.model, Classifier):
        tensors, dropped = renamed(contents.tensors, (*rules, (r"classifier\.", None)))
        return Plan(ORIGIN, backbone, tensors, convention, dropped)
    heads = tuple(
        (rf"classifier\.{layer}\.", f"{name}.")
        for layer, name in zip(layers, ("fc6", "fc7", "fc8"), strict=True)
    )
    tensors, dropped = renamed(contents.tensors, (*below("", rules, "backbone."), *heads))
    outputs = len(tensors["fc8.weight"]) if "fc8.weight" in tensors else 1000

    def build() -> Recorded:
        return Classifier(backbone(), num_classes=outputs)

    return Plan(ORIGIN, build, tensors, convention, dropped)


def alexnet_rules() -> tuple[Rule, ...]:
    layers = zip((0, 3, 6, 8, 10), range(1, 6), strict=True)
    return tuple((rf"features\.{theirs}\.", f"conv{ours}.") for theirs, ours in layers)


def vgg_rules(contents: Contents, norm: bool) -> tuple[Rule, ...]:
    """``features.N`` in the order of the layers; pools and ReLUs are numbered too."""
    rules: list[Rule] = []
    index = 0
    for stage, widths in enumerate(STAGES, 1):
        for layer in range(1, len(widths) + 1):
            ours = f"conv{stage}_{layer}"
            if norm:
                rules += pair(r"features", ours, str(index), str(index + 1))
            else:
                rules.append((rf"features\.{index}\.", f"{ours}."))
            index += 3 if norm else 2
        index += 1
    found = {
        int(i) for i in re.findall(r"^features\.(\d+)\.weight$", "\n".join(contents.tensors), re.M)
    }
    expected = {int(m) for pattern, _ in rules for m in re.findall(r"\\\.(\d+)\\\.", pattern)}
    if found != expected:
        raise CheckpointError(
            "load_weights: of torchvision's VGG networks only VGG-16 and VGG-16-bn load, got one "
            f"with {len(found)} layers of weights in its features, not {len(expected)}"
        )
    return tuple(rules)


def vgg_pixels(contents: Contents, request: Request) -> tuple[InputConvention, str]:
    """Which pixels a VGG file of torchvision's names takes, and what is to be noted.

    Three releases share the names. Whoever brings a file of none of their sums gets those of the
    names' origin, and a note.
    """
    known = SHA256.get(contents.sha256[:8])
    if contents.digest == FROM_CAFFE_MD5:
        known = "caffe"
    last = contents.tensors.get("classifier.6.weight")
    if last is not None and bool(last.flatten()[:1].isnan().any()):
        known = "features"
    if known is None and request.model is not None:
        of_model = request.model.input_convention
        known = next((name for name, of in VGG_VARIANTS.items() if of == of_model), None)
    if known is None and request.variant is None:
        note = "read as torchvision's, on RGB; say variant='caffe' if the weights are Caffe's (BGR)"
        return IMAGENET, note
    why = "VGG-16 on torchvision's pixels (RGB), on Caffe's (BGR) and on RGB in 0-255"
    chosen = choose_variant(request, dict.fromkeys(VGG_VARIANTS, ()), known, why)
    return VGG_VARIANTS[chosen], ""


FORMATS = (
    Format("torchvision's FCN", is_fcn, fcn),
    Format("torchvision's DeepLab v3", is_v3, v3),
    Format("torchvision's ResNet", is_resnet, resnet),
    Format("torchvision's MobileNetV2", is_mobilenet, mobilenet),
    Format("torchvision's VGG-16 and AlexNet", is_sequential, sequential),
)
