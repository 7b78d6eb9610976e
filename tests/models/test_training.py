"""Training, evaluation, compilation and export of every system, with few channels."""

import copy
import re

import pytest
import torch
import torch.distributed
from thin import CLASSES, thin
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from fastseg.backbones.resnet import DEPTHS
from fastseg.models import (
    CRFRNN,
    DeconvNet,
    DeepLabV2ResNet,
    DeepLabV3,
    DeepLabV3Plus,
    MultiScale,
    TrainingOutput,
    UNet,
    build,
    list_systems,
)

K = CLASSES
SIDES = {  # of the image; 41 unless the network wants more
    "deconvnet": 224,
    "unet": 188,
    "unet_caffe": 188,
    "deeplabv3_xception_vainf": 105,
    "deeplabv3plus_xception_vainf": 105,
}


def twin(name):
    """Whether a ResNet-50 stands beside a ResNet-101: one network, where a layer has one block."""
    return "101" in name and name.replace("101", "50") in list_systems()


NAMES = [name for name in list_systems() if not twin(name)]
VARIANTS = {
    "learned upsampling": ("fcn8s", {"learn_upsampling": True}),
    "fcn with two heads": ("fcn_resnet50", {"aux": True}),
    "v3 with two heads": ("deeplabv3_resnet50_torchvision", {"aux": True}),
    "basic blocks": ("deeplabv2_resnet101", {"depth": 18}),
    "separable": ("deeplabv3plus_mobilenet_v2_vainf", {"separable": True}),
}
SYSTEMS = {**{name: (name, {}) for name in NAMES}, **VARIANTS}


GRAPHS = {  # one of each kind of network, half of them in training
    "fcn8s": False, "fcn_alexnet": True, "fcn with two heads": True, "deconvnet": False,
    "unet": True, "unet_bilinear": False, "deeplabv1_msc_largefov": True,
    "deeplabv2_vgg16_aspp_l": False, "deeplabv2_resnet101_msc": True,
    "v3 with two heads": False, "deeplabv3plus_resnet101": True, "crf_rnn": False,
}  # fmt: skip
one_of_each_kind = pytest.mark.parametrize(  # the others with -m slow
    "system",
    [
        pytest.param(value, id=name, marks=() if name in GRAPHS else pytest.mark.slow)
        for name, value in SYSTEMS.items()
    ],
    indirect=True,
)


@pytest.fixture(params=SYSTEMS.values(), ids=SYSTEMS)
def system(request, monkeypatch):
    """A thin network of few blocks, and a function that makes an image for it."""
    for depth in (18, 50, 101):
        monkeypatch.setitem(DEPTHS, depth, (1, 1, 1, 1))
    name, options = request.param
    model = thin(build, name, K, **options)
    channels, side = model.input_convention.num_channels, SIDES.get(name, 41)
    return model, lambda batch=1: torch.randn(batch, channels, side, side)


def close(actual, expected):
    return (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def parts(output):
    return [output.logits, *output.aux] if isinstance(output, TrainingOutput) else [output]


def loss_of(output):
    return sum(map.float().square().mean() for map in parts(output))


def test_gradient_reaches_every_trainable_parameter(system):
    """And no other; a batch of one image trains."""
    model, image = system
    output = model.train()(image())
    loss_of(output).backward()
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
        if not isinstance(model, CRFRNN):
            whole = isinstance(model, UNet | DeconvNet)
            assert torch.equal(scores if whole else model.upsample(scores, x), logits)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@one_of_each_kind
def test_training_writes_statistics_only(system):
    model, image = system
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.train()(image(2))
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, state[n])}
    assert all(n.endswith(("running_mean", "running_var", "num_batches_tracked")) for n in changed)
    trained = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    assert bool(changed) == bool(trained)


COMPILED = (
    "fcn8s", "unet", "deeplabv2_resnet101_msc", "deeplabv3plus_resnet101", "crf_rnn",
)  # fmt: skip
EXPORTED = [name for name in GRAPHS if name != "crf_rnn"]
MODES = [
    pytest.param(
        SYSTEMS[name],
        training,
        id=f"{name} {'training' if training else 'evaluation'}",
        marks=() if name in COMPILED and GRAPHS[name] is training else pytest.mark.slow,
    )
    for name in SYSTEMS
    for training in (True, False)
]


@pytest.mark.parametrize(("system", "training"), MODES, indirect=["system"])
def test_compiles_without_graph_breaks(system, training):
    """Some seconds a system: a few as a rule, all of them with ``-m slow``."""
    model, image = system
    for module in model.train(training).modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    x = image()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for actual, expected in zip(parts(compiled(x)), parts(model(x)), strict=True):
            assert close(actual, expected)


@pytest.mark.parametrize(
    "system", [SYSTEMS[name] for name in EXPORTED], ids=EXPORTED, indirect=True
)
def test_exports(system):
    model, image = system
    x = image()
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x,), strict=False)
        assert close(program.module()(x), model(x))


@one_of_each_kind
def test_autocast(system):
    """Scores in bfloat16, a CRF's logits and all gradients in float32."""
    model, image = system
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(image(2))
    loss_of(output).backward()
    dtype = torch.float32 if isinstance(model, CRFRNN) else torch.bfloat16
    assert all(map.dtype == dtype and torch.isfinite(map).all() for map in parts(output))
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


HALVES = ["fcn8s", "fcn_alexnet", "unet_padded", "deeplabv2_vgg16_aspp_l", "deeplabv3_resnet101"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("system", [SYSTEMS[name] for name in HALVES], ids=HALVES, indirect=True)
def test_parameters_of_half_precision(system, dtype):
    model, image = system
    x = image()
    with torch.no_grad():
        exact, rounded = model.eval()(x), model.to(dtype)(x.to(dtype))
    assert rounded.dtype == dtype
    # Every layer rounds, by up to half of eps.
    assert (rounded - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max()


@one_of_each_kind
def test_two_runs_give_the_same_bits(system):
    """Forward and backward, under torch's demand for deterministic algorithms."""
    model, image = system
    torch.use_deterministic_algorithms(True)
    x, runs = image(2), []
    for run in (copy.deepcopy(model), model):
        torch.manual_seed(3)  # dropout
        output = run.train()(x)
        loss_of(output).backward()
        gradients = [p.grad for p in run.parameters() if p.requires_grad]
        runs.append([*parts(output), *gradients, *run.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


HEADS = (  # several results in training, or more than convolutions
    "fcn with two heads", "v3 with two heads", "deeplabv2_resnet101_msc", "crf_rnn",
)  # fmt: skip


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    file = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(value, id=name, marks=() if name in HEADS else pytest.mark.slow)
        for name, value in SYSTEMS.items()
    ],
    indirect=True,
)
@pytest.mark.usefixtures("process_group")
def test_distributed_training(system):
    """Every parameter takes part in each step: ``find_unused_parameters`` is not needed."""
    model, image = system
    parallel = DistributedDataParallel(model.train())
    for _ in range(2):  # what was left over from the first raises in the second
        loss_of(parallel(image())).backward()


def test_frozen_norms_stay_frozen():
    model = thin(DeepLabV2ResNet, K, depth=18)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    model.train()
    assert not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
    free = thin(DeepLabV2ResNet, K, depth=18, frozen_norm=False).train()
    assert all(m.training for m in free.modules() if isinstance(m, nn.BatchNorm2d))


def test_synchronised_norms_stay_frozen():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(thin(DeepLabV2ResNet, K, depth=18)).train()
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


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


@pytest.mark.parametrize(
    "name",
    [
        "unet_padded",
        "deeplabv3_resnet101",
        "deeplabv3plus_resnet101_msc",
        "deeplabv3_xception_vainf",
    ],
)
def test_one_image_too_small_for_batch_norm(name, monkeypatch):
    """The error gives the least side that trains, and two images train below it."""
    monkeypatch.setitem(DEPTHS, 101, (1, 1, 1, 1))
    model = thin(build, name, K).train()
    kind, least = type(model).__name__, model.min_size

    def run(side, batch=1):
        return model(torch.randn(batch, 3, side, side))

    message = (
        rf"^{kind}: input must have sides of at least (\d+) pixels to train on one image, .* "
        rf"got {least} x {least}; enlarge the image or train on two at once$"
    )
    with pytest.raises(ValueError, match=message) as caught:
        run(least)
    enough = int(re.match(message, str(caught.value))[1])
    run(enough)
    with pytest.raises(ValueError, match=f"at least {enough} pixels to train"):
        run(enough - 1)
    run(least, batch=2)
    model.eval()(torch.randn(1, 3, least, least))


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
