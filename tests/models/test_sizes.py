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


def test_grids_of_the_papers_crops():
    base, large_fov = DeepLabV1(variant="base"), DeepLabV1()
    pools = [pool.shape[2] for pool in base.backbone(image(306, 306))]
    assert pools == [154, 78, 40, 39, 39]
    assert [base.scores(image(n, n)).shape[2] for n in (306, 514)] == [39, 65]
    assert [large_fov.scores(image(n, n)).shape[2] for n in (321, 513, 500)] == [41, 65, 64]


def test_sizes_of_deeplab_v2_resnet():
    model = DeepLabV2ResNet(depth=18).eval()
    sizes = {n: model.scores(image(n, n)).shape[2] for n in (321, 513, 500)}
    assert sizes == {321: 41, 513: 65, 500: 63}
    floored = DeepLabV2ResNet(depth=18, convention="torchvision").eval()
    assert floored.scores(image(500, 500)).shape[2] == 63


def chain(*steps):
    """The size after several layers, from the size before."""

    def size(n):
        for step in steps:
            n = step(n)
        return n

    return size


def unchanged(n):
    return n


def halved(n):
    """By a convolution that keeps the size at stride 1, or a pool that rounds down."""
    return (n - 1) // 2 + 1


def pooled_up(n):
    """Caffe's pooling of 3 at a stride of 2 with a pixel of padding; one that rounds up."""
    return -(-(n - 1) // 2) + 1 if n > 1 else 1


def alexnet(n):
    """100 pixels of padding, conv1 of 11 at a stride of 4, three pools of 3 that round up, fc6."""
    n = (n + 200 - 11) // 4 + 1
    for _ in range(3):
        n = -(-(n - 3) // 2) + 1
    return n - 5


def fcn(stride, lost):
    def size(n):
        n += 198
        for _ in range(5):
            n = caffe_pooled(n)
        return (n - 6) * (32 // stride) + lost

    return size


LARGE_FOV = chain(pooled_up, pooled_up, pooled_up)
POOLS_OF_TWO = chain(*[lambda n: n // 2 + 1] * 3, lambda n: n - 1)
STRIDE_4, STRIDE_8 = chain(halved, halved), chain(halved, halved, halved)
CAFFE_STRIDE_4 = chain(halved, pooled_up)
CAFFE_STRIDE_8 = chain(halved, pooled_up, halved)
XCEPTION_STRIDE_4 = chain(lambda n: (n - 3) // 2 + 1 - 2, halved)

LAWS = {  # of the side of the scores; the quick ones are tried at more sizes
    "fcn32s": (lambda: FCN32s(2), fcn(32, 0), 11),
    "fcn16s": (lambda: FCN16s(2), fcn(16, 2), 11),
    "fcn8s": (lambda: FCN8s(2), fcn(8, 6), 11),
    "fcn-alexnet": (lambda: FCNAlexNet(2), alexnet, 3),
    "v1-7x7": (lambda: DeepLabV1(2, variant="7x7"), POOLS_OF_TWO, 11),
    "v1-base": (lambda: DeepLabV1(2, variant="base"), POOLS_OF_TWO, 11),
    "v1-4x4": (lambda: DeepLabV1(2, variant="4x4"), POOLS_OF_TWO, 11),
    "v1-largefov": (lambda: DeepLabV1(2), LARGE_FOV, 11),
    "v1-msc": (lambda: DeepLabV1(2, multi_scale=True), LARGE_FOV, 11),
    "v1-base-msc": (lambda: DeepLabV1(2, variant="base", multi_scale=True), POOLS_OF_TWO, 11),
    "v2-vgg": (lambda: DeepLabV2VGG16(2), LARGE_FOV, 11),
    "v2": (lambda: DeepLabV2ResNet(2, depth=18), CAFFE_STRIDE_8, 37),
    "v2-msc": (lambda: MultiScale(DeepLabV2ResNet(2, depth=18)), CAFFE_STRIDE_8, 73),
    "fcn-resnet": (lambda: FCNResNet(2, depth=18), STRIDE_8, 73),
    "v3": (lambda: DeepLabV3(2, backbone="resnet18"), CAFFE_STRIDE_8, 73),
    "v3-uniform": (
        lambda: DeepLabV3(2, backbone="resnet18", convention="uniform"),
        STRIDE_8,
        73,
    ),
    "v3+": (lambda: DeepLabV3Plus(2, backbone="resnet18"), CAFFE_STRIDE_4, 73),
    "v3+-mobilenet": (
        lambda: DeepLabV3Plus(2, backbone="mobilenet_v2", convention="torchvision"),
        STRIDE_4,
        150,
    ),
    "v3+-xception": (lambda: DeepLabV3Plus(2, backbone="xception"), XCEPTION_STRIDE_4, 150),
    "v3+-aligned": (lambda: DeepLabV3Plus(2, backbone="aligned_xception"), STRIDE_4, 150),
    "unet-same": (lambda: UNet(2, in_channels=3, padding="same", width=4), unchanged, 11),
    "unet-bilinear": (
        lambda: UNet(2, in_channels=3, padding="same", width=4, up="bilinear"),
        unchanged,
        11,
    ),
    "deconvnet": (lambda: DeconvNet(2), unchanged, 37),
}


def without_norms(model):
    """Batch norm changes no size, and is what takes longest where there are no values."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return model


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAWS)
def test_sizes(name, every):
    """Of scores and logits; every side up to 600 as height and as width, or some of them."""
    make, law, step = LAWS[name]
    model = without_norms(make().eval())
    least = model.min_size
    for height in range(least, 601, 1 if every else step):
        width = least + 600 - height
        x = image(height, width)
        scores = model.scores(x)
        assert scores.shape == (1, 2, law(height), law(width))
        assert model.upsample(scores, x).shape == (1, 2, height, width)


def test_output_strides():
    for n, output_stride, size in ((513, 16, 33), (513, 8, 65), (769, 16, 49), (512, 16, 33)):
        model = DeepLabV3(2, backbone="resnet18", output_stride=output_stride).eval()
        assert model.scores(image(n, n)).shape[2] == size
    assert DeepLabV3Plus(2, backbone="resnet18").eval().scores(image(513, 257)).shape[2:] == (
        129,
        65,
    )


def test_deconvnet_is_made_for_proposals():
    rule = "DeconvNet: input must have sides of at least 224 pixels, got 223 x 300"
    with pytest.raises(ValueError, match=f"^{rule}"):
        DeconvNet(2)(image(223, 300))


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
