"""What a dense CRF reads back of a GPU: nothing under capture, and little otherwise."""

from types import SimpleNamespace
from unittest import mock

import pytest
import simt_device
import torch
from readbacks import Readbacks

from fastseg import _readback
from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel
from fastseg.ops import mean_field, permutohedral_filter, permutohedral_lattice

pytestmark = pytest.mark.skipif(
    simt_device.missing() is not None, reason=str(simt_device.missing())
)

READINGS = {
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "float": lambda x: float(x[0]),
    "index": lambda x: range(3)[x[0].long()],
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to(device=torch.device("cpu")),
    "tensor": lambda x: torch.tensor([1.0]) + x,
    "mask": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_readings_are_noticed(read):
    values = torch.ones(3)
    with Readbacks() as readbacks:
        read(values)
        values.to(values) + values[0] * 2
    assert len(readbacks.names) == 1
    with Readbacks(refused=True), pytest.raises(AssertionError, match=r"under capture$"):
        read(values)


def test_values_are_there_but_not_under_capture():
    cpu, cuda = (SimpleNamespace(is_meta=False, is_cuda=on_gpu) for on_gpu in (False, True))
    assert _readback.has_values(cpu)
    with mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False):
        assert _readback.has_values(cuda)
    with mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: True):
        assert _readback.has_values(cpu)
        assert not _readback.has_values(cuda)


def crf(**options):
    kernels = [GaussianKernel((3.0, 2.0), 3.0), BilateralKernel(80.0, (13.0, 9.0, 13.0), 10.0)]
    return DenseCRF([*kernels, FeatureKernel(torch.ones(3), 2.0)], torch.rand(3, 3), **options)


def inputs(dtype=torch.float32):
    image, features = torch.randint(0, 256, (1, 3, 5, 6)), torch.randn(1, 2, 5, 6)
    return torch.randn(1, 3, 5, 6).to(dtype), image, features


CRFS = {
    "plain": (torch.float32, {}, "logits"),
    "half": (torch.float16, {}, "logits"),
    "half-storage": (torch.bfloat16, {"half_storage": True}, "logits"),
    "probabilities": (torch.float32, {"normalization": "mean", "true_kernel": True}, "probs"),
    "exact": (torch.float32, {"exact": True}, "logits"),
    "trained": (torch.float32, {"train_compatibility": True}, "logits"),
}


@pytest.mark.parametrize(("dtype", "options", "kind"), CRFS.values(), ids=CRFS)
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32, torch.float16], ids=str)
def test_a_crf_under_capture_reads_nothing(dtype, options, kind, image_dtype):
    scores, image, features = inputs(dtype)
    image, kind = image.to(image_dtype), "logits" if kind == "logits" else "probabilities"
    if kind == "probabilities":
        scores = scores.softmax(1)
    with simt_device.emulated():
        module = crf(**options)
        expected = module(scores, image, features=features, kind=kind)
        with simt_device.captured():
            found = module(scores, image, features=features, kind=kind)
    assert torch.equal(found, expected)
    assert found.isfinite().all()


def test_a_crf_under_capture_whose_parameters_were_never_looked_at():
    scores, image, features = inputs()
    module = crf()
    with simt_device.emulated(), simt_device.captured():
        found = module(scores, image, features=features)
    assert found.isfinite().all()
    with torch.no_grad():
        module.kernels[1].weight.fill_(torch.nan)
    with simt_device.emulated(), simt_device.captured():
        found = module(scores, image, features=features)
    assert found.isnan().all()


def test_parameters_are_read_once_for_each_change():
    scores, image, features = inputs()
    module = crf()
    weight = module.kernels[0].weight.requires_grad_()
    optimizer = torch.optim.SGD([weight], 1e-3)

    def readings(image=image, scores=scores, **options):
        with Readbacks() as readbacks, torch.no_grad():
            module(scores, image, features=features, **options)
        return readbacks.names

    with simt_device.emulated():
        assert len(readings()) == 8  # four widths, three weights and the compatibility
        assert readings() == []
        assert readings(image.float()) == ["tolist"]
        assert readings(scores=scores.softmax(1), kind="probabilities") == ["tolist"]
        with torch.no_grad():
            module.kernels[1].sigma_rgb.mul_(0.5)
        assert readings() == ["tolist"]
        weight.grad = torch.ones(())
        optimizer.step()
        assert readings() == ["tolist"]
        module.load_state_dict(module.state_dict())
        assert len(readings()) == 8
        assert readings() == []
        with torch.no_grad():
            module.kernels[1].sigma_rgb.mul_(-1)
        with pytest.raises(ValueError, match=r"^BilateralKernel: sigma_rgb must be positive"):
            readings()
        with pytest.raises(ValueError, match=r"^BilateralKernel: sigma_rgb must be positive"):
            readings()


def test_values_of_the_composed_form_are_read_at_once():
    scores, image, features = inputs(torch.float64)
    module = crf().double()
    with simt_device.emulated():
        module(scores, image, features=features.double())
        with Readbacks() as readbacks:
            module(scores, image, features=features.double())
    assert readbacks.names == ["tolist"]


def test_what_builds_a_lattice_to_be_kept_says_that_it_cannot_be_captured():
    unary, features = torch.randn(1, 3, 5, 6), torch.randn(1, 2, 5, 6, requires_grad=True)
    transform, module = torch.ones(()), DenseCRF([GaussianKernel()])
    calls = {
        "lattice": lambda: permutohedral_lattice(features),
        "filter": lambda: permutohedral_filter(unary, features),
        "float64": lambda: mean_field(unary.double(), [features.double()], [transform.double()]),
        "logits": lambda: module.logits(unary),
        "backward": lambda: mean_field(unary, [features], [transform]).sum().backward(),
    }
    message = "^permutohedral_lattice: the stream must not be under capture, got one that is"
    for call in calls.values():
        with (
            simt_device.emulated(),
            simt_device.captured(),
            pytest.raises(RuntimeError, match=message),
        ):
            call()
