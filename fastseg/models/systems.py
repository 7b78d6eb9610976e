"""The systems by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastseg.models.deconvnet import DeconvNet
from fastseg.models.deeplab_v1 import DeepLabV1
from fastseg.models.deeplab_v2 import ASPP_L, ASPP_S, LARGE_FOV, DeepLabV2ResNet, DeepLabV2VGG16
from fastseg.models.deeplab_v3 import DeepLabV3
from fastseg.models.deeplab_v3plus import DeepLabV3Plus
from fastseg.models.fcn import FCN8s, FCN16s, FCN32s
from fastseg.models.fcn_alexnet import FCNAlexNet
from fastseg.models.fcn_resnet import FCNResNet
from fastseg.models.implementations import (
    CROP_513,
    FIT_500,
    JFZHANG,
    KAZUTO_V3,
    PADDED,
    SHORT_SIDE_520,
    SMP_V3,
    SMP_V3PLUS,
    TORCHVISION,
    VAINF_MOBILENET,
    VAINF_V3,
    VAINF_V3PLUS,
    multi_scale_resnet,
    multi_scale_v3,
    multi_scale_v3plus,
)
from fastseg.models.input_convention import DEEPLAB, UNIT_RGB
from fastseg.models.system import Model, System
from fastseg.models.unet import UNet
from fastseg.models.with_crf import CRFRNN

FCN_PAPER = "Long, Shelhamer and Darrell 2015"
UNET_PAPER = "Ronneberger, Fischer and Brox 2015"
V1_PAPER = "Chen et al. 2015 (DeepLab v1)"
V2_PAPER = "Chen et al. 2017 (DeepLab v2)"
V3_PAPER = "Chen et al. 2017 (DeepLab v3)"
V3PLUS_PAPER = "Chen et al. 2018 (DeepLab v3+)"


def _rows() -> tuple[System, ...]:
    fcn = ("wkentaro", "Caffe", "fastseg")
    own = ("fastseg",)
    caffe = ("Caffe", "fastseg")
    row = System
    return (
        row("fcn32s", FCN32s, FCN_PAPER, "fig. 3, sec. 4.1", 32, checkpoints=fcn),
        row("fcn16s", FCN16s, FCN_PAPER, "fig. 3, sec. 4.2", 16, checkpoints=fcn),
        row("fcn8s", FCN8s, FCN_PAPER, "fig. 3, sec. 4.2", 8, checkpoints=fcn),
        row(
            "fcn8s_at_once",
            FCN8s,
            FCN_PAPER,
            "released voc-fcn8s-atonce",
            8,
            {"at_once": True},
            checkpoints=fcn,
        ),
        row("fcn_alexnet", FCNAlexNet, FCN_PAPER, "table 1", 32, checkpoints=caffe),
        *(
            row(
                f"fcn_resnet{depth}",
                FCNResNet,
                FCN_PAPER,
                "torchvision",
                8,
                {"depth": depth},
                SHORT_SIDE_520,
                ("torchvision", "fastseg"),
            )
            for depth in (50, 101)
        ),
        row("deconvnet", DeconvNet, "Noh, Hong and Han 2015", "fig. 2", 1, checkpoints=own),
        row("unet", UNet, UNET_PAPER, "fig. 1", 1, checkpoints=own, num_classes=2),
        row(
            "unet_caffe",
            UNet,
            UNET_PAPER,
            "released network",
            1,
            {"caffe": True},
            checkpoints=own,
            num_classes=2,
        ),
        row(
            "unet_padded",
            UNet,
            UNET_PAPER,
            "fig. 1, padded",
            1,
            PADDED,
            UNIT_RGB,
            ("milesial", "fastseg"),
            2,
        ),
        row(
            "unet_bilinear",
            UNet,
            UNET_PAPER,
            "fig. 1, padded, interpolated",
            1,
            {**PADDED, "up": "bilinear"},
            UNIT_RGB,
            ("milesial", "fastseg"),
            2,
        ),
        row(
            "deeplabv1_base",
            DeepLabV1,
            V1_PAPER,
            "table 2, DeepLab; released vgg128_noup",
            8,
            {"variant": "base"},
            checkpoints=caffe,
        ),
        row(
            "deeplabv1_7x7",
            DeepLabV1,
            V1_PAPER,
            "table 2, DeepLab-7x7",
            8,
            {"variant": "7x7"},
            checkpoints=caffe,
        ),
        row(
            "deeplabv1_4x4",
            DeepLabV1,
            V1_PAPER,
            "table 2, DeepLab-4x4",
            8,
            {"variant": "4x4"},
            checkpoints=caffe,
        ),
        row(
            "deeplabv1_largefov",
            DeepLabV1,
            V1_PAPER,
            "table 2, DeepLab-LargeFOV",
            8,
            checkpoints=caffe,
        ),
        row(
            "deeplabv1_msc_largefov",
            DeepLabV1,
            V1_PAPER,
            "table 1, DeepLab-MSc-LargeFOV",
            8,
            {"multi_scale": True},
            checkpoints=caffe,
        ),
        row(
            "deeplabv2_vgg16_largefov",
            DeepLabV2VGG16,
            V2_PAPER,
            "fig. 7 (a)",
            8,
            {"rates": LARGE_FOV},
            checkpoints=caffe,
        ),
        row(
            "deeplabv2_vgg16_aspp_s",
            DeepLabV2VGG16,
            V2_PAPER,
            "fig. 7 (b), ASPP-S",
            8,
            {"rates": ASPP_S},
            checkpoints=caffe,
        ),
        row(
            "deeplabv2_vgg16_aspp_l",
            DeepLabV2VGG16,
            V2_PAPER,
            "fig. 7 (b), ASPP-L",
            8,
            {"rates": ASPP_L},
            checkpoints=caffe,
        ),
        row(
            "deeplabv2_resnet101",
            DeepLabV2ResNet,
            V2_PAPER,
            "sec. 4.1.2",
            8,
            checkpoints=("Caffe", "kazuto", "fastseg"),
        ),
        row(
            "deeplabv2_resnet101_msc",
            multi_scale_resnet,
            V2_PAPER,
            "sec. 4.1.2, MSC",
            8,
            input_convention=DEEPLAB,
            checkpoints=("kazuto", "isht7", "Caffe", "fastseg"),
        ),
        row("deeplabv3_resnet101", DeepLabV3, V3_PAPER, "fig. 5", 8, checkpoints=own),
        row(
            "deeplabv3_resnet101_msc",
            multi_scale_v3,
            V3_PAPER,
            "fig. 5, MSC",
            8,
            KAZUTO_V3,
            DEEPLAB,
            ("kazuto", "fastseg"),
        ),
        *(
            row(
                f"deeplabv3_{backbone}_torchvision",
                DeepLabV3,
                V3_PAPER,
                "torchvision",
                8,
                {"backbone": backbone, **TORCHVISION},
                SHORT_SIDE_520,
                ("torchvision", "fastseg"),
            )
            for backbone in ("resnet50", "resnet101")
        ),
        *(
            row(
                f"deeplabv3_{backbone}_vainf",
                DeepLabV3,
                V3_PAPER,
                "VainF",
                16,
                {"backbone": backbone, **VAINF_V3, **padding},
                checkpoints=("VainF", "fastseg"),
            )
            for backbone in ("resnet50", "resnet101", "mobilenet_v2", "xception")
            for padding in [VAINF_MOBILENET if backbone == "mobilenet_v2" else {}]
        ),
        row(
            "deeplabv3_resnet50_smp",
            DeepLabV3,
            V3_PAPER,
            "segmentation_models.pytorch",
            8,
            {"backbone": "resnet50", **SMP_V3},
            checkpoints=("segmentation_models.pytorch", "fastseg"),
        ),
        row(
            "deeplabv3plus_resnet101",
            DeepLabV3Plus,
            V3PLUS_PAPER,
            "fig. 2",
            4,
            checkpoints=own,
        ),
        row(
            "deeplabv3plus_xception",
            DeepLabV3Plus,
            V3PLUS_PAPER,
            "fig. 2 and 4",
            4,
            {"backbone": "aligned_xception", "separable": True},
            checkpoints=own,
        ),
        row(
            "deeplabv3plus_resnet101_msc",
            multi_scale_v3plus,
            V3PLUS_PAPER,
            "fig. 2, MSC",
            1,
            {},
            DEEPLAB,
            ("kazuto", "fastseg"),
        ),
        row(
            "deeplabv3plus_resnet101_jfzhang",
            DeepLabV3Plus,
            V3PLUS_PAPER,
            "jfzhang",
            4,
            JFZHANG,
            CROP_513,
            ("jfzhang", "fastseg"),
        ),
        *(
            row(
                f"deeplabv3plus_{backbone}_vainf",
                DeepLabV3Plus,
                V3PLUS_PAPER,
                "VainF",
                4,
                {"backbone": backbone, **VAINF_V3PLUS, **padding},
                checkpoints=("VainF", "fastseg"),
            )
            for backbone in ("resnet50", "resnet101", "mobilenet_v2", "xception")
            for padding in [VAINF_MOBILENET if backbone == "mobilenet_v2" else {}]
        ),
        *(
            row(
                f"deeplabv3plus_{backbone}_smp",
                DeepLabV3Plus,
                V3PLUS_PAPER,
                "segmentation_models.pytorch",
                4,
                {"backbone": backbone, **SMP_V3PLUS},
                checkpoints=("segmentation_models.pytorch", "fastseg"),
            )
            for backbone in ("resnet50", "resnet101")
        ),
        row("crf_rnn", CRFRNN, "Zheng et al. 2015", "fig. 3", 8, {}, FIT_500, caffe),
        row(
            "crf_rnn_sadeepj",
            CRFRNN,
            "Zheng et al. 2015",
            "fig. 3, sadeepj",
            8,
            {"upscore2_bias": True},
            FIT_500,
            ("sadeepj", "fastseg"),
        ),
    )


SYSTEMS: Mapping[str, System] = MappingProxyType({row.name: row for row in _rows()})
"""Every system by its name."""


def list_systems() -> list[str]:
    """Names that :func:`build` takes, paper by paper."""
    return list(SYSTEMS)


def build(name: str, num_classes: int | None = None, **options: Any) -> Model:
    """A system with random weights, in training mode.

    Args:
        name: one of :func:`list_systems`.
        num_classes: K; None for the number of :attr:`System.num_classes`.
        options: arguments of the class, over those of the system.

    Returns:
        The model; ``model.input_convention`` says which pixels it takes and ``model.system`` is
        ``name``.

    Raises:
        ValueError: another name, or a number of classes that is not positive.
        TypeError: an option that the class does not have.
    """
    if name not in SYSTEMS:
        raise ValueError(f"build: name must be one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name].build(num_classes, **options)
