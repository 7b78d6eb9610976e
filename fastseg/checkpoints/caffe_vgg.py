"""DeepLab v1 and v2 on VGG-16 as Caffe released them."""

import re
from typing import Any

import torch

from fastseg.checkpoints import wkentaro
from fastseg.checkpoints.caffe import ORIGIN
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request, Tensors, builder, plain
from fastseg.checkpoints.rename import renamed
from fastseg.models.deeplab_v2 import ASPP_L, ASPP_S

TRUNK = wkentaro.TRUNK
WIDTHS = (3, 64, 128, 256, 512)
"""Channels of what MSc's branches see: the image and pool1 to pool4."""
V2_NAMES = ("v2", "deeplabv2vgg16largefov")


def is_deeplab_vgg(contents: Contents) -> bool:
    names = contents.tensors
    fc6 = names.get("fc6.weight", names.get("fc6_1.weight", torch.empty(0)))
    has_scores = any(re.match(r"fc8.*\.weight$", name) for name in names)
    return "conv5_3.weight" in names and fc6.dim() == 4 and has_scores


def deeplab_vgg(contents: Contents, request: Request) -> Plan:
    if "fc6_1.weight" in contents.tensors:
        return deeplab_aspp(contents, request)
    tensors, multi_scale = with_branches(contents.tensors)
    tensors, dropped = renamed(tensors, (*TRUNK, (r"fc8[^.]*\.", "fc8.")))
    classes, kernel = len(tensors["fc8.weight"]), tensors["fc6.weight"].shape[2]
    asked = "" if request.variant is None else plain(request.variant)
    layers = contents.metadata.get("layers", ())
    without_average = "pool5" in layers and "pool5a" not in layers
    if kernel == 3 and not multi_scale and (without_average or asked in V2_NAMES):
        moved = (*((rf"{fc}\.", f"branches.0.{fc}.") for fc in ("fc6", "fc7", "fc8")),)
        tensors, _ = renamed(tensors, moved)
        build = builder("deeplabv2_vgg16_largefov", classes)
        return Plan(ORIGIN, build, tensors, dropped=dropped, variants=("v2",))
    found = {7: "7x7", 4: "base", 3: "largefov"}.get(kernel)
    if found is None:
        raise CheckpointError(
            f"load_weights: fc6 of a DeepLab v1 file must have a kernel of 7, 4 or 3, got {kernel}"
        )
    note = ""
    if found == "base":
        rate = contents.metadata.get("dilations", {}).get("fc6")
        if asked in ("4x4", "deeplabv14x4") or rate == 8:
            found = "4x4"
        elif not asked and rate is None:
            note = "read as the network released, vgg128_noup; variant='4x4' has fc6 at rate 8"
    system, options = f"deeplabv1_{found}", {"multi_scale": True} if multi_scale else {}
    if multi_scale and found == "largefov":
        system, options = "deeplabv1_msc_largefov", {}
    build = builder(system, classes, **options)
    return Plan(ORIGIN, build, tensors, dropped=dropped, note=note, variants=("v1", found))


def with_branches(tensors: Tensors) -> tuple[Tensors, bool]:
    """With MSc's five branches as fastseg has them, and whether there are any.

    In the release each branch scores by itself, and the scores are summed: that is one fc8 on all
    of them, whose biases are summed. What a branch sees, and which of its three layers one is,
    follow from the shapes, whatever the names; its layers stand one after the other.
    """
    result: Tensors = {}
    scores: dict[int, str] = {}
    branch = -1
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if layer == name or re.match(r"conv\d_\d$|fc[67]$", layer) or tensor.shape[1] not in WIDTHS:
            continue
        filters, channels, *kernel = tensor.shape
        if filters == 128 and kernel == [3, 3]:
            branch = WIDTHS.index(channels)
            place = f"branches.branches.{branch}.0"
        elif channels == 128 and kernel == [1, 1] and branch >= 0:
            place = f"branches.branches.{branch}.1"
            if f"{place}.weight" in result:
                scores[branch] = layer
                continue
        else:
            continue
        result |= {f"{place}.weight": tensor, f"{place}.bias": tensors[f"{layer}.bias"]}
    taken = {id(tensor) for tensor in result.values()}
    rest = {name: tensor for name, tensor in tensors.items() if id(tensor) not in taken}
    if sorted(scores) != list(range(len(WIDTHS))):
        return rest | result, bool(result)
    branches = [scores[branch] for branch in sorted(scores)]
    found = [match[1] for name in rest if (match := re.match(r"(fc8[^.]*)\.weight$", name))]
    layers = [*(layer for layer in found if layer not in branches), *branches]
    weights, biases = (
        [rest.pop(f"{layer}.{word}") for layer in layers] for word in ("weight", "bias")
    )
    fc8 = {"fc8.weight": torch.cat(weights, 1), "fc8.bias": torch.stack(biases).sum(0)}
    return rest | result | fc8, True


def deeplab_aspp(contents: Contents, request: Request) -> Plan:
    count = sum(bool(re.match(r"fc6_\d+\.weight$", name)) for name in contents.tensors)
    rules = (
        *TRUNK,
        *(
            (rf"fc{layer}(?:_[a-z0-9]+)?_{branch + 1}\.", f"branches.{branch}.fc{layer}.")
            for branch in range(count)
            for layer in (6, 7, 8)
        ),
    )
    tensors, dropped = renamed(contents.tensors, rules)
    found = contents.metadata.get("dilations", {})
    rates = tuple(found.get(f"fc6_{branch + 1}", 0) for branch in range(count))
    note = ""
    if 0 in rates:
        asked = "" if request.variant is None else plain(request.variant)
        small = asked in ("aspps", "s", "deeplabv2vgg16aspps")
        rates = ASPP_S if small else ASPP_L
        note = "read as ASPP-L" if request.variant is None else ""
        note += "; variant='aspp-s' has the smaller rates" if note else ""
    system = {ASPP_S: "deeplabv2_vgg16_aspp_s"}.get(rates, "deeplabv2_vgg16_aspp_l")
    options: dict[str, Any] = {"average_pool": "pool5a" in contents.metadata.get("layers", ())}
    if rates not in (ASPP_S, ASPP_L):
        options["rates"] = rates
    build = builder(system, len(tensors["branches.0.fc8.weight"]), **options)
    spellings = ("aspp-s", "s") if rates == ASPP_S else ("aspp-l", "l")
    return Plan(ORIGIN, build, tensors, dropped=dropped, note=note, variants=spellings)


FORMATS = (Format("Caffe's DeepLab on VGG-16", is_deeplab_vgg, deeplab_vgg),)
