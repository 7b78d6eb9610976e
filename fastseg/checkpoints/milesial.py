"""milesial's Pytorch-UNet."""

import re
from dataclasses import replace

from fastseg.checkpoints.plan import Contents, Format, Plan, Request, Tensors, builder
from fastseg.checkpoints.rename import Rule, pair, renamed, without_biases
from fastseg.models.input_convention import UNIT_GREY, UNIT_RGB

ORIGIN = "milesial"
DOUBLE = r"(?:double_conv|conv)"
"""Its name in recent releases and in the first."""


def double(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *pair(rf"{theirs}\.{DOUBLE}", f"{ours}.conv1", "0", "1"),
        *pair(rf"{theirs}\.{DOUBLE}", f"{ours}.conv2", "3", "4"),
    )


def rules(depth: int) -> tuple[Rule, ...]:
    return (
        *double(r"inc(?:\.conv)?", "encoder.0"),
        *(
            rule
            for level in range(1, depth + 1)
            for rule in (
                *double(rf"down{level}\.(?:maxpool_conv|mpconv)\.1", f"encoder.{level}"),
                (rf"up{level}\.up\.", f"decoder.{level - 1}.up."),
                *double(rf"up{level}\.conv", f"decoder.{level - 1}"),
            )
        ),
        (r"outc\.conv\.", "score."),
    )


def matches(contents: Contents) -> bool:
    names = contents.tensors
    return "outc.conv.weight" in names and first_name(names) is not None


def first_name(names: Tensors) -> str | None:
    return next(
        (name for name in names if re.match(rf"inc\.(conv\.)?{DOUBLE}\.0\.weight", name)), None
    )


def plan(contents: Contents, request: Request) -> Plan:
    names = contents.tensors
    first = names[first_name(names) or ""]
    depth = len({name.split(".")[0] for name in names if re.match(r"down\d+\.", name)})
    bilinear = not any(re.match(r"up\d+\.up\.", name) for name in names)
    tensors, dropped = renamed(names, rules(depth))
    tensors = without_biases(tensors)
    channels = first.shape[1]
    build = builder(
        "unet_bilinear" if bilinear else "unet_padded",
        len(tensors["score.weight"]),
        in_channels=channels,
        width=len(first),
        depth=depth,
    )
    pixels = UNIT_GREY if channels == 1 else UNIT_RGB
    convention = replace(pixels, divide_if_above_one=True, scale=0.5, resample="bicubic")
    values = contents.metadata.get("mask_values")
    note = "" if values is None else f"the classes stand for the mask values {values}"
    return Plan(ORIGIN, build, tensors, convention, dropped, note)


FORMATS = (Format("milesial's U-Net", matches, plan),)
