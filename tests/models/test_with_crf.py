"""Networks that end in a CRF."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastseg.crf import BilateralKernel, DenseCRF, GaussianKernel
from fastseg.models import CRFRNN, DeepLabV1, DeepLabV2ResNet, DeepLabV2VGG16, FCN8s, WithCRF
from fastseg.models.input_convention import FCN, IMAGENET
from fastseg.models.network import Network, TrainingOutput
from fastseg.nn import DilatedConv2d
from fastseg.ops import permutohedral_filter


class Scores(Network):
    """A linear network of one layer at stride 2."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.num_classes = num_classes
        self.score = DilatedConv2d(3, num_classes, stride=2)

    def scores(self, input):
        return self.score(input)


@pytest.fixture
def image():
    return torch.randint(0, 256, (2, 3, 17, 20), dtype=torch.uint8)


KINDS = {
    "potts": lambda: DenseCRF([GaussianKernel(3.0, 1.5), BilateralKernel(20.0, 13.0, 4.0)]),
    "after": lambda: DenseCRF.preset("deeplab-resnet"),
    "full": lambda: DenseCRF.crf_rnn(4),
    "diagonal": lambda: DenseCRF([GaussianKernel(2.0, 3.0)], torch.tensor([-1.0, -2.0, -0.5, 0.3])),
    "no-self": lambda: DenseCRF([GaussianKernel(2.0, 3.0)], self_message=False, iterations=1),
    "vector": lambda: DenseCRF([GaussianKernel(2.0, torch.tensor([1.0, 2.0, 0.0, 3.0]))]),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_logits_are_those_of_the_crfs_probabilities(make, image):
    crf, logits = make().eval(), 3 * torch.randn(2, 4, 17, 20)
    refined = crf.logits(logits, image)
    torch.testing.assert_close(refined.softmax(1), crf(logits, image), rtol=1e-4, atol=1e-5)


def test_one_iteration_by_hand(image):
    """Logits plus weight times the filtered softmax, with nothing removed."""
    logits = torch.randn(2, 4, 17, 20)
    crf = DenseCRF([GaussianKernel(2.0, 3.0)], iterations=1, normalization="after")
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(20.0), indexing="ij")
    features = torch.stack([columns, rows])[None].expand(2, -1, -1, -1) / 2.0
    filtered = permutohedral_filter(logits.softmax(1), features, normalization="after")
    torch.testing.assert_close(crf.logits(logits, image), logits + 3 * filtered)
    crf.iterations = 0
    assert torch.equal(crf.logits(logits, image), logits)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_exact_crf_gives_logits_too(iterations, image):
    """Of one kind with the lattice's: with no kernels both are the scores themselves."""
    logits = 50 * torch.randn(2, 4, 17, 20)  # probabilities that float32 rounds to 0 and 1
    alone = DenseCRF([], exact=True, iterations=iterations)
    assert torch.equal(alone.logits(logits), logits)
    crf = DenseCRF([GaussianKernel(2.0, 3.0)], exact=True, iterations=iterations)
    refined = crf.logits(logits, image)
    torch.testing.assert_close(refined.softmax(1), crf(logits, image))
    assert iterations == 0 or (refined - logits).max() > 0.5
    lattice = DenseCRF([GaussianKernel(2.0, 3.0)], iterations=iterations)
    assert (lattice.logits(logits, image) - refined).abs().max() <= 0.5  # the lattice's error


def test_post_processing(image):
    network = Scores().eval()
    model = WithCRF(network, DenseCRF.preset("pydensecrf")).eval()
    x = torch.randn(2, 3, 17, 20)
    with torch.no_grad():
        expected = model.crf(network(x), image)
        torch.testing.assert_close(model(x, image).softmax(1), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.scores(x), network.scores(x))


def test_crf_rnn_trains_through_the_crf(image):
    """Five iterations in training, ten afterwards, and a gradient for every weight."""
    model = WithCRF(Scores(), DenseCRF.crf_rnn(4)).train()
    x, labels = torch.randn(2, 3, 17, 20), torch.randint(0, 4, (2, 17, 20))
    logits = model(x, image)
    functional.cross_entropy(logits, labels).backward()
    trained = dict(model.named_parameters())
    assert sum(p.grad is not None and bool(p.grad.any()) for p in trained.values()) == 5
    assert {name for name, p in trained.items() if p.grad is None} == {
        name for name, p in trained.items() if not p.requires_grad
    }
    with torch.no_grad():
        five = model(x, image)
        ten = model.eval()(x, image)
        model.crf.iterations = 5
        torch.testing.assert_close(model(x, image), five)
    assert (ten - five).abs().max() > 1e-4


def test_gradient_of_the_whole_is_exact():
    """Finite differences in float64, through network, iterations and kernels' weights."""
    image = torch.randint(0, 256, (1, 3, 4, 5))
    crf = DenseCRF.crf_rnn(2, iterations=2, train_iterations=2).double()
    weight = crf.kernels[0].weight

    def loss(logits, weight):
        crf.kernels[0]._parameters["weight"] = weight
        return crf.logits(logits, image).square().sum()

    logits = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logits, weight.detach().requires_grad_()), atol=1e-4)


def test_auxiliary_heads_are_kept(image):
    class Heads(Scores):
        def forward(self, input):
            logits = super().forward(input)
            return TrainingOutput(logits, (logits,)) if self.training else logits

    model = WithCRF(Heads(), DenseCRF.preset("pydensecrf"))
    output = model.train()(torch.randn(2, 3, 17, 20), image)
    assert isinstance(output, TrainingOutput) and len(output.aux) == 1
    assert isinstance(model.eval()(torch.randn(2, 3, 17, 20), image), torch.Tensor)


def test_published_presets():
    with torch.device("meta"):
        networks = [DeepLabV1(), DeepLabV2VGG16(), DeepLabV2ResNet(depth=18)]
    widths = []
    for network in networks:
        position, bilateral = WithCRF(network).crf.kernels
        widths.append(tuple(float(v) for v in (
            bilateral.weight, bilateral.sigma_xy, bilateral.sigma_rgb,
            position.weight, position.sigma_xy,
        )))  # fmt: skip
    assert widths == [(4, 121, 5, 3, 3), (4, 65, 3, 2, 2), (4, 67, 3, 3, 1)]


def test_crf_rnn_is_fcn8s_and_its_crf(monkeypatch):
    monkeypatch.setattr("fastseg.models.with_crf.FCN8s", meta_fcn8s)
    model = CRFRNN(5, upscore2_bias=True)
    assert model.num_classes == 5 and model.network.upscore2.bias is not None
    assert (model.crf.iterations, model.crf.train_iterations) == (10, 5)
    assert torch.equal(model.crf.compatibility, -torch.eye(5))


def meta_fcn8s(*args, **kwargs):
    with torch.device("meta"):
        return FCN8s(*args, **kwargs)


def test_rejects_a_network_without_published_crf():
    with pytest.raises(ValueError, match=r"^WithCRF: crf must be given for Scores, which was"):
        WithCRF(Scores())
    assert isinstance(WithCRF(Scores(), DenseCRF.preset("default")), nn.Module)


@pytest.mark.parametrize("convention", [FCN, IMAGENET], ids=["bgr", "rgb"])
def test_the_image_comes_from_the_input_where_none_is_given(convention, image):
    """Exactly computed, the CRF depends on differences alone; the lattice also on where it lies."""
    crf = DenseCRF([BilateralKernel(20.0, 13.0, 4.0)], exact=True)
    model = WithCRF(Scores(), crf).eval()
    model.input_convention = convention
    input = torch.stack([convention.normalise(pixels.permute(1, 2, 0)) for pixels in image])
    torch.testing.assert_close(model(input), model(input, image), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model(input), model(input, image.flip(3)), rtol=1e-3, atol=1e-3)


def test_an_image_of_zero_mean_is_taken_as_it_is(image):
    """As the published CRF-RNNs do: their input is in units of 0-255 already."""
    model = WithCRF(Scores(), DenseCRF([BilateralKernel(20.0, 13.0, 4.0)])).eval()
    model.input_convention = FCN
    input = torch.randn(2, 3, 17, 20) * 50
    assert torch.equal(model(input), model(input, input))


def test_an_input_of_other_channels_needs_its_image():
    with pytest.raises(ValueError, match="input must have 3 channels for channels='rgb', got"):
        IMAGENET.unscaled(torch.zeros(1, 4, 5, 5))
