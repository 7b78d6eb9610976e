import pytest
import torch

from fastseg.nn import SpatialPyramidPooling


@pytest.mark.parametrize(
    ("levels", "bins", "features"),
    [((4, 2, 1), 21, 5376), ((6, 3, 2, 1), 50, 12800), ((3, 2, 1), 14, 3584)],
)
def test_features_of_the_papers_levels(levels, bins, features):
    layer = SpatialPyramidPooling(levels)
    assert layer.bins == bins
    for size in ((13, 13), (10, 10), (17, 9), (40, 24)):
        assert layer(torch.randn(2, 256, *size)).shape == (2, features)


def test_coarsest_level_is_the_global_maximum():
    map = torch.randn(3, 5, 11, 8)
    assert torch.equal(SpatialPyramidPooling((2, 1))(map)[:, -5:], map.amax((2, 3)))


def test_order_is_level_channel_row_column():
    map = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    expected = [5, 7, 13, 15, 21, 23, 29, 31, 15, 31]
    assert SpatialPyramidPooling((2, 1))(map).tolist() == [expected]


def test_bins_by_hand():
    """Three bins of ten rows: [0, 4), [3, 7) and [6, 10)."""
    map = torch.randn(1, 1, 10, 1).expand(1, 1, 10, 3)
    bins = SpatialPyramidPooling((3,))(map).view(3, 3)[:, 0]
    assert bins.tolist() == [map[0, 0, a:b, 0].max().item() for a, b in ((0, 4), (3, 7), (6, 10))]


def test_papers_rule_where_it_gives_the_bins():
    """Windows of ceil(13 / 4) = 4 at a stride of 3: four bins, and those of the exact mode."""
    map = torch.randn(2, 7, 13, 13)
    for levels in ((6, 3, 2, 1), (4, 2, 1), (3, 2, 1)):
        paper = SpatialPyramidPooling(levels, mode="paper")(map)
        assert torch.equal(paper, SpatialPyramidPooling(levels)(map))


def test_papers_rule_fails_in_thirteen_cases():
    failing = []
    for side in range(6, 41):
        for level in (1, 2, 3, 4, 6):
            layer = SpatialPyramidPooling((level,), mode="paper")
            try:
                layer(torch.zeros(1, 1, side, side))
            except ValueError:
                failing.append((side, level))
    assert len(failing) == 13
    assert (10, 6) in failing


def test_gradient_goes_to_the_maxima():
    map = torch.randn(1, 2, 6, 6, requires_grad=True)
    SpatialPyramidPooling((1,))(map).sum().backward()
    assert map.grad.sum() == 2
    assert (map.grad[0].flatten(1).argmax(1) == map[0].flatten(1).argmax(1)).all()


def test_rejects():
    with pytest.raises(ValueError, match=r"at least 6 pixels for 6 bins, got \(1, 1, 5, 9\)"):
        SpatialPyramidPooling()(torch.zeros(1, 1, 5, 9))
    with pytest.raises(ValueError, match="got 9 x 9 for 10 x 10 pixels; mode='exact'"):
        SpatialPyramidPooling(mode="paper")(torch.zeros(1, 1, 10, 10))
