"""Programs for other runtimes: every system becomes one, gives the same, and takes other sizes."""

import io
import json

import pytest
import torch
from thin import CLASSES, thin
from torch import nn
from torch.nn import functional

from fastseg.backbones.resnet import DEPTHS
from fastseg.export import CONVENTION, Shapes, export_onnx, export_program, export_pt2
from fastseg.models import (
    CRFRNN,
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
    InputConvention,
    MultiScale,
    UNet,
)
from fastseg.nn import ASPP, BilinearUpsample, DilatedConv2d


class Operators(nn.Module):
    """Every operator of fastseg that a network uses, once."""

    input_convention = InputConvention()

    def __init__(self):
        super().__init__()
        self.first = DilatedConv2d(3, 8, stride=2, activation="relu")
        self.sum = ASPP(8, 8, rates=(1, 2))
        self.concat = ASPP(8, 4, rates=(0, 2), combine="concat", activation="relu")
        self.last = nn.ConvTranspose2d(8, CLASSES, 2)
        self.upsample = BilinearUpsample()

    def forward(self, input):
        hidden = self.first(input)
        pooled, places = functional.max_pool2d(self.sum(hidden), 2, return_indices=True)
        hidden = functional.max_unpool2d(pooled, places, 2, output_size=hidden.shape[2:])
        return self.upsample(self.last(self.concat(hidden)), input.shape[2:])


SYSTEMS = {
    "operators": Operators,
    "fcn32s": lambda: thin(FCN32s, CLASSES),
    "fcn16s": lambda: thin(FCN16s, CLASSES),
    "fcn8s": lambda: thin(FCN8s, CLASSES),
    "fcn8s-at-once": lambda: thin(FCN8s, CLASSES, at_once=True),
    "fcn-alexnet": lambda: thin(FCNAlexNet, CLASSES),
    "fcn-resnet": lambda: thin(FCNResNet, CLASSES, depth=18),
    "deconvnet": lambda: thin(DeconvNet, CLASSES),
    "unet": lambda: UNet(CLASSES, in_channels=3, width=4, depth=2),
    "unet-padded": lambda: UNet(CLASSES, in_channels=3, width=4, depth=2, padding="same"),
    "unet-bilinear": lambda: UNet(
        CLASSES, in_channels=3, width=4, depth=2, padding="same", norm=True, up="bilinear"
    ),
    "v1-largefov": lambda: thin(DeepLabV1, CLASSES),
    "v1-base": lambda: thin(DeepLabV1, CLASSES, variant="base"),
    "v1-msc": lambda: thin(DeepLabV1, CLASSES, multi_scale=True),
    "v2-vgg": lambda: thin(DeepLabV2VGG16, CLASSES),
    "v2-resnet": lambda: thin(DeepLabV2ResNet, CLASSES, depth=50),
    "v2-resnet-msc": lambda: MultiScale(thin(DeepLabV2ResNet, CLASSES, depth=50)),
    "v3": lambda: thin(DeepLabV3, CLASSES, backbone="resnet18"),
    "v3-mobilenet": lambda: thin(DeepLabV3, CLASSES, backbone="mobilenet_v2"),
    "v3plus": lambda: thin(DeepLabV3Plus, CLASSES, backbone="resnet18"),
    "v3plus-xception": lambda: thin(
        DeepLabV3Plus, CLASSES, backbone="aligned_xception", separable=True
    ),
}
QUICK = ("operators",)
"""What `make test` traces, in a second; each of the others takes several (`make slow`)."""
names = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SYSTEMS]
)


@pytest.fixture
def short_resnets(monkeypatch):
    """A block a layer, and one more that has no shortcut: time goes by the number of layers."""
    for depth in (18, 50):
        monkeypatch.setitem(DEPTHS, depth, (1, 2, 1, 1))


@names
def test_onnx_runs_and_agrees(name, randomised, short_resnets, tmp_path):
    """export_onnx itself compares the file in onnxruntime; here at yet another size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = randomised(SYSTEMS[name]()).eval()
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [len(session.get_inputs()), len(session.get_outputs())] == [1, 1]
    batch, channels, height, width = Shapes(model, 3).other
    image = torch.randn(batch + 1, channels, width, height)
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = model(image)
    assert (torch.from_numpy(logits) - expected).abs().max() <= 1e-4 * expected.abs().max()
    metadata = session.get_modelmeta().custom_metadata_map
    assert InputConvention.from_dict(json.loads(metadata[CONVENTION])) == model.input_convention


def test_program_is_of_standard_operators(randomised, tmp_path):
    model = randomised(Operators()).train()
    export_pt2(model, tmp_path / "model.pt2")
    assert all(module.training for module in model.modules())
    extra = {CONVENTION: ""}
    program = torch.export.load(
        io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra
    )
    assert not any("fastseg" in str(node.target) for node in program.graph.nodes)
    assert InputConvention.from_dict(json.loads(extra[CONVENTION])) == model.input_convention
    image = torch.randn(3, 3, 90, 64)
    with torch.no_grad():
        expected, actual = model.eval()(image), program.module()(image)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("scale", [2, 1.5])
def test_bilinear_upsample_by_a_scale_keeps_its_sizes_open(scale):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.upsample = BilinearUpsample(scale=scale)
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, input):
            return self.upsample(input * self.weight)

    model, image = Twice(), torch.randn(1, 2, 71, 93)
    program = export_program(model, num_channels=2)
    # torch computes coordinates in single precision, fastseg in double.
    torch.testing.assert_close(program.module()(image), model(image), rtol=0, atol=1e-4)


def test_refusals(tmp_path):
    with torch.device("meta"):
        model = CRFRNN(CLASSES)
    for export in (export_pt2, export_onnx):
        with pytest.raises(ValueError, match="must be a network without a dense CRF, got CRFRNN"):
            export(model, tmp_path / "model")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        export_program(3)
    with pytest.raises(ValueError, match="num_channels must be given"):
        export_program(nn.Conv2d(3, 2, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_depends_on_values_is_refused(tmp_path):
    class Sorting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, input):
            return self.conv(input) if input.sum() > 0 else input

    with pytest.raises(ValueError, match="export: Sorting must be traceable for every size"):
        export_onnx(Sorting(), tmp_path / "model.onnx", num_channels=3)
    assert list(tmp_path.iterdir()) == []
