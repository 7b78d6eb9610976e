"""Numbers of parameters, exactly as counted from the papers and the published checkpoints."""

from functools import partial

import pytest
import torch

from fastseg.backbones import VGG16, AlexNet, Classifier, MobileNetV2, ResNet
from fastseg.crf import DenseCRF
from fastseg.models import (
    SYSTEMS,
    DeconvNet,
    DeepLabV1,
    DeepLabV2ResNet,
    DeepLabV2VGG16,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCN16s,
    FCN32s,
    FCNResNet,
    UNet,
)

TORCHVISION = {"convention": "torchvision", "multi_grid": (1,), "head_conv": True}
SMP = {"separable": True, "norm_between": False, "head_conv": True, "decoder_convs": 1}
V3, V3PLUS = DeepLabV3, DeepLabV3Plus

COUNTS = [
    (FCN32s, 136_152_917),
    (FCN16s, 134_815_994),
    (FCN8s, 134_489_759),
    (partial(FCN32s, 60), 149_251_964),
    (partial(FCN16s, 60), 138_281_144),
    (partial(FCN8s, 60), 135_589_364),
    (partial(FCN32s, 33), 138_856_289),
    (partial(FCN16s, 33), 135_545_234),
    (partial(FCN8s, 33), 134_734_787),
    (partial(FCN8s, at_once=True), 134_489_759),
    (DeconvNet, 251_805_653),
    (UNet, 31_030_658),
    (partial(UNet, in_channels=3), 31_031_810),
    (partial(UNet, caffe=True), 31_100_354),
    (partial(UNet, in_channels=3, padding="same", norm=True), 31_037_698),
    (partial(UNet, in_channels=3, padding="same", norm=True, up="bilinear"), 17_263_042),
    (partial(DeepLabV1, variant="7x7"), 134_346_581),
    (partial(DeepLabV1, variant="base"), 65_140_565),
    (partial(DeepLabV1, variant="4x4"), 65_140_565),
    (DeepLabV1, 20_505_429),
    (DeepLabV2VGG16, 37_877_652),
    (partial(DeepLabV2VGG16, rates=(2, 4, 8, 12)), 37_877_652),
    (partial(DeepLabV2VGG16, rates=(12,)), 20_505_429),
    (partial(DeepLabV2VGG16, 60), 38_037_552),
    (partial(DeepLabV2VGG16, 60, rates=(12,)), 20_545_404),
    (partial(DeepLabV2VGG16, 19), 37_869_452),
    (DeepLabV2ResNet, 44_048_532),
    (partial(DeepLabV2ResNet, 19), 43_901_068),
    (partial(DeepLabV2ResNet, 60), 46_924_080),
    (partial(DeepLabV2ResNet, 182), 55_919_384),
    (partial(DeepLabV2ResNet, 91, rates=(0,)), 42_686_619),
    (partial(ResNet, 101), 42_500_160),
    (V3, 58_040_661),
    (partial(V3, aux=True, **TORCHVISION), 60_996_202),
    (partial(V3, aux=True, backbone="resnet50", **TORCHVISION), 42_004_074),
    (partial(V3, backbone="resnet50", **TORCHVISION), 39_638_869),
    (partial(V3, **TORCHVISION), 58_630_997),
    (partial(V3, backbone="mobilenet_v2", head_conv=True), 5_113_877),
    (V3PLUS, 59_344_309),
    (partial(V3PLUS, decoder_convs=1), 58_753_973),
    (partial(V3PLUS, decoder_convs=1, backbone="resnet50"), 39_761_845),
    (partial(V3PLUS, decoder_convs=1, backbone="mobilenet_v2"), 5_225_717),
    (partial(V3PLUS, decoder_convs=1, backbone="xception"), 37_050_525),
    (partial(V3PLUS, backbone="resnet50", **SMP), 26_682_725),
    (partial(V3PLUS, **SMP), 45_674_853),
    (partial(FCNResNet, aux=True), 35_322_218),
    (partial(FCNResNet, depth=101, aux=True), 54_314_346),
    (lambda: Classifier(VGG16()), 138_357_544),
    (lambda: Classifier(VGG16(batch_norm=True)), 138_365_992),
    (lambda: Classifier(AlexNet()), 61_100_840),
    (MobileNetV2, 1_811_712),
]


def name(make):
    if not isinstance(make, partial):
        return getattr(make, "__name__", "")
    words = [*map(str, make.args), *(f"{k}={v}" for k, v in make.keywords.items())]
    return f"{make.func.__name__}-{'-'.join(words)}"


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "expected"), COUNTS, ids=lambda value: name(value) if callable(value) else ""
)
def test_parameters(make, expected):
    with torch.device("meta"):
        assert count(make()) == expected


def test_fcn8s_without_its_deconvolutions():
    with torch.device("meta"):
        model, port = FCN8s(), FCN8s(upscore2_bias=True)
    crf = DenseCRF.crf_rnn(21)
    upsampling = [model.upscore2, model.upscore_pool4, model.upscore8]
    assert count(model) - sum(map(count, upsampling)) == 134_362_751
    # A port of CRF-RNN: FCN-8s with one bias, two kernels' matrices and the compatibility.
    matrices = [crf.compatibility, *(kernel.weight for kernel in crf.kernels)]
    assert [matrix.shape for matrix in matrices] == [(21, 21)] * 3
    assert count(port) + 3 * 21 * 21 == 134_491_103
    # The README's count has the widths of the Gaussians too.
    widths = [value for name, value in crf.named_parameters() if "sigma" in name]
    assert sum(value.numel() for value in widths) == 3
    assert not any(value.requires_grad for value in widths)
    assert SYSTEMS["crf_rnn_sadeepj"].parameters == 134_491_103 + 3
    assert SYSTEMS["crf_rnn"].parameters == 134_491_082 + 3


def test_parts_of_deconvnet():
    with torch.device("meta"):
        model = DeconvNet()
    assert sum(map(count, (model.backbone, model.fc6, model.fc7))) == 134_285_376
    parts = (model.deconv_fc6, model.decoder, model.score)
    assert (
        sum(count(part) for part in parts if part is not model.score) + 64 * 21 + 21 == 117_520_277
    )


def test_multi_scale_features_of_deeplab_v1():
    with torch.device("meta"):
        plain, multi_scale = DeepLabV1(), DeepLabV1(multi_scale=True)
    assert count(multi_scale.branches) == 1_192_576
    assert count(multi_scale) == count(plain) + 1_192_576 + 640 * 21


def test_twenty_three_convolutions():
    """The U-Net of the paper has 23 convolutional layers."""
    with torch.device("meta"):
        model = UNet()
    weights = [value for name, value in model.named_parameters() if name.endswith("weight")]
    assert len(weights) == 23
