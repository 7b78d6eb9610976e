"""``fastseg export`` as a user meets it; what becomes of networks is in tests/export."""

import pytest
import torch
from typer.testing import CliRunner

import fastseg
from fastseg.cli import app
from fastseg.models import CRFRNN, UNet


def run(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def weights(tmp_path):
    model = UNet(3, in_channels=1, width=2, depth=1, padding="same")
    fastseg.save_weights(model, tmp_path / "unet.safetensors")
    return tmp_path / "unet.safetensors"


def test_program(weights, tmp_path):
    code, output = run(weights, tmp_path / "unet.pt2")
    assert code == 0 and "unet.pt2" in output, output
    model = fastseg.load_weights(None, weights)
    image = torch.randn(3, 1, 64, 101)
    with torch.no_grad():
        logits = torch.export.load(tmp_path / "unet.pt2").module()(image)
        torch.testing.assert_close(logits, model(image), rtol=1e-4, atol=1e-5)
    code, output = run(weights, tmp_path / "unet.pt2")
    assert code == 1 and "replace it with --overwrite" in output


@pytest.mark.parametrize("name", ["unet.pth", "unet"])
def test_other_suffix(weights, tmp_path, name):
    code, output = run(weights, tmp_path / name)
    assert code == 1 and "must end in .pt2 or .onnx" in output


def test_crf_is_refused(tmp_path, monkeypatch):
    with torch.device("meta"):
        model = CRFRNN(3)
    monkeypatch.setattr("fastseg.cli.weights.load_model", lambda *_: model)
    code, output = run(tmp_path / "crf.pth", tmp_path / "crf.onnx")
    assert code == 1 and "without a dense CRF, got CRFRNN" in output
    assert not (tmp_path / "crf.onnx").exists()


def test_missing_file(tmp_path):
    code, output = run(tmp_path / "no.pth", tmp_path / "no.onnx")
    assert code == 1 and "No such file" in output and "Traceback" not in output
