"""Feature extractors: images in, the feature maps of each stage out."""

from fastseg.backbones.alexnet import AlexNet
from fastseg.backbones.aligned_xception import AlignedXception
from fastseg.backbones.fully_convolutional import (
    Classifier,
    decimate,
    fully_convolutional,
)
from fastseg.backbones.mobilenet import MobileNetV2
from fastseg.backbones.resnet import ResNet
from fastseg.backbones.vgg import VGG16
from fastseg.backbones.xception import Xception

__all__ = [
    "VGG16",
    "AlexNet",
    "AlignedXception",
    "Classifier",
    "MobileNetV2",
    "ResNet",
    "Xception",
    "decimate",
    "fully_convolutional",
]
