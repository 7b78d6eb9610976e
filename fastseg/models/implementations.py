"""Where published implementations differ from the papers: arguments of networks, and pixels."""

from dataclasses import replace
from typing import Any

from fastseg.models.deeplab_v2 import DeepLabV2ResNet
from fastseg.models.deeplab_v3 import DeepLabV3
from fastseg.models.deeplab_v3plus import DeepLabV3Plus
from fastseg.models.input_convention import IMAGENET, VGG
from fastseg.models.multi_scale import MultiScale

FIT_500 = replace(VGG, fit=500)
SHORT_SIDE_520 = replace(IMAGENET, short_side=520)
CROP_513 = replace(IMAGENET, multiple=16, offset=1)
"""Sides like those of the crops that it was trained and evaluated on."""
PADDED = {"in_channels": 3, "padding": "same", "norm": True, "dropout": 0.0}
TORCHVISION: dict[str, Any] = {
    "convention": "torchvision",
    "multi_grid": (1,),
    "head_conv": True,
    "dropout": 0.5,
    "train_output_stride": 8,
    "norm_momentum": 0.1,
}
VAINF: dict[str, Any] = {
    "convention": "torchvision",
    "multi_grid": (1,),
    "output_stride": 16,
    "dropout": 0.1,
    "norm_momentum": 0.01,
}
# Of a MobileNetV2, whose blocks then pad their inputs: see build_backbone.
VAINF_MOBILENET = {"convention": "caffe"}
VAINF_V3 = {**VAINF, "head_conv": True}
VAINF_V3PLUS = {**VAINF, "decoder_convs": 1}
# Rates of 6, 12 and 18 at output stride 8, where fastseg's count double.
KAZUTO_V3: dict[str, Any] = {"rates": (3, 6, 9), "train_output_stride": 8}
SMP: dict[str, Any] = {
    "convention": "uniform",
    "multi_grid": (1,),
    "dropout": 0.5,
    "norm_momentum": 0.1,
}
SMP_V3 = {**SMP, "head_conv": True, "train_output_stride": 8, "align_corners": True}
SMP_V3PLUS = {
    **SMP,
    "rates": (12, 24, 36),
    "separable": True,
    "norm_between": False,
    "head_conv": True,
    "decoder_convs": 1,
    "align_corners": True,
}
JFZHANG: dict[str, Any] = {
    "convention": "uniform",
    "align_corners": True,
    "dropout": 0.5,
    "norm_momentum": 0.1,
}


def multi_scale_resnet(
    num_classes: int = 21, *, add_one: bool = False, **options: Any
) -> MultiScale:
    """DeepLab v2's ResNet on three sizes of the image."""
    return MultiScale(DeepLabV2ResNet(num_classes, **options), add_one=add_one)


def multi_scale_v3(num_classes: int = 21, **options: Any) -> MultiScale:
    """DeepLab v3 on three sizes of the image, as one implementation trained it."""
    return MultiScale(DeepLabV3(num_classes, **options))


def multi_scale_v3plus(num_classes: int = 21, **options: Any) -> MultiScale:
    """DeepLab v3+ on three sizes of the image, fused at the size of the image."""
    return MultiScale(DeepLabV3Plus(num_classes, **options), fuse_logits=True)
