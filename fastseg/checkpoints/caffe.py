"""Networks as Caffe released them: FCN, CRF-RNN, DeepLab v2 on ResNet, and its classifier."""

import re
from typing import Any

import torch
from torch import Tensor

from fastseg.backbones import ResNet
from fastseg.checkpoints import wkentaro
from fastseg.checkpoints.plan import Contents, Format, Plan, Request, Tensors, builder
from fastseg.checkpoints.rename import Rule, below, renamed, resnet_depth, without_biases
from fastseg.models.implementations import FIT_500
from fastseg.models.input_convention import VGG

ORIGIN = "Caffe"
OLD_NAMES = {
    "score-fr": "score_fr",
    "score-pool3": "score_pool3",
    "score-pool4": "score_pool4",
    "score2": "upscore2",
    "score4": "upscore_pool4",
}
"""Of FCN's layers before its present release; those of the last one depend on the network."""
LAST = {64: "upscore", 63: "upscore", 32: "upscore16", 16: "upscore8"}
"""The last deconvolution by its kernel."""
CRF: tuple[Rule, ...] = (
    (r"crf\.0$", "crf.kernels.0.weight"),
    (r"crf\.1$", "crf.kernels.1.weight"),
    (r"crf\.2$", "crf.compatibility"),
)
TRUNK = wkentaro.TRUNK
AT_ONCE = {"pool4": 0.01, "pool3": 0.0001}


def is_fcn(contents: Contents) -> bool:
    scores = {"score_fr.weight", "score-fr.weight"}
    return contents.kind == "caffemodel" and bool(scores & contents.tensors.keys())


def fcn(contents: Contents, request: Request) -> Plan:
    tensors = new_names(contents.tensors)
    classes = len(tensors["score_fr.weight"])
    if "conv1.weight" in tensors:
        tensors, dropped = renamed(tensors, ((r"conv(\d)\.", r"backbone.conv\1."),))
        return Plan(ORIGIN, builder("fcn_alexnet", classes), tensors, dropped=dropped)
    if "crf.2" in tensors:
        return crf_rnn(tensors, classes)
    system = next(system for name, system in wkentaro.LAST.items() if name in tensors)
    if "scale_pool4.weight" in tensors:
        system = "fcn8s_at_once"
        tensors = scaled(tensors)
    tensors, dropped = renamed(tensors, TRUNK)
    return Plan(ORIGIN, builder(system, classes), tensors, dropped=dropped)


def new_names(tensors: Tensors) -> Tensors:
    """By the names of the present release, deconvolutions without groups, the CRF as ``crf``."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, word = name.rpartition(".")
        layer = OLD_NAMES.get(layer, layer)
        if tensor.dim() == 4 and tensor.shape[2] in LAST and layer in ("upsample", "bigscore"):
            layer = LAST[tensor.shape[2]]
        if layer.startswith("up") and tensor.dim() == 4:
            tensor = ungrouped(tensor)
        if word in ("0", "1", "2"):
            layer = "crf"
        result[f"{layer}.{word}"] = tensor
    return result


def ungrouped(weight: Tensor) -> Tensor:
    """``(K, 1, k, k)``, one kernel a class, as the ``(K, K, k, k)`` of all pairs."""
    classes, others = weight.shape[:2]
    if others != 1 or classes == 1:
        return weight
    full = weight.new_zeros(classes, classes, *weight.shape[2:])
    full[range(classes), range(classes)] = weight[:, 0]
    return full


def scaled(tensors: Tensors) -> Tensors:
    """Without the layers that scale the pools, whose factors the network has itself."""
    result = dict(tensors)
    for pool, factor in AT_ONCE.items():
        found = result.pop(f"scale_{pool}.weight").flatten()
        name = f"score_{pool}.weight"
        result[name] = result[name] * (found / factor)[:, None, None]
    return result


def crf_rnn(tensors: Tensors, classes: int) -> Plan:
    rules = (*CRF, *below("", TRUNK, "network."), (r"(?!crf\.)", "network."))
    bias = "upscore2.bias" in tensors
    tensors, dropped = renamed(tensors, rules)
    build = builder("crf_rnn", classes, upscore2_bias=bias)
    return Plan(ORIGIN, build, tensors | wkentaro.widths(classes), FIT_500, dropped)


def is_resnet(contents: Contents) -> bool:
    return "res2a_branch2a.weight" in contents.tensors


def resnet(contents: Contents, request: Request) -> Plan:
    """DeepLab v2's, or the classifier's of He et al."""
    several = any(
        "res075" in layer or "res05" in layer for layer in contents.metadata.get("layers", ())
    )
    tensors, dropped = renamed(contents.tensors, ((r".*res0(?:75|5)", None),))
    tensors = without_biases({block_name(name): tensor for name, tensor in tensors.items()})
    depth = resnet_depth(tensors, ORIGIN)
    if "fc1000.weight" in tensors:
        kept = {name.removeprefix("backbone."): t for name, t in tensors.items()}
        kept, classifier = renamed(kept, ((r"fc1000\.", None),))
        return Plan(
            ORIGIN, lambda: ResNet(depth, convention="caffe"), kept, VGG, dropped + classifier
        )
    heads = [name for name in tensors if re.match(r"fc1_.*\.weight$", name)]
    first = tensors[heads[0]] if heads else torch.empty(0)
    if len(heads) == 1:
        tensors, _ = renamed(tensors, ((r"fc1_[^.]*\.", "aspp.branches.0."),))
    else:
        tensors, _ = renamed(tensors, ((r"fc1_[^.]*_c(\d)\.", r"aspp.branches.\1."),))
    options: dict[str, Any] = {"depth": depth}
    if len(heads) == 1:
        options["rates"] = (12,) if first.shape[2] == 3 else (0,)
    system = "deeplabv2_resnet101_msc" if several else "deeplabv2_resnet101"
    if several:
        tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
    return Plan(ORIGIN, builder(system, len(first), **options), tensors, dropped=dropped)


def block_name(name: str) -> str:
    """``res4b3_branch2a.weight`` as ``backbone.layer3.3.conv1.conv.weight``, and so on."""
    layer, _, word = name.partition(".")
    match = re.fullmatch(r"(conv1|(bn|scale)_conv1)", layer)
    if match:
        return f"backbone.stem.{'norm' if match[2] else 'conv'}.{word}"
    match = re.fullmatch(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2a|2b|2c)", layer)
    if match is None:
        return name
    kind, stage, letter, number, branch = match.groups()
    # Blocks are a, b, c in short layers, and a, b1, b2 and so on in long ones.
    block = int(number) if number else ord(letter) - ord("a")
    place = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}[branch]
    part = "conv" if kind == "res" else "norm"
    return f"backbone.layer{int(stage) - 1}.{block}.{place}.{part}.{word}"


FORMATS = (
    Format("Caffe's FCN and CRF-RNN", is_fcn, fcn),
    Format("Caffe's ResNet and DeepLab v2", is_resnet, resnet),
)
