"""U-Net: sizes, initialisation, the overlap-tile strategy and the weight map of its loss."""

import numpy as np
import pytest
import torch

from fastseg.models import UNet, border_weight_map, overlap_tile, tiles
from fastseg.models.border_weight_map import distance_to
from fastseg.models.overlap_tile import mirrored


def small(depth=4, **arguments):
    torch.manual_seed(7)
    model = UNet(2, depth=depth, width=2, dropout=0.5, **arguments).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    return model


def mirrored_whole(model, image):
    """The whole image in one piece, mirrored by NumPy to a size that the network takes."""
    height, width = image.shape[2:]
    margin = model.margin
    after = [model.valid_size(n + 2 * margin) - n - margin for n in (height, width)]
    padding = ((0, 0), (0, 0), (margin, after[0]), (margin, after[1]))
    whole = torch.from_numpy(np.pad(image.numpy(), padding, mode="reflect"))
    return model(whole)[:, :, :height, :width]


@torch.no_grad()
@pytest.mark.parametrize("size", [(400, 70), (97, 33), (5, 250), (1, 1), (2, 3)], ids=str)
def test_tiles_equal_the_whole_image(size):
    model = small()
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    expected = mirrored_whole(model, image)
    logits = overlap_tile(model, image, tile=236)
    assert logits.shape == (1, 2, *size)
    assert (logits - expected).abs().max() <= 1e-9
    if size == (400, 70):
        assert len(list(tiles(model, *size, tile=236))) == 9 * 2


@torch.no_grad()
def test_a_network_that_pads_is_one_tile():
    model = small(padding="same")
    image = torch.randn(1, 1, 40, 70, dtype=torch.float64)
    assert torch.equal(overlap_tile(model, image), model(image))


@torch.no_grad()
def test_tiles_of_the_paper():
    """Tiles of 572 begin every 384 pixels: 512 takes 2 an axis, 696 2, 1024 3 and 2048 6."""
    model = UNet(2, width=2)
    for side, count in ((388, 1), (389, 2), (512, 2), (696, 2), (1024, 3), (2048, 6)):
        rows = [tile.rows for tile in tiles(model, side, 300)]
        assert [row.start for row in rows] == [384 * i for i in range(count)]
        assert rows[-1].stop == side


@torch.no_grad()
def test_the_papers_offset_is_not_exact():
    """388 is no multiple of 16: the poolings of the second tile are out of phase."""
    model = small()
    image = torch.randn(1, 1, 64, 60, dtype=torch.float64)
    whole = mirrored_whole(model, image)
    top = -model.margin + 20  # a tile that begins at row 20
    rows = mirrored(top, model.valid_size(44 + 2 * model.margin), 64)
    columns = mirrored(-model.margin, model.valid_size(60 + 2 * model.margin), 60)
    shifted = model(image[:, :, rows][:, :, :, columns])[:, :, :44, :60]
    assert (shifted - whole[:, :, 20:]).abs().max() > 1e-4
    rows = mirrored(top + 12, model.valid_size(32 + 2 * model.margin), 64)
    shifted = model(image[:, :, rows][:, :, :, columns])[:, :, :32, :60]
    assert (shifted - whole[:, :, 32:]).abs().max() <= 1e-9


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_other_depths(depth):
    model = small(depth)
    least = model.valid_size(1)
    assert model(torch.zeros(1, 1, least, least + 2**depth, dtype=torch.float64)).shape[2:] == (
        least - 2 * model.margin,
        least + 2**depth - 2 * model.margin,
    )
    image = torch.randn(2, 1, 45, 50, dtype=torch.float64)
    tiled = overlap_tile(model, image, tile=least + 2**depth)
    assert (tiled - mirrored_whole(model, image)).abs().max() <= 1e-9


def test_repeated_reflection():
    for start, count, length in ((-7, 20, 3), (0, 5, 5), (-3, 4, 1), (-200, 450, 17)):
        before, after = max(-start, 0), max(start + count - length, 0)
        expected = np.pad(np.arange(length), (before, after), mode="reflect")
        assert mirrored(start, count, length).tolist() == expected[:count].tolist()


def test_initial_weights():
    """N(0, 2 / N): 3x3 on 64 channels has N = 576; an up-convolution sees its input channels."""
    model = UNet(width=32)
    assert model.encoder[1].conv2.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.03)
    assert model.decoder[0].up.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.03)
    assert not model.encoder[0].conv1.bias.any()


def test_dropout_is_on_the_two_deepest_levels():
    model = UNet(width=2, dropout=1.0).train()
    kept = []
    model.decoder[0].register_forward_hook(lambda _m, inputs, _o: kept.extend(inputs))
    model(torch.randn(1, 1, 188, 188))
    assert not kept[0].any() and not kept[1].any()
    assert model.eval()(torch.randn(1, 1, 188, 188)).abs().max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: UNet(width=1)(torch.zeros(1, 1, 500, 572)),
            r"^UNet: input must have sides of 188 \+ 16 k pixels, got 500 x 572; the next is "
            "508 x 572, and overlap_tile takes any size",
        ),
        (
            lambda: UNet(width=1, padding="same")(torch.zeros(1, 1, 15, 40)),
            "^UNet: input must have sides of at least 16 pixels, got 15 x 40",
        ),
        (
            lambda: overlap_tile(UNet(width=1), torch.zeros(1, 1, 9, 9), tile=203),
            "^overlap_tile: tile must be at least 204 pixels, got 203",
        ),
        (
            lambda: overlap_tile(UNet(width=1), torch.zeros(1, 1, 0, 9)),
            "^overlap_tile: image must hold a pixel, got 0 x 9",
        ),
        (
            lambda: overlap_tile(UNet(width=1, padding="same"), torch.zeros(1, 1, 9, 70), tile=64),
            "^overlap_tile: network must have padding='valid' for sides longer than a tile of 64 "
            "pixels, got padding='same' and 70; Segmenter runs it in sliding windows",
        ),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def brute_distances(mask):
    places = np.argwhere(mask)
    grid = np.argwhere(np.ones(mask.shape, bool))
    squared = ((grid[:, None] - places[None]) ** 2).sum(2).min(1)
    return np.sqrt(squared).reshape(mask.shape)


def test_distances():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 12), (20, 5)):
        mask = rng.random(shape) < 0.15
        mask.flat[rng.integers(mask.size)] = True
        found = distance_to(torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(found, brute_distances(mask), rtol=1e-6)


def cells():
    """Three cells of four and more pixels; two of them a pixel apart."""
    instances = np.zeros((50, 60), np.int32)
    instances[5:15, 5:15] = 7
    instances[5:18, 16:30] = 2
    instances[35:45, 40:55] = 900
    return instances


def test_weight_map_equals_its_formula():
    instances = cells()
    distances = np.sort([brute_distances(instances == label) for label in (7, 2, 900)], axis=0)
    expected = np.ones(instances.shape)
    border = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5.0**2))
    expected += np.where(instances == 0, border, 0)
    found = border_weight_map(torch.from_numpy(instances), class_weights=(1.0, 1.0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-8)
    assert found.dtype == torch.float32
    between = found[10, 15]  # one pixel from each
    assert between == pytest.approx(1 + 10 * np.exp(-4 / 50), rel=1e-6)
    assert found.max() == between


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64],
    ids=str,
)
@pytest.mark.parametrize("separate", [False, True])
def test_every_integer_numbers_the_cells(dtype, separate):
    """Instance maps are often PNGs of 16 bits, whose pixels torch sorts only if they are few."""
    numbers = np.tile(cells(), (5, 4))
    numbers[numbers == 900] = 90
    expected = border_weight_map(torch.from_numpy(numbers).long(), separate=separate)
    found = border_weight_map(torch.from_numpy(numbers).to(dtype), separate=separate)
    assert torch.equal(found, expected)


def test_classes_are_balanced():
    instances = torch.from_numpy(cells())
    weights = border_weight_map(instances, w0=0.0)
    objects = instances != 0
    assert weights[objects].sum() == pytest.approx(float(weights[~objects].sum()), rel=1e-5)
    assert weights.sum() == pytest.approx(instances.numel(), rel=1e-5)


def test_fewer_than_two_objects_have_no_border():
    for instances in (torch.zeros(9, 9, dtype=torch.int64), (torch.eye(9) > 2).long()):
        assert torch.equal(border_weight_map(instances), torch.ones(9, 9))
    one = torch.zeros(9, 9, dtype=torch.uint8)
    one[2:5, 3:7] = 1
    assert torch.equal(border_weight_map(one, class_weights=(1, 2)), 1 + one.float())


def test_touching_objects_are_separated():
    instances = torch.zeros(9, 12, dtype=torch.int64)
    instances[2:7, 2:6] = 1
    instances[2:7, 6:10] = 2
    touching = border_weight_map(instances, class_weights=(1, 1))
    assert touching[4, 5] == 1  # no background between them, and no border to learn
    apart = border_weight_map(instances, class_weights=(1, 1), separate=True)
    assert apart[4, 5] == pytest.approx(1 + 10 * np.exp(-(3**2) / 50), rel=1e-6)
    assert torch.equal(apart[4, 5], apart[4, 6])


@pytest.mark.parametrize(
    ("instances", "sigma", "error", "message"),
    [
        (torch.zeros(1, 3, 3).int(), 5, ValueError, r"instances must have shape \(H, W\)"),
        (torch.zeros(0, 3).int(), 5, ValueError, r"hold a pixel, got \(0, 3\)"),
        (torch.zeros(3, 3), 5, TypeError, "must have an integer dtype, got torch.float32"),
        (torch.zeros(3, 3).int(), 0, ValueError, "sigma must be positive, got 0"),
    ],
)
def test_weight_map_rejects(instances, sigma, error, message):
    with pytest.raises(error, match=f"^border_weight_map: .*{message}"):
        border_weight_map(instances, sigma=sigma)
