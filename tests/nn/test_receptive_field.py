"""Fields of view: single layers, stacks, the lecture's examples and the systems of the papers."""

from fractions import Fraction
from math import inf

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastseg.backbones import ResNet
from fastseg.models import (
    DeconvNet,
    DeepLabV1,
    DeepLabV2ResNet,
    DeepLabV2VGG16,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCN32s,
    MultiScale,
    UNet,
)
from fastseg.nn import DilatedConv1d, DilatedConv2d, receptive_field


def conv(kernel_size, rate=1, **geometry):
    return DilatedConv2d(1, 1, kernel_size=kernel_size, rate=rate, **geometry)


@pytest.mark.parametrize(
    ("kernel", "rate", "field"),
    [
        (3, 1, 3), (3, 2, 5), (5, 1, 5), (7, 4, 25), (4, 4, 13), (4, 8, 25),
        (3, 6, 13), (3, 12, 25), (3, 18, 37), (3, 24, 49),
    ],
)  # fmt: skip
def test_one_layer(kernel, rate, field):
    assert receptive_field(conv(kernel, rate)).size == (field, field)


def test_lecture():
    """A 3x3 at rate 2 sees what a 5x5 sees, with 9 weights for 25; two of them see 9x9."""
    dilated, plain = conv(3, 2), conv(5)
    assert receptive_field(dilated).size == receptive_field(plain).size == (5, 5)
    assert (dilated.weight.numel(), plain.weight.numel()) == (9, 25)
    assert receptive_field(nn.Sequential(conv(3, 2), conv(3, 2))).size == (9, 9)
    assert receptive_field(nn.Sequential(conv(3), conv(3))).size == (5, 5)
    assert receptive_field(nn.Sequential(conv(3, 1), conv(3, 2), conv(3, 4))).size == (15, 15)


def test_axes_are_apart():
    field = receptive_field(conv((3, 5), (2, 1), stride=(1, 2), padding=(2, 2)))
    assert field == ((5, 5), (1, 2), (-2, -2))


@pytest.mark.parametrize(
    ("variant", "field"), [("7x7", 404), ("base", 308), ("4x4", 404), ("largefov", 435)]
)
def test_fc6_of_deeplab_v1(variant, field):
    with torch.device("meta"):
        model = DeepLabV1(variant=variant)
    found = receptive_field(model, at="fc6")
    assert found.size == (field, field)
    assert found.stride == (8, 8)
    if variant == "largefov":
        model.pool5a = nn.Identity()
        assert receptive_field(model, at="fc6").size == (419, 419)


@pytest.mark.parametrize(
    ("rate", "field"),
    [(2, 259), (4, 291), (6, 323), (8, 355), (12, 419), (18, 515), (24, 611)],
)
def test_branches_of_aspp(rate, field):
    with torch.device("meta"):
        model = DeepLabV2VGG16(rates=(6, rate))
    assert receptive_field(model, at="branches.1").size == (field, field)
    assert receptive_field(model).size == (max(field, 323),) * 2
    assert receptive_field(conv(3, rate)).size == (2 * rate + 1,) * 2


def test_fcn():
    with torch.device("meta"):
        model = FCN32s()
    assert receptive_field(model.backbone, at="pools.4").size == (212, 212)
    field = receptive_field(model, at="fc6")
    assert field == ((404, 404), (32, 32), (-189, -189))
    assert receptive_field(model).stride == (32, 32)


def test_valid_unet_sees_between_188_and_204_pixels():
    with torch.device("meta"):
        field = receptive_field(UNet(), input_size=(572, 572))
    assert field == ((204, 204), (1, 1), (0, 0))


def test_image_pooling_sees_everything():
    with torch.device("meta"):
        model = DeepLabV3(backbone="resnet18")
    assert receptive_field(model) == ((inf, inf), (8, 8), (-inf, -inf))
    assert receptive_field(model, at="aspp.branches").size != (inf, inf)


@pytest.mark.parametrize("size", [(513, 513), (500, 375)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_decoder_of_deeplab_v3plus(size, align_corners):
    """The encoder sees everything, whatever its map is resized by; the decoder has stride 4."""
    with torch.device("meta"):
        model = DeepLabV3Plus(backbone="resnet18", align_corners=align_corners)
    assert receptive_field(model, input_size=size) == ((inf, inf), (4, 4), (-inf, -inf))
    low_level = receptive_field(model, at="reduce", input_size=size)
    assert low_level == receptive_field(model, at="backbone.layer1", input_size=size)
    assert low_level.size == (43, 43)


def test_unpooling_keeps_what_pooling_saw():
    class Pooled(nn.Module):
        def forward(self, input):
            pooled, places = functional.max_pool2d(input, 2, return_indices=True)
            return functional.max_unpool2d(pooled, places, 2, output_size=input.shape[2:])

    network = nn.Sequential(conv(3), Pooled())
    assert receptive_field(network, input_size=(16, 16)) == ((4, 4), (1, 1), (-1, -1))
    with pytest.raises(ValueError, match=r"max_unpool2d must go to a multiple .* input_size of ev"):
        receptive_field(network, input_size=(15, 15))


def test_deconvnet():
    with torch.device("meta"):
        model = DeconvNet()
    field = receptive_field(model, input_size=(224, 224))
    assert field.stride == (1, 1)
    assert receptive_field(model, at="fc6", input_size=(224, 224)).size == (404, 404)
    # Through the transposed 7x7 an output sees 7 of these; the decoder's 3x3 reach for one more.
    assert field.size[0] > 404 + 6 * 32


def test_paths_that_drift_are_refused():
    with torch.device("meta"):
        unet = UNet(padding="same", up="bilinear")
        several = MultiScale(DeepLabV2ResNet(depth=18))
    with pytest.raises(ValueError, match=r"one stride, got .*depends on its place; .*at="):
        receptive_field(unet)
    assert receptive_field(several, input_size=(513, 513)).stride == (8, 8)
    with pytest.raises(ValueError, match=r"one stride, got 8 and .*an input_size that"):
        receptive_field(several, input_size=(500, 500))


def test_upsampling_has_phases():
    """Doubled, an even output sees one pixel through a nearest tap, and two through bilinear."""
    deconv = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
    assert receptive_field(deconv) == ((2, 2), (Fraction(1, 2),) * 2, (-1, -1))
    assert receptive_field(nn.ConvTranspose2d(1, 1, 2, stride=2)).size == (1, 1)

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3)

        def forward(self, input):
            return functional.interpolate(self.conv(input), scale_factor=2, mode="bilinear")

    field = receptive_field(Doubled(), input_size=(10, 12))
    assert field == ((4, 4), (Fraction(1, 2),) * 2, (-2, -2))


def widest_span(network, size):
    """The most rows that any one output row feels, found by one impulse at a time."""
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
        impulses = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
        impulses = impulses.expand(-1, -1, -1, size)
        felt = (network(impulses) - network(torch.zeros_like(impulses))).abs().sum((1, 3)) > 0
    rows = [column.nonzero().flatten() for column in felt.T if column.any()]
    return max(int(row[-1] - row[0]) + 1 for row in rows)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [conv(3), nn.AvgPool2d(2), conv(3, 2), nn.AvgPool2d(3, 2, 1), conv(4, 1)],
        lambda: [conv(5, stride=3), conv(3, 3), nn.ZeroPad2d(2)],
        lambda: [conv(3, stride=2), conv(3), nn.ConvTranspose2d(1, 1, 2, stride=2)],
    ],
    ids=["pools", "strides", "deconv"],
)
def test_equals_what_impulses_reach(layers):
    network = nn.Sequential(*layers())
    field = receptive_field(network, input_size=(96, 96))
    assert widest_span(network, 96) == field.size[0]


def test_one_axis():
    field = receptive_field(DilatedConv1d(1, 1, kernel_size=3, rate=4), input_size=(40,))
    assert field == ((9,), (1,), (-4,))


def test_network_is_left_as_it_is():
    model = ResNet(18).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert receptive_field(model, at="layer4").size == (435, 435)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_rejects():
    with torch.device("meta"):
        model = FCN8s()
    with pytest.raises(ValueError, match=r"^receptive_field: at must name a submodule that runs"):
        receptive_field(model, at="backbone.pools")
    with pytest.raises(ValueError, match=r"every operator must have a rule, got aten::"):
        receptive_field(nn.Sequential(conv(3), nn.PixelShuffle(1), nn.Flatten()))

    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = conv(3), conv(3, stride=2)

        def forward(self, input):
            return self.one(input)[:, :, ::1, :1] + self.two(input)[:, :, :1, :1]

    with pytest.raises(ValueError, match="paths that meet must have one stride, got 1 and 2"):
        receptive_field(Meeting())
