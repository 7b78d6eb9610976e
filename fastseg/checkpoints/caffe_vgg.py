"""DeepLab v1 and v2 on VGG-16 as Caffe released them."""

import re
from typing import Any

import torch

from fastseg.checkpoints import wkentaro
from fastseg.checkpoints.caffe import ORIGIN
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import (
    Contents,
    Format,
    Plan,
    Request,
    Tensors,
    builder,
    choose_variant,
)
from fastseg.checkpoints.rename import renamed
from fastseg.models.deeplab_v1 import VARIANTS, DeepLabV1
from fastseg.models.deeplab_v2 import ASPP_L, ASPP_S, LARGE_FOV, DeepLabV2VGG16

TRUNK = wkentaro.TRUNK
WIDTHS = (3, 64, 128, 256, 512)
"""Channels of what MSc's branches see: the image and pool1 to pool4."""
FOUR = {"base": ("vgg128_noup", "deeplabv1_base"), "4x4": ("deeplabv1_4x4",)}
"""With fc6 of 4x4: the network released, and table 2's other, by their rates."""
LARGE = {"v1": ("largefov", "deeplabv1_largefov"), "v2": ("deeplabv2_vgg16_largefov",)}
"""With fc6 of 3x3: v1 averages after pool5."""
SUMMED = {"aspp-s": ("s", "deeplabv2_vgg16_aspp_s"), "aspp-l": ("l", "deeplabv2_vgg16_aspp_l")}
RATES = {"aspp-s": ASPP_S, "aspp-l": ASPP_L}


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
    if kernel == 3 and not multi_scale:
        return large_fov(contents, request, tensors, dropped)
    if kernel == 4:
        found = four_by_four(contents, request)
    elif kernel in (3, 7):
        found = "7x7" if kernel == 7 else "largefov"
        check_rate(contents, VARIANTS[found].rate)
    else:
        raise CheckpointError(
            f"load_weights: fc6 of a DeepLab v1 file must have a kernel of 7, 4 or 3, got {kernel}"
        )
    system, options = f"deeplabv1_{found}", {"multi_scale": True} if multi_scale else {}
    if multi_scale and found == "largefov":
        system, options = "deeplabv1_msc_largefov", {}
    build = builder(system, classes, **options)
    spellings = ("v1", found, *FOUR.get(found, ()))
    return Plan(ORIGIN, build, tensors, dropped=dropped, variants=spellings)


def rate_of(contents: Contents, layer: str) -> int | None:
    """The rate that the file says: by its padding, where a fork of Caffe wrote it elsewhere.

    Maps keep their size, so that the padding is the rate times half of what the kernel spans.
    """
    said = contents.metadata.get("dilations", {}).get(layer)
    padding = contents.metadata.get("paddings", {}).get(layer)
    span = contents.tensors[f"{layer}.weight"].shape[2] - 1
    if said is None and padding and span and 2 * padding % span == 0:
        return int(2 * padding // span)
    return None if said is None else int(said)


def check_rate(contents: Contents, *rates: int) -> int | None:
    """The rate of fc6, or None where the file does not say it.

    Raises:
        CheckpointError: none of ``rates``.
    """
    rate = rate_of(contents, "fc6")
    if rate is not None and rate not in rates:
        raise CheckpointError(
            f"load_weights: fc6 of this DeepLab v1 file must have rate "
            f"{' or '.join(map(str, rates))}, got {rate}"
        )
    return rate


def four_by_four(contents: Contents, request: Request) -> str:
    """Which of table 2's networks with fc6 of 4x4, which differ by its rate alone."""
    rates = {VARIANTS[name].rate: name for name in FOUR}
    known = rates.get(check_rate(contents, *rates) or 0)
    model = request.model
    if known is None and isinstance(model, DeepLabV1) and model.variant in FOUR:
        known = model.variant
    return choose_variant(request, FOUR, known, "DeepLab v1 and its 4x4 with fc6 at rate 8")


def large_fov(contents: Contents, request: Request, tensors: Tensors, dropped: list[str]) -> Plan:
    """LargeFOV of v1, or of v2, which may or may not average after pool5 too."""
    check_rate(contents, *LARGE_FOV)
    layers = contents.metadata.get("layers", ())
    averages = "pool5a" in layers
    of_model = {DeepLabV1: "v1", DeepLabV2VGG16: "v2"}.get(type(request.model))
    known = "v2" if "pool5" in layers and not averages else of_model
    if known is None and request.variant is None and averages:
        known = "v1"  # as v2 with pool5a computes
    chosen = choose_variant(request, LARGE, known, "LargeFOV of DeepLab v1 and of v2")
    classes, spellings = len(tensors["fc8.weight"]), (chosen, *LARGE[chosen])
    if chosen == "v1":
        build = builder("deeplabv1_largefov", classes)
    else:
        build = builder("deeplabv2_vgg16_largefov", classes, average_pool=averages)
        tensors, _ = renamed(tensors, ((r"(fc[678])\.", r"branches.0.\1."),))
    return Plan(ORIGIN, build, tensors, dropped=dropped, variants=spellings)


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
    rates, spellings = branch_rates(contents, request, count)
    system = f"deeplabv2_vgg16_aspp_{'s' if rates == ASPP_S else 'l'}"
    options: dict[str, Any] = {"average_pool": "pool5a" in contents.metadata.get("layers", ())}
    if rates not in (ASPP_S, ASPP_L):
        options["rates"] = rates
    build = builder(system, len(tensors["branches.0.fc8.weight"]), **options)
    return Plan(ORIGIN, build, tensors, dropped=dropped, variants=spellings)


def branch_rates(
    contents: Contents, request: Request, count: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Those of the branches' fc6, and what the caller may have said of them."""
    model = request.model
    rates = tuple(rate_of(contents, f"fc6_{branch + 1}") or 0 for branch in range(count))
    if 0 in rates and isinstance(model, DeepLabV2VGG16) and len(model.branches) == count:
        rates = tuple(model.rates)
    known = next((name for name, of in RATES.items() if of == rates), None)
    if 0 not in rates and known is None:
        return rates, ()
    if count != len(ASPP_S):
        raise CheckpointError(
            f"load_weights: {count} branches must say their rates, got a file without; load it "
            "into a DeepLabV2VGG16 with the rates that it was trained with"
        )
    chosen = choose_variant(request, SUMMED, known, "ASPP-S and ASPP-L")
    return RATES[chosen], (chosen, *SUMMED[chosen])


FORMATS = (Format("Caffe's DeepLab on VGG-16", is_deeplab_vgg, deeplab_vgg),)
