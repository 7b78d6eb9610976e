"""Training, evaluation, compilation and export of every system, with few channels."""

import copy
from functools import partial

import pytest
import torch
from thin import CLASSES, thin
from torch import nn
from torch.nn import functional

from fastseg.backbones.resnet import DEPTHS
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
    TrainingOutput,
    UNet,
)

K = CLASSES
SYSTEMS = {  # constructor, side of the image, channels of the image
    "fcn32s": (partial(FCN32s, K), 40, 3),
    "fcn16s": (partial(FCN16s, K, learn_upsampling=True), 40, 3),
    "fcn8s": (partial(FCN8s, K, learn_upsampling=True), 40, 3),
    "fcn8s-at-once": (partial(FCN8s, K, at_once=True, upscore2_bias=True), 40, 3),
    "fcn-alexnet": (partial(FCNAlexNet, K), 40, 3),
    "fcn-resnet": (partial(FCNResNet, K, aux=True), 49, 3),
    "deconvnet": (partial(DeconvNet, K), 224, 3),
    "unet": (partial(UNet, K), 188, 1),
    "unet-caffe": (partial(UNet, K, caffe=True), 188, 1),
    "unet-padded": (partial(UNet, K, in_channels=3, padding="same", norm=True), 37, 3),
    "unet-bilinear": (
        partial(UNet, K, in_channels=3, padding="same", norm=True, up="bilinear"),
        37,
        3,
    ),
    "deeplab-v1": (partial(DeepLabV1, K), 41, 3),
    "deeplab-v1-base": (partial(DeepLabV1, K, variant="base"), 42, 3),
    "deeplab-v1-msc": (partial(DeepLabV1, K, multi_scale=True), 41, 3),
    "deeplab-v2-vgg": (partial(DeepLabV2VGG16, K), 41, 3),
    "deeplab-v2-resnet": (partial(DeepLabV2ResNet, K, depth=50), 65, 3),
    "deeplab-v2-msc": (lambda: MultiScale(DeepLabV2ResNet(K, depth=18)), 65, 3),
    "deeplab-v3": (partial(DeepLabV3, K, backbone="resnet50"), 65, 3),
    "deeplab-v3-aux": (partial(DeepLabV3, K, backbone="resnet18", aux=True, head_conv=True), 65, 3),
    "deeplab-v3+": (partial(DeepLabV3Plus, K, backbone="resnet18", separable=True), 65, 3),
    "deeplab-v3+-mobilenet": (
        partial(DeepLabV3Plus, K, backbone="mobilenet_v2", separable=True),
        65,
        3,
    ),
    "deeplab-v3+-xception": (
        partial(DeepLabV3Plus, K, backbone="aligned_xception", separable=True),
        65,
        3,
    ),
}


@pytest.fixture(params=SYSTEMS.values(), ids=SYSTEMS)
def system(request, monkeypatch):
    """A thin network of few blocks, and a function that makes an image for it."""
    for depth in (18, 50):
        monkeypatch.setitem(DEPTHS, depth, (1, 1, 1, 1))
    make, side, channels = request.param
    model = thin(make)
    return model, lambda batch=1: torch.randn(batch, channels, side, side)


def close(actual, expected):
    return (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def parts(output):
    return [output.logits, *output.aux] if isinstance(output, TrainingOutput) else [output]


def test_gradient_reaches_every_trainable_parameter(system):
    """And no other; a batch of one image trains."""
    model, image = system
    output = model.train()(image())
    loss = sum(map.square().mean() for map in parts(output))
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):  # batch norm takes it away again
            assert parameter.grad is not None
        elif parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert parameter.grad is None, name
    has_heads = isinstance(model, MultiScale) or getattr(model, "aux_head", None) is not None
    assert isinstance(output, TrainingOutput) == has_heads


def test_evaluation(system):
    """Equal logits on every run, none of the heads, nothing written; batches do not mix."""
    model, image = system
    model.eval()
    state = copy.deepcopy(model.state_dict())
    x = image(2)
    with torch.no_grad():
        logits = model(x)
        assert isinstance(logits, torch.Tensor)
        assert logits.shape[:2] == (2, K)
        assert torch.equal(model(x), logits)
        assert close(model(x[1:]), logits[1:])
        scores = model.scores(x)
        whole = isinstance(model, UNet | DeconvNet)
        assert torch.equal(scores if whole else model.upsample(scores, x), logits)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_training_writes_statistics_only(system):
    model, image = system
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.train()(image(2))
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, state[n])}
    assert all(n.endswith(("running_mean", "running_var", "num_batches_tracked")) for n in changed)
    trained = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    assert bool(changed) == bool(trained)


GRAPHS = (  # one of each kind of network
    "fcn8s", "fcn-alexnet", "fcn-resnet", "deconvnet", "unet", "unet-bilinear", "deeplab-v1-msc",
    "deeplab-v2-vgg", "deeplab-v2-msc", "deeplab-v3-aux", "deeplab-v3+",
)  # fmt: skip


@pytest.mark.parametrize("system", [SYSTEMS[name] for name in GRAPHS], ids=GRAPHS, indirect=True)
def test_compiles_without_graph_breaks(system):
    model, image = system
    model.eval()
    x = image()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert close(compiled(x), model(x))


@pytest.mark.parametrize("system", [SYSTEMS[name] for name in GRAPHS], ids=GRAPHS, indirect=True)
def test_exports(system):
    model, image = system
    x = image()
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x,), strict=False)
        assert close(program.module()(x), model(x))


def test_autocast(system):
    model, image = system
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model.eval()(image())).all()


def test_frozen_norms_stay_frozen():
    model = thin(DeepLabV2ResNet, K, depth=18)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    model.train()
    assert not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
    free = thin(DeepLabV2ResNet, K, depth=18, frozen_norm=False).train()
    assert all(m.training for m in free.modules() if isinstance(m, nn.BatchNorm2d))


def test_one_image_in_training_uses_the_running_statistics_of_image_pooling():
    """One value a channel has no variance: batch norm would refuse it."""
    model = thin(DeepLabV3, K, backbone="resnet18").train()
    pooling = model.aspp.image_pooling
    norm = pooling.conv.norm
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    features = torch.randn(1, 64, 5, 7)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        pooling.conv(features.mean((2, 3), keepdim=True))
    before = norm.running_mean.clone()
    pooled = pooling(features)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(pooled, pooling.eval()(features))
    pooling.train()(torch.randn(2, 64, 5, 7))
    assert not torch.equal(norm.running_mean, before)


def test_learning_lowers_the_loss():
    """A few steps on one image, through the smallest system that has every kind of block."""
    torch.manual_seed(1)
    model = thin(DeepLabV3Plus, K, backbone="mobilenet_v2", separable=True, norm_momentum=0.1)
    x, labels = torch.randn(2, 3, 33, 33), torch.randint(0, K, (2, 33, 33))
    optimiser = torch.optim.SGD(model.train().parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DeepLabV1(variant="fov"),
            "^DeepLabV1: variant must be one of 7x7, base, 4x4, largefov, got 'fov'",
        ),
        (lambda: DeepLabV3(backbone="vgg16"), "^backbone: name must be one of resnet18, "),
        (
            lambda: MultiScale(DeepLabV2VGG16(), scales=(0.5, 0)),
            r"^MultiScale: scales must be positive, got \(0.5, 0\)",
        ),
    ],
)
def test_rejects(call, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        call()
