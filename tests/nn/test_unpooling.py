"""Unpooling modules, with the lecture's worked examples."""

import re

import pytest
import torch
from torch.autograd import gradcheck

from fastseg.nn import MaxUnpool2d, NearestUnpool2d

TWO_BY_TWO = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
POOLED_FROM = torch.tensor(
    [[[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]]]
)  # (1, 1, 4, 4)


@pytest.fixture(params=[True, False], ids=["deterministic", "torch"])
def unpooling(request):
    """Each way to unpool by index."""
    torch.use_deterministic_algorithms(request.param)


def test_nearest_unpooling_of_the_lecture():
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert NearestUnpool2d()(TWO_BY_TWO)[0, 0].tolist() == expected


@pytest.mark.parametrize("factor", [1, 3, (2, 5)])
def test_nearest_unpooling_repeats(factor, dtype):
    down, across = (factor, factor) if isinstance(factor, int) else factor
    image = torch.randn(2, 3, 4, 5, dtype=dtype)
    expected = image.repeat_interleave(down, 2).repeat_interleave(across, 3)
    assert torch.equal(NearestUnpool2d(factor)(image), expected)


@pytest.mark.usefixtures("unpooling")
def test_max_unpooling_of_the_lecture():
    pooled, indices = torch.nn.MaxPool2d(2, return_indices=True)(POOLED_FROM)
    assert pooled[0, 0].tolist() == [[5, 6], [7, 8]]
    assert indices[0, 0].tolist() == [[5, 2], [12, 15]]
    unpooled = MaxUnpool2d()(TWO_BY_TWO, indices)
    assert unpooled[0, 0].tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 3, 0), (2, 2, 1)])
@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
@pytest.mark.usefixtures("unpooling")
def test_pooling_again_gives_the_same(kernel, stride, padding, size):
    image = torch.rand(2, 3, *size) + 1
    pool = torch.nn.MaxPool2d(kernel, stride, padding, return_indices=True)
    pooled, indices = pool(image)
    unpooled = MaxUnpool2d(kernel, stride, padding)(pooled, indices, size)
    assert unpooled.shape == image.shape
    kept = unpooled != 0
    assert kept.sum() == pooled.numel()
    assert torch.equal(unpooled[kept], image[kept])
    assert torch.equal(pool(unpooled)[0], pooled)


@pytest.mark.usefixtures("unpooling")
def test_gradients():
    image = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    pooled, indices = torch.nn.MaxPool2d(2, return_indices=True)(image)
    unpool = MaxUnpool2d()
    assert gradcheck(lambda x: unpool(x, indices, (4, 5)), (pooled.requires_grad_(),))
    assert gradcheck(NearestUnpool2d((2, 3)), (image.requires_grad_(),))


INDICES = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
REJECTED = {
    "nearest-rank": (
        lambda: NearestUnpool2d()(torch.ones(3, 4)),
        ValueError,
        "NearestUnpool2d: input must have shape (B, C, H, W), got (3, 4)",
    ),
    "nearest-type": (
        lambda: NearestUnpool2d()([1.0]),
        TypeError,
        "NearestUnpool2d: input must be a torch.Tensor, got list",
    ),
    "rank": (
        lambda: MaxUnpool2d()(TWO_BY_TWO[0], INDICES[0]),
        ValueError,
        "MaxUnpool2d: input must have shape (B, C, H, W), got (1, 2, 2)",
    ),
    "shapes": (
        lambda: MaxUnpool2d()(TWO_BY_TWO, INDICES[..., :1]),
        ValueError,
        "MaxUnpool2d: indices must have the shape of input, (1, 1, 2, 2), got (1, 1, 2, 1)",
    ),
    "dtype": (
        lambda: MaxUnpool2d()(TWO_BY_TWO, INDICES.int()),
        TypeError,
        "MaxUnpool2d: indices must have dtype int64, got int32",
    ),
    "size": (
        lambda: MaxUnpool2d()(TWO_BY_TWO, INDICES, (4, 6)),
        ValueError,
        "MaxUnpool2d: output_size must differ from (4, 4) by less than the stride (2, 2), "
        "got (4, 6)",
    ),
    "no-indices": (
        lambda: MaxUnpool2d()(TWO_BY_TWO, None),
        TypeError,
        "MaxUnpool2d: indices must be a torch.Tensor, got NoneType",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejects(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("index", [16, -1])
@pytest.mark.usefixtures("unpooling")
def test_indices_outside_the_output_are_refused(index):
    with pytest.raises(RuntimeError):
        MaxUnpool2d()(TWO_BY_TWO, INDICES + index)
