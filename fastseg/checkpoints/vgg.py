"""VGG-16 by Caffe's names, from Caffe itself and in arrays of NumPy, Keras and TensorFlow."""

import re

from fastseg.backbones import VGG16
from fastseg.checkpoints.plan import Contents, Format, Plan, Request, Tensors
from fastseg.models.input_convention import VGG, InputConvention

RGB = InputConvention("rgb", 255.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
HED = InputConvention("bgr", 255.0, (104.007, 116.669, 122.679), (1.0, 1.0, 1.0))

CAFFE = re.compile(r"(conv[1-5]_[1-3])[./_](weights?|W|kernel|bias(?:es)?|b)(?::0)?$")
KERAS = re.compile(r"block([1-5])_conv([1-3])/.*?(kernel|W|bias|b)(?:_\d)?(?::0)?$")
NUMBERED = re.compile(r"block([1-5])/layers/conv2d(?:_(\d))?/vars/([01])$")

OF_NO_USE = re.compile(r"fc[678]|predictions|dsn\d|score-dsn\d|fuse|new-score-weighting")
"""The classifier of VGG-16, and the side outputs of HED."""


def place(name: str) -> str | None:
    """The name of a tensor in :class:`VGG16`, or None."""
    if match := CAFFE.match(name):
        layer, word = match.groups()
    elif match := KERAS.match(name):
        layer, word = f"conv{match[1]}_{match[2]}", match[3]
    elif match := NUMBERED.match(name):
        layer = f"conv{match[1]}_{int(match[2] or 0) + 1}"
        word = "b" if match[3] == "1" else "W"
    else:
        return None
    return f"{layer}.{'bias' if word.startswith('b') else 'weight'}"


def matches(contents: Contents) -> bool:
    found = {place(name) for name in contents.tensors}
    return {"conv1_1.weight", "conv5_3.weight"} <= found


def plan(contents: Contents, request: Request) -> Plan:
    tensors: Tensors = {}
    dropped = []
    rows_first = False
    for name, tensor in contents.tensors.items():
        ours = place(name)
        if ours is None and OF_NO_USE.match(name):
            dropped.append(name)
            continue
        if ours is None:
            ours = name
        if tensor.dim() == 4 and tensor.shape[:2] == (3, 3):
            tensor = tensor.permute(3, 2, 0, 1).contiguous()
            rows_first = True
        tensors[ours] = tensor
    convention, note = VGG, ""
    if any(NUMBERED.match(name) for name in contents.tensors):
        convention, note = HED, "VGG-16 as trained further for edges (HED)"
    elif rows_first and contents.kind == "npz":
        convention = RGB
    spellings = ("caffe",) if convention == VGG else ()
    return Plan("VGG-16", VGG16, tensors, convention, dropped, note, variants=spellings)


FORMATS = (Format("VGG-16 of Caffe, Keras or NumPy", matches, plan),)
