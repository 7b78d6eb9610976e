"""Caffe's files: the reader, and what becomes of the published layer lists."""

import numpy as np
import pytest
import torch
from caffe_writer import Layer, caffemodel
from checkpoint_lists import names_of
from torch import nn
from torch.nn import functional

from fastseg import load_weights, models
from fastseg.checkpoints import CheckpointError
from fastseg.checkpoints.caffemodel import Layer as ReadLayer
from fastseg.checkpoints.caffemodel import named, read_caffemodel
from fastseg.checkpoints.formats import plan_of
from fastseg.checkpoints.load import fill
from fastseg.checkpoints.plan import Contents, Request

pytestmark = pytest.mark.usefixtures("numbers_stay_one")
rng = np.random.default_rng(0)


def written(tmp_path, layers, **form):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(layers, **form))
    return path


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one-by-one"])
@pytest.mark.parametrize("old", [False, True], ids=["layer", "layers"])
def test_reader_finds_every_blob(old, packed, tmp_path):
    weight, bias = rng.normal(size=(3, 2, 5, 5)), rng.normal(size=3)
    matrix = rng.normal(size=(4, 6))
    layers = [
        Layer("data", "Data"),
        Layer("conv", "Convolution", (weight, bias)),
        Layer("fc", "INNER_PRODUCT" if old else "InnerProduct", (matrix,)),
    ]
    tensors, metadata = read_caffemodel(written(tmp_path, layers, old=old, packed=packed))
    assert metadata["layers"] == ["data", "conv", "fc"]
    expected = {"conv.weight": weight, "conv.bias": bias, "fc.weight": matrix}
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert torch.equal(tensors[name], torch.tensor(array, dtype=torch.float32)), name


def test_statistics_are_divided_by_their_factor(tmp_path):
    mean, var = rng.normal(size=4), rng.uniform(1, 2, size=4)
    layers = [
        Layer("bn", "BatchNorm", (mean, var, np.array([4.0]))),
        Layer("unused", "BatchNorm", (mean, var, np.array([0.0]))),
    ]
    tensors, _ = read_caffemodel(written(tmp_path, layers))
    np.testing.assert_allclose(tensors["bn.running_mean"], mean / 4, rtol=1e-6)
    np.testing.assert_allclose(tensors["bn.running_var"], var / 4, rtol=1e-6)
    assert not tensors["unused.running_var"].any()


def test_a_file_cut_off_anywhere_is_an_error(tmp_path):
    layers = [Layer("conv1_1", "Convolution", (rng.normal(size=(2, 3, 3, 3)), np.zeros(2)))]
    content = caffemodel(layers)
    for length in {*range(1, len(content), 7), *range(1, 20), len(content) - 1}:
        path = tmp_path / "cut.caffemodel"
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_weights(None, path)


def filled(layer, in_channels, number):
    """A layer of a list as the reader gives it, its blobs full of numbers of their own."""
    kind = layer["type"].lower()

    def tensor(*shape):
        nonlocal number
        number += 1
        return torch.full((1,), float(number)).expand(shape)

    blobs = []
    if kind in ("convolution", "deconvolution"):
        outputs, kernel = int(layer["num_output"][0]), int(layer["kernel_size"][0])
        groups = 2 if layer["name"] in ("conv2", "conv4", "conv5") and outputs < 500 else 1
        blobs = [tensor(outputs, in_channels // groups, kernel, kernel)]
        lone = layer["name"].startswith(("res", "up", "score2", "score4"))
        if not lone and not (layer["name"] == "conv1" and kernel == 7):
            blobs.append(tensor(outputs))
        in_channels = outputs
    elif kind == "batchnorm":
        blobs = [tensor(in_channels), tensor(in_channels), torch.ones(1)]
    elif kind == "scale":
        blobs = [tensor(in_channels)]
        if "value" not in layer:
            blobs.append(tensor(in_channels))
    elif kind == "multistagemeanfield":
        blobs = [tensor(1, 1, 21, 21) for _ in range(3)]
    padding, dilation = (
        int(layer[key][0]) if key in layer else None for key in ("pad", "dilation")
    )
    read = ReadLayer(layer["name"], layer["type"], blobs, padding, dilation)
    return read, in_channels, number


INPUTS = {  # of layers that do not take the map of the layer above them in the list
    "score_pool4": 512,
    "score-pool4": 512,
    "scale_pool4": 512,
    "score_pool3": 256,
    "score-pool3": 256,
    "scale_pool3": 256,
}


def contents_of(list_name):
    tensors, names, channels, number, block = {}, [], 3, 0, 64
    paddings = {}
    for layer in names_of(list_name)["layers"]:
        name = layer["name"]
        channels = INPUTS.get(name, channels)
        if "branch" in name and name.startswith("res") and layer["type"] == "Convolution":
            if name.endswith(("branch1", "branch2a")):
                channels = block
            read, channels, number = filled(layer, channels, number)
            if name.endswith("branch2c"):
                block = channels
        else:
            if name.startswith("fc1_voc12_c"):
                channels = 2048
            if name.startswith("up") or name in ("score2", "score4"):
                channels = 21
            read, channels, number = filled(layer, channels, number)
        names.append(name)
        if read.padding is not None:
            paddings[name] = read.padding
        tensors |= {f"{name}.{word}": tensor for word, tensor in named(read)}
    metadata = {"layers": names, "paddings": paddings, "dilations": {}}
    return Contents(tensors, metadata, "caffemodel")


SYSTEMS = {
    "caffe_voc_fcn32s": "fcn32s",
    "caffe_voc_fcn16s": "fcn16s",
    "caffe_voc_fcn8s": "fcn8s",
    "caffe_voc_fcn8s_atonce": "fcn8s_at_once",
    "caffe_voc_fcn_alexnet": "fcn_alexnet",
    "caffe_crfrnn": "crf_rnn",
    "caffe_deeplabv1_vgg128_noup": "deeplabv1_base",
    "caffe_deeplabv2_resnet101_scale1": "deeplabv2_resnet101",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_layer_lists_load_strictly(name):
    contents = contents_of(name)
    report, model = fill(None, contents, name, None, True)
    assert (report.system, report.missing, report.unexpected) == (SYSTEMS[name], (), ())
    assert model.input_convention.channels == "bgr"
    assert "Caffe" in models.SYSTEMS[model.system].checkpoints
    if "atonce" in name:
        return  # its two scores are multiplied by what the file says, see below
    own = {n: t for n, t in model.state_dict().items() if "sigma" not in n and "num_b" not in n}
    arrived = sorted(tensor.flatten()[0].item() for tensor in own.values())
    assert arrived == sorted(tensor.flatten()[0].item() for tensor in contents.tensors.values())


def test_names_that_shapes_do_not_tell_apart():
    contents = contents_of("caffe_deeplabv2_resnet101_scale1")
    _, model = fill(None, contents, "", None, True)
    state = model.state_dict()
    for theirs, ours in (
        ("res3b2_branch2c.weight", "backbone.layer2.2.conv3.conv.weight"),
        ("res4a_branch1.weight", "backbone.layer3.0.shortcut.conv.weight"),
        ("scale2c_branch2a.bias", "backbone.layer1.2.conv1.norm.bias"),
        ("bn5b_branch2b.running_var", "backbone.layer4.1.conv2.norm.running_var"),
        ("bn_conv1.running_mean", "backbone.stem.norm.running_mean"),
        ("fc1_voc12_c2.bias", "aspp.branches.2.bias"),
    ):
        assert state[ours].flatten()[0] == contents.tensors[theirs].flatten()[0], theirs


def test_copies_for_other_sizes_are_left_out():
    contents = contents_of("caffe_deeplabv2_resnet101_scale1")
    copies = {f"{n.replace('.', '_res075.', 1)}": t for n, t in contents.tensors.items()}
    layers = [*contents.metadata["layers"], "conv1_res075"]
    several = Contents({**contents.tensors, **copies}, {"layers": layers}, "caffemodel")
    report, _ = fill(None, several, "", None, True)
    assert report.system == "deeplabv2_resnet101_msc"
    assert len(report.dropped) == len(copies)


def test_factors_of_the_pools_are_those_of_the_file():
    contents = contents_of("caffe_voc_fcn8s_atonce")
    tensors = dict(contents.tensors)
    tensors["scale_pool4.weight"] = torch.full((512,), 0.02)
    tensors["scale_pool3.weight"] = torch.tensor([0.0001])
    plan = plan_of(contents._replace(tensors=tensors), Request(None, None), "")
    for pool, factor in (("pool4", 2), ("pool3", 1)):
        theirs = tensors[f"score_{pool}.weight"]
        torch.testing.assert_close(plan.tensors[f"score_{pool}.weight"], theirs * factor)


def test_one_kernel_a_class_becomes_all_pairs():
    contents = contents_of("caffe_voc_fcn32s")
    kernels = torch.randn(21, 1, 64, 64)
    tensors = {**contents.tensors, "upscore.weight": kernels}
    weight = plan_of(contents._replace(tensors=tensors), Request(None, None), "").tensors[
        "upscore.weight"
    ]
    assert torch.equal(weight[range(21), range(21)], kernels[:, 0])
    assert torch.equal(weight.sum(1), kernels[:, 0])


def deeplab_on_vgg(kernel, **metadata):
    base = contents_of("caffe_deeplabv1_vgg128_noup")
    width = 1024 if kernel == 3 else 4096
    one = torch.ones(1)
    tensors = {
        **base.tensors,
        "fc6.weight": one.expand(width, 512, kernel, kernel),
        "fc6.bias": one.expand(width),
        "fc7.weight": one.expand(width, width, 1, 1),
        "fc7.bias": one.expand(width),
        "fc8_pascal.weight": one.expand(21, width, 1, 1),
    }
    return Contents(tensors, metadata, "caffemodel")


AVERAGED = ["pool5", "pool5a"]


@pytest.mark.parametrize(
    ("kernel", "variant", "metadata", "system"),
    [
        (7, None, {}, "deeplabv1_7x7"),
        (4, "4x4", {}, "deeplabv1_4x4"),
        (4, "base", {}, "deeplabv1_base"),
        (4, None, {"dilations": {"fc6": 8}}, "deeplabv1_4x4"),
        (4, None, {"paddings": {"fc6": 12}}, "deeplabv1_4x4"),
        (4, None, {"paddings": {"fc6": 6}}, "deeplabv1_base"),
        (3, None, {"layers": AVERAGED}, "deeplabv1_largefov"),
        (3, "v2", {"layers": AVERAGED}, "deeplabv2_vgg16_largefov"),
        (3, None, {"layers": ["pool5"]}, "deeplabv2_vgg16_largefov"),
        (3, "v1", {}, "deeplabv1_largefov"),
        (3, "v2", {}, "deeplabv2_vgg16_largefov"),
    ],
)
def test_deeplab_on_vgg(kernel, variant, metadata, system):
    report, model = fill(None, deeplab_on_vgg(kernel, **metadata), "", variant, True)
    assert (report.system, report.note) == (system, "")
    if "v2" in system:
        assert isinstance(model.pool5a, nn.AvgPool2d) == ("pool5a" in metadata.get("layers", ()))
    assert fill(None, deeplab_on_vgg(kernel, **metadata), "", system, True)[0].system == system


@pytest.mark.parametrize(
    ("kernel", "metadata", "message"),
    [
        (7, {"dilations": {"fc6": 2}}, "fc6 of this DeepLab v1 file must have rate 4, got 2"),
        (4, {"dilations": {"fc6": 2}}, "must have rate 4 or 8, got 2"),
        (3, {"paddings": {"fc6": 6}}, "must have rate 12, got 6"),
    ],
)
def test_a_rate_that_no_deeplab_has(kernel, metadata, message):
    with pytest.raises(CheckpointError, match=message):
        plan_of(deeplab_on_vgg(kernel, **metadata), Request(None, None), "")


AMBIGUOUS = {  # system: its other half, and how to make the file
    "deeplabv1_base": ("deeplabv1_4x4", lambda: deeplab_on_vgg(4)),
    "deeplabv1_4x4": ("deeplabv1_base", lambda: deeplab_on_vgg(4)),
    "deeplabv1_largefov": ("deeplabv2_vgg16_largefov", lambda: deeplab_on_vgg(3)),
    "deeplabv2_vgg16_largefov": ("deeplabv1_largefov", lambda: deeplab_on_vgg(3)),
    "deeplabv2_vgg16_aspp_s": ("deeplabv2_vgg16_aspp_l", lambda: deeplab_of_branches()),
    "deeplabv2_vgg16_aspp_l": ("deeplabv2_vgg16_aspp_s", lambda: deeplab_of_branches()),
}


@pytest.mark.parametrize("system", AMBIGUOUS)
def test_equal_names_and_shapes_need_a_variant_or_a_model(system):
    other, make = AMBIGUOUS[system]
    contents = make()
    with pytest.raises(CheckpointError, match=r"variant must be given .* say variant='.* or vari"):
        fill(None, contents, "", None, True)
    with torch.device("meta"):
        model = models.build(system)
    assert plan_of(contents, Request(None, model), "").build().system == system
    with pytest.raises(CheckpointError, match=r"variant must be '.*', as the model is or the"):
        plan_of(contents, Request(other, model), "")


def test_a_file_that_says_its_rate_leaves_no_variant_open():
    with pytest.raises(CheckpointError, match="variant must be '4x4', as the file says, got 'bas"):
        plan_of(deeplab_on_vgg(4, dilations={"fc6": 8}), Request("base", None), "")


def test_rates_of_a_model_hold_for_a_file_without():
    contents = deeplab_of_branches()
    with torch.device("meta"):
        model = models.DeepLabV2VGG16(rates=(1, 2, 3, 4))
    plan = plan_of(contents, Request(None, model), "")
    assert plan.build().rates == (1, 2, 3, 4)
    three = {n: t for n, t in contents.tensors.items() if "_4." not in n}
    with pytest.raises(CheckpointError, match="3 branches must say their rates"):
        plan_of(contents._replace(tensors=three), Request("aspp-s", None), "")


def deeplab_of_branches(**metadata):
    base = contents_of("caffe_deeplabv1_vgg128_noup")
    one = torch.ones(1)
    shapes = {"fc6": (1024, 512, 3, 3), "fc7": (1024, 1024, 1, 1), "fc8_voc12": (21, 1024, 1, 1)}
    tensors = {name: tensor for name, tensor in base.tensors.items() if name.startswith("conv")}
    for branch in range(1, 5):
        for layer, shape in shapes.items():
            tensors[f"{layer}_{branch}.weight"] = one.expand(shape)
            tensors[f"{layer}_{branch}.bias"] = one.expand(shape[0])
    return Contents(tensors, metadata, "caffemodel")


@pytest.mark.parametrize(
    ("rates", "variant", "system"),
    [
        ((2, 4, 8, 12), None, "deeplabv2_vgg16_aspp_s"),
        ((6, 12, 18, 24), None, "deeplabv2_vgg16_aspp_l"),
        ((1, 2, 3, 4), None, "deeplabv2_vgg16_aspp_l"),
        ((), "aspp-s", "deeplabv2_vgg16_aspp_s"),
        ((), "l", "deeplabv2_vgg16_aspp_l"),
    ],
)
@pytest.mark.parametrize("word", ["dilations", "paddings"])
def test_deeplab_v2_on_vgg(rates, variant, system, word):
    said = {f"fc6_{i}": rate for i, rate in enumerate(rates, 1)}
    report, model = fill(None, deeplab_of_branches(**{word: said}), "", variant, True)
    assert (report.system, report.note) == (system, "")
    if rates:
        assert [branch.fc6.geometry.rate[0] for branch in model.branches] == list(rates)


@pytest.mark.parametrize("names", ["{}_conv {}_fc {}_ms_voc12", "a{} b{} c{}", "x{} y{} fc8_{}"])
def test_branches_of_deeplab_msc(names):
    """Each scores by itself in the file: the sum of their scores is one fc8 on all of them."""
    base = contents_of("caffe_deeplabv1_vgg128_noup")
    tensors = {name: tensor for name, tensor in base.tensors.items() if name.startswith("conv")}
    one = torch.ones(1)
    tensors |= {
        "fc6.weight": one.expand(1024, 512, 3, 3),
        "fc6.bias": one.expand(1024),
        "fc7.weight": one.expand(1024, 1024, 1, 1),
        "fc7.bias": one.expand(1024),
    }
    layers = []
    for place, channels in enumerate((3, 64, 128, 256, 512)):
        layer = "data" if place == 0 else f"pool{place}"
        shapes = ((128, channels, 3, 3), (128, 128, 1, 1), (21, 128, 1, 1))
        layers.append([name.format(layer) for name in names.split()])
        for name, shape in zip(layers[-1], shapes, strict=True):
            tensors[f"{name}.weight"] = torch.randn(shape)
            tensors[f"{name}.bias"] = torch.randn(shape[0])
    tensors["fc8_voc12.weight"] = torch.randn(21, 1024, 1, 1)
    tensors["fc8_voc12.bias"] = torch.randn(21)
    report, model = fill(None, Contents(tensors, {}, "caffemodel"), "", None, True)
    assert report.system == "deeplabv1_msc_largefov"
    for branch, (conv, fc, _) in zip(model.branches.branches, layers, strict=True):
        assert torch.equal(branch[0].weight, tensors[f"{conv}.weight"])
        assert torch.equal(branch[1].bias, tensors[f"{fc}.bias"])
    top, features = torch.randn(1, 1024, 2, 2), torch.randn(5, 1, 128, 2, 2)
    expected = functional.conv2d(top, tensors["fc8_voc12.weight"], tensors["fc8_voc12.bias"])
    for feature, (*_, score) in zip(features, layers, strict=True):
        weight, bias = tensors[f"{score}.weight"], tensors[f"{score}.bias"]
        expected = expected + functional.conv2d(feature, weight, bias)
    fused = model.fc8(torch.cat([top, *features], 1))
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4)


def test_a_whole_file_gives_its_backbone(tmp_path):
    """ResNet-18 in Caffe's layers: convolution, batch norm with a factor, scale and shift."""
    from fastseg.backbones import ResNet

    expected = ResNet(18, convention="caffe").eval()
    with torch.no_grad():
        for name, buffer in expected.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        for name, parameter in expected.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    state = {name: tensor.numpy() for name, tensor in expected.state_dict().items()}
    layers = [Layer("fc1000", "InnerProduct", (np.ones((5, 512)), np.ones(5)))]
    for place in sorted({name.rpartition(".conv.")[0] for name in state if ".conv." in name}):
        block = caffe_block(place)
        norm = {
            word: state[f"{place}.norm.{word}"]
            for word in ("weight", "bias", "running_mean", "running_var")
        }
        statistics = (norm["running_mean"] * 2, norm["running_var"] * 2, np.array([2.0]))
        scale = (norm["weight"], norm["bias"])
        names = [block.format(kind) for kind in ("res", "bn", "scale")]
        if place == "stem":
            names = ["conv1", "bn_conv1", "scale_conv1"]
        layers.append(Layer(names[0], "Convolution", (state[f"{place}.conv.weight"],)))
        layers.append(Layer(names[1], "BatchNorm", statistics))
        layers.append(Layer(names[2], "Scale", scale))
    model = load_weights(None, written(tmp_path, layers))
    assert model.load_report.dropped == ("fc1000.weight", "fc1000.bias")
    for name, tensor in expected.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(model.state_dict()[name], tensor), name


def caffe_block(place):
    if place == "stem":
        return ""
    layer, block, conv = place.split(".")
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b"}[conv]
    return f"{{}}{int(layer[-1]) + 1}{'abc'[int(block)]}_branch{branch}"
