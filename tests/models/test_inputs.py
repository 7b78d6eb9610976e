"""Images and weights that are wrong, on one network of each kind."""

import pytest
import torch
from thin import CLASSES, thin

from fastseg.backbones.resnet import DEPTHS
from fastseg.models import build

SIDES = {
    "fcn8s": 1, "fcn_alexnet": 1, "fcn_resnet50": 1, "deconvnet": 224, "unet": 188,
    "unet_padded": 16, "deeplabv1_largefov": 1, "deeplabv2_vgg16_aspp_l": 1,
    "deeplabv2_resnet101": 1, "deeplabv2_resnet101_msc": 1, "deeplabv3_resnet101": 1,
    "deeplabv3plus_resnet101": 1, "crf_rnn": 1,
}  # fmt: skip


@pytest.fixture(params=SIDES)
def network(request, monkeypatch):
    """A thin network, and an image of the least size that it takes."""
    monkeypatch.setitem(DEPTHS, 50, (1, 1, 1, 1))
    monkeypatch.setitem(DEPTHS, 101, (1, 1, 1, 1))
    model = thin(build, request.param, CLASSES).eval().requires_grad_(False)
    side = SIDES[request.param]
    return model, torch.randn(1, model.input_convention.num_channels, side, side)


REJECTED = {
    "rank": (lambda x: x[0], ValueError, r"input must have shape \(B, C, H, W\), got \(\d,"),
    "integers": (lambda x: x.byte(), TypeError, "input must be floating, as input_convention.norm"),
    "channels": (lambda x: x.repeat(1, 2, 1, 1), ValueError, "must have . channels .*got [26]$"),
    "no pixels": (lambda x: x[:, :, :0], ValueError, "input must have sides of .*got 0 x "),
    "dtype": (lambda x: x.double(), TypeError, "must have the dtype of input, float64, got float3"),
    "list": (lambda x: x.tolist(), TypeError, "input must be a torch.Tensor, got list"),
}


@pytest.mark.parametrize(("change", "error", "message"), REJECTED.values(), ids=REJECTED)
def test_rejects(change, error, message, network):
    model, image = network
    for call in (model, model.scores):
        with pytest.raises(error, match=message):
            call(change(image))


def test_an_empty_batch_gives_empty_logits(network):
    model, image = network
    logits = model(image)
    assert torch.isfinite(logits).all()
    assert model(image[:0]).shape == (0, *logits.shape[1:])


def test_nan_shows(network):
    """In the logits, or in the error of a CRF, which takes none."""
    model, image = network
    first = next(parameter for parameter in model.parameters() if parameter.dim() == 4)
    for broken in (image, first):
        kept = broken.clone()
        broken[:] = torch.nan
        if hasattr(model, "crf"):
            with pytest.raises(ValueError, match=r"^DenseCRF: scores must be finite.*got nan"):
                model(image)
        else:
            assert model(image).isnan().any()
        broken.copy_(kept)
