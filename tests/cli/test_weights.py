"""Which network --model, --variant and the file make together."""

import re

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastseg.checkpoints import CheckpointError
from fastseg.cli import app
from fastseg.cli.weights import VARIANTS, load_model
from fastseg.models import MultiScale, UNet, build


def state_of(system, num_classes=None):
    """Names and shapes of a system, each tensor a single number in memory."""
    with torch.device("meta"):
        state = build(system, num_classes).state_dict()
    return {
        name: torch.ones(1).expand(tensor.shape) if tensor.dim() else torch.tensor(1)
        for name, tensor in state.items()
    }


def caffe_names(name):
    name = name.removeprefix("backbone.")
    branch = re.match(r"branches\.(\d)\.(fc\d)\.(.*)", name)
    return f"{branch[2]}_{int(branch[1]) + 1}.{branch[3]}" if branch else name


def written(tmp_path, tensors, **others):
    torch.save({**tensors, **others}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


LOOK_ALIKE = [name for name in VARIANTS if "vgg16" in name or "v1" in name]


@pytest.mark.parametrize("system", LOOK_ALIKE)
def test_the_model_decides_where_files_look_alike(system, tmp_path):
    state = {caffe_names(name): tensor for name, tensor in state_of(system).items()}
    if "largefov" in system:  # of one branch, whose layers have no number
        state = {name.replace("_1.", ".") if "fc" in name else name: t for name, t in state.items()}
    path = written(tmp_path, state)
    assert load_model(system, path, None).system == system
    with pytest.raises(CheckpointError, match="variant must be given for this file"):
        load_model(None, path, None)
    with pytest.raises(CheckpointError, match="variant must be given for this file"):
        load_model("fcn32s", path, None)


@pytest.mark.parametrize(
    ("system", "num_classes"),
    [("deeplabv3plus_mobilenet_v2_vainf", 5), ("fcn_resnet50", 21), ("unet_bilinear", 3)],
)
def test_a_state_dict_that_torch_saved(system, num_classes, tmp_path):
    path = written(tmp_path, {"state_dict": state_of(system, num_classes), "epoch": 1})
    model = load_model(system, path, None)
    assert (model.system, model.num_classes) == (system, num_classes)
    assert (next(model.parameters()) == 1).all()
    with pytest.raises(CheckpointError, match="must be of a network that fastseg knows"):
        load_model("fcn8s", path, None)
    with pytest.raises(CheckpointError, match="must be of a network that fastseg knows"):
        load_model(None, path, None)


def test_a_state_dict_of_several_sizes(tmp_path):
    system = "deeplabv3_resnet101_msc"
    model = load_model(system, written(tmp_path, state_of(system, 4)), None)
    assert isinstance(model, MultiScale) and model.num_classes == 4


def unet_of_milesial():
    """A small one, by the names of its release."""
    model = UNet(2, in_channels=3, padding="same", norm=True, width=4, depth=1)
    places = {"encoder.0": "inc", "encoder.1": "down1.maxpool_conv.1", "decoder.0": "up1.conv"}
    layers = {"conv1.conv": 0, "conv1.norm": 1, "conv2.conv": 3, "conv2.norm": 4}
    result = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in places.items():
            for layer, index in layers.items():
                name = name.replace(f"{ours}.{layer}.", f"{theirs}.double_conv.{index}.")
        result[name.replace("decoder.0.up.", "up1.up.").replace("score.", "outc.conv.")] = tensor
    return result


def test_notes_are_printed(tmp_path):
    path = written(tmp_path, unet_of_milesial(), mask_values=[0, 255])
    Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
    for arguments in (
        ("segment", tmp_path / "a.png", "-w", path, "-o", tmp_path / "out"),
        ("convert", path, tmp_path / "new.safetensors"),
    ):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        assert "the classes stand for the mask values [0, 255]" in " ".join(result.output.split())
