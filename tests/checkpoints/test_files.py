"""Files in and out: kinds, wrappings, damage, and what a model becomes."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from checkpoint_lists import names_of, numbered
from safetensors.torch import save_file
from torch import nn

import fastseg
from fastseg import load_weights, models, save_weights
from fastseg.backbones import VGG16, AlexNet, Classifier, ResNet
from fastseg.checkpoints import CheckpointError
from fastseg.checkpoints.files import read
from fastseg.checkpoints.formats import plan_of
from fastseg.checkpoints.plan import Contents, Request
from fastseg.checkpoints.rebuild import describe
from fastseg.checkpoints.torchvision import FROM_CAFFE_MD5, VGG_FEATURES
from fastseg.crf import BilateralKernel, DenseCRF
from fastseg.export import export_program
from fastseg.models.input_convention import IMAGENET, VGG, InputConvention
from fastseg.models.network import check_backbone
from fastseg.models.systems import SYSTEMS

UNET = {"in_channels": 3, "padding": "same", "norm": True, "width": 4, "depth": 2}


@pytest.fixture
def unet(randomised):
    return randomised(models.UNet(3, **UNET)).eval()


@pytest.fixture
def saved(unet, tmp_path):
    save_weights(unet, tmp_path / "unet.safetensors")
    return tmp_path / "unet.safetensors"


def same_state(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_round_trip(unet, tmp_path):
    unet.input_convention = InputConvention("bgr", 255.0, (1, 2, 3), (4, 5, 6), scale=0.5)
    path = tmp_path / "new" / "folder" / "unet.safetensors"
    save_weights(unet, path)
    model = load_weights(None, path)
    assert type(model) is models.UNet
    assert model.arguments == unet.arguments
    assert model.input_convention == unet.input_convention
    assert not model.training
    same_state(model, unet)
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(unet.parameters()))
    image = torch.randn(1, 3, 16, 20)
    assert torch.equal(model(image), unet(image))
    assert list(path.parent.iterdir()) == [path]


def test_what_may_be_changed_afterwards_round_trips(tmp_path):
    path = tmp_path / "model.safetensors"
    network = models.DeepLabV3(2, backbone="resnet18")
    network.eval_output_stride, network.train_output_stride = 16, 32
    network.align_corners, network.crf_preset = True, "deeplab-vgg"
    model = models.MultiScale(network)
    model.align_corners = True
    save_weights(model, path)
    again = load_weights(None, path)
    assert (again.align_corners, again.network.align_corners) == (True, True)
    assert again.network.crf_preset == "deeplab-vgg"
    assert again.network.backbone.output_stride == 16
    assert again.network.train().backbone.output_stride == 32
    crf = models.WithCRF(network)
    crf.crf.iterations, crf.crf.kernels[0].normalization = 3, "none"
    save_weights(crf, path)
    again = load_weights(None, path)
    assert (again.crf.iterations, again.crf.kernels[0].normalization) == (3, "none")


def test_a_setting_counts_where_weights_are_compared(tmp_path, unet):
    save_weights(models.DeepLabV3(2, backbone="resnet18"), tmp_path / "model.safetensors")
    model = models.DeepLabV3(2, backbone="resnet18")
    model.align_corners = not model.align_corners
    with pytest.raises(CheckpointError, match="align_corners of the model must be"):
        load_weights(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: setattr(m, "score", nn.Conv2d(4, 7, 1)),
            r"score.weight must be .* UNet build it, of shape \(3, 4, 1, 1\), got of shape \(7, 4,",
        ),
        (lambda m: setattr(m, "more", nn.Conv2d(1, 1, 1)), "more.weight must be .* it, none, got"),
        (lambda m: delattr(m.score, "bias"), r"score.bias must .* of shape \(3,\), got none"),
    ],
    ids=["replaced", "added", "removed"],
)
def test_what_cannot_be_built_again_is_not_written(change, message, unet, tmp_path):
    change(unet)
    with pytest.raises(ValueError, match=message):
        save_weights(unet, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


CLASSIFIERS = {  # a network, a file for its backbone, and whether that takes other pixels
    "fcn-rgb": (models.FCN8s, "torchvision_vgg16", "torchvision", True),
    "fcn-bgr": (models.FCN8s, "torchvision_vgg16", "caffe", False),
    "v1": (models.DeepLabV1, "torchvision_vgg16", "features", True),
    "v3": (
        lambda: models.DeepLabV3(backbone="resnet50", convention="torchvision"),
        "torchvision_resnet50",
        None,
        False,
    ),
    "v2": (lambda: models.DeepLabV2ResNet(depth=101), "kazuto_resnet101_1000", None, False),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_fills_the_backbone_of_a_system(case, checkpoint):
    make, list_name, variant, other_pixels = CLASSIFIERS[case]
    path, tensors = checkpoint(list_name)
    model = make()
    load_weights(model.backbone, path, variant)
    loaded = {value.flatten()[0].item() for value in model.backbone.state_dict().values()}
    sent = {tensors[name].flatten()[0].item() for name in tensors} - {
        tensors[name].flatten()[0].item() for name in model.backbone.load_report.dropped
    }
    assert loaded == sent
    if not other_pixels:
        check_backbone("test", model)
        return
    with pytest.raises(ValueError, match=r"backbone must have .*BGR 0-255 .*, got .* RGB"):
        fastseg.Segmenter(model)
    with pytest.raises(ValueError, match="export: backbone must have weights for the pixels"):
        export_program(model)
    model.input_convention = model.backbone.input_convention
    check_backbone("test", model)


def test_pixels_of_a_backbone_round_trip(tmp_path):
    model = models.DeepLabV3(2, backbone="resnet18")
    model.backbone.input_convention = VGG
    save_weights(model, tmp_path / "model.safetensors")
    again = load_weights(None, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"Segmenter: backbone must .*backbone.input_convention ="):
        fastseg.Segmenter(again)
    again.backbone.input_convention = None
    fastseg.Segmenter(again)
    save_weights(again, tmp_path / "trained.safetensors")
    # A whole network brings its own pixels.
    load_weights(model, tmp_path / "trained.safetensors")
    fastseg.Segmenter(model)


@pytest.mark.parametrize("make", [lambda: ResNet(18, convention="caffe"), AlexNet])
def test_backbones_round_trip(make, tmp_path):
    model = make()
    model.input_convention = VGG
    save_weights(model, tmp_path / "backbone.safetensors")
    again = load_weights(None, tmp_path / "backbone.safetensors")
    same_state(again, model)
    assert (again.arguments, again.input_convention) == (model.arguments, VGG)


def test_several_sizes_round_trip(tmp_path):
    model = models.MultiScale(models.UNet(3, **UNET), scales=(0.5,))
    save_weights(model, tmp_path / "wrapped.safetensors")
    again = load_weights(None, tmp_path / "wrapped.safetensors")
    same_state(again, model)
    assert (again.scales, type(again.network)) == ((0.5,), models.UNet)


@pytest.mark.parametrize(
    "crf",
    [
        lambda: DenseCRF.preset("deeplab-vgg"),
        lambda: DenseCRF.crf_rnn(3),
        lambda: DenseCRF(
            [BilateralKernel(sigma_xy=torch.tensor([3.0, 4.0]), weight=[1.0, 2.0, 3.0])],
            torch.eye(3),
            normalization="none",
        ),
    ],
    ids=["preset", "crf-rnn", "own"],
)
def test_a_network_with_its_crf_round_trips(crf, tmp_path):
    model = models.WithCRF(models.UNet(3, **UNET), crf())
    with torch.no_grad():
        for parameter in model.crf.parameters():
            parameter.mul_(1.5)
    save_weights(model, tmp_path / "crf.safetensors")
    again = load_weights(None, tmp_path / "crf.safetensors")
    same_state(again, model)
    image = torch.rand(1, 3, 12, 12) * 255
    model.eval()
    assert torch.equal(again(image / 255, image), model(image / 255, image))


def test_dtypes_are_kept(unet, tmp_path):
    save_weights(unet.half(), tmp_path / "half.safetensors")
    model = load_weights(None, tmp_path / "half.safetensors")
    assert model.score.weight.dtype == torch.float16


def test_half_and_double_of_others_become_single(tmp_path, checkpoint):
    _, tensors = checkpoint("torchvision_resnet18")
    halves = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    torch.save(halves, tmp_path / "half.pth")
    model = load_weights(None, tmp_path / "half.pth")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_is_filled_in_place(saved, unet):
    model = models.UNet(3, **UNET, dropout=0.1).train()
    parameters = dict(model.named_parameters())
    assert load_weights(model, saved) is model
    assert model.training
    same_state(model, unet)
    assert all(parameters[name] is value for name, value in model.named_parameters())
    assert model.load_report.missing == ()


@pytest.mark.parametrize("make", [lambda: models.UNet(3, **UNET), lambda: ResNet(18)])
def test_a_state_dict_that_torch_saved(make, tmp_path):
    trained, model = make(), make()
    torch.save({"model": trained.state_dict(), "epoch": 1}, tmp_path / "state.pth")
    load_weights(model, tmp_path / "state.pth")
    same_state(model, trained)
    assert model.load_report.format == "fastseg"
    assert model.input_convention == trained.input_convention


def test_a_model_without_memory(saved):
    with torch.device("meta"):
        model = models.UNet(3, **UNET)
    with pytest.raises(ValueError, match="model must have memory, got one on the meta device"):
        load_weights(model, saved)


def test_compiled_for_inference(saved, unet):
    model = models.UNet(3, **UNET).eval()
    fastseg.compile_for_inference(model)
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        model(image)
        load_weights(model, saved)
        torch.testing.assert_close(model(image), unet(image), rtol=1e-4, atol=1e-5)
    save_weights(model, saved)
    same_state(load_weights(None, saved), unet)


def test_wrapped_models(saved, unet):
    for wrap in (compiled, nn.DataParallel, lambda network: compiled(nn.DataParallel(network))):
        model = wrap(models.UNet(3, **UNET))
        assert load_weights(model, saved) is model
        same_state(unwrapped(model), unet)
        path = Path(saved).with_name("wrapped.safetensors")
        save_weights(model, path)
        same_state(load_weights(None, path), unet)


def compiled(network):
    return torch.compile(network, backend="eager")


def unwrapped(model):
    while not isinstance(model, models.UNet):
        model = getattr(model, "_orig_mod", None) or model.module
    return model


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model_state", "model"])
def test_wrapped_files(prefix, nest, tmp_path, checkpoint):
    _, tensors = checkpoint("torchvision_resnet18")
    content = {"epoch": 3, nest: {prefix + name: tensor for name, tensor in tensors.items()}}
    torch.save(content, tmp_path / "training.pth")
    assert load_weights(None, tmp_path / "training.pth").depth == 18


def test_numpy_numbers_of_a_training_checkpoint(tmp_path):
    tensors = numbered(names_of("wkentaro_fcn32s")["keys"])
    content = {
        "epoch": 2,
        "arch": "FCN32s",
        "optim_state_dict": {"state": {}, "param_groups": []},
        "model_state_dict": tensors,
        "best_mean_iu": np.float64(0.6363),
    }
    torch.save(content, tmp_path / "model_best.pth.tar")
    assert load_weights(None, tmp_path / "model_best.pth.tar").system == "fcn32s"


def test_mask_values_beside_the_tensors(tmp_path, checkpoint):
    _, tensors = checkpoint("milesial_unet_carvana_3_2")
    torch.save({**tensors, "mask_values": [0, 1]}, tmp_path / "unet.pth")
    model = load_weights(None, tmp_path / "unet.pth")
    assert "mask values [0, 1]" in str(model.load_report)
    assert (model.input_convention.scale, model.input_convention.divide_if_above_one) == (0.5, True)


def test_biases_before_a_batch_norm(tmp_path, checkpoint):
    _, tensors = checkpoint("milesial_unet_1_1")
    bias = torch.randn(64)
    torch.save({**tensors, "inc.double_conv.0.bias": bias}, tmp_path / "unet.pth")
    norm = load_weights(None, tmp_path / "unet.pth").encoder[0].conv1.norm
    assert torch.equal(norm.running_mean, tensors["inc.double_conv.1.running_mean"] - bias)


def test_other_kinds_of_files(tmp_path, checkpoint):
    _, tensors = checkpoint("torchvision_alexnet")
    kept = {n: t.contiguous() for n, t in tensors.items() if not n.startswith("classifier.")}
    save_file(kept, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{name: t.numpy() for name, t in kept.items()})
    torch.save(kept, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").rename(tmp_path / "folder" / "model.safetensors")
    for name in ("folder", "a.npz", "a.pth"):
        model = load_weights(None, tmp_path / name)
        assert torch.equal(model.conv5.weight, kept["features.10.weight"])


def test_settings_beside_a_file_of_smp(tmp_path):
    tensors = numbered(names_of("smp_deeplabv3plus_resnet50_21")["keys"])
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    config = {"encoder_output_stride": 8, "decoder_atrous_rates": [12, 24, 36]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_weights(None, tmp_path)
    rates = [branch.depthwise.geometry.rate[0] for branch in model.aspp.separable_branches]
    assert (model.backbone.output_stride, rates) == (8, [12, 24, 36])


KERAS = {
    "nested": "block{0}_conv{1}/block{0}_conv{1}/{2}:0",
    "numbered": "block{0}/layers/conv2d{3}/vars/{4}",
}


@pytest.mark.parametrize("form", KERAS)
def test_names_of_keras(form, checkpoint):
    _, theirs = checkpoint("torchvision_vgg16")
    kept = iter([tensor for name, tensor in theirs.items() if name.startswith("features.")])
    tensors, expected = {"fuse/vars/0": torch.ones(1)}, {}
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for index in range(1, count + 1):
            for word, kind in (("weight", "kernel"), ("bias", "bias")):
                value = expected[f"conv{stage}_{index}.{word}"] = next(kept)
                number = f"_{index - 1}" if index > 1 else ""
                name = KERAS[form].format(stage, index, kind, number, int(word == "bias"))
                tensors[name] = value.permute(2, 3, 1, 0) if value.dim() == 4 else value
    plan = plan_of(Contents(tensors, {}, "h5"), Request(None, None), "")
    assert plan.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert plan.tensors[name].shape == value.shape
        assert plan.tensors[name].flatten()[0] == value.flatten()[0]
    assert plan.input_convention.channels == "bgr"
    assert plan.dropped == ["fuse/vars/0"]


def test_arrays_of_hdf5(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["a/b"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        file["word"] = "no tensor"
    contents = read(tmp_path / "file.h5")
    assert contents.tensors.keys() == {"a/b"}
    assert torch.equal(contents.tensors["a/b"], torch.arange(6.0).view(2, 3))


def test_vgg_by_names_of_caffe(checkpoint):
    _, theirs = checkpoint("torchvision_vgg16")
    with torch.device("meta"):
        state = VGG16().state_dict()
    names = [n for n in state if n.endswith((".weight", ".bias"))]
    kept = [tensor for name, tensor in theirs.items() if name.startswith("features.")]
    tensors = dict(zip(names, kept, strict=True))
    contents = Contents({**tensors, "fc8.bias": torch.ones(1000)}, {}, "npz")
    plan = plan_of(contents, Request(None, None), "")
    assert plan.tensors["conv3_2.weight"] is tensors["conv3_2.weight"]
    assert (plan.input_convention, plan.dropped) == (VGG, ["fc8.bias"])


def test_pixels_of_vgg_files(tmp_path, checkpoint):
    path, tensors = checkpoint("torchvision_vgg16")
    unsaid = load_weights(None, path)
    assert unsaid.input_convention == IMAGENET
    assert "variant='caffe'" in unsaid.load_report.note
    said = load_weights(None, path, "torchvision")
    assert (said.input_convention, said.load_report.note) == (IMAGENET, "")
    assert load_weights(None, path, "caffe").input_convention == VGG
    for sums, expected in (
        ({"digest": FROM_CAFFE_MD5}, VGG),
        ({"sha256": "397923af" + "0" * 56}, IMAGENET),
        ({"sha256": "88682ab5" + "0" * 56}, VGG_FEATURES),
    ):
        contents = Contents(tensors, {}, "pth", **sums)
        assert plan_of(contents, Request(None, None), "").input_convention == expected
    with pytest.raises(CheckpointError, match=r"say variant='torchvision' .*, got 'tensorflow'"):
        load_weights(None, path, "tensorflow")
    with torch.device("meta"):
        backbone = VGG16()
    backbone.input_convention = VGG
    contents = Contents(tensors, {}, "pth")
    assert plan_of(contents, Request(None, backbone), "").input_convention == VGG
    nan = torch.full((1,), float("nan"))
    invalid = {n: nan.expand(t.shape) if n.startswith("cl") else t for n, t in tensors.items()}
    torch.save(invalid, tmp_path / "features.pth")
    mean = load_weights(None, tmp_path / "features.pth").input_convention.mean
    assert mean == (0.48235, 0.45882, 0.40784)


def test_a_classifier_takes_its_fully_connected_layers_too(checkpoint):
    with torch.device("meta"):
        model = Classifier(VGG16(), num_classes=1000)
    contents = Contents(checkpoint("torchvision_vgg16")[1], {}, "pth")
    plan = plan_of(contents, Request("torchvision", model), "")
    assert plan.dropped == []
    state = model.state_dict()
    assert {name: t.shape for name, t in plan.tensors.items()} == {
        name: t.shape for name, t in state.items()
    }
    assert plan.tensors["fc7.bias"] is contents.tensors["classifier.3.bias"]


def test_sizes_of_one_or_several(tmp_path):
    inner = models.UNet(3, **UNET)
    several = models.MultiScale(models.UNet(3, **UNET))
    save_weights(inner, tmp_path / "one.safetensors")
    load_weights(several, tmp_path / "one.safetensors")
    same_state(several.network, inner)
    save_weights(models.MultiScale(inner), tmp_path / "several.safetensors")
    other = models.UNet(3, **UNET)
    load_weights(other, tmp_path / "several.safetensors")
    same_state(other, inner)


MISFITS = [
    (lambda: models.UNet(5, **UNET), r"num_classes of the model must be 3 as in the file, got 5"),
    (lambda: models.UNet(3, **{**UNET, "width": 8}), r"width of the model must be 4 .* got 8"),
    (
        lambda: models.UNet(3, **UNET, up="bilinear"),
        r"up of the model must be 'deconv' .*, got 'bilinear'",
    ),
    (lambda: ResNet(18), r"model must be a UNet for this file of fastseg, got a ResNet"),
]


@pytest.mark.parametrize(("make", "message"), MISFITS, ids=["classes", "width", "up", "class"])
def test_a_model_that_does_not_fit_is_left_as_it_was(make, message, saved):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, saved)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_what_fits_is_loaded_where_that_is_asked_for(saved, unet):
    model = models.UNet(5, **UNET)
    with pytest.warns(UserWarning, match=r"2 missing: score.bias, score.weight"):
        load_weights(model, saved, strict=False)
    assert torch.equal(model.encoder[0].conv1.conv.weight, unet.encoder[0].conv1.conv.weight)
    assert model.load_report.missing == model.load_report.unexpected


def test_other_behaviour_with_equal_weights_is_refused(checkpoint):
    path, _ = checkpoint("torchvision_deeplabv3_resnet50_aux")
    with torch.device("meta"):
        model = models.DeepLabV3(backbone="resnet50", head_conv=True, aux=True)
    model.to_empty(device="cpu")
    with pytest.raises(CheckpointError, match="multi_grid of the model must be"):
        load_weights(model, path)


def test_missing_and_unexpected_names(tmp_path, checkpoint):
    _, tensors = checkpoint("torchvision_resnet18")
    kept = {name: t for name, t in tensors.items() if name != "layer3.1.bn2.bias"}
    torch.save({**kept, "extra.weight": torch.ones(1)}, tmp_path / "file.pth")
    message = (
        r"the file lacks layer3.1.conv2.norm.bias; the file has extra.weight, which the model lacks"
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(None, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="1 missing"):
        model = load_weights(None, tmp_path / "file.pth", strict=False)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_name_that_the_format_needs(tmp_path, checkpoint):
    _, tensors = checkpoint("jfzhang_deeplabv3plus_resnet101_21")
    torch.save({n: t for n, t in tensors.items() if "last_conv.8" not in n}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"must hold the whole network, .* without score"):
        load_weights(None, tmp_path / "file.pth")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Bomb()}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Bomb()))
    torch.save(models.UNet(3, **UNET), tmp_path / "module.pth")
    for name in ("evil.pth", "evil.pkl", "module.pth"):
        with pytest.raises(CheckpointError, match=r"run code; load it where you trust it"):
            load_weights(None, tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", weight=np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="must be a whole npz file"):
        load_weights(None, tmp_path / "evil.npz")


def test_an_array_that_claims_terabytes(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("conv1_1.weight.npy", header.getvalue() + bytes(8))
    with pytest.raises(CheckpointError, match=r"a.npz must hold tensors that fit into memory, got"):
        load_weights(None, tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "safetensors", "npz", "h5"])
def test_files_cut_off(kind, tmp_path):
    path = tmp_path / f"file.{kind}"
    tensors = {f"layer{i}.weight": torch.randn(30, 30) for i in range(8)}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if kind.endswith("pth"):
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pth")
    elif kind == "safetensors":
        save_file(tensors, path)
    elif kind == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    content = path.read_bytes()
    for length in {*range(0, len(content), len(content) // 12), len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_weights(None, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "file"
    for content, message in (
        (b"", "got an empty file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), r"must be a .pth, .safetensors"),
        (pickle.dumps([1, 2]), "a pickle that torch.save did not write"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_weights(None, path)
    for content, message in (
        ([1, 2], "must hold a dictionary of tensors, got list"),
        ({"a": 1}, "must hold tensors, got none"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            load_weights(None, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError):
        load_weights(None, path)
    with pytest.raises(FileNotFoundError):
        load_weights(None, tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match=r"a folder must hold model.safetensors"):
        load_weights(None, tmp_path)
    torch.save({"a.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"got 1 tensors named a.weight"):
        load_weights(None, path)
    with pytest.raises(TypeError, match="model must be a network or backbone of fastseg, or None"):
        load_weights(nn.Linear(1, 1), path)
    with pytest.raises(TypeError, match="variant must be a word or None, got 2"):
        load_weights(None, path, 2)


def described(tmp_path, **changes):
    description = {"version": 1, "model": {"class": "UNet", "arguments": {}}, **changes}
    save_file(
        {"a": torch.ones(1)}, tmp_path / "f.safetensors", {"fastseg": json.dumps(description)}
    )
    return tmp_path / "f.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version of the file must be 1, got 2; a newer fastseg reads it"),
        ({"model": {"class": "system", "arguments": {}}}, "class of the model must be one of"),
        (
            {"model": {"class": "UNet", "arguments": {"depth": 0}}},
            "UNet: depth must be a positive integer",
        ),
        ({"model": {"class": "UNet", "arguments": {"color": 1}}}, "cannot be followed: .*color"),
        ({"model": [1]}, "cannot be followed"),
        ({"input_convention": {"channels": "cmyk"}}, "channels must be one of rgb, bgr, grey"),
        (
            {"settings": {"": {"forward": 1}}},
            r"settings of UNet must be .* for align_corners, crf_preset, got forward = 1",
        ),
        ({"settings": {"": {"crf_preset": [1]}}}, r"got crf_preset = \[1\]"),
        ({"settings": {"score": {"bias": 1}}}, "settings of .*Conv2d must be .* for nothing, got"),
        ({"settings": {"nowhere": {}}}, "cannot be followed"),
        ({"backbones": {"nowhere": {}}}, "cannot be followed"),
    ],
)
def test_descriptions_that_cannot_be_followed(changes, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load_weights(None, described(tmp_path, **changes))


def test_what_cannot_be_saved(tmp_path, unet):
    path = tmp_path / "file.safetensors"
    save_weights(unet, path)
    before = path.read_bytes()
    with torch.device("meta"):
        empty = models.UNet(3, **UNET)
    with pytest.raises(ValueError, match=r"must have values, got a tensor on the meta device"):
        save_weights(empty, path)
    with pytest.raises(TypeError, match="model must be a network or backbone of fastseg, got Lin"):
        save_weights(nn.Linear(1, 1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_system_can_be_described():
    from fastseg.checkpoints.rebuild import describe, rebuild

    for name in ("deeplabv2_resnet101_msc", "crf_rnn_sadeepj", "deeplabv3plus_xception"):
        with torch.device("meta"):
            model = SYSTEMS[name].build(5)
            again = rebuild(json.loads(json.dumps(describe(model))))
        assert (again.system, again.num_classes) == (name, 5)
        assert again.state_dict().keys() == model.state_dict().keys()


def test_names_that_are_no_words(tmp_path):
    torch.save({1: torch.ones(1), "a": torch.ones(1)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="must hold tensors under names, got one under 1"):
        load_weights(None, tmp_path / "file.pth")


def test_a_dictionary_in_itself(tmp_path):
    content = {"epoch": 1}
    content["state_dict"] = content
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"must hold a dictionary .*, got one that"):
        load_weights(None, tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["unet.safetensors", "unet.npz", "unet"])
def test_a_file_of_torch_by_another_name(name, unet, tmp_path):
    torch.save(unet.state_dict(), tmp_path / name)
    same_state(load_weights(models.UNet(3, **UNET), tmp_path / name), unet)


def test_a_zip_file_with_damaged_names(unet, tmp_path):
    torch.save(unet.state_dict(), tmp_path / "unet.pth")
    content = (tmp_path / "unet.pth").read_bytes()
    end = content.rindex(b"PK\x01\x02")  # the last entry of the list of contents
    flags, name = end + 8, end + 46
    damaged = bytearray(content)
    damaged[flags + 1] |= 8  # the name is UTF-8
    damaged[name] = 0xAC
    (tmp_path / "unet.pth").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="must be a whole PyTorch file"):
        load_weights(models.UNet(3, **UNET), tmp_path / "unet.pth")


def test_arrays_of_the_other_byte_order(tmp_path):
    array = np.arange(3, dtype=">f4")
    np.savez(tmp_path / "file.npz", a=array)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["a"] = array
    for name in ("file.npz", "file.h5"):
        assert torch.equal(read(tmp_path / name).tensors["a"], torch.arange(3.0))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_weights_must_be_floating_point(dtype, unet, saved, tmp_path):
    metadata = {"fastseg": json.dumps(describe(unet))}
    tensors = {n: t.to(dtype) if n == "score.bias" else t for n, t in unet.state_dict().items()}
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    for model in (None, unet):
        with pytest.raises(CheckpointError, match=r"score.bias of .* must hold floating-point val"):
            load_weights(model, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "arguments",
    ['{"num_classes": 3, "width": 1000000000}', '{"num_classes": 3, "depth": 60}', "[" * 100_000],
    ids=["wide", "deep", "nested"],
)
def test_descriptions_beyond_all_limits(arguments, tmp_path):
    description = f'{{"version": 1, "model": {{"class": "UNet", "arguments": {arguments}}}}}'
    save_file({"a": torch.ones(1)}, tmp_path / "file.safetensors", {"fastseg": description})
    with pytest.raises(CheckpointError, match="the file's description of its model"):
        load_weights(None, tmp_path / "file.safetensors")


def test_paths_must_be_paths(unet):
    for path in (None, 5, b"file"):
        with pytest.raises(TypeError, match="load_weights: path must be a path, got"):
            load_weights(None, path)
        with pytest.raises(TypeError, match="save_weights: path must be a path, got"):
            save_weights(unet, path)
