"""DeconvNet: unpooling by index, and the proposals' scores put together."""

import flat
import pytest
import torch
from thin import CLASSES, thin
from torch.nn import functional as F

from fastseg.models import aggregate_proposals
from fastseg.models.deconvnet import DECODER, DeconvNet, DeconvNormReLU


def flat_deconvnet(state, x):
    indices, sizes = [], []
    for stage, layers in enumerate((2, 2, 3, 3, 3), 1):
        for layer in range(1, layers + 1):
            x = flat.conv_norm(state, f"backbone.conv{stage}_{layer}", x, padding=1).relu()
        sizes.append(x.shape[2:])
        x, places = F.max_pool2d(x, 2, 2, return_indices=True)
        indices.append(places)
    x = flat.conv_norm(state, "fc6", x).relu()
    x = flat.conv_norm(state, "fc7", x).relu()

    def deconv(name, x, padding):
        weight, bias = state[f"{name}.deconv.weight"], state[f"{name}.deconv.bias"]
        return flat.norm(
            state, f"{name}.norm", F.conv_transpose2d(x, weight, bias, padding=padding)
        ).relu()

    x = deconv("deconv_fc6", x, 0)
    for stage, layers in enumerate((3, 3, 3, 2, 2)):
        flat_x = torch.zeros(*x.shape[:2], sizes[-1].numel())
        places = indices.pop().flatten(2)
        x = flat_x.scatter_(2, places, x.flatten(2)).view(*x.shape[:2], *sizes.pop())
        for layer in range(layers):
            x = deconv(f"decoder.{stage}.{layer}", x, 1)
    return flat.conv(state, "score", x)


@torch.no_grad()
def test_equals_its_layers(randomised, same):
    model = randomised(thin(DeconvNet, CLASSES)).eval()
    image = torch.randn(1, 3, 224, 233)
    same(model(image), flat_deconvnet(model.state_dict(), image))


def test_decoder_mirrors_the_encoder():
    assert [len(widths) for widths in DECODER] == [3, 3, 3, 2, 2]
    assert DeconvNormReLU(4, 2, kernel_size=7, padding=0)(torch.zeros(2, 4, 1, 1)).shape[2:] == (
        7,
        7,
    )


def placed(map, box, size):
    """A map resized to its box, and zeros around it, pixel by pixel."""
    top, left, bottom, right = box
    resized = F.interpolate(map[None], (bottom - top, right - left), mode="bilinear")[0]
    whole = torch.zeros(len(map), *size)
    for row in range(max(top, 0), min(bottom, size[0])):
        for column in range(max(left, 0), min(right, size[1])):
            whole[:, row, column] = resized[:, row - top, column - left]
    return whole


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_proposals(combine):
    size = (12, 15)
    boxes = [(0, 0, 12, 15), (3, 4, 9, 11), (-4, 10, 5, 22), (8, -3, 20, 2)]
    maps = [torch.randn(3, 6, 7), torch.randn(3, 6, 7), torch.randn(3, 9, 12), torch.randn(3, 4, 4)]
    whole = torch.stack([placed(map, box, size) for map, box in zip(maps, boxes, strict=True)])
    expected = whole.amax(0) if combine == "max" else whole.sum(0)
    found = aggregate_proposals(maps, boxes, size, combine=combine)
    torch.testing.assert_close(found, expected)


def test_one_proposal_keeps_negative_scores_and_two_do_not():
    map = torch.full((1, 2, 2), -1.0)
    assert aggregate_proposals([map], [(0, 0, 2, 2)], (2, 2)).max() == -1
    halves = aggregate_proposals([map, map], [(0, 0, 2, 2), (0, 0, 2, 1)], (2, 2))
    assert halves[0].tolist() == [[-1, 0], [-1, 0]]


def test_gradient_goes_to_the_largest():
    maps = [
        torch.tensor([[[2.0]]], requires_grad=True),
        torch.tensor([[[1.0]]], requires_grad=True),
    ]
    aggregate_proposals(maps, [(0, 0, 1, 1)] * 2, (1, 1)).sum().backward()
    assert (maps[0].grad.item(), maps[1].grad.item()) == (1, 0)


@pytest.mark.parametrize(
    ("maps", "boxes", "combine", "message"),
    [
        ([], [], "max", "boxes must be one for each of one or more scores, got 0 for 0"),
        ([(1, 2, 2)], [], "max", "got 0 for 1"),
        ([(1, 2, 2)], [(0, 0, 1, 1)], "mean", "combine must be 'max' or 'sum', got 'mean'"),
        (
            [(1, 2, 2), (2, 2, 2)],
            [(0, 0, 1, 1)] * 2,
            "max",
            r"scores\[1\] must have shape \(1, h, w\)",
        ),
        ([(1, 2, 2)], [(3, 0, 3, 1)], "max", r"boxes\[0\] must hold a pixel of the image"),
        ([(1, 2, 2)], [(5, 0, 9, 1)], "max", r"got \(5, 0, 9, 1\) for 4 x 4"),
    ],
)
def test_rejects(maps, boxes, combine, message):
    maps = [torch.zeros(shape) for shape in maps]
    with pytest.raises(ValueError, match=f"^aggregate_proposals: .*{message}"):
        aggregate_proposals(maps, boxes, (4, 4), combine=combine)
