"""Every system against its layer list written out flat, with one set of random weights."""

import flat
import pytest
import torch
from thin import CLASSES, thin
from torch.nn import functional as F

from fastseg.backbones import AlignedXception, MobileNetV2, ResNet, Xception
from fastseg.models import (
    DeepLabV1,
    DeepLabV2ResNet,
    DeepLabV2VGG16,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCNAlexNet,
    MultiScale,
    TrainingOutput,
    UNet,
)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def test_fcn8s(randomised, same):
    image = torch.randn(1, 3, 20, 37)
    model = randomised(thin(FCN8s, CLASSES)).eval()
    plain = model(image)
    same(plain, flat.fcn8s(model.state_dict(), image, at_once=False))
    model.at_once = True
    at_once = model(image)
    same(at_once, flat.fcn8s(model.state_dict(), image, at_once=True))
    assert (plain - at_once).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize(
    ("variant", "definition"),
    [("largefov", flat.deeplab_largefov), ("base", flat.deeplab_vgg128_noup)],
)
def test_deeplab_v1(variant, definition, randomised, same):
    image = torch.randn(1, 3, 50, 42)
    model = randomised(thin(DeepLabV1, CLASSES, variant=variant)).eval()
    scores = model.scores(image)
    same(scores, definition(model.state_dict(), image))
    same(model(image), F.interpolate(scores, (50, 42), mode="bilinear", align_corners=True))


@pytest.mark.parametrize("size", [(41, 49), (40, 54)], ids=str)
def test_multi_scale_features(size, randomised, same):
    """Where pooling rounds up, the strided branches see zeros beyond the image."""
    image = torch.randn(1, 3, *size)
    model = randomised(thin(DeepLabV1, CLASSES, multi_scale=True)).eval()
    same(model.scores(image), flat.multi_scale_features(model.state_dict(), image))


def test_fcn_alexnet(randomised, same):
    image = torch.randn(1, 3, 33, 60) * 40
    model = randomised(thin(FCNAlexNet, CLASSES)).eval()
    same(model(image), flat.fcn_alexnet(model.state_dict(), image))


def test_deeplab_v2_vgg(randomised, same):
    image = torch.randn(1, 3, 49, 41)
    rates = (2, 4, 8, 12)
    model = randomised(thin(DeepLabV2VGG16, CLASSES, rates=rates)).eval()
    same(model.scores(image), flat.deeplab_aspp(model.state_dict(), image, rates))


def test_deeplab_v2_resnet(randomised, same):
    image = torch.randn(1, 3, 64, 49)  # an even map before the pooling of the stem, and an odd one
    model = randomised(thin(DeepLabV2ResNet, CLASSES, depth=50)).eval()
    same(model.scores(image), flat.deeplab_v2_resnet(model.state_dict(), image, 50))


@pytest.mark.parametrize("align_corners", [True, False], ids=["caffe", "floor"])
def test_multi_scale_inputs(align_corners, randomised, same):
    """Caffe's copies of 65 have 49 and 33 samples; the others 48 and 32, at exactly that scale."""
    image = torch.randn(1, 3, 65, 65)
    network = randomised(thin(DeepLabV2ResNet, CLASSES, depth=50, align_corners=align_corners))
    model = MultiScale(network)
    state, maps = network.state_dict(), []
    for scale in (1, 0.5, 0.75):
        if scale == 1:
            copy = image
        elif align_corners:
            size = {0.5: 33, 0.75: 49}[scale]
            copy = F.interpolate(image, (size, size), mode="bilinear", align_corners=True)
        else:
            copy = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
            assert copy.shape[2] == {0.5: 32, 0.75: 48}[scale]
        maps.append(flat.deeplab_v2_resnet(state, copy, 50))
    size = maps[0].shape[2:]
    fused = torch.stack(
        [F.interpolate(m, size, mode="bilinear", align_corners=align_corners) for m in maps]
    ).amax(0)
    output = model.train()(image)  # the network's norms are frozen: as in evaluation
    assert isinstance(output, TrainingOutput)
    for actual, expected in zip(output.aux, [*maps, fused], strict=True):
        same(actual, expected)
    logits = F.interpolate(fused, (65, 65), mode="bilinear", align_corners=align_corners)
    same(output.logits, logits)
    same(model.eval()(image), logits)
    model.fuse_logits = True
    sides = (65, 33, 49) if align_corners else (65, 32, 48)
    full = [
        F.interpolate(
            F.interpolate(m, (side, side), mode="bilinear", align_corners=align_corners),
            (65, 65),
            mode="bilinear",
            align_corners=align_corners,
        )
        for m, side in zip(maps, sides, strict=True)
    ]
    same(model(image), torch.stack(full).amax(0))


def test_deeplab_v3_has_two_output_strides(randomised, same):
    image = torch.randn(2, 3, 49, 66)
    model = randomised(thin(DeepLabV3, CLASSES, backbone="resnet50"))
    for mode, output_stride in ((False, 8), (True, 16), (False, 8)):
        model.train(mode)
        state = model.state_dict()
        if mode:  # strides of training, statistics of evaluation
            for module in model.modules():
                module.training = False
        expected = flat.deeplab_v3(state, image, 50, output_stride)
        assert expected.shape[2] == -(-48 // output_stride) + 1
        same(model.scores(image), expected)


def test_deeplab_v3_as_torchvision_has_it(randomised, same):
    image = torch.randn(1, 3, 40, 57)
    model = randomised(
        thin(
            DeepLabV3,
            CLASSES,
            backbone="resnet50",
            convention="torchvision",
            multi_grid=(1,),
            train_output_stride=8,
            head_conv=True,
            aux=True,
        )
    ).eval()
    logits, aux = flat.torchvision_deeplab_v3(model.state_dict(), image, 50)
    same(model(image), logits)
    model.training = True  # both heads, statistics of evaluation
    output = model(image)
    same(output.logits, logits)
    same(output.aux[0], aux)


@pytest.mark.parametrize("align_corners", [True, False])
def test_deeplab_v3plus(align_corners, randomised, same):
    image = torch.randn(1, 3, 49, 66)
    model = randomised(
        thin(DeepLabV3Plus, CLASSES, backbone="resnet50", align_corners=align_corners)
    ).eval()
    expected = flat.deeplab_v3plus(model.state_dict(), image, 50, align_corners)
    same(model(image), expected)


@pytest.mark.parametrize("caffe", [False, True], ids=["paper", "caffe"])
def test_unet(caffe, randomised, same):
    image = torch.randn(1, 1, 204, 204)
    model = randomised(UNet(2, width=8, caffe=caffe)).eval()
    same(model(image), flat.unet(model.state_dict(), image, caffe))


@pytest.mark.parametrize("up", ["deconv", "bilinear"])
def test_padded_unet(up, randomised, same):
    image = torch.randn(1, 3, 37, 50)
    model = randomised(UNet(2, in_channels=3, width=8, padding="same", norm=True, up=up)).eval()
    same(model(image), flat.padded_unet(model.state_dict(), image, up == "bilinear"))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_resnet_as_torchvision_has_it(depth, output_stride, randomised, same):
    image = torch.randn(1, 3, 66, 50)
    model = randomised(ResNet(depth, output_stride=output_stride)).eval()
    expected = flat.torchvision_resnet(model.state_dict(), image, depth, output_stride)
    for actual, feature in zip(model(image), expected, strict=True):
        same(actual, feature)


def test_conventions_of_resnet_differ(randomised, same):
    """Equal weights: the three changes together, and nothing less, are the Caffe network."""
    image = torch.randn(1, 3, 66, 50)  # odd maps before the pooling of the stem: sizes agree
    models = {
        convention: randomised(ResNet(50, output_stride=8, convention=convention)).eval()
        for convention in ("torchvision", "uniform", "caffe")
    }
    features = {name: model(image) for name, model in models.items()}
    expected = flat.caffe_resnet(models["caffe"].state_dict(), image, 50, (1, 1, 2, 4), prefix="")
    for actual, feature in zip(features["caffe"], expected, strict=True):
        same(actual, feature)
    top = {name: maps[-1] for name, maps in features.items()}
    assert top["caffe"].shape[2] == top["torchvision"].shape[2] == 9
    scale = top["caffe"].abs().max()
    assert (top["uniform"] - top["torchvision"]).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("pad_input", [False, True], ids=["torchvision", "pad-input"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_mobilenet(output_stride, pad_input, randomised, same):
    image = torch.randn(1, 3, 65, 50) * 3
    network = randomised(MobileNetV2(output_stride=output_stride, pad_input=pad_input)).eval()
    expected = flat.mobilenet_v2(network.state_dict(), image, output_stride, pad_input)
    for actual, feature in zip(network(image), expected, strict=True):
        same(actual, feature)


@pytest.mark.parametrize(("output_stride", "dilated"), [(32, ()), (16, (11,)), (8, (2, 11))])
def test_xception(output_stride, dilated, randomised, same):
    network = randomised(thin(Xception, output_stride=output_stride)).eval()
    image = torch.randn(1, 3, 110, 121)
    expected = flat.xception(network.state_dict(), image, dilated)
    for actual, feature in zip(network(image), expected, strict=True):
        same(actual, feature)


def test_aligned_xception(randomised, same):
    network = randomised(thin(AlignedXception)).eval()
    image = torch.randn(1, 3, 65, 50)
    expected = flat.aligned_xception(network.state_dict(), image)
    for actual, feature in zip(network(image), expected, strict=True):
        same(actual, feature)
