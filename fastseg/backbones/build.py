"""Dilated backbones by name."""

from collections.abc import Sequence
from typing import TypeAlias

from fastseg.backbones.aligned_xception import AlignedXception
from fastseg.backbones.mobilenet import MobileNetV2
from fastseg.backbones.resnet import DEPTHS, ResNet
from fastseg.backbones.xception import Xception

Backbone: TypeAlias = AlignedXception | MobileNetV2 | ResNet | Xception

BACKBONES = (
    *(f"resnet{depth}" for depth in DEPTHS),
    "mobilenet_v2",
    "xception",
    "aligned_xception",
)


def build_backbone(
    name: str,
    *,
    in_channels: int = 3,
    convention: str = "torchvision",
    multi_grid: Sequence[int] = (1,),
    norm_eps: float = 1e-5,
    norm_momentum: float | None = 0.1,
) -> Backbone:
    """A backbone whose :meth:`forward` gives four maps, the first at stride 4.

    Args:
        name: one of :data:`BACKBONES`.
        in_channels: channels of the image.
        convention: of a ResNet, see :class:`ResNet`. Of a MobileNetV2, ``"torchvision"`` pads its
            depthwise convolutions and anything else the inputs of its blocks.
        multi_grid: of a ResNet, see :class:`ResNet`.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone: name must be one of {', '.join(BACKBONES)}, got {name!r}")
    if name.startswith("resnet"):
        return ResNet(
            int(name.removeprefix("resnet")),
            in_channels=in_channels,
            multi_grid=multi_grid,
            convention=convention,
            norm_eps=norm_eps,
            norm_momentum=norm_momentum,
        )
    if name == "mobilenet_v2":
        return MobileNetV2(
            in_channels=in_channels,
            pad_input=convention != "torchvision",
            norm_eps=norm_eps,
            norm_momentum=norm_momentum,
        )
    kind = Xception if name == "xception" else AlignedXception
    return kind(in_channels=in_channels, norm_eps=norm_eps, norm_momentum=norm_momentum)
