import pytest
import torch
from torch.nn import functional

from fastseg.nn import SeparableConvNormReLU


@pytest.mark.parametrize("norm_between", [True, False])
def test_equals_its_parts(norm_between):
    block = SeparableConvNormReLU(6, 4, rate=2, stride=2, norm_between=norm_between)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    state, x = block.eval().state_dict(), torch.randn(2, 6, 9, 12)

    def norm(name, y):
        parts = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(y, *parts).relu()

    depthwise = "depthwise.conv.weight" if norm_between else "depthwise.weight"
    y = functional.conv2d(x, state[depthwise], padding=2, dilation=2, stride=2, groups=6)
    if norm_between:
        y = norm("depthwise.norm", y)
    y = norm("pointwise.norm", functional.conv2d(y, state["pointwise.conv.weight"]))
    torch.testing.assert_close(block(x), y)
    assert y.shape == (2, 4, 5, 6)


def test_weights_are_fewer():
    """Depthwise 9 C and pointwise C O for 9 C O."""
    block = SeparableConvNormReLU(256, 256, norm_between=False)
    weights = block.depthwise.weight.numel() + block.pointwise.conv.weight.numel()
    assert weights == 9 * 256 + 256 * 256
