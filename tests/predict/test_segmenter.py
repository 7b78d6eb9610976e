"""Segmenter: the sizes and pixels of every system, and that its shortcuts change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from thin import CLASSES, thin
from torch import nn
from torch.nn import functional

from fastseg.crf import BilateralKernel, DenseCRF, GaussianKernel
from fastseg.data.errors import DataWarning
from fastseg.inference import undo_compile_for_inference
from fastseg.models import (
    DeconvNet,
    DeepLabV1,
    DeepLabV2ResNet,
    DeepLabV3,
    FCN8s,
    FCN32s,
    InputConvention,
    MultiScale,
    UNet,
    WithCRF,
    overlap_tile,
)
from fastseg.predict import Segmenter

HEIGHT, WIDTH = 45, 61


def lightly_padded(model):
    """To 97 pixels where the system pads to 513: the same rule, a thirtieth of the work."""
    assert model.input_convention.pad_to == 513
    model.input_convention = dataclasses.replace(model.input_convention, pad_to=97)
    return model


SYSTEMS = {
    "fcn32s": lambda: thin(FCN32s, CLASSES),
    "v1": lambda: lightly_padded(thin(DeepLabV1, CLASSES)),
    "v2-msc": lambda: lightly_padded(MultiScale(thin(DeepLabV2ResNet, CLASSES, depth=50))),
    "v3": lambda: thin(DeepLabV3, CLASSES, backbone="resnet18"),
    "unet-same": lambda: UNet(CLASSES, in_channels=3, width=8, padding="same"),
    "unet-grey": lambda: UNet(CLASSES, in_channels=1, width=8, padding="same"),
}


class Pointwise(nn.Module):
    """Logits of each pixel from that pixel alone: what any tiling must leave as it is."""

    num_classes = 4
    input_convention = InputConvention()

    def __init__(self, least=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.min_size = least

    def forward(self, input):
        assert min(input.shape[2:]) >= self.min_size
        return self.conv(input)


def photo(height=HEIGHT, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def logits_by_hand(model, image):
    """Normalised, padded, run, cut: without compilation and without fused kernels."""
    undo_compile_for_inference(model)
    convention = model.input_convention
    height, width = convention.resized_size(*image.shape[:2])
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    input = convention.normalise(resized)[None]
    padded_height, padded_width = convention.padded_size(height, width)
    input = functional.pad(input, (0, padded_width - width, 0, padded_height - height))
    with torch.no_grad():
        logits = model.eval()(input)[:, :, :height, :width]
    if (height, width) != image.shape[:2]:
        logits = functional.interpolate(logits, image.shape[:2], mode="bilinear")
    return logits[0]


def agree(labels, logits):
    """Labels are the largest logits, but where the largest two are equal to rounding."""
    assert labels.dtype == torch.uint8
    best = logits.amax(0)
    chosen = logits.gather(0, labels.long()[None])[0]
    assert (best - chosen).max() <= 1e-4 * logits.abs().max()


@pytest.mark.parametrize("name", SYSTEMS)
def test_is_the_network_on_its_own_pixels(name, randomised):
    model, image = randomised(SYSTEMS[name]()), photo()
    expected = logits_by_hand(model, image)
    segmenter = Segmenter(model)
    scores = segmenter.predict(image, output="scores")
    assert scores.shape == (CLASSES, HEIGHT, WIDTH)
    assert (scores - expected).abs().max() <= 1e-4 * expected.abs().max()
    probs = segmenter.predict(image, output="probabilities")
    torch.testing.assert_close(probs, expected.softmax(0), rtol=1e-3, atol=1e-4)
    labels = segmenter.predict(image)
    agree(labels, expected)
    assert torch.equal(labels, scores.argmax(0).to(torch.uint8))
    assert len(labels.unique()) > 1


@pytest.mark.parametrize(
    "rule",
    [{"short_side": 70}, {"fit": 80}, {"scale": 0.5}, {"multiple": 16, "offset": 1}],
    ids=["short-side", "fit", "scale", "multiple"],
)
def test_sizes_of_the_convention(rule, randomised):
    model = randomised(thin(DeepLabV1, CLASSES))
    model.input_convention = dataclasses.replace(model.input_convention, pad_to=None, **rule)
    image = photo()
    expected = logits_by_hand(model, image)
    segmenter = Segmenter(model)
    scores = segmenter.predict(image, output="scores")
    assert (scores - expected).abs().max() <= 1e-4 * expected.abs().max()
    agree(segmenter.predict(image), expected)


def test_mirrored_padding_is_cut_from_all_sides(randomised):
    class Shift(Pointwise):
        def forward(self, input):
            assert input.is_meta or input.shape[2:] == (64, 64)
            return super().forward(input)

    model = randomised(Shift())
    model.input_convention = InputConvention(pad_to=64, padding="mirror")
    image = photo()
    expected = logits_by_hand(randomised(Pointwise()), image)
    torch.testing.assert_close(Segmenter(model).predict(image, output="scores"), expected)


@pytest.mark.parametrize("tile", [None, 204, 230])
def test_valid_unet_runs_in_overlap_tiles(tile, randomised):
    model, image = randomised(UNet(CLASSES, in_channels=3, width=4)), photo(70, 41)
    input = model.input_convention.normalise(image)[None]
    with torch.no_grad():
        expected = overlap_tile(model.eval(), input)[0]
    segmenter = Segmenter(model, tile=tile)
    scores = segmenter.predict(image, output="scores")
    assert (scores - expected).abs().max() <= 1e-4 * expected.abs().max()
    agree(segmenter.predict(image), expected)


def test_tile_too_small_for_a_valid_unet():
    segmenter = Segmenter(UNet(CLASSES, in_channels=3, width=4), tile=190)
    with pytest.raises(ValueError, match="tile must be at least 204 pixels, got 190"):
        segmenter.predict(photo())


def test_mean_of_probabilities_over_sizes_and_mirror_images(randomised):
    model, image = randomised(SYSTEMS["unet-same"]()).eval(), photo(48, 64)
    total = torch.zeros(CLASSES, 48, 64)
    with torch.no_grad():
        for scale in (1.0, 1.5):
            size = round(64 * scale), round(48 * scale)
            resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
            input = model.input_convention.normalise(resized)[None]
            for flip in (False, True):
                logits = model(input.flip(3) if flip else input)
                logits = functional.interpolate(logits, (48, 64), mode="bilinear")
                probs = logits.softmax(1)
                total += (probs.flip(3) if flip else probs)[0] / 4
    segmenter = Segmenter(model, scales=(1.0, 1.5), flip=True)
    probs = segmenter.predict(image, output="probabilities")
    torch.testing.assert_close(probs, total, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(segmenter.predict(image, output="scores").exp(), probs)
    agree(segmenter.predict(image), total.log())


@pytest.mark.parametrize("blend", ["average", "gaussian"])
def test_windows_of_a_pointwise_network_change_nothing(blend, randomised):
    model, image = randomised(Pointwise(least=16)), photo(90, 75)
    whole = Segmenter(model).predict(image, output="probabilities")
    segmenter = Segmenter(model, tile=32, overlap=0.3, blend=blend)
    probs = segmenter.predict(image, output="probabilities")
    torch.testing.assert_close(probs, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(probs.sum(0), torch.ones(90, 75))


def test_windows_are_averaged(randomised):
    """Two windows of a network that sees all of its input: their mean where they overlap."""

    class Global(Pointwise):
        def forward(self, input):
            return super().forward(input) + 3 * self.conv(input.mean((2, 3), keepdim=True))

    model, image = randomised(Global()), photo(20, 30)
    probs = Segmenter(model, tile=20, overlap=0.5).predict(image, output="probabilities")
    with torch.no_grad():
        left, right = (
            model(model.input_convention.normalise(image[:, part])[None]).softmax(1)[0]
            for part in (slice(0, 20), slice(10, 30))
        )
    expected = torch.cat(
        [left[..., :10], (left[..., 10:] + right[..., :10]) / 2, right[..., 10:]], 2
    )
    torch.testing.assert_close(probs, expected)


def test_deconvnet_runs_on_windows_of_its_own_size(randomised):
    model = randomised(thin(DeconvNet, CLASSES))
    sizes = []
    segmenter = Segmenter(model)
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    undo_compile_for_inference(model)
    model.scores = lambda input: sizes.append(tuple(input.shape)) or DeconvNet.scores(model, input)
    labels = segmenter.predict(photo(100, 260))
    assert labels.shape == (100, 260)
    assert set(sizes) == {(1, 3, 224, 224)}
    assert len(sizes) == 2


def test_crf(randomised):
    model, image = randomised(SYSTEMS["v3"]()), photo()
    crf = DenseCRF([GaussianKernel(3.0, 3.0), BilateralKernel(30.0, 13.0, 8.0)])
    probs = Segmenter(model).predict(image, output="probabilities")
    pixels = torch.tensor(image).permute(2, 0, 1)[None]
    expected = crf(probs[None], pixels, kind="probabilities")[0]
    segmenter = Segmenter(model, crf)
    refined = segmenter.predict(image, output="probabilities")
    torch.testing.assert_close(refined, expected, rtol=1e-4, atol=1e-6)
    agree(segmenter.predict(image), expected.log())
    assert (expected - probs).abs().max() > 0.05
    assert Segmenter(model, "deeplab-resnet").predict(image).shape == (HEIGHT, WIDTH)


def test_network_that_ends_in_a_crf_sees_the_padding_as_the_mean(randomised):
    network = randomised(thin(FCN8s, CLASSES))
    model = WithCRF(network, DenseCRF([BilateralKernel(20.0, 10.0, 3.0)], iterations=2)).eval()
    convention = dataclasses.replace(network.input_convention, fit=64)
    model.input_convention = convention
    seen = {}
    segmenter = Segmenter(model)
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs))
    labels = segmenter.predict(photo(45, 60))
    hook.remove()
    input, pixels = seen["inputs"]
    assert labels.shape == (45, 60)
    assert input.shape == pixels.shape == (1, 3, 64, 64)
    assert not input[:, :, 48:].any()
    mean = torch.tensor(convention.mean).flip(0)
    assert torch.equal(pixels[0, :, 50, 3], mean)
    assert not torch.equal(pixels[0, :, 40, 3], mean)


class TestImages:
    @pytest.fixture
    def segmenter(self):
        return Segmenter(Pointwise())

    def test_every_form_of_one_photo(self, segmenter, tmp_path):
        image = photo()
        Image.fromarray(image).save(tmp_path / "photo.png")
        expected = segmenter.predict(image)
        opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
        tensor = torch.tensor(image).permute(2, 0, 1)
        forms = {
            "path": tmp_path / "photo.png",
            "str": str(tmp_path / "photo.png"),
            "pillow": Image.fromarray(image),
            "float 0-255": image.astype(np.float64),
            "float 0-1": image / np.float32(255),
            "16-bit": image.astype(np.uint16) * 257,
            "rgba": opaque,
            "strided": np.ascontiguousarray(image[::-1])[::-1],
            "tensor": tensor,
            "tensor 0-1": tensor / 255,
            "tensor rgba": torch.tensor(opaque).permute(2, 0, 1),
        }
        for name, form in forms.items():
            assert torch.equal(segmenter.predict(form), expected), name

    def test_grey(self, segmenter):
        grey = photo()[..., 0]
        expected = segmenter.predict(np.repeat(grey[..., None], 3, 2))
        for form in (grey, grey[..., None], Image.fromarray(grey), torch.tensor(grey)[None]):
            assert torch.equal(segmenter.predict(form), expected)

    def test_exif(self, segmenter, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo()).save(tmp_path / "turned.png", exif=exif)
        assert segmenter.predict(tmp_path / "turned.png").shape == (WIDTH, HEIGHT)

    def test_batches(self, segmenter):
        images = [photo(), photo(20, 30, seed=1)]
        one, other = segmenter.predict(images)
        assert torch.equal(one, segmenter.predict(images[0]))
        assert other.shape == (20, 30)
        assert segmenter.predict([]) == []
        batch = np.stack([photo(), photo(seed=1)])
        for form in (batch, torch.tensor(batch).permute(0, 3, 1, 2)):
            for labels, image in zip(segmenter.predict(form), batch, strict=True):
                assert torch.equal(labels, segmenter.predict(image))

    def test_palette(self, segmenter):
        picture = segmenter.predict(photo(), output="palette")
        assert picture.mode == "P" and picture.size == (WIDTH, HEIGHT)
        assert np.array_equal(np.asarray(picture), segmenter.predict(photo()).numpy())

    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (np.full((4, 4, 3), np.nan), ValueError, "image must be finite"),
            (torch.full((3, 4, 4), torch.inf), ValueError, "image must be finite"),
            (np.zeros((0, 4, 3), np.uint8), ValueError, r"image must have shape"),
            (torch.zeros(5, 4, 3), ValueError, r"tensor \(C, H, W\) with 1, 3 or 4 channels"),
            (torch.zeros(3, 4, 4, dtype=torch.complex64), TypeError, "real numbers"),
            (np.zeros((4, 4, 3), bool), ValueError, "image must be uint8, uint16"),
            (np.full((4, 4, 3), 300), ValueError, "in 0 to 255 for int64 .* got 300 to 300"),
            (torch.full((3, 4, 4), -1).int(), ValueError, "0 to 255 for int32 .* got -1 to -1"),
            (torch.zeros(3, 4, 4, device="meta"), ValueError, "got a tensor on the meta device"),
            (3, TypeError, "images must be an image or a list of them, got int"),
            (None, TypeError, "got NoneType"),
            ([None], TypeError, "image must be a path"),
        ],
        ids=[
            "nan",
            "inf",
            "empty",
            "hwc",
            "complex",
            "bool",
            "large",
            "negative",
            "meta",
            "int",
            "none",
            "list",
        ],
    )
    def test_refused(self, segmenter, image, error, message):
        with pytest.raises(error, match=message):
            segmenter.predict(image)

    def test_missing_file(self, segmenter, tmp_path):
        with pytest.raises(FileNotFoundError):
            segmenter.predict(tmp_path / "no.png")


def test_autocast(randomised):
    model, image = randomised(SYSTEMS["unet-same"]()), photo(32, 32)
    exact = Segmenter(model).predict(image, output="scores")
    half = Segmenter(model, amp=True).predict(image, output="scores")
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_compiled_weights_are_kept_for_few_sizes(randomised):
    model = randomised(thin(DeepLabV1, CLASSES))
    model.input_convention = dataclasses.replace(model.input_convention, pad_to=None)
    segmenter = Segmenter(model)
    assert segmenter.compiled and segmenter.passes.most_sizes == 4
    first = segmenter.predict(photo(33, 33))
    for side in (41, 49, 57, 65, 73):
        segmenter.predict(photo(side, side))
        assert len(segmenter.passes.sizes) <= 4
    assert torch.equal(segmenter.predict(photo(33, 33)), first)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, got int"),
        ({"model": nn.Conv2d(3, 4, 1)}, TypeError, "input_convention must be"),
        ({"crf": "deeplab"}, ValueError, "name must be one of"),
        ({"crf": 3}, TypeError, "crf must be a DenseCRF"),
        ({"scales": ()}, ValueError, "scales must hold one value or more"),
        (
            {"scales": (0.5, -1)},
            ValueError,
            r"scales\[1\] must be a positive number",
        ),
        ({"tile": 0}, ValueError, "tile must be a positive integer"),
        ({"overlap": 1.0}, ValueError, r"overlap must lie in \[0, 1\)"),
        ({"blend": "max"}, ValueError, "blend must be one of average, gaussian"),
        ({"margin": 100}, ValueError, "margin must be a multiple of 32"),
        ({"max_memory": "much"}, ValueError, r'max_memory must be a size such as "2GB"'),
        ({"max_memory": 0}, ValueError, "max_memory must be"),
        ({"max_memory": None}, TypeError, "max_memory must be"),
        ({"amp": torch.float32}, ValueError, "amp must be float16, bfloat16 or a flag"),
        ({"amp": "float16"}, TypeError, "amp must be float16, bfloat16 or a flag, got 'float16'"),
        ({"overlap": "half"}, TypeError, r"overlap must lie in \[0, 1\), got 'half'"),
        ({"device": "gpu"}, ValueError, "device must be one that torch has here, got 'gpu'"),
        ({"device": "meta"}, ValueError, "device must be one that torch has here, got 'meta'"),
        (
            {"model": UNet(2, width=4, depth=1).to("meta")},
            ValueError,
            "model must have values, got one on the meta device; fastseg.load_weights",
        ),
        (
            {"model": UNet(2, width=4, depth=1).half()},
            ValueError,
            "model must have parameters of float32, got .* of float16",
        ),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Segmenter(**{"model": Pointwise(), **arguments})


def test_unknown_output():
    with pytest.raises(ValueError, match="output must be one of labels, probabilities, scores"):
        Segmenter(Pointwise()).predict(photo(), output="masks")


def test_model_with_other_results():
    class Pair(Pointwise):
        def forward(self, input):
            return (self.conv(input),)

    with pytest.raises(ValueError, match=r"must return logits \(B, K, H, W\) of .*, got tuple"):
        Segmenter(Pair())


def test_model_whose_logits_are_smaller():
    """Are they to be enlarged, or were borders left out: the model knows."""

    class Strided(Pointwise):
        def forward(self, input):
            return super().forward(input)[:, :, ::4, ::4]

    with pytest.raises(ValueError, match="logits at the size of its input, got 64 x 64 for 256 x"):
        Segmenter(Strided())


def test_wrapped_models_are_unwrapped(randomised):
    model, image = randomised(UNet(CLASSES, in_channels=3, width=4)), photo(50, 40)
    expected = Segmenter(model).predict(image)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        segmenter = Segmenter(wrapped)
        assert segmenter.model is model
        assert torch.equal(segmenter.predict(image), expected)


def test_model_without_classes():
    model = Pointwise()
    model.conv = nn.Conv2d(3, 0, 1)
    with pytest.raises(ValueError, match=r"of one class or more, got \(1, 0, \d+, \d+\)$"):
        Segmenter(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_an_error(value, tmp_path):
    """Which names the image; a class that is never chosen, -inf, is none."""
    model = Pointwise()
    segmenter = Segmenter(model, compile=False)
    Image.fromarray(photo()).save(tmp_path / "dark.png")
    with torch.no_grad():
        model.conv.bias[1] = -torch.inf
        assert 1 not in segmenter.predict(photo())
        model.conv.bias[1] = value
    for images, name in (
        (photo(), "the image"),
        ([photo()], r"images\[0\]"),
        (tmp_path / "dark.png", r".*dark\.png"),
    ):
        for output in ("labels", "probabilities"):
            with pytest.raises(ValueError, match=f"got NaN or infinity for {name}; its weights"):
                segmenter.predict(images, output=output)


def test_numpys_numbers_are_numbers(randomised):
    model, image = randomised(Pointwise()), photo()
    options = {"tile": np.int64(32), "overlap": np.float32(0.5), "max_memory": np.int64(10**9)}
    expected = Segmenter(model, tile=32, overlap=0.5).predict(image)
    assert torch.equal(Segmenter(model, **options).predict(image), expected)


def test_normalised_pixels_are_warned_about():
    with pytest.warns(DataWarning, match="its values are -2 to 2 where 0 to 255, or 0 to 1"):
        Segmenter(Pointwise()).predict(np.linspace(-2, 2, 48, dtype=np.float32).reshape(4, 4, 3))
