import pytest
import torch
from torch import nn

from fastseg.nn import DilatedConv1d


def pair(kernel_size, rate, padding, stride=1):
    """A plain and a dilated convolution of equal weights, in float64."""
    plain = DilatedConv1d(2, 3, kernel_size=kernel_size, padding=padding).double()
    dilated = DilatedConv1d(
        2, 3, kernel_size=kernel_size, rate=rate, padding=padding, stride=stride
    ).double()
    dilated.load_state_dict(plain.state_dict())
    return plain, dilated


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
@pytest.mark.parametrize(("kernel_size", "padding"), [(3, "same"), (5, "same"), (4, "valid")])
@pytest.mark.parametrize("length", [30, 31, 37])
def test_sparse_features_are_samples_of_the_dense_ones(kernel_size, padding, rate, length):
    """The lecture's identity: sample and convolve, or convolve at a rate and sample."""
    signal = torch.randn(2, 2, length, dtype=torch.float64)
    plain, dilated = pair(kernel_size, rate, padding)
    sparse, dense = plain(signal[..., ::rate]), dilated(signal)[..., ::rate]
    assert sparse.shape == dense.shape
    torch.testing.assert_close(sparse, dense, rtol=1e-13, atol=1e-13)


def test_equals_a_kernel_with_holes():
    signal = torch.randn(1, 2, 20, dtype=torch.float64)
    _, dilated = pair(3, 4, "valid")
    filled = torch.zeros(3, 2, 9, dtype=torch.float64)
    filled[..., ::4] = dilated.weight.detach()
    expected = torch.conv1d(signal, filled, dilated.bias)
    torch.testing.assert_close(dilated(signal), expected, rtol=1e-13, atol=1e-13)


def test_state_is_that_of_conv1d():
    layer, torchs = DilatedConv1d(2, 3, rate=2), nn.Conv1d(2, 3, 3, dilation=2, padding=2)
    torchs.load_state_dict(layer.state_dict())
    signal = torch.randn(1, 2, 9)
    torch.testing.assert_close(layer(signal), torchs(signal))


def test_padding_and_stride():
    signal = torch.randn(1, 1, 10)
    assert DilatedConv1d(1, 1, rate=2, padding=3)(signal).shape[2] == 12
    assert DilatedConv1d(1, 1, rate=2, padding="valid", stride=2)(signal).shape[2] == 3
    assert DilatedConv1d(1, 1, kernel_size=4, rate=3)(signal).shape[2] == 10
