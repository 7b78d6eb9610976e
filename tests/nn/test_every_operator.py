"""A model that uses every operator of convolution and upsampling, as one graph."""

import pytest
import torch
from torch import nn

from fastseg.inference import compile_for_inference
from fastseg.nn import ASPP, BilinearUpsample, ConvNormReLU, DilatedConv2d
from fastseg.ops import upsample_argmax, upsample_cross_entropy, upsample_softmax


class EveryOperator(nn.Module):
    """Logits, probabilities and labels; the loss where labels are given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormReLU(3, 16, stride=2)
        self.hidden = DilatedConv2d(16, 16, rate=2, activation="relu")
        self.depthwise = DilatedConv2d(16, 16, rate=2, groups=16)
        self.side = ASPP(16, 16, rates=(0, 2), combine="concat", norm=True, activation="relu")
        self.head = ASPP(32, 4, rates=(1, 2, 3))
        self.enlarge = BilinearUpsample(scale=2)

    def scores(self, image):
        stem = self.stem(image)
        return self.head(self.side(self.depthwise(self.hidden(stem, stem))))

    def forward(self, image):
        scores, size = self.scores(image), image.shape[2:]
        return (
            self.enlarge(scores),
            upsample_softmax(scores, size, False),
            upsample_argmax(scores, size, False),
        )

    def loss(self, image, labels):
        return upsample_cross_entropy(self.scores(image), labels, align_corners=False)


@pytest.fixture
def model():
    return EveryOperator().eval()


def assert_same(outputs, expected):
    for output, other in zip(outputs[:2], expected[:2], strict=True):
        torch.testing.assert_close(output, other, rtol=1e-4, atol=1e-5)
    assert (outputs[2] == expected[2]).float().mean() > 0.99


@pytest.mark.parametrize("fused", [False, True])
def test_compiled(model, fused):
    image = torch.randn(2, 3, 32, 34)
    with torch.no_grad():
        expected = model(image)
        if fused:
            compile_for_inference(model)
            assert_same(model(image), expected)
        graph = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert_same(graph(image), expected)


def test_exported(model):
    image = torch.randn(2, 3, 32, 34)
    sizes = {0: torch.export.Dim("B", max=8)}
    with torch.no_grad():
        exported = torch.export.export(model, (image,), dynamic_shapes=(sizes,)).module()
        other = torch.randn(3, 3, 32, 34)
        assert_same(exported(other), model(other))


def test_trained(model):
    image, labels = torch.randn(2, 3, 32, 34), torch.randint(0, 4, (2, 32, 34))
    graph = torch.compile(model.train().loss, backend="aot_eager", fullgraph=True)
    gradients = []
    for loss in (model.loss, graph):
        value = loss(image, labels)
        gradients.append(torch.autograd.grad(value, [*model.parameters()]))
    for gradient, other in zip(*gradients, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)
