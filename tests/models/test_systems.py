"""The registry of systems, and the pixels that each takes."""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg import models
from fastseg.models import SYSTEMS, InputConvention, build, list_systems
from fastseg.models.input_convention import DEEPLAB, IMAGENET, UNIT_RGB, VGG

COUNTS = {
    "fcn32s": 136_152_917,
    "fcn8s_at_once": 134_489_759,
    "deconvnet": 251_805_653,
    "unet": 31_030_658,
    "unet_caffe": 31_100_354,
    "unet_padded": 31_037_698,
    "deeplabv1_7x7": 134_346_581,
    "deeplabv1_largefov": 20_505_429,
    "deeplabv2_vgg16_aspp_l": 37_877_652,
    "deeplabv2_resnet101_msc": 44_048_532,
    "deeplabv3_resnet101_msc": 58_040_661,
    "deeplabv3_mobilenet_v2_vainf": 5_113_877,
    "deeplabv3plus_resnet101_msc": 59_344_309,
    "deeplabv3plus_resnet101_jfzhang": 59_344_309,
    "deeplabv3plus_xception_vainf": 37_050_525,
    "deeplabv3plus_resnet50_smp": 26_682_725,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name):
    assert SYSTEMS[name].parameters == COUNTS[name]


@pytest.mark.parametrize("name", list_systems())
def test_system_is_built_with_its_name_and_pixels(name):
    row = SYSTEMS[name]
    with torch.device("meta"):
        model = row.build(7).eval()
    assert (model.system, model.num_classes) == (name, 7)
    assert model.input_convention == row.convention
    assert row.checkpoints[-1] == "fastseg"


@pytest.mark.parametrize("name", [name for name in list_systems() if "resnet101" not in name])
def test_output_stride(name):
    row = SYSTEMS[name]
    with torch.device("meta"):
        model = row.build().eval()
        scores = model.scores(torch.empty(1, model.input_convention.num_channels, 380, 380))
    valid = name.startswith("unet") and model.padding == "valid"
    expected = (380 - 184 * valid) / row.output_stride
    # Rounding adds samples, unpadded kernels take some; FCN has 200 pixels around the image.
    padded = name.startswith(("fcn", "crf_rnn")) and "resnet" not in name
    assert abs(scores.shape[2] - expected) <= 200 / row.output_stride * padded + 5


def test_readme_has_the_table():
    root = Path(__file__).parents[2]
    make = runpy.run_path(str(root / "tools" / "systems_table.py"))
    text = (root / "README.md").read_text(encoding="utf-8")
    assert make["with_table"](text) == text
    assert make["table"]().count("\n") == len(SYSTEMS) + 1


def test_options_replace_those_of_the_system():
    with torch.device("meta"):
        model = build("deeplabv2_resnet101_msc", 4, rates=(12,), depth=50)
        other = build("deeplabv3_resnet50_vainf", backbone="resnet18")
    assert (model.num_classes, model.network.backbone.depth) == (4, 50)
    assert len(model.network.aspp.branches) == 1
    assert other.system is None


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("fcn",), {}, ValueError, "build: name must be one of fcn32s, .* got 'fcn'"),
        (("fcn8s", 0), {}, ValueError, "num_classes must be a positive integer, got 0"),
        (("fcn8s", 2.0), {}, TypeError, "num_classes must be a positive integer, got 2.0"),
        (("fcn8s",), {"backbone": 1}, TypeError, "options of fcn8s must be arguments of FCN8s"),
    ],
)
def test_rejections(arguments, options, error, message):
    with pytest.raises(error, match=message):
        build(*arguments, **options)


def test_models_remember_what_they_were_built_from():
    with torch.device("meta"):
        model = models.FCN8s(5, at_once=True)
        copies = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for one in copies:
        assert one.arguments == {"num_classes": 5, "at_once": True}
    with pytest.raises(TypeError, match="unexpected keyword"):
        models.FCN8s(wrong=1)


def test_golden_values_of_each_range_and_order():
    pixels = np.array([[[255, 128, 0]]], np.uint8)
    bgr = VGG.normalise(pixels).flatten()
    torch.testing.assert_close(bgr, torch.tensor([-103.939, 128 - 116.779, 255 - 123.68]))
    rgb = IMAGENET.normalise(pixels).flatten()
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(rgb, torch.tensor(expected))
    grey = InputConvention("grey", 1.0, (0.0,), (1.0,)).normalise(pixels)
    assert grey.shape == (1, 1, 1)
    assert grey.item() == pytest.approx((0.299 * 255 + 0.587 * 128) / 255, rel=1e-6)


def test_division_only_where_a_value_exceeds_one():
    convention = InputConvention("rgb", 1.0, (0.0,) * 3, (1.0,) * 3, divide_if_above_one=True)
    unit = np.array([[[1.0, 0.5, 0.0]]], np.float32)
    assert torch.equal(convention.normalise(unit).flatten(), torch.tensor([1.0, 0.5, 0.0]))
    assert convention.normalise(unit * 2).max() == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.float16, np.float64]
)
def test_every_dtype_and_layout_of_an_image(dtype):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(dtype)
    expected = UNIT_RGB.normalise(values)
    assert expected.shape == (3, 4, 5) and expected.is_contiguous()
    assert expected.dtype == torch.float32
    torch.testing.assert_close(expected, torch.tensor(values.astype("f4")).permute(2, 0, 1) / 255)
    flipped = UNIT_RGB.normalise(values[:, ::-1])
    assert torch.equal(flipped, expected.flip(2))
    tensor = UNIT_RGB.normalise(torch.tensor(values.astype("f4")), dtype=torch.float64)
    assert tensor.dtype == torch.float64
    grey = UNIT_RGB.normalise(values[..., 0])
    assert torch.equal(grey, UNIT_RGB.normalise(values[..., :1]))
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 5, 4)), ValueError, r"image must have shape .* got \(4, 5, 4\)"),
        (np.zeros((0, 5, 3)), ValueError, r"image must have shape .* got \(0, 5, 3\)"),
        (np.full((1, 1, 3), np.nan), ValueError, "image must be finite, got NaN or infinity"),
        (np.zeros((2, 2, 3), bool), TypeError, "array or tensor of real numbers, got bool"),
        (torch.zeros(2, 2, 3, dtype=torch.cfloat), TypeError, "got torch.complex64"),
        ("cat.jpg", TypeError, "array or tensor of real numbers, got str"),
    ],
)
def test_images_that_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        IMAGENET.normalise(image)


def test_sizes():
    short = InputConvention(short_side=520)
    assert short.resized_size(480, 640) == (520, 693)
    assert short.resized_size(640, 480) == (693, 520)
    fit = InputConvention(fit=500)
    assert fit.resized_size(375, 250) == (500, 333)
    assert fit.padded_size(500, 333) == (500, 500)
    assert InputConvention(scale=0.5).resized_size(5, 1) == (2, 1)
    assert DEEPLAB.padded_size(375, 600) == (513, 601)
    assert InputConvention(multiple=8, offset=1).padded_size(321, 322) == (321, 329)
    with torch.device("meta"):
        convention = models.DeepLabV1(variant="base").input_convention
    assert convention.padded_size(500, 515) == (514, 522)


@pytest.mark.parametrize("convention", [IMAGENET, VGG, InputConvention(fit=500, multiple=8)])
def test_dictionaries(convention):
    assert InputConvention.from_dict(convention.to_dict()) == convention


def test_dictionary_without_the_sides_of_deeplab():
    """As in files from before DeepLab's sides were 8 k + 1: it keeps what it says."""
    fields = {name: value for name, value in DEEPLAB.to_dict().items() if name != "multiple"}
    del fields["offset"]
    assert InputConvention.from_dict(fields).padded_size(375, 600) == (513, 600)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": "cmyk"}, "channels must be one of rgb, bgr, grey, got 'cmyk'"),
        ({"mean": [0.5]}, "mean must hold 3 finite numbers"),
        ({"std": [1, 1, 0]}, "std must not be 0"),
        ({"short_side": 0}, "short_side must be a positive integer, got 0"),
        ({"scale": np.nan}, "scale must be a positive number, got nan"),
        ({"mean": [0.5, 0.5, np.inf]}, r"mean\[2\] must be a finite number, got inf"),
        ({"gamma": 2.2}, "fields must be known, got gamma"),
    ],
)
def test_conventions_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InputConvention.from_dict(fields)
