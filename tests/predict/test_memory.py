"""The memory budget: what it decides, and whether what is estimated holds."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from test_segmenter import Pointwise, photo
from thin import CLASSES, thin
from torch import nn

from fastseg._bytes import parse_bytes
from fastseg.crf import DenseCRF
from fastseg.models import DeepLabV1, UNet
from fastseg.predict import Segmenter
from fastseg.predict.blocks import blocks
from fastseg.predict.memory import CRFBytes, Footprint, crf_vertices, peak_bytes
from fastseg.predict.windows import Grid


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("500mb", 500 * 10**6),
        ("64k", 64000),
        (123456, 123456),
        ("1e9", 10**9),
    ],
)
def test_sizes_in_words(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "1.2.3MB", "inf", float("nan"), True])
def test_other_words(text):
    with pytest.raises((ValueError, TypeError), match="max_memory must be a size"):
        parse_bytes(text)


def test_peak_of_a_sequence_is_two_neighbouring_layers():
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).to("meta")
    pixels = 10 * 12
    assert peak_bytes(network, (1, 1, 10, 12)) == 4 * pixels * (1 + 8 + 8)


def test_views_do_not_count_twice():
    assert peak_bytes(lambda x: x.flatten(1).t()[:3], (1, 2, 5, 5)) == 4 * 50


@pytest.mark.parametrize("size", [(300, 500), (1000, 700)])
def test_footprint_predicts_other_sizes(size):
    """Padding of 100 pixels, as FCN's, makes the bytes grow with the sides too."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=100), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 64, 3)
    ).to("meta")
    footprint = Footprint.of(network, 3, lambda side: side)
    assert footprint.bytes(*size) == pytest.approx(peak_bytes(network, (1, 3, *size)), rel=0.01)


@pytest.mark.parametrize("length", [5, 32, 33, 64, 100, 1000])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_windows_cover_and_overlap(length, overlap):
    grid = Grid.of(length, 32, overlap)
    assert grid.starts[0] == 0 and grid.starts[-1] + grid.side == length
    for first, second in itertools.pairwise(grid.starts):
        assert first < second <= first + grid.side - int(overlap * grid.side)
    assert grid.total_weight("gaussian").min() > 0


@pytest.mark.parametrize("size", [(1, 1), (97, 300), (512, 64), (1000, 777)])
@pytest.mark.parametrize(("side", "margin"), [(96, 32), (128, 0), (300, 64)])
def test_blocks_share_out_the_image(size, side, margin):
    owners = np.zeros(size, int)
    for block in blocks(*size, side, margin):
        owners[block.rows, block.columns] += 1
        sides = (
            (block.rows, block.source_rows, block.inner_rows, size[0]),
            (block.columns, block.source_columns, block.inner_columns, size[1]),
        )
        for own, source, inner, length in sides:
            assert own.start % 32 == 0 and source.start % 32 == 0
            assert source.stop - source.start <= max(side, 32 + 2 * margin)
            assert source.start == max(own.start - margin, 0) or source.stop == length
            assert inner.stop - inner.start == own.stop - own.start
            assert source.start + inner.start == own.start
    assert (owners == 1).all()


def budget_of(segmenter, height, width, **options):
    return segmenter.planner.weights + segmenter.plan(height, width, **options).memory


def test_smaller_budgets_give_windows_then_blocks_then_an_error(randomised):
    model = randomised(thin(DeepLabV1, CLASSES))
    plan = Segmenter(model, max_memory="20GB").plan(3000, 4000)
    assert (plan.window, plan.block) == (None, None)
    plan = Segmenter(model, max_memory=0.8 * plan.memory).plan(3000, 4000)
    assert 1000 < plan.window < 4000 and plan.window % 32 == 1 and plan.block is None
    plan = Segmenter(model, max_memory="300MB").plan(3000, 4000)
    assert plan.block is not None and plan.block < 3000
    with pytest.raises(ValueError, match=r"must be .* or more for an image of 3000 x 4000, got"):
        Segmenter(model, max_memory="300MB").plan(3000, 4000, output="probabilities")
    with pytest.raises(ValueError, match="or more for an image of 3000 x 4000, got 50 MB"):
        Segmenter(model, max_memory="50MB").plan(3000, 4000)


def test_blocks_of_a_pointwise_network_change_nothing(randomised):
    model, image = randomised(Pointwise()), photo(500, 420)
    expected = Segmenter(model).predict(image)
    least = budget_of(Segmenter(model, margin=0), 200, 200)
    segmenter = Segmenter(model, margin=0, tile=10_000, max_memory=least)
    assert segmenter.plan(500, 420).block < 420
    assert torch.equal(segmenter.predict(image), expected)


def test_blocks_of_a_valid_unet_change_nothing(randomised):
    """The margin holds all that a pixel sees: 92 to 107 pixels, in phase with the poolings."""
    model, image = randomised(UNet(CLASSES, in_channels=3, width=4)), photo(600, 40)
    expected = Segmenter(model).predict(image)
    least = budget_of(Segmenter(model, tile=300), 350, 40)
    segmenter = Segmenter(model, tile=300, max_memory=least)
    assert segmenter.plan(600, 40).block < 400
    assert torch.equal(segmenter.predict(image), expected)


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def rise_of_peak(run):
    """Bytes by which the process grows at most while ``run`` runs."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure the peak"
)


@linux
@pytest.mark.parametrize("output", ["labels", "probabilities"])
def test_peak_stays_below_the_estimate(output, randomised):
    model = randomised(UNet(21, in_channels=3, width=16, padding="same"))
    segmenter, image = Segmenter(model), photo(320, 400)
    rise = rise_of_peak(lambda: segmenter.predict(image, output=output))
    plan = segmenter.plan(320, 400, output=output)
    assert plan.window is plan.block is None
    assert rise < segmenter.planner.weights + plan.memory + 4 * 21 * image[..., 0].size
    assert rise > 0.15 * plan.memory  # what is measured is the work


@linux
@pytest.mark.parametrize("labels", [2, 21])
def test_estimate_of_a_crf_holds_for_noise(labels):
    """Each pixel has vertices of its own: the most that the lattice can need."""
    crf = DenseCRF.preset("deeplab-resnet")
    crf.iterations = 2
    image = torch.randint(0, 256, (1, 3, 300, 300)).to(torch.uint8)
    scores = torch.randn(1, labels, 300, 300)
    rise = rise_of_peak(lambda: crf(scores, image))
    assert crf_vertices(crf) == 6 + 3
    assert rise < CRFBytes.of(6 + 3, labels, 300 * 300).peak


def test_crf_counts():
    small, large = (
        Segmenter(Pointwise(), crf).plan(400, 500, output="probabilities").memory
        for crf in (None, "deeplab-resnet")
    )
    assert large - small > 400 * 500 * 500


def test_blocks_where_the_crf_does_not_fit():
    segmenter = Segmenter(Pointwise(), "deeplab-resnet", max_memory="1GB")
    assert segmenter.plan(300, 400).block is None
    for height, width in ((2000, 3000), (400, 30_000)):
        plan = segmenter.plan(height, width)
        assert 288 <= plan.block < width and plan.memory < 10**9
