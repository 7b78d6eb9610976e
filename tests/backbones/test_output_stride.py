"""Strides that become rates: the weights stay, and the sparse features are among the dense ones."""

from functools import partial

import pytest
import torch

from fastseg.backbones import AlignedXception, MobileNetV2, ResNet, Xception
from fastseg.backbones.build import BACKBONES, build_backbone

EXACT = {
    "resnet18": partial(ResNet, 18),
    "resnet50-torchvision": partial(ResNet, 50),
    "resnet50-caffe": partial(ResNet, 50, convention="caffe"),
    "mobilenet": MobileNetV2,
    "mobilenet-pad-input": partial(MobileNetV2, pad_input=True),
    "aligned-xception": AlignedXception,
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_dense_features_hold_the_sparse_ones(make, randomised, same):
    """The algorithm with holes: at stride 8, every fourth feature is that at stride 32."""
    network = randomised(make(output_stride=32)).eval()
    image = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        sparse = network(image)
        for output_stride in (16, 8):
            network.set_output_stride(output_stride)
            for fine, coarse, stride in zip(network(image), sparse, (4, 8, 16, 32), strict=True):
                step = max(stride // output_stride, 1)
                same(fine[..., ::step, ::step], coarse)
    assert fine.shape[2:] == (4, 8) if getattr(network, "pad_input", False) else (5, 9)


def test_one_rate_a_layer_is_not_that(randomised):
    """Stride on the 3x3 and one rate a layer are another network, though with equal weights."""
    network = randomised(ResNet(50, convention="uniform")).eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        sparse = network(image)[-1]
        network.set_output_stride(8)
        dense = network(image)[-1][..., ::4, ::4]
    assert (dense - sparse).abs().max() > 1e-3 * sparse.abs().max()


@pytest.mark.parametrize("name", sorted({*BACKBONES} - {"resnet34", "resnet101", "resnet152"}))
def test_four_maps_by_name(name):
    with torch.device("meta"):
        network = build_backbone(name)
        network.set_output_stride(8)
        maps = network(torch.empty(1, 3, 129, 129))
    assert [map.shape[1] for map in maps] == list(network.out_channels)
    assert maps[0].shape[2] in (31, 32, 33)


def test_rates_and_multi_grid():
    with torch.device("meta"):
        network = ResNet(101, output_stride=16, multi_grid=(1, 2, 4), convention="caffe")
    rates = [block.conv2.conv.geometry.rate[0] for block in network.layer4]
    assert rates == [2, 4, 8]
    network.set_output_stride(8)
    assert [block.conv2.conv.geometry.rate[0] for block in network.layer4] == [4, 8, 16]
    assert {block.conv2.conv.geometry.rate[0] for block in network.layer3} == {2}
    assert network.layer2[0].conv1.conv.geometry.stride == (2, 2)
    assert network.layer2[0].conv2.conv.geometry.stride == (1, 1)


def test_xception_loses_a_border_when_dilated():
    """As the published DeepLab weights run: padding of 1 at rate 2 takes a pixel off each side."""
    with torch.device("meta"):
        network = Xception(output_stride=16)
        image = torch.empty(1, 3, 257, 257)
        inner = network(image)[2].shape[2]
        assert network(image)[3].shape[2] == inner - 2 * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MobileNetV2().set_output_stride(12),
            "^MobileNetV2: output_stride must be 8, 16 or 32, got 12",
        ),
        (lambda: build_backbone("resnext50"), "^backbone: name must be one of resnet18, "),
    ],
)
def test_rejects(call, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        call()
