"""Classifiers as convolutional networks."""

import pytest
import torch
from torch import nn

from fastseg.backbones import VGG16, AlexNet, Classifier, decimate, fully_convolutional
from fastseg.nn import DilatedConv2d


class SmallClassifier(Classifier):
    """A classifier with few filters, for what does not depend on their number."""

    def __init__(self, channels=4, filters=12, grid=7):
        nn.Module.__init__(self)
        self.backbone = VGG16.__new__(VGG16)
        nn.Module.__init__(self.backbone)
        self.backbone.out_channels = (channels,)
        self.grid = grid
        self.fc6 = nn.Linear(channels * grid**2, filters)
        self.fc7 = nn.Linear(filters, filters)


def layers(channels, filters, kernel_size, rate=1):
    fc6 = DilatedConv2d(
        channels, filters, kernel_size=kernel_size, rate=rate, padding="valid", activation="relu"
    )
    return fc6, DilatedConv2d(filters, filters, kernel_size=1, activation="relu")


def test_each_place_is_what_the_classifier_says_of_its_window():
    classifier = SmallClassifier()
    fc6, fc7 = layers(4, 12, 7)
    fully_convolutional(classifier, fc6, fc7)
    pool5 = torch.randn(1, 4, 9, 11)
    with torch.no_grad():
        scores = fc7(fc6(pool5))
        for row in range(3):
            for column in range(5):
                window = pool5[:, :, row : row + 7, column : column + 7].flatten(1)
                expected = classifier.fc7(classifier.fc6(window).relu()).relu()
                torch.testing.assert_close(scores[..., row, column], expected)


@pytest.mark.parametrize(
    ("kernel_size", "taps"), [(3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, range(7))]
)
def test_decimated_taps(kernel_size, taps):
    weight = torch.randn(2, 3, 7, 7)
    taps = list(taps)
    assert torch.equal(decimate(weight, kernel_size), weight[..., taps, :][..., taps])


def test_large_fov_is_a_subset_of_the_filters():
    classifier = SmallClassifier(filters=64)
    fc6, fc7 = layers(4, 16, 3, rate=2)
    fully_convolutional(classifier, fc6, fc7, generator=torch.Generator().manual_seed(3))
    original = classifier.fc6.weight.view(64, 4, 7, 7)[..., ::3, ::3]
    chosen = [next(i for i in range(64) if torch.equal(original[i], w)) for w in fc6.weight]
    assert chosen == sorted(set(chosen)) and len(chosen) == 16
    assert torch.equal(fc6.bias, classifier.fc6.bias[chosen])
    rows = classifier.fc7.weight[:, chosen]
    outputs = [next(i for i in range(64) if torch.equal(rows[i], w[:, 0, 0])) for w in fc7.weight]
    assert torch.equal(fc7.bias, classifier.fc7.bias[outputs])
    again = layers(4, 16, 3, rate=2)
    fully_convolutional(classifier, *again, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again[0].weight, fc6.weight) and torch.equal(again[1].weight, fc7.weight)


def test_alexnet_has_a_grid_of_six():
    with torch.device("meta"):
        classifier = Classifier(AlexNet())
        assert classifier.fc6.in_features == 256 * 36
        assert classifier(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
        classifier = Classifier(AlexNet(convention="caffe"))
        assert classifier.backbone(torch.empty(1, 3, 227, 227))[-1].shape == (1, 256, 6, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decimate(torch.zeros(1, 1, 7, 7), 5), "divide the 6 steps of a kernel of 7 taps"),
        (lambda: decimate(torch.zeros(1, 1, 7, 7), 8), "^decimate: kernel_size must"),
        (
            lambda: fully_convolutional(SmallClassifier(), *layers(4, 13, 7)),
            "^fully_convolutional: filters must be at most 12, got 13",
        ),
        (lambda: AlexNet(convention="keras"), "^AlexNet: convention must be one of torchvision"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()
