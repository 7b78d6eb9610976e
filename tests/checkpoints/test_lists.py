"""Every published list of names and shapes: loads whole, or is refused by name."""

import json

import pytest
import torch
from checkpoint_lists import LISTS, names_of, numbered

from fastseg import load_weights, models
from fastseg.checkpoints import CheckpointError
from fastseg.checkpoints.formats import plan_of
from fastseg.checkpoints.plan import Contents, Request
from fastseg.checkpoints.rebuild import describe, rebuild
from fastseg.checkpoints.wkentaro import MD5

pytestmark = pytest.mark.usefixtures("numbers_stay_one")

VARIANTS = {
    "kazuto_deeplabv2_resnet101_msc_182": "v2",
    "kazuto_deeplabv2_resnet101_msc_21": "v2",
    "kazuto_deeplabv2s_resnet101_msc_21": "v2s",
    "wkentaro_fcn8s": "fcn8s",
    "wkentaro_fcn8satonce": "fcn8s_at_once",
}
SYSTEMS = {
    "isht7_deeplabv2_resnet101_21": "deeplabv2_resnet101_msc",
    "jfzhang_deeplabv3plus_resnet101_21": "deeplabv3plus_resnet101_jfzhang",
    "kazuto_deeplabv1_resnet101_coco91": "deeplabv2_resnet101",
    "kazuto_deeplabv2_resnet101_msc_182": "deeplabv2_resnet101_msc",
    "kazuto_deeplabv2_resnet101_msc_21": "deeplabv2_resnet101_msc",
    "kazuto_deeplabv2s_resnet101_msc_21": "deeplabv2_resnet101_msc",
    "kazuto_deeplabv3_resnet101_msc_21": "deeplabv3_resnet101_msc",
    "kazuto_deeplabv3plus_resnet101_msc_21": "deeplabv3plus_resnet101_msc",
    "kazuto_resnet101_1000": "ResNet",
    "milesial_unet_1_1": "unet_padded",
    "milesial_unet_bilinear_3_2": "unet_bilinear",
    "milesial_unet_carvana_3_2": "unet_padded",
    "sadeepj_crfasrnn_21": "crf_rnn_sadeepj",
    "smp_deeplabv3_resnet50_21": "deeplabv3_resnet50_smp",
    "smp_deeplabv3plus_resnet101_21": "deeplabv3plus_resnet101_smp",
    "smp_deeplabv3plus_resnet50_21": "deeplabv3plus_resnet50_smp",
    "torchvision_alexnet": "AlexNet",
    "torchvision_deeplabv3_resnet101_aux": "deeplabv3_resnet101_torchvision",
    "torchvision_deeplabv3_resnet50_aux": "deeplabv3_resnet50_torchvision",
    "torchvision_fcn_resnet101_aux": "fcn_resnet101",
    "torchvision_fcn_resnet50_aux": "fcn_resnet50",
    "torchvision_mobilenet_v2": "MobileNetV2",
    "torchvision_resnet101": "ResNet",
    "torchvision_resnet152": "ResNet",
    "torchvision_resnet18": "ResNet",
    "torchvision_resnet34": "ResNet",
    "torchvision_resnet50": "ResNet",
    "torchvision_vgg16": "VGG16",
    "torchvision_vgg16_bn": "VGG16",
    "vainf_deeplabv3_mobilenet_21": "deeplabv3_mobilenet_v2_vainf",
    "vainf_deeplabv3_resnet101_21": "deeplabv3_resnet101_vainf",
    "vainf_deeplabv3_resnet50_21": "deeplabv3_resnet50_vainf",
    "vainf_deeplabv3plus_mobilenet_21": "deeplabv3plus_mobilenet_v2_vainf",
    "vainf_deeplabv3plus_resnet101_21": "deeplabv3plus_resnet101_vainf",
    "vainf_deeplabv3plus_resnet50_21": "deeplabv3plus_resnet50_vainf",
    "vainf_deeplabv3plus_xception_21": "deeplabv3plus_xception_vainf",
    "wkentaro_fcn16s": "fcn16s",
    "wkentaro_fcn32s": "fcn32s",
    "wkentaro_fcn8s": "fcn8s",
    "wkentaro_fcn8satonce": "fcn8s_at_once",
}
REFUSED = {
    "smp_unet_resnet34_21": "U-Net",
    "smp_unet_vgg16_bn_21": "U-Net",
    "torchvision_deeplabv3_mobilenet_v3_large_aux": "MobileNetV3",
    "torchvision_lraspp_mobilenet_v3_large": "LR-ASPP",
    "torchvision_mobilenet_v3_large": "MobileNetV3",
}
CLASSIFIERS = ("AlexNet", "MobileNetV2", "ResNet", "VGG16")


@pytest.fixture(scope="module")
def loaded(checkpoint, numbers_stay_one):
    """The model that a list's file becomes, each loaded once, and the file's tensors."""
    models = {}

    def load(name):
        path, tensors = checkpoint(name)
        if name not in models:
            models[name] = load_weights(None, path, VARIANTS.get(name))
        return models[name], tensors

    return load


def test_every_list_is_here():
    if not LISTS.exists():
        pytest.skip("no ../shared/checkpoints")
    found = {path.stem for path in LISTS.glob("*.json") if not path.stem.startswith("caffe_")}
    found -= {"fingerprints", "torchvision_weights_meta"}
    assert found == SYSTEMS.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", SYSTEMS)
def test_list_loads_strictly_and_is_built_again(name, loaded):
    model, tensors = loaded(name)
    assert not model.training
    report = model.load_report
    assert (report.system, report.missing, report.unexpected) == (SYSTEMS[name], (), ())
    if model.system is not None:
        assert report.format in models.SYSTEMS[model.system].checkpoints
    assert bool(report.dropped) == (SYSTEMS[name] in CLASSIFIERS)
    assert_all_arrived(model, tensors, report.dropped)
    with torch.device("meta"):
        again = rebuild(json.loads(json.dumps(describe(model))))
    assert shapes(again) == shapes(model)
    assert again.input_convention == model.input_convention
    assert again.system == model.system


def assert_all_arrived(model, tensors, dropped):
    """Each tensor's number is in one place of the model, once: its rows may have moved."""
    sent = sorted(abs(t.flatten()[0].item()) for n, t in tensors.items() if n not in dropped)
    state = {name: t for name, t in model.state_dict().items() if "sigma" not in name}
    assert sorted(abs(t.flatten()[0].item()) for t in state.values()) == sent
    for tensor in state.values():
        assert (tensor.stride() == (0,) * tensor.dim()) or (tensor == tensor.flatten()[0]).all()


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_by_name(name, checkpoint):
    path, _ = checkpoint(name)
    with pytest.raises(CheckpointError, match=REFUSED[name]):
        load_weights(None, path)


@pytest.mark.parametrize("name", VARIANTS)
def test_equal_names_and_shapes_need_a_variant(name, checkpoint):
    path, _ = checkpoint(name)
    with pytest.raises(CheckpointError, match=r"variant must be given .* say variant='"):
        load_weights(None, path)
    with pytest.raises(CheckpointError, match=r"say variant='.*, got 'v9'"):
        load_weights(None, path, "v9")


@pytest.mark.parametrize(
    ("name", "variant", "words"),
    [
        ("wkentaro_fcn32s", "fcn8s", "None or fcn32s"),
        ("milesial_unet_carvana_3_2", "carvana", "None or unet_padded"),
        ("torchvision_resnet18", "resnet18", "None for"),
        ("kazuto_resnet101_1000", "v2", "None for"),
    ],
)
def test_a_variant_that_says_nothing_is_an_error(name, variant, words, checkpoint):
    path, _ = checkpoint(name)
    with pytest.raises(CheckpointError, match=f"variant must be {words}.*, got '{variant}'"):
        load_weights(None, path, variant)


def test_the_name_of_the_system_is_a_variant(checkpoint):
    path, _ = checkpoint("wkentaro_fcn32s")
    assert load_weights(None, path, "FCN-32s").system == "fcn32s"


PLACES = {  # a name of the file and the name of the model, wherever shapes leave a choice
    "kazuto_deeplabv2_resnet101_msc_21": [
        ("base.layer3.block2.increase.conv.weight", "network.backbone.layer2.1.conv3.conv.weight"),
        ("base.layer2.block1.shortcut.bn.bias", "network.backbone.layer1.0.shortcut.norm.bias"),
        ("base.aspp.c2.weight", "network.aspp.branches.2.weight"),
    ],
    "kazuto_deeplabv3_resnet101_msc_21": [
        ("base.aspp.stages.c0.bn.weight", "network.aspp.branches.branches.0.norm.weight"),
        ("base.aspp.stages.c3.conv.weight", "network.aspp.branches.branches.3.conv.weight"),
        ("base.aspp.stages.imagepool.conv.bn.bias", "network.aspp.image_pooling.conv.norm.bias"),
        ("base.fc1.bn.bias", "network.aspp.project.norm.bias"),
    ],
    "kazuto_deeplabv3plus_resnet101_msc_21": [
        ("base.fc2.conv2.bn.bias", "network.decoder.1.norm.bias"),
        ("base.reduce.bn.bias", "network.reduce.norm.bias"),
    ],
    "isht7_deeplabv2_resnet101_21": [
        ("Scale.layer3.22.bn2.bias", "network.backbone.layer3.22.conv2.norm.bias"),
        ("Scale.layer5.conv2d_list.3.weight", "network.aspp.branches.3.weight"),
    ],
    "jfzhang_deeplabv3plus_resnet101_21": [
        ("aspp.aspp3.atrous_conv.weight", "aspp.branches.branches.2.conv.weight"),
        ("aspp.bn1.bias", "aspp.project.norm.bias"),
        ("decoder.last_conv.5.bias", "decoder.1.norm.bias"),
    ],
    "smp_deeplabv3plus_resnet50_21": [
        ("decoder.aspp.0.convs.2.0.0.weight", "aspp.separable_branches.1.depthwise.weight"),
        ("decoder.aspp.0.convs.4.2.bias", "aspp.image_pooling.conv.norm.bias"),
        ("decoder.aspp.2.bias", "head.pointwise.norm.bias"),
        ("decoder.block2.1.bias", "decoder.0.pointwise.norm.bias"),
    ],
    "smp_deeplabv3_resnet50_21": [("decoder.bn.bias", "head.norm.bias")],
    "torchvision_deeplabv3_resnet50_aux": [
        ("classifier.0.convs.3.1.bias", "aspp.branches.branches.3.norm.bias"),
        ("classifier.0.convs.4.2.bias", "aspp.image_pooling.conv.norm.bias"),
        ("classifier.2.bias", "head.norm.bias"),
        ("aux_classifier.1.bias", "aux_head.reduce.norm.bias"),
    ],
    "torchvision_vgg16_bn": [
        ("features.24.bias", "conv4_1.conv.bias"),
        ("features.28.bias", "conv4_2.norm.bias"),
    ],
    "vainf_deeplabv3plus_mobilenet_21": [
        ("backbone.low_level_features.2.conv.1.1.bias", "backbone.blocks.1.depthwise.norm.bias"),
        ("backbone.high_level_features.17.conv.3.bias", "backbone.blocks.16.project.norm.bias"),
        ("classifier.classifier.1.bias", "decoder.0.norm.bias"),
    ],
    "vainf_deeplabv3plus_xception_21": [
        ("backbone.block1.rep.4.bias", "backbone.blocks.0.convs.1.pointwise.norm.bias"),
        ("backbone.block4.rep.7.conv1.weight", "backbone.blocks.3.convs.2.depthwise.weight"),
        ("backbone.block12.skipbn.bias", "backbone.blocks.11.shortcut.norm.bias"),
        ("backbone.bn3.bias", "backbone.conv3.pointwise.norm.bias"),
    ],
    "milesial_unet_carvana_3_2": [
        ("down2.maxpool_conv.1.double_conv.4.bias", "encoder.2.conv2.norm.bias"),
        ("up3.conv.double_conv.1.bias", "decoder.2.conv1.norm.bias"),
    ],
    "sadeepj_crfasrnn_21": [
        ("crfrnn.spatial_ker_weights", "crf.kernels.0.weight"),
        ("crfrnn.bilateral_ker_weights", "crf.kernels.1.weight"),
        ("upscore_pool4.weight", "network.upscore_pool4.weight"),
    ],
}


@pytest.mark.parametrize("name", PLACES)
def test_names_that_shapes_do_not_tell_apart(name, loaded):
    model, tensors = loaded(name)
    state = model.state_dict()
    for theirs, ours in PLACES[name]:
        assert state[ours].flatten()[0] == tensors[theirs].flatten()[0], theirs


def test_vainf_puts_the_low_level_map_first(tmp_path):
    tensors = numbered(names_of("vainf_deeplabv3plus_mobilenet_21")["keys"])
    theirs = torch.randn(256, 304, 3, 3)
    tensors["classifier.classifier.0.weight"] = theirs
    torch.save(tensors, tmp_path / "file.pth")
    ours = load_weights(None, tmp_path / "file.pth").decoder[0].conv.weight
    assert torch.equal(ours[:, :256], theirs[:, 48:])
    assert torch.equal(ours[:, 256:], theirs[:, :48])


def test_sadeepj_adds_what_the_paper_subtracts(loaded):
    model, tensors = loaded("sadeepj_crfasrnn_21")
    assert torch.equal(model.crf.compatibility, -tensors["crfrnn.compatibility_matrix"])
    assert [kernel.sigma_xy.item() for kernel in model.crf.kernels] == [3, 160]


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("kazuto_deeplabv2_resnet101_msc_21", lambda n: n.replace("base.", "scale.")),
        (
            "kazuto_deeplabv2_resnet101_msc_21",
            lambda n: n.replace("base.aspp.", "scale.aspp.stages.").replace("base.", "scale."),
        ),
        ("kazuto_deeplabv3_resnet101_msc_21", lambda n: n.replace("base.", "scale.")),
        (
            "smp_deeplabv3_resnet50_21",
            lambda n: (
                n.replace("decoder.aspp", "decoder.0")
                .replace("decoder.conv", "decoder.1")
                .replace("decoder.bn", "decoder.2")
            ),
        ),
        ("milesial_unet_carvana_3_2", lambda n: n.replace("maxpool_conv", "mpconv")),
    ],
    ids=["v2", "v2-stages", "v3", "smp", "milesial"],
)
def test_names_of_earlier_releases(name, old, loaded, tmp_path):
    now, tensors = loaded(name)
    torch.save({old(key): tensor for key, tensor in tensors.items()}, tmp_path / "old.pth")
    before = load_weights(None, tmp_path / "old.pth", VARIANTS.get(name))
    state = now.state_dict()
    assert before.system == now.system
    for key, tensor in before.state_dict().items():
        assert tensor.flatten()[0] == state[key].flatten()[0], key


@pytest.mark.parametrize(
    "name",
    ["torchvision_resnet18", "vainf_deeplabv3_mobilenet_21", "torchvision_deeplabv3_resnet50_aux"],
)
def test_counts_and_heads_for_training_may_be_absent(name, tmp_path):
    tensors = numbered(names_of(name)["keys"])
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.endswith("num_batches_tracked") and not key.startswith("aux_")
    }
    torch.save(kept, tmp_path / "old.pth")
    model = load_weights(None, tmp_path / "old.pth")
    counts = [t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")]
    assert counts and not any(counts)
    assert getattr(model, "aux_head", None) is None


def test_class_count_depth_and_channels_come_from_the_tensors(tmp_path):
    shapes = names_of("torchvision_fcn_resnet50_aux")["keys"]
    for name in shapes:
        if "classifier.4" in name:
            shapes[name][0] = 4
    torch.save(numbered(shapes), tmp_path / "file.pth")
    model = load_weights(None, tmp_path / "file.pth")
    assert (model.num_classes, model.backbone.depth) == (4, 50)


def test_what_a_file_says_of_itself_decides_between_variants(tmp_path):
    tensors = numbered(names_of("wkentaro_fcn8s")["keys"])
    content = {"arch": "FCN8sAtOnce", "epoch": 3, "model_state_dict": tensors}
    torch.save(content, tmp_path / "model_best.pth.tar")
    assert load_weights(None, tmp_path / "model_best.pth.tar").at_once


def test_a_published_file_is_known_by_its_sum():
    tensors = numbered(names_of("wkentaro_fcn8s")["keys"])
    for digest, system in MD5.items():
        plan = plan_of(Contents(tensors, {}, "pth", digest), Request(None, None), "")
        with torch.device("meta"):
            assert plan.build().system == system


def test_what_is_not_trained_stays_so(loaded):
    fcn, _ = loaded("wkentaro_fcn16s")
    frozen = {name for name, value in fcn.named_parameters() if not value.requires_grad}
    assert frozen == {"upscore2.weight", "upscore16.weight"}
    deeplab, _ = loaded("kazuto_deeplabv2_resnet101_msc_21")
    assert not deeplab.network.backbone.layer1[0].conv1.norm.weight.requires_grad
    assert deeplab.network.aspp.branches[0].weight.requires_grad


def test_the_model_decides_between_variants(checkpoint):
    path, _ = checkpoint("kazuto_deeplabv2s_resnet101_msc_21")
    with torch.device("meta"):
        rates = (3, 6, 9, 12)
        model = models.build("deeplabv2_resnet101_msc", rates=rates, align_corners=False)
    model.to_empty(device="cpu")
    assert load_weights(model, path) is model
    with pytest.raises(
        CheckpointError, match=r"variant must be 'v2s', as the model is .*, got 'v2'"
    ):
        load_weights(model, path, "v2")
