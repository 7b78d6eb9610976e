"""Kernels: what they hand to the lattice, and what they refuse."""

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg.crf import BilateralKernel, FeatureKernel, GaussianKernel, PairwiseKernel


def unary(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def test_positions_are_pixels_over_sigma_x_first():
    features = GaussianKernel((2.0, 4.0))(unary(1, 3, 2, 3))
    assert features.tolist() == [
        [[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]]]
    ]


def test_volume_positions_are_x_y_z():
    features = GaussianKernel((1.0, 2.0, 4.0))(unary(1, 2, 5, 4, 3))
    assert features.shape == (1, 3, 5, 4, 3)
    assert features[0, :, 4, 3, 2].tolist() == [2.0, 1.5, 1.0]


def test_one_sigma_serves_every_axis():
    field = unary(2, 3, 5, 4)
    assert torch.equal(GaussianKernel(3.0)(field), GaussianKernel((3.0, 3.0))(field))


def test_bilateral_features_are_positions_then_channels():
    image = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).reshape(1, 2, 1, 2)
    features = BilateralKernel((2.0, 5.0), (10.0, 4.0))(unary(1, 3, 1, 2), image)
    assert features.tolist() == [[[[0.0, 0.5]], [[0.0, 0.0]], [[1.0, 2.0]], [[7.5, 10.0]]]]


def test_feature_kernel_divides_by_sigma():
    features = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 2)
    scaled = FeatureKernel(1.0, (0.5, 2.0))(unary(1, 3, 1, 2), None, features)
    assert scaled.flatten().tolist() == [2.0, 4.0, 1.5, 2.0]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.int16,
        torch.uint16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_every_real_image_dtype_gives_the_same_features(dtype, channels):
    image = torch.randint(0, 128, (2, channels, 4, 5)).to(dtype)  # exact in every dtype
    features = BilateralKernel()(unary(2, 3, 4, 5), image)
    assert features.dtype == torch.float32
    assert torch.equal(features, BilateralKernel()(unary(2, 3, 4, 5), image.float()))


def test_features_follow_the_dtype_of_the_unary():
    image = torch.rand(1, 3, 4, 5) * 255
    assert BilateralKernel()(unary(1, 2, 4, 5, dtype=torch.float64), image).dtype == torch.float64


def test_any_memory_layout():
    image = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    field = unary(2, 3, 4, 5)
    assert torch.equal(
        BilateralKernel()(field, image), BilateralKernel()(field, image.contiguous())
    )


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    spatial=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    channels=st.integers(1, 5),
)
def test_shapes(batch, spatial, channels):
    field, image = unary(batch, 2, *spatial), torch.ones(batch, channels, *spatial)
    axes = len(spatial)
    assert GaussianKernel()(field).shape == (batch, axes, *spatial)
    assert BilateralKernel()(field, image).shape == (batch, axes + channels, *spatial)
    assert FeatureKernel()(field, None, image).shape == (batch, channels, *spatial)


@pytest.mark.parametrize("sigma", [1e-8, 1e8])
def test_absurd_widths_make_features_not_errors(sigma):
    features = GaussianKernel(sigma)(unary(1, 2, 3, 4))
    assert features[0, 0, 0, 3] == torch.tensor(3.0) / torch.tensor(sigma)


def test_parameters_train_only_on_request():
    frozen = BilateralKernel()
    assert not any(p.requires_grad for p in frozen.parameters())
    trained = BilateralKernel(train_weight=True, train_sigma=True)
    assert sorted(n for n, p in trained.named_parameters() if p.requires_grad) == [
        "sigma_rgb",
        "sigma_xy",
        "weight",
    ]


def test_gradients_reach_widths_and_image():
    kernel = BilateralKernel(4.0, (2.0, 3.0), train_sigma=True)
    image = torch.rand(1, 2, 3, 3, requires_grad=True)
    kernel(unary(1, 2, 3, 3), image)[:, 2:].sum().backward()
    assert torch.allclose(image.grad[:, 1], torch.tensor(1 / 3))
    expected = -image.detach().sum((0, 2, 3)) / torch.tensor([4.0, 9.0])
    assert torch.allclose(kernel.sigma_rgb.grad, expected)
    assert kernel.sigma_xy.grad == 0


def test_copies_and_pickles():
    kernel = BilateralKernel((3.0, 4.0), 5.0, torch.eye(3), train_sigma=True, normalization="after")
    for twin in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert repr(twin) == repr(kernel)
        assert all(map(torch.equal, twin.parameters(), kernel.parameters()))
        assert twin.sigma_xy.requires_grad and not twin.weight.requires_grad


def test_repr_names_every_setting():
    assert repr(GaussianKernel()) == "GaussianKernel(sigma_xy=3, weight=3)"
    kernel = BilateralKernel((3.0, 4.0), 13, train_weight=True, normalization="after")
    assert repr(kernel) == (
        "BilateralKernel(sigma_xy=(2,), sigma_rgb=13, weight=10 (trained), normalization='after')"
    )
    assert repr(FeatureKernel(torch.eye(2))) == "FeatureKernel(sigma=1, weight=(2, 2))"


BAD_ARGUMENTS = [
    (
        lambda: GaussianKernel(0),
        ValueError,
        "GaussianKernel: sigma_xy must be positive and finite, got 0",
    ),
    (
        lambda: GaussianKernel(-1.5),
        ValueError,
        "GaussianKernel: sigma_xy must be positive and finite, got -1.5",
    ),
    (
        lambda: GaussianKernel((3.0, float("nan"))),
        ValueError,
        "GaussianKernel: sigma_xy must be positive and finite, got (3.0, nan)",
    ),
    (
        lambda: GaussianKernel(1e-60),
        ValueError,
        "GaussianKernel: sigma_xy must be positive and finite, got 1e-60",
    ),
    (
        lambda: BilateralKernel(sigma_rgb=float("inf")),
        ValueError,
        "BilateralKernel: sigma_rgb must be positive and finite, got inf",
    ),
    (
        lambda: FeatureKernel(1.0, 0.0),
        ValueError,
        "FeatureKernel: sigma must be positive and finite, got 0.0",
    ),
    (
        lambda: GaussianKernel([[1.0]]),
        ValueError,
        "GaussianKernel: sigma_xy must be one width or one for each axis, got shape (1, 1)",
    ),
    (
        lambda: GaussianKernel(()),
        ValueError,
        "GaussianKernel: sigma_xy must be one width or one for each axis, got shape (0,)",
    ),
    (
        lambda: GaussianKernel("wide"),
        TypeError,
        "GaussianKernel: sigma_xy must be made of numbers, got 'wide'",
    ),
    (
        lambda: GaussianKernel(2j),
        TypeError,
        "GaussianKernel: sigma_xy must be made of real numbers, got 2j",
    ),
    (
        lambda: GaussianKernel(weight=float("nan")),
        ValueError,
        "GaussianKernel: weight must be finite, got nan",
    ),
    (
        lambda: GaussianKernel(weight=torch.ones(2, 3)),
        ValueError,
        "GaussianKernel: weight must have shape (), (L,) or (L, L), got (2, 3)",
    ),
    (
        lambda: GaussianKernel(weight=torch.ones(1, 1, 1)),
        ValueError,
        "GaussianKernel: weight must have shape (), (L,) or (L, L), got (1, 1, 1)",
    ),
    (
        lambda: GaussianKernel(normalization="max"),
        ValueError,
        "GaussianKernel: normalization must be one of none, mean, before, after, symmetric, got "
        "'max'",
    ),
]


@pytest.mark.parametrize(
    ("build", "error", "message"), BAD_ARGUMENTS, ids=[m for *_, m in BAD_ARGUMENTS]
)
def test_rejects_arguments(build, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        build()


FIELD = unary(2, 3, 4, 5)
BAD_INPUTS = [
    (
        GaussianKernel((1.0, 2.0, 3.0)),
        None,
        ValueError,
        "GaussianKernel: sigma_xy must be one width or one for each of the 2 axes, got 3",
    ),
    (
        BilateralKernel(),
        None,
        ValueError,
        "BilateralKernel: image must be a tensor of shape (2, C, 4, 5), got None",
    ),
    (
        BilateralKernel(),
        [[1]],
        TypeError,
        "BilateralKernel: image must be a torch.Tensor, got list",
    ),
    (
        BilateralKernel(),
        torch.ones(2, 4, 5, 3),
        ValueError,
        "BilateralKernel: image must have shape (2, C, 4, 5) like the scores, got (2, 4, 5, 3)",
    ),
    (
        BilateralKernel(),
        torch.ones(3, 4, 5),
        ValueError,
        "BilateralKernel: image must have shape (2, C, 4, 5) like the scores, got (3, 4, 5)",
    ),
    (
        BilateralKernel(),
        torch.ones(1, 3, 4, 5),
        ValueError,
        "BilateralKernel: image must have shape (2, C, 4, 5) like the scores, got (1, 3, 4, 5)",
    ),
    (
        BilateralKernel(),
        torch.ones(2, 0, 4, 5),
        ValueError,
        "BilateralKernel: image must have shape (2, C, 4, 5) like the scores, got (2, 0, 4, 5)",
    ),
    (
        BilateralKernel(),
        torch.ones(2, 3, 4, 5, dtype=torch.bool),
        TypeError,
        "BilateralKernel: image must have an integer or floating dtype, got bool",
    ),
    (
        BilateralKernel(),
        torch.ones(2, 3, 4, 5, dtype=torch.complex64),
        TypeError,
        "BilateralKernel: image must have an integer or floating dtype, got complex64",
    ),
    (
        BilateralKernel(),
        torch.ones(2, 3, 4, 5, device="meta"),
        ValueError,
        "BilateralKernel: image must be on the device of the scores, cpu, got meta",
    ),
    (
        BilateralKernel(sigma_rgb=(1.0, 2.0)),
        torch.ones(2, 3, 4, 5),
        ValueError,
        "BilateralKernel: sigma_rgb must be one width or one for each of the 3 channels of "
        "image, got 2",
    ),
]


@pytest.mark.parametrize(
    ("kernel", "image", "error", "message"), BAD_INPUTS, ids=[m for *_, m in BAD_INPUTS]
)
def test_rejects_inputs(kernel, image, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        kernel(FIELD, image)


def test_feature_kernel_rejects():
    with pytest.raises(
        ValueError,
        match=r"^FeatureKernel: features must be a tensor of shape \(2, D, 4, 5\), got None$",
    ):
        FeatureKernel()(FIELD)
    with pytest.raises(
        ValueError,
        match=r"^FeatureKernel: sigma must be one width or one for each of the 3 dimensions of "
        "features, got 2$",
    ):
        FeatureKernel(1.0, (1.0, 2.0))(FIELD, None, torch.ones(2, 3, 4, 5))


def test_a_width_trained_below_zero_is_refused_at_the_next_forward():
    kernel = GaussianKernel(train_sigma=True)
    with torch.no_grad():
        kernel.sigma_xy.sub_(4)
    with pytest.raises(
        ValueError, match=r"^GaussianKernel: sigma_xy must be positive and finite, got -1\.0$"
    ):
        kernel(FIELD)


def test_a_kernel_of_your_own_must_define_forward():
    with pytest.raises(NotImplementedError, match=r"^PairwiseKernel must define forward$"):
        PairwiseKernel(1.0)(FIELD, None, None)
