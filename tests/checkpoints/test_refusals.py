"""Networks that are nearly known: each is refused in words that say what is in the way."""

import sys

import numpy as np
import pytest
import torch
from caffe_writer import Layer, caffemodel, with_length
from checkpoint_lists import names_of, numbered
from safetensors.torch import save_file
from torch import nn

from fastseg import load_weights
from fastseg.backbones import ResNet
from fastseg.checkpoints import CheckpointError
from fastseg.checkpoints.formats import plan_of
from fastseg.checkpoints.plan import Contents, Request


def tensors_of(list_name):
    return numbered(names_of(list_name)["keys"])


def without(list_name, *parts):
    tensors = numbered(names_of(list_name)["keys"])
    return {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


CASES = {
    "other-vgg": (
        lambda: {**tensors_of("torchvision_vgg16"), "features.30.weight": torch.ones(1)},
        "only VGG-16 and VGG-16-bn load, got one with 14 layers",
    ),
    "other-resnet": (
        lambda: without("torchvision_resnet50", "layer3.5."),
        r"must be a ResNet of depth 18, .* got \(3, 4, 5, 3\) bottlenecks",
    ),
    "vainf-hrnet": (
        lambda: without("vainf_deeplabv3_resnet50_21", "backbone.layer1"),
        "backbone of a VainF file must be a ResNet, MobileNetV2 or Xception",
    ),
    "jfzhang-xception": (
        lambda: without("jfzhang_deeplabv3plus_resnet101_21", "backbone.layer1"),
        "backbone of a jfzhang file must be a ResNet",
    ),
    "smp-encoder": (
        lambda: without("smp_deeplabv3plus_resnet50_21", "encoder.layer1"),
        "encoder of a segmentation_models.pytorch file must be a ResNet",
    ),
    "smp-decoder": (
        lambda: {"segmentation_head.0.weight": torch.ones(1, 1, 1, 1)},
        "only DeepLabV3 and DeepLabV3Plus load, got its network of this decoder",
    ),
    "mmsegmentation": (
        lambda: {
            "backbone.stem.0.weight": torch.ones(1),
            "decode_head.conv_seg.bias": torch.ones(1),
        },
        "this is a file of mmsegmentation, whose heads and backbones differ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_networks_that_are_nearly_known(case):
    make, message = CASES[case]
    with pytest.raises(CheckpointError, match=message):
        plan_of(Contents(make(), {}, "pth"), Request(None, None), "file.pth")


def test_a_kernel_that_no_deeplab_has():
    conv = torch.ones(1, 1, 5, 5)
    names = ("conv1_1", "conv5_3", "fc6", "fc8")
    contents = Contents({f"{name}.weight": conv for name in names}, {}, "caffemodel")
    with pytest.raises(CheckpointError, match=r"fc6 .* must have a kernel of 7, 4 or 3, got 5"):
        plan_of(contents, Request(None, None), "")


def test_arrays_of_tensorflow_take_rgb(tmp_path):
    """Kernels as rows, columns, inputs, outputs; the npz file of VGG-16 that is passed around."""
    tensors = tensors_of("torchvision_vgg16")
    convs = [tensor for name, tensor in tensors.items() if "features" in name]
    places = [(1, 2), (2, 2), (3, 3), (4, 3), (5, 3)]
    layers = [f"conv{stage}_{i + 1}" for stage, count in places for i in range(count)]
    arrays = {}
    for layer, weight, bias in zip(layers, convs[::2], convs[1::2], strict=True):
        arrays[f"{layer}_W"], arrays[f"{layer}_b"] = weight.permute(2, 3, 1, 0), bias
    contents = Contents({**arrays, "fc6_W": torch.ones(1)}, {}, "npz")
    plan = plan_of(contents, Request(None, None), "")
    assert plan.tensors["conv5_3.weight"].shape == (512, 512, 3, 3)
    assert (plan.input_convention.channels, plan.dropped) == ("rgb", ["fc6_W"])


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_description_that_is_no_object(text, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "file.safetensors", {"fastseg": text})
    with pytest.raises(CheckpointError, match="description of its model must be"):
        load_weights(None, tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            caffemodel([Layer("bn", "BatchNorm", (np.ones(3), np.ones(3)))]),
            "batch norm bn must have a mean, a variance and a factor, got 2 blobs",
        ),
        (
            with_length(100, with_length(7, with_length(7, with_length(1, b"\x05")))),
            r"a blob of shape \(5,\) must have 5 values, got 0",
        ),
        (b"\x0a\x01a\x0b", "must be a protocol buffer, got a field of kind 3"),
        (b"\x0a\x01a\x08" + b"\xff" * 11, "must hold numbers of 64 bits, got more"),
    ],
    ids=["batch-norm", "blob", "field", "number"],
)
def test_caffemodels_that_are_none(content, message, tmp_path):
    path = tmp_path / "file.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"file\.caffemodel must be a whole .*{message}"):
        load_weights(None, path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "caffemodel", "npz", "h5", "tar"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS, whose file `git lfs pull`",
        ),
        (b"<!DOCTYPE html><html>Not found</html>", "got a web page"),
        (b"\xef\xbb\xbf\r\n <HTML>", "got a web page"),
        (
            b"no weights",
            "(be a .pth, .* got one that starts with b'no weigh|a whole caffemodel file)",
        ),
    ],
    ids=["lfs", "html", "html-later", "text"],
)
def test_what_stands_in_place_of_weights(content, message, suffix, tmp_path):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"file\.{suffix} must .*{message}"):
        load_weights(None, path)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: torch.ones(64, device="meta"), r"without values \(on the meta device\)"),
        (lambda: torch.ones(64).to_sparse(), "a nested or sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.quint8), "a quantised"),
    ],
    ids=["meta", "sparse", "quantised"],
)
@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_tensors_without_a_number_each(make, found, filled, tmp_path):
    tensors = {**tensors_of("torchvision_resnet18"), "bn1.weight": make()}
    torch.save(tensors, tmp_path / "file.pth")
    model = ResNet(18) if filled else None
    with pytest.raises(CheckpointError, match=f"bn1.weight of .*file.pth must be .* got .*{found}"):
        load_weights(model, tmp_path / "file.pth")


def test_repeated_numbers_become_tensors_that_can_be_written(tmp_path):
    torch.save(tensors_of("torchvision_resnet18"), tmp_path / "file.pth")
    model = load_weights(None, tmp_path / "file.pth")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert model.stem.conv.weight.std() > 0.5


def test_hdf5_without_its_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "file.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CheckpointError, match="needs h5py: pip install h5py"):
        load_weights(None, path)
