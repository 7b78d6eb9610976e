"""Sizes of scores and logits for every side from 1 to 600, without computing them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastseg.models import (
    DeconvNet,
    DeepLabV1,
    DeepLabV2ResNet,
    DeepLabV2VGG16,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCN16s,
    FCN32s,
    FCNAlexNet,
    FCNResNet,
    MultiScale,
    UNet,
)

SIDES = range(1, 601)


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"), torch.no_grad():
        yield


def image(height, width, channels=3):
    return torch.empty(1, channels, height, width)


def caffe_pooled(n):
    """Caffe's pooling of 2 at a stride of 2."""
    return -(-(n - 2) // 2) + 1


def test_fcn():
    """Every side, heights 1 to 300 beside widths 600 to 301; the trunk runs once for all three."""

    class Trunk(nn.Module):
        def forward(self, _):
            return features

    models = {32: FCN32s(2), 16: FCN16s(2), 8: FCN8s(2)}
    trunk = models[8].eval().backbone
    for model in models.values():
        model.eval().backbone = Trunk()
    for height in range(1, 301):
        x = image(height, 601 - height)
        features = trunk(x)
        for axis, side in ((2, height), (3, 601 - height)):
            pooled = side + 198
            for pool in features:
                pooled = caffe_pooled(pooled)
                assert pool.shape[axis] == pooled
        top = [side - 6 for side in features[-1].shape[2:]]
        for stride, model in models.items():
            scores = model.scores(x)
            lost = {32: 0, 16: 2, 8: 6}[stride]
            assert list(scores.shape[2:]) == [32 // stride * side + lost for side in top]
            assert model.upsample(scores, x).shape == (1, 2, height, 601 - height)


def test_sizes_named_in_the_release():
    """H = 500: conv1 of 698, pools of 349, 175, 88, 44 and 22, fc7 of 16."""
    model = FCN8s().eval()
    pools = model.backbone(image(500, 500))
    assert [pool.shape[2] for pool in pools] == [349, 175, 88, 44, 22]
    assert model.coarse(pools[-1]).shape[2] == 16
    assert model.scores(image(500, 500)).shape[2] == 70
    assert model.upscore8(model.scores(image(500, 500))).shape[2] == 568
    assert FCN32s().upscore(image(16, 16, 21)).shape[2] == 544
    assert model.coarse(model.backbone(image(224, 32))[-1]).shape[2:] == (8, 2)


def test_fcn_alexnet():
    model = FCNAlexNet(2).eval()
    for n in range(1, 301):
        assert model(image(n, 601 - n)).shape == (1, 2, n, 601 - n)


def large_fov_size(n):
    for _ in range(3):
        n = -(-(n - 1) // 2) + 1
    return n


@pytest.mark.parametrize("variant", ["7x7", "base", "4x4", "largefov"])
def test_deeplab_v1(variant):
    model = DeepLabV1(2, variant=variant).eval()
    features = DeepLabV1(2, variant=variant, multi_scale=True).eval()
    for n in range(model.min_size, 601, 37):
        x = image(n, 602 - n)
        scores = model.scores(x)
        if variant == "largefov":
            assert scores.shape[2:] == (large_fov_size(n), large_fov_size(602 - n))
        assert features.scores(x).shape == scores.shape
        assert model.upsample(scores, x).shape[2:] == x.shape[2:]


def test_grids_of_the_papers_crops():
    base, large_fov = DeepLabV1(variant="base"), DeepLabV1()
    pools = [pool.shape[2] for pool in base.backbone(image(306, 306))]
    assert pools == [154, 78, 40, 39, 39]
    assert [base.scores(image(n, n)).shape[2] for n in (306, 514)] == [39, 65]
    assert [large_fov.scores(image(n, n)).shape[2] for n in (321, 513, 500)] == [41, 65, 64]


def test_deeplab_v2():
    aspp, resnet = DeepLabV2VGG16(2).eval(), DeepLabV2ResNet(2, depth=18).eval()
    for n in SIDES[::37]:
        x = image(n, 601 - n)
        assert aspp.scores(x).shape[2:] == (large_fov_size(n), large_fov_size(601 - n))
        assert resnet.scores(x).shape[2] == caffe_resnet_size(n)
        assert resnet(x).shape == (1, 2, n, 601 - n)


def caffe_resnet_size(n):
    """conv1 and res3 of stride 2 floor, the pool of the stem takes the ceiling."""
    n = (n - 1) // 2 + 1
    n = -(-(n - 1) // 2) + 1 if n > 1 else 1
    return (n - 1) // 2 + 1


def test_sizes_of_deeplab_v2_resnet():
    model = DeepLabV2ResNet().eval()
    sizes = {n: model.scores(image(n, n)).shape[2] for n in (321, 513, 500)}
    assert sizes == {321: 41, 513: 65, 500: 63}
    floored = DeepLabV2ResNet(convention="torchvision").eval()
    assert floored.scores(image(500, 500)).shape[2] == 63


@pytest.mark.parametrize(
    "make",
    [
        lambda: FCNResNet(2, depth=18),
        lambda: DeepLabV3(2, backbone="resnet18"),
        lambda: DeepLabV3Plus(2, backbone="resnet18"),
        lambda: DeepLabV3Plus(2, backbone="mobilenet_v2", convention="torchvision"),
        lambda: UNet(2, in_channels=3, padding="same", width=4),
    ],
    ids=["fcn-resnet", "v3", "v3+", "v3+-mobilenet", "unet"],
)
def test_logits_have_the_size_of_the_image(make):
    model = make().eval()
    for n in SIDES[15::72]:
        x = image(n, 616 - n)
        assert model(x).shape == (1, 2, n, 616 - n)


def test_output_strides():
    for n, output_stride, size in ((513, 16, 33), (513, 8, 65), (769, 16, 49), (512, 16, 33)):
        model = DeepLabV3(2, backbone="resnet18", output_stride=output_stride).eval()
        assert model.scores(image(n, n)).shape[2] == size
    assert DeepLabV3Plus(2, backbone="resnet18").eval().scores(image(513, 257)).shape[2:] == (
        129,
        65,
    )


def test_deconvnet():
    model = DeconvNet(2).eval()
    with pytest.raises(
        ValueError, match=r"^DeconvNet: input must have sides of at least 224 pixels"
    ):
        model(image(223, 300))
    for n in (224, 225, 250, 287, 301, 448, 600):
        assert model(image(n, 224)).shape == (1, 2, n, 224)


def test_valid_unet():
    """572, 570, 568 | 284, 282, 280 | 140, ... and 388 at the end; 188 + 16 k for every k."""
    model = UNet(width=2).eval()
    widths = []
    for block in (*model.encoder, *model.decoder):
        for conv in (block.conv1, block.conv2):
            conv.register_forward_hook(lambda _m, _i, out: widths.append(out.shape[2]))
    assert model(image(572, 572, 1)).shape == (1, 2, 388, 388)
    assert widths == [
        570, 568, 282, 280, 138, 136, 66, 64, 30, 28, 54, 52, 102, 100, 198, 196, 390, 388,
    ]  # fmt: skip
    taken = []
    for n in SIDES:
        try:
            assert model(image(n, 188, 1)).shape[2] == n - 184
            taken.append(n)
        except ValueError:
            assert functional.pad(image(1, 1), (0, model.valid_size(n) - 1)).shape[3] > n
    assert taken == list(range(188, 601, 16))
    assert [model.valid_size(n) for n in (1, 188, 189, 204, 500, 572)] == [
        188,
        188,
        204,
        204,
        508,
        572,
    ]


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: DeepLabV1(variant="base"), 2),
        (DeepLabV1, 1),
        (lambda: DeepLabV3Plus(backbone="xception"), 71),
        (lambda: DeepLabV3Plus(backbone="xception", output_stride=8), 103),
        (lambda: DeepLabV3(backbone="mobilenet_v2"), 3),
        (lambda: DeepLabV3(backbone="mobilenet_v2", convention="torchvision"), 1),
        (lambda: UNet(in_channels=3, padding="same"), 16),
        (lambda: MultiScale(DeepLabV2ResNet(depth=18)), 1),
        (lambda: MultiScale(DeepLabV2ResNet(depth=18, align_corners=False)), 2),
        (lambda: MultiScale(DeepLabV1(variant="base")), 3),
    ],
)
def test_smallest_image(make, least):
    model = make().eval()
    assert model.min_size == least
    assert model(image(least, 200)).shape[2:] == (least, 200)
    if least > 1:
        with pytest.raises(
            ValueError, match=f"sides of at least {least} pixels, got 200 x {least - 1}"
        ):
            model(image(200, least - 1))


@pytest.mark.parametrize("make", [lambda: UNet(2), lambda: DeepLabV3(2), lambda: DeepLabV1(2)])
def test_images_must_be_batches(make):
    model = make().eval()
    for shape in ((3, 64, 64), (1, 1, 3, 64, 64), (64,)):
        with pytest.raises(ValueError, match=r"input must have shape \(B, C, H, W\), got"):
            model(torch.empty(shape))
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor, got list"):
        model([image(64, 64)])
