"""Dilated convolution: equal to the float64 reference, differentiable, deterministic."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastseg import reference
from fastseg.ops import dilated_conv2d, gpu
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import (
    GPU_ALGORITHMS,
    Layer,
    can_prepack,
    prepack,
    prepacked_call,
    to_channels_last,
    transform_weight,
    weight_and_geometry,
    weight_layout,
)

ops = torch.ops.fastseg
pytestmark = pytest.mark.usefixtures("device")
CHANNELS_LAST = torch.channels_last

# input (B, C, H, W), weight (O, C / groups, KH, KW), geometry
CASES = {
    "plain": ((2, 17, 7, 9), (19, 17, 3, 3), {}),
    "few-channels": ((2, 3, 7, 9), (4, 3, 3, 3), {}),
    "rate-2-same": ((2, 16, 9, 10), (24, 16, 3, 3), {"rate": 2, "padding": "same"}),
    "rate-12-beyond-the-image": ((1, 18, 8, 7), (16, 18, 3, 3), {"rate": 12, "padding": 12}),
    "rate-per-axis": ((1, 16, 11, 9), (17, 16, 3, 3), {"rate": (1, 3), "padding": (1, 3)}),
    "padding-per-side": ((1, 16, 6, 7), (18, 16, 3, 3), {"padding": (0, 2, 3, 1), "rate": 2}),
    "padding-past-the-kernel": ((1, 16, 4, 5), (16, 16, 3, 3), {"padding": (5, 4, 3, 6)}),
    "stride-2": ((2, 3, 9, 8), (4, 3, 3, 3), {"stride": 2, "padding": "same"}),
    "stride-past-the-kernel": ((1, 2, 9, 8), (3, 2, 2, 2), {"stride": (4, 3)}),
    "7x7-stride-2": ((1, 3, 17, 15), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    "groups": ((2, 6, 7, 8), (4, 3, 3, 3), {"groups": 2, "padding": "same"}),
    "depthwise": ((1, 17, 9, 9), (17, 1, 3, 3), {"groups": 17, "padding": "same", "rate": 2}),
    "depthwise-stride": ((1, 5, 9, 9), (10, 1, 3, 3), {"groups": 5, "padding": 1, "stride": 2}),
    "pointwise": ((2, 19, 5, 7), (33, 19, 1, 1), {}),
    "strassen": ((2, 64, 13, 11), (96, 64, 1, 1), {}),
    "strassen-stride": ((1, 32, 7, 8), (32, 32, 1, 1), {"stride": (2, 3)}),
    "strassen-uneven": ((2, 90, 9, 7), (75, 90, 1, 1), {}),
    "strassen-odd-outputs": ((1, 34, 12, 11), (33, 34, 1, 1), {}),
    "strassen-short-block": ((1, 1026, 3, 4), (40, 1026, 1, 1), {}),
    "strassen-blocks": ((1, 1056, 5, 5), (32, 1056, 1, 1), {}),
    "pointwise-stride": ((1, 5, 5, 7), (6, 5, 1, 1), {"stride": 2}),
    "pointwise-padded": ((1, 5, 5, 7), (6, 5, 1, 1), {"padding": (1, 0, 2, 0)}),
    "4x4-same": ((1, 3, 9, 8), (2, 3, 4, 4), {"rate": 2, "padding": "same"}),
    "1x5": ((1, 3, 4, 12), (2, 3, 1, 5), {"rate": 2, "padding": "same"}),
    "one-pixel": ((1, 16, 1, 1), (20, 16, 3, 3), {"padding": "same"}),
    "one-channel": ((1, 1, 6, 5), (1, 1, 3, 3), {"padding": 1}),
    "one-row": ((1, 16, 1, 33), (16, 16, 3, 3), {"rate": 2, "padding": "same"}),
    "21-classes": ((1, 64, 13, 14), (21, 64, 3, 3), {"rate": 6, "padding": "same"}),
    "full-vectors": ((1, 64, 14, 14), (64, 64, 3, 3), {"rate": 2, "padding": "same"}),
    "kernel-fills-the-image": ((2, 16, 5, 5), (16, 16, 3, 3), {"rate": 2}),
    "empty-batch": ((0, 16, 7, 9), (16, 16, 3, 3), {"padding": "same"}),
}
if os.environ.get("FASTSEG_NIGHTLY"):  # several tiles each way, and many steps of depth
    CASES |= {
        "several-tiles": ((2, 48, 17, 19), (150, 48, 3, 3), {"rate": 2, "padding": "same"}),
        "rate-12": ((1, 64, 33, 31), (40, 64, 3, 3), {"rate": 12, "padding": "same"}),
        "deep": ((1, 515, 6, 7), (70, 515, 3, 3), {"rate": 2, "padding": "same"}),
        "large-pointwise": ((2, 260, 17, 15), (270, 260, 1, 1), {}),
        "large-stride-2": ((1, 40, 45, 47), (70, 40, 3, 3), {"stride": 2, "padding": 1}),
        "large-groups": ((1, 96, 19, 18), (264, 48, 3, 3), {"groups": 2, "padding": "same"}),
        "large-depthwise": ((1, 24, 21, 23), (24, 1, 3, 3), {"groups": 24, "padding": "same"}),
    }
SMALL = [
    "few-channels",
    "padding-per-side",
    "rate-12-beyond-the-image",
    "groups",
    "depthwise-stride",
    "one-pixel",
]
ALGORITHMS = ["direct", "pointwise", "strassen", "winograd", "winograd-high", "torch"]
GPU_TILES = ["gemm-128x128", "gemm-64x64-split4", "gemm-128x32-split2"]
TF32_TILES = ["gemm-128x128-split2-tf32", "gemm-64x64-tf32", "gemm-128x32-split8-tf32"]
BOUND = {  # greatest error, relative to the largest output
    torch.float64: 1e-13,
    torch.float32: 3e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


# A GPU's float32 is multiplied as such; TF32 has 2^-11 in each factor.
GPU_BOUND, TF32_BOUND = 3e-6, 2e-3


def on_gpu() -> bool:
    """Whether the CUDA kernels run, emulated or not."""
    return gpu.serves(torch.empty(0))


def serving(case: str, dtype: torch.dtype = torch.float32) -> list[str]:
    """The algorithms for a case; of a GPU's every tile, and depths in one part and in several."""
    if on_gpu():
        served = ["direct", "torch"] + (GPU_TILES if dtype != torch.float64 else [])
        return served + (TF32_TILES if dtype == torch.float32 else [])
    _, (outputs, inputs, *kernel), geometry = CASES[case]
    grouped = geometry.get("groups", 1) != 1
    served = ["direct", "torch"]
    if dtype == torch.float64:
        return served
    if kernel == [3, 3] and geometry.get("stride", 1) == 1 and min(inputs, outputs) >= 16:
        served += ["winograd", "winograd-high"]
    if kernel == [1, 1] and not grouped and not geometry.get("padding"):
        served.append("pointwise")
        if inputs % 2 == 0 and min(inputs, outputs) >= 32:
            served.append("strassen")
    return served


def layer(case: str, dtype: torch.dtype, channels_last: bool = False):
    """Input, weight, keyword arguments with bias and residual."""
    shape, weight_shape, geometry = CASES[case]
    format = CHANNELS_LAST if channels_last else torch.contiguous_format
    image = torch.randn(shape, dtype=dtype).to(memory_format=format)
    weight = torch.randn(weight_shape, dtype=dtype)
    bias = torch.randn(weight_shape[0], dtype=dtype)
    residual = torch.randn_like(reference.dilated_conv2d(image, weight, **geometry))
    return image, weight, {**geometry, "bias": bias, "residual": residual, "activation": "relu"}


def error_of(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest output."""
    assert actual.shape == expected.shape
    if actual.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max().clamp_min(1e-30)).item()


def bound_of(dtype: torch.dtype, algorithm: str | None) -> float:
    if dtype != torch.float32 or not on_gpu():
        return BOUND[dtype]
    if algorithm in (None, "torch") or algorithm.endswith("-tf32"):
        return TF32_BOUND  # torch's own switch is on
    return GPU_BOUND


def assert_near(actual: torch.Tensor, expected: torch.Tensor, algorithm: str | None = None) -> None:
    assert error_of(actual, expected) <= bound_of(actual.dtype, algorithm)


# Against the reference


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in SMALL])
def test_matches_reference(case, channels_last, device, instruction_set):
    matches_reference(case, channels_last)


@pytest.mark.small
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("case", SMALL)
def test_small_layer_matches_reference(case, channels_last, device, instruction_set):
    matches_reference(case, channels_last)


def matches_reference(case, channels_last):
    for dtype in BOUND:
        image, weight, options = layer(case, dtype, channels_last)
        expected = reference.dilated_conv2d(image.double(), weight, **options)
        for algorithm in [None, *serving(case, dtype)]:
            output = dilated_conv2d(image, weight, algorithm=algorithm, **options)
            assert output.dtype == dtype
            assert_near(output, expected, algorithm)
            if channels_last and image.shape[1] > 1 and not image.is_contiguous():
                assert output.is_contiguous(memory_format=CHANNELS_LAST)
            else:
                assert output.is_contiguous()


@pytest.mark.parametrize("case", ["rate-2-same", "pointwise", "strassen"])
def test_what_is_fused_is_optional(case):
    image, weight, options = layer(case, torch.float32)
    for left_out in ("bias", "residual", "activation"):
        fewer = {**options, left_out: None}
        expected = reference.dilated_conv2d(image, weight, **fewer)
        for algorithm in serving(case):
            output = dilated_conv2d(image, weight, algorithm=algorithm, **fewer)
            assert_near(output, expected, algorithm)


@pytest.mark.small
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("case", ["few-channels", "depthwise-stride", "strassen", "rate-2-same"])
def test_relu6_cuts_the_same_sums(case, channels_last, device, instruction_set):
    for dtype in BOUND:
        image, weight, options = layer(case, dtype, channels_last)
        image[-1, 0, 0, 0] = float("nan")
        for algorithm in serving(case, dtype):
            sums, output = (
                dilated_conv2d(image, weight, algorithm=algorithm, **{**options, "activation": a})
                for a in (None, "relu6")
            )
            assert torch.equal(output.isnan(), sums.isnan())
            assert torch.equal(output.nan_to_num(), sums.clamp(0, 6).nan_to_num())
            assert output.isnan().any()
            assert (output == 0).any()
            assert (output == 6).any()


def sizes(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=sizes(1, 20),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (5, 1), (7, 7)]),
    rate=sizes(1, 7),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]),
    padding=st.one_of(st.sampled_from(["same", "valid"]), st.tuples(*[st.integers(0, 9)] * 4)),
    channels_last=st.booleans(),
    activation=st.sampled_from([None, "relu", "relu6"]),
    seed=st.integers(0, 99),
)
def test_any_geometry(
    batch, groups, channels, size, kernel, rate, stride, padding, channels_last, activation, seed
):
    torch.manual_seed(seed)
    image = torch.randn(batch, channels[0] * groups, *size)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    weight = torch.randn(channels[1] * groups, channels[0], *kernel)
    around = padding if isinstance(padding, tuple) else (0, 0, 0, 0)
    for extent, taps, spacing, zeros in zip(
        size, kernel, rate, (sum(around[:2]), sum(around[2:])), strict=True
    ):
        if padding != "same" and extent + zeros < spacing * (taps - 1) + 1:
            return
    options = {"rate": rate, "padding": padding, "stride": stride, "groups": groups}
    options["activation"] = activation
    expected = reference.dilated_conv2d(image, weight, **options)
    algorithms = [None, "direct"]
    if on_gpu():
        options["accuracy"] = "high"  # not TF32, and small is the scale that it is compared with
        algorithms += ["gemm-64x64", "gemm-128x32-split2"]
    elif groups == 1 and kernel == (3, 3) and stride == (1, 1) and min(channels) >= 16:
        algorithms += ["winograd", "winograd-high"]
    for algorithm in algorithms:
        output = dilated_conv2d(image, weight, algorithm=algorithm, **options)
        scale = float(weight.abs().sum((1, 2, 3)).max()) * 4  # of one output before it cancels
        torch.testing.assert_close(output, expected, rtol=0, atol=3e-6 * scale)


# Both promises of accuracy, on layers of real networks (fewer outputs: each is a sum of its own)

REAL_LAYERS = {  # input channels, size, rate
    "VGG conv5": (512, 65, 2),
    "ResNet layer3": (256, 65, 2),
    "ResNet layer4": (512, 65, 4),
    "fc6": (512, 41, 12),
    "ASPP r6": (512, 41, 6),
    "ASPP r24": (512, 65, 24),
    "v3 ASPP r12": (2048, 33, 12),
    "v3 ASPP r36": (2048, 65, 36),
}


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", REAL_LAYERS)
def test_accuracy_on_real_layers(name):
    channels, size, rate = REAL_LAYERS[name]
    image = torch.randn(1, channels, size, size).relu_().to(memory_format=CHANNELS_LAST)
    weight = torch.randn(16, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
    exact = reference.dilated_conv2d(image.double(), weight, rate=rate, padding=rate)
    torchs = functional.conv2d(image, weight, padding=rate, dilation=rate)
    bounds = {"default": 3e-5, "high": max(3e-6, error_of(torchs, exact))}
    chosen = {"default": "winograd", "high": "winograd-high"}
    for accuracy, bound in bounds.items():
        options = {"rate": rate, "padding": rate, "accuracy": accuracy, "deterministic": True}
        assert error_of(dilated_conv2d(image, weight, **options), exact) <= bound
        options = {"rate": rate, "padding": rate, "algorithm": chosen[accuracy]}
        assert error_of(dilated_conv2d(image, weight, **options), exact) <= bound
    direct = dilated_conv2d(image, weight, rate=rate, padding=rate, algorithm="direct")
    assert error_of(direct, exact) <= bounds["high"]


@pytest.mark.cpu_only
@pytest.mark.parametrize("channels", [64, 512, 2048])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_accuracy_of_strassen(channels, channels_last):
    image = torch.randn(1, channels, 31, 31).relu_()
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    weight = torch.randn(64, channels, 1, 1) * (2 / channels) ** 0.5
    exact = reference.dilated_conv2d(image.double(), weight)
    assert error_of(dilated_conv2d(image, weight, algorithm="strassen"), exact) <= 4e-6
    high = dilated_conv2d(image, weight, accuracy="high", deterministic=True)
    assert torch.equal(high, dilated_conv2d(image, weight, algorithm="pointwise"))


# Known answers, from the lecture

LINEAR = ["direct", "winograd", "winograd-high", "torch"]


def linear():
    """Algorithms that serve every layer of the tests below."""
    return ["direct", "gemm-64x64", "gemm-128x32-split2", "torch"] if on_gpu() else LINEAR


def test_rate_2_has_the_field_of_view_of_5x5():
    image = torch.zeros(1, 16, 11, 11)
    image[0, :, 5, 5] = 1 / 16
    weight = torch.ones(16, 16, 3, 3)
    for algorithm in linear():
        output = dilated_conv2d(image, weight, rate=2, padding="same", algorithm=algorithm)
        reached = (output[0, 0].abs() > 0.5).nonzero() - 5
        assert sorted(map(tuple, reached.tolist())) == [
            (row, column) for row in (-2, 0, 2) for column in (-2, 0, 2)
        ]


def test_two_layers_of_rate_2_see_9x9():
    weight = torch.ones(16, 16, 3, 3) / 16
    for algorithm in linear():
        image = torch.zeros(1, 16, 15, 15)
        image[0, :, 7, 7] = 1 / 16
        for _ in range(2):
            image = dilated_conv2d(image, weight, rate=2, padding="same", algorithm=algorithm)
        rows, columns = (image[0, 0].abs() > 0.5 / 16).nonzero().unbind(1)
        for axis in (rows, columns):
            assert axis.max() - axis.min() == 8


@pytest.mark.parametrize("rate", [2, 3, 5])
def test_equals_the_kernel_with_zeros_inserted(rate):
    image, weight = torch.randn(2, 16, 17, 16), torch.randn(20, 16, 3, 3)
    extent = 2 * rate + 1
    inserted = torch.zeros(20, 16, extent, extent)
    inserted[:, :, ::rate, ::rate] = weight
    expected = functional.conv2d(image.double(), inserted.double(), padding=rate)
    for algorithm in linear():
        output = dilated_conv2d(image, weight, rate=rate, padding=rate, algorithm=algorithm)
        assert_near(output, expected, algorithm)


@pytest.mark.parametrize("rate", [(2, 2), (3, 2)])
def test_equals_interleaved_convolutions(rate):
    image, weight = torch.randn(1, 16, 18, 17), torch.randn(20, 16, 3, 3)
    for algorithm in linear():
        output = dilated_conv2d(image, weight, rate=rate, padding="same", algorithm=algorithm)
        for row in range(rate[0]):
            for column in range(rate[1]):
                phase = (
                    slice(None),
                    slice(None),
                    slice(row, None, rate[0]),
                    slice(column, None, rate[1]),
                )
                plain = functional.conv2d(image[phase].double(), weight.double(), padding=1)
                assert_near(output[phase], plain, algorithm)


def test_constant_image():
    image, weight = torch.full((1, 16, 9, 9), 1 / 16), torch.ones(16, 16, 3, 3)
    counts = torch.tensor([2.0] * 3 + [3.0] * 3 + [2.0] * 3)  # taps inside, along an axis
    for algorithm in linear():
        output = dilated_conv2d(image, weight, rate=3, padding="same", algorithm=algorithm)
        torch.testing.assert_close(output[0, 0], counts[:, None] * counts, rtol=1e-5, atol=1e-5)


@pytest.mark.cpu_only
def test_same_padding_is_torchs():
    image = torch.randn(1, 2, 10, 9)
    for kernel in ((3, 3), (4, 2), (1, 5)):
        weight = torch.randn(3, 2, *kernel)
        expected = functional.conv2d(image, weight, padding="same", dilation=2)
        assert_near(dilated_conv2d(image, weight, padding="same", rate=2), expected)


@pytest.mark.cpu_only
@pytest.mark.parametrize("height", range(1, 8))
def test_same_padding_with_stride_rounds_up(height):
    image, weight = torch.randn(1, 2, height, 5), torch.randn(3, 2, 3, 3)
    output = dilated_conv2d(image, weight, padding="same", stride=2)
    assert tuple(output.shape) == (1, 3, -(-height // 2), 3)


# Awkward layouts

LAYOUTS = {
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "cropped": lambda t: functional.pad(t, (1, 2, 2, 1))[:, :, 2:-1, 1:-2],
    "every-other-channel": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "every-other-column": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "batch-last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "channels-last-crop": lambda t: functional.pad(t, (1, 2, 2, 1)).to(memory_format=CHANNELS_LAST)[
        :, :, 2:-1, 1:-2
    ],
    "offset": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["rate-2-same", "stride-2", "groups", "pointwise"])
def test_awkward_layouts(case, layout):
    image, weight, options = layer(case, torch.float32)
    expected = reference.dilated_conv2d(image.double(), weight, **options)
    for algorithm in [None, *serving(case)]:
        awkward = {**options, "residual": LAYOUTS[layout](options["residual"])}
        awkward["bias"] = options["bias"].repeat_interleave(2)[::2]
        moved, moved_weight = LAYOUTS[layout](image), LAYOUTS[layout](weight)
        assert torch.equal(moved, image)
        before = moved.clone(), moved_weight.clone(), awkward["residual"].clone()
        output = dilated_conv2d(moved, moved_weight, algorithm=algorithm, **awkward)
        assert_near(output, expected, algorithm)
        after = moved, moved_weight, awkward["residual"]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_expanded_input():
    image = torch.randn(1, 1, 1, 9).expand(2, 16, 7, 9)
    weight = torch.randn(1, 16, 3, 3).expand(24, 16, 3, 3)
    expected = reference.dilated_conv2d(image.double(), weight, padding="same")
    for algorithm in [None, *linear()]:
        output = dilated_conv2d(image, weight, padding="same", algorithm=algorithm)
        assert_near(output, expected, algorithm)


# NaN, infinity


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_values_spread_and_stay_near(value):
    image = torch.randn(2, 16, 30, 30)
    image[0, 1, 12, 14] = value
    weight = torch.randn(16, 16, 3, 3)
    expected = functional.conv2d(image, weight, dilation=2, padding=2).relu()
    for algorithm in linear():
        output = dilated_conv2d(
            image, weight, rate=2, padding="same", activation="relu", algorithm=algorithm
        )
        bad = ~output.isfinite()
        assert not bad[1].any()
        assert bad[0][~expected[0].isfinite()].all()
        rows, columns = bad[0].any(0).nonzero().unbind(1)
        reach = 12 if "winograd" in algorithm else 2  # a tile of six at rate 2
        assert (rows - 12).abs().max() <= reach
        assert (columns - 14).abs().max() <= reach
        if value != value:
            assert output[0, :, 12, 14].isnan().all()  # ReLU keeps it


# Gradients

GRADIENT_CASES = [
    "plain",
    "rate-2-same",
    "padding-per-side",
    "stride-2",
    "groups",
    "pointwise-stride",
]


@pytest.mark.parametrize("algorithm", [None, "direct", "torch"])
@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients(case, algorithm):
    _, (_, per_group, *kernel), geometry = CASES[case]
    per_group, groups = min(per_group, 2), geometry.get("groups", 1)
    image = torch.randn(1, per_group * groups, 6, 5, dtype=torch.float64)
    weight = torch.randn(2 * groups, per_group, *kernel, dtype=torch.float64)
    bias = torch.randn(2 * groups, dtype=torch.float64)
    residual = torch.randn_like(reference.dilated_conv2d(image, weight, **geometry))
    arguments = [t.requires_grad_() for t in (image, weight, bias, residual)]

    def convolve(image, weight, bias, residual):
        options = {**geometry, "residual": residual, "activation": "relu"}
        return dilated_conv2d(image, weight, bias, algorithm=algorithm, **options)

    assert gradcheck(convolve, arguments, fast_mode=True)
    assert gradgradcheck(convolve, arguments, fast_mode=True)


def test_gradient_of_relu6():
    image = torch.linspace(-9, 15, 12, dtype=torch.float64).reshape(1, 2, 2, 3).requires_grad_()
    weight = torch.ones(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)

    def convolve(image, weight):
        return dilated_conv2d(image, weight / 2, activation="relu6")

    assert gradcheck(convolve, (image, weight))
    assert gradgradcheck(convolve, (image, weight))
    edges = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0]).reshape(1, 1, 1, 5).requires_grad_()
    dilated_conv2d(edges, torch.ones(1, 1, 1, 1), activation="relu6").sum().backward()
    assert edges.grad.flatten().tolist() == [0, 0, 1, 0, 0]  # as torch's relu6


@pytest.mark.parametrize("wanted", range(4), ids=["input", "weight", "bias", "residual"])
def test_gradient_of_one_argument(wanted):
    image, weight, options = layer("rate-2-same", torch.float64)
    tensors = [image, weight, options.pop("bias"), options.pop("residual")]
    tensors[wanted].requires_grad_()

    def convolve(image, weight, bias, residual):
        return dilated_conv2d(image, weight, bias, residual=residual, **options)

    def torchs(image, weight, bias, residual):
        return (functional.conv2d(image, weight, bias, 1, 2, 2) + residual).relu()

    gradients = [
        torch.autograd.grad(f(*tensors).square().sum(), tensors[wanted])[0]
        for f in (convolve, torchs)
    ]
    torch.testing.assert_close(*gradients)
    assert gradgradcheck(
        lambda t: convolve(*tensors[:wanted], t, *tensors[wanted + 1 :]),
        tensors[wanted],
        fast_mode=True,
    )


@pytest.mark.cpu_only
def test_training_is_as_accurate_as_torch():
    image = torch.randn(1, 256, 33, 33).to(memory_format=CHANNELS_LAST)
    weight = (torch.randn(16, 256, 3, 3) / 48).requires_grad_()
    output = dilated_conv2d(image, weight, rate=2, padding="same")
    exact = functional.conv2d(image.double(), weight.double(), padding=2, dilation=2)
    assert error_of(output.detach(), exact.detach()) <= 3e-6


def test_gradient_passes_nan():
    image = torch.full((1, 1, 4, 4), float("nan"), requires_grad=True)
    dilated_conv2d(image, torch.ones(1, 1, 1, 1), activation="relu").sum().backward()
    assert (image.grad == 1).all()  # as torch.relu


# Registration, graphs

GEOMETRY = {  # as the operators take it
    "stride-2": ([1, 1], [1, 1, 1, 1], [2, 2], 1),
    "rate-2-same": ([2, 2], [2, 2, 2, 2], [1, 1], 1),
    "padding-per-side": ([2, 2], [0, 2, 3, 1], [1, 1], 1),
}


@pytest.mark.parametrize("operator", ["dilated_conv2d", "dilated_conv2d_chosen"])
@pytest.mark.parametrize(
    ("case", "channels_last", "fused", "differentiable"),
    [
        pytest.param("rate-2-same", False, True, True, id="all"),
        pytest.param("stride-2", True, False, True, id="plain"),
        pytest.param("padding-per-side", True, True, False, id="no-gradient"),
    ],
)
def test_registration(operator, case, channels_last, fused, differentiable):
    image, weight, options = layer(case, torch.float32, channels_last)
    weight.requires_grad_(differentiable)
    tensors = image, weight, *([options["bias"], options["residual"]] if fused else [None, None])
    last = ["direct"] if operator == "dilated_conv2d" else ["default", True]
    arguments = *tensors, *GEOMETRY[case], "relu" if fused else "none", *last
    torch.library.opcheck(getattr(ops, operator).default, arguments)


@pytest.mark.cpu_only
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_registration_of_transformed_weights(algorithm):
    image, weight = torch.randn(2, 16, 9, 10), torch.randn(24, 16, 3, 3)
    geometry = [2, 2], [2, 2, 2, 2], [1, 1], 1
    arguments = weight, [9, 10], *geometry, algorithm
    torch.library.opcheck(ops.dilated_conv2d_transform.default, arguments)
    transformed = ops.dilated_conv2d_transform(*arguments)
    assert transformed.dim() == 1
    assert transformed.dtype == torch.float32
    numbers = weight_and_geometry(weight.shape, geometry)
    arguments = image, transformed, None, None, numbers, "relu", algorithm
    torch.library.opcheck(ops.dilated_conv2d_transformed.default, arguments)
    expected = dilated_conv2d(
        image, weight, rate=2, padding=2, activation="relu", algorithm=algorithm
    )
    assert torch.equal(ops.dilated_conv2d_transformed(*arguments), expected)


@pytest.mark.cpu_only
@pytest.mark.skipif(not torch._C._has_mkldnn, reason="torch is built without oneDNN")
@pytest.mark.parametrize("fused", [("bias",), ("residual",), ("activation",), ("bias", "residual")])
@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("case", ["rate-2-same", "7x7-stride-2", "depthwise", "pointwise-stride"])
def test_weights_packed_by_onednn(case, activation, fused):
    image, weight, options = layer(case, torch.float32, channels_last=True)
    weight, options["activation"] = weight / weight[0].numel() ** 0.5, activation
    options |= {name: None for name in ("bias", "residual", "activation") if name not in fused}
    expected = reference.dilated_conv2d(image, weight, **options)
    geometry = ConvGeometry.of(
        "test",
        weight.shape[2:],
        **CASES[case][2],
    )
    activation = options["activation"] or "none"
    bare = Layer(image, weight, options["bias"], options["residual"], geometry, activation)
    assert can_prepack(bare)
    convolve = prepacked_call(prepack(weight, geometry, image.shape), geometry)
    output = convolve(image, options["bias"], options["residual"], activation)
    assert_near(output, expected)
    assert output.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.cpu_only
@pytest.mark.parametrize("operator", ["transform", "transformed"])
def test_transformed_weights_have_no_gradient(operator):
    weight = torch.randn(5, 3, 3, 3, requires_grad=True)
    geometry = [1, 1], [0, 0, 0, 0], [1, 1], 1
    with pytest.raises(RuntimeError, match=f"dilated_conv2d_{operator} has no gradient"):
        if operator == "transform":
            ops.dilated_conv2d_transform(weight, [9, 10], *geometry, "direct").sum().backward()
        else:
            packed = ops.dilated_conv2d_transform(weight.detach(), [9, 10], *geometry, "direct")
            image = torch.randn(1, 3, 9, 10, requires_grad=True)
            ops.dilated_conv2d_transformed(
                image,
                packed,
                None,
                None,
                weight_and_geometry(weight.shape, geometry),
                "none",
                "direct",
            ).sum().backward()


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 3, 3, 3))

    def forward(self, image):
        hidden = dilated_conv2d(image, self.weight, rate=2, padding="same", activation="relu")
        return dilated_conv2d(hidden, self.weight.transpose(0, 1), padding="same", residual=image)


def test_compiled_graph():
    block = Block()
    # Everything but the code generation, which takes long and knows nothing of operators.
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((9, 10), (12, 7)):
        image = torch.randn(2, 3, *size)
        for format in (torch.contiguous_format, CHANNELS_LAST):
            moved = image.to(memory_format=format)
            assert_near(compiled(moved), block(moved))
    image.requires_grad_()
    for gradient, expected in zip(
        *(
            torch.autograd.grad(f(image).square().sum(), [image, block.weight])
            for f in (compiled, block)
        ),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-3)


def test_exported_graph():
    block, image = Block(), torch.randn(2, 3, 9, 10)
    sizes = {0: torch.export.Dim("B", max=8), 2: torch.export.Dim("H", min=4, max=99)}
    exported = torch.export.export(block, (image,), dynamic_shapes=(sizes,)).module()
    for shape in ((2, 3, 9, 10), (5, 3, 14, 10)):
        image = torch.randn(shape)
        assert_near(exported(image), block(image))


def test_autocast():
    image, weight, options = layer("rate-2-same", torch.float32)
    with torch.autocast(image.device.type, torch.bfloat16):
        output = dilated_conv2d(image, weight, **options)
    assert output.dtype == torch.bfloat16
    assert_near(output, reference.dilated_conv2d(image, weight, **options))


def test_autocast_leaves_float64_as_torch_does():
    image, weight, options = layer("rate-2-same", torch.float64)
    with torch.autocast(image.device.type, torch.bfloat16):
        output = dilated_conv2d(image, weight, **options)
    assert output.dtype == torch.float64


@pytest.mark.parametrize("moved", ["weight", "bias", "residual"])
def test_mixed_devices_are_refused(moved):
    image, weight, options = layer("rate-2-same", torch.float32)
    tensors = {"weight": weight, **options}
    tensors[moved] = tensors[moved].to("meta")
    rule = f"{moved} must be on the device of input, {image.device}, got meta"
    with pytest.raises(ValueError, match=rule):
        dilated_conv2d(image, **tensors)


@pytest.mark.cpu_only
@pytest.mark.parametrize("case", ["rate-2-same", "padding-per-side", "stride-2"])
def test_device_without_kernels(case):
    image, weight, options = layer(case, torch.float32)
    expected = dilated_conv2d(image, weight, **options)
    moved = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    output = dilated_conv2d(image.to("meta"), weight.to("meta"), **moved)
    assert (output.device.type, output.shape) == ("meta", expected.shape)


# Weights that serve several sizes, and the copy at the entry of a network


@pytest.mark.cpu_only
@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_equal_layouts_are_equal_weights(algorithm):
    weight = torch.randn(16, 16, 3, 3)
    geometry = ConvGeometry.of("test", (3, 3), rate=2, padding="same")
    layouts = {}
    for size in range(3, 40):
        layout = weight_layout(tuple(weight.shape), geometry, (size, size), algorithm)
        packed = transform_weight(weight, geometry, (size, size), algorithm)
        assert torch.equal(layouts.setdefault(layout, packed), packed)
    assert len(layouts) < 18  # of 37 sizes
    shapes = {packed.shape for packed in layouts.values()}
    assert (len(layouts) > 1) == (algorithm == "winograd") == (len(shapes) > 1)


@pytest.mark.cpu_only
@pytest.mark.parametrize("shape", [(2, 19, 7, 9), (1, 64, 24, 24), (1, 1, 5, 4), (0, 3, 4, 4)])
def test_channels_last_copy(shape, instruction_set):
    image = torch.randn(shape)
    for layout in (image, image.transpose(2, 3), image.flip(1).transpose(0, 1).contiguous()):
        copy = to_channels_last(layout)
        assert torch.equal(copy, layout)
        assert copy.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.cpu_only
def test_channels_last_copy_of_large_images(num_threads):
    image = torch.randn(1, 150, 130, 131)  # its copy lies in memory of fastseg's own
    for threads in (1, 2):
        num_threads(threads)
        copy = to_channels_last(image)
        assert torch.equal(copy, image)
    del image
    assert copy.clone().is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.cpu_only
def test_channels_last_copy_of_other_types():
    image = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    assert torch.equal(to_channels_last(image), image)
    with pytest.raises(RuntimeError, match="image must have dtype float32, got float64"):
        ops.to_channels_last(image)
    with pytest.raises(RuntimeError, match=re.escape("image must have shape (B, C, H, W)")):
        ops.to_channels_last(torch.ones(3, 4, 5))
    torch.library.opcheck(ops.to_channels_last.default, (image.float(),))


@pytest.mark.cpu_only
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")
def test_workspace_is_at_most_twice_the_layer():
    script = Path(__file__).parents[1] / "scripts" / "conv_workspace.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert len(rows) == 15
    beyond = {
        name: (int(taken), int(own)) for name, own, taken in rows if int(taken) > 2 * int(own)
    }
    assert not beyond


# Bits

BITS = {
    "direct": ((2, 40, 33, 31), (48, 40, 3, 3), {"rate": 2, "padding": "same"}),
    "winograd": ((2, 40, 33, 31), (48, 40, 3, 3), {"rate": 2, "padding": "same"}),
    "winograd-high": ((1, 64, 41, 41), (40, 64, 3, 3), {"rate": 6, "padding": "same"}),
    "pointwise": ((1, 96, 41, 41), (130, 96, 1, 1), {}),
    "strassen": ((2, 96, 25, 23), (64, 96, 1, 1), {}),
    "depthwise": ((1, 80, 41, 41), (80, 1, 3, 3), {"groups": 80, "padding": "same"}),
}


@pytest.mark.cpu_only
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", BITS)
def test_same_bits_for_every_number_of_threads(name, channels_last, instruction_set, num_threads):
    shape, weight_shape, geometry = BITS[name]
    image, weight = torch.randn(shape), torch.randn(weight_shape)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    algorithm = "direct" if name == "depthwise" else name
    outputs = []
    for threads in (1, 2, 3, 1):
        num_threads(threads)
        outputs.append(dilated_conv2d(image, weight, algorithm=algorithm, **geometry))
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


def test_image_alone_has_the_bits_it_has_in_a_batch():
    image, weight = torch.randn(3, 24, 21, 20), torch.randn(32, 24, 3, 3)
    for algorithm in [a for a in linear() if a != "torch"]:
        batch = dilated_conv2d(image, weight, padding="same", algorithm=algorithm)
        alone = dilated_conv2d(image[1:2], weight, padding="same", algorithm=algorithm)
        assert torch.equal(batch[1:2], alone)


@pytest.mark.cpu_only
@pytest.mark.parametrize("format", [torch.contiguous_format, CHANNELS_LAST])
def test_image_alone_has_the_bits_it_has_in_a_batch_by_strassen(format):
    image = torch.randn(3, 32, 15, 13).to(memory_format=format)
    weight = torch.randn(64, 32, 1, 1)
    batch = dilated_conv2d(image, weight, algorithm="strassen")
    assert torch.equal(batch[1:2], dilated_conv2d(image[1:2], weight, algorithm="strassen"))


# The choice


def refuse(*arguments, **named):
    raise AssertionError("torch's convolution was called")


@pytest.mark.parametrize("case", CASES)
def test_deterministic_never_calls_torch(case, monkeypatch):
    monkeypatch.setattr(functional, "conv2d", refuse)
    for dtype in (torch.float32, torch.float64):
        for channels_last in (False, True):
            image, weight, options = layer(case, dtype, channels_last)
            for accuracy in ("default", "high"):
                dilated_conv2d(image, weight, deterministic=True, accuracy=accuracy, **options)


def test_torch_means_torch(monkeypatch):
    image, weight, options = layer("plain", torch.float32)
    monkeypatch.setattr(functional, "conv2d", refuse)
    with pytest.raises(AssertionError, match="torch's convolution was called"):
        dilated_conv2d(image, weight, algorithm="torch", **options)
    dilated_conv2d(image, weight, algorithm="direct", **options)


CHOICES = {  # input channels, output channels, size, kernel, rate, groups: by pixels, planar
    "VGG conv5": ((512, 512, 65, 3, 2, 1), "winograd", "winograd"),
    "v3 ASPP r36": ((2048, 256, 65, 3, 36, 1), "winograd", "winograd"),
    "1x1 that narrows": ((1024, 256, 65, 1, 1, 1), "strassen", "strassen"),
    "1x1 that widens": ((256, 1024, 65, 1, 1, 1), "strassen", "strassen"),
    "1x1 of few outputs": ((512, 128, 65, 1, 1, 1), "strassen", "pointwise"),
    "1x1 of fewer channels": ((128, 128, 65, 1, 1, 1), "torch", "pointwise"),
    "output of fresh pages": ((3, 64, 513, 3, 1, 1), "direct", "direct"),
    "output of kept pages": ((3, 64, 257, 3, 1, 1), "torch", "torch"),
    "1x1 of few channels": ((64, 256, 129, 1, 1, 1), "torch", "pointwise"),
    "1x1 of few pixels": ((512, 512, 9, 1, 1, 1), "torch", "pointwise"),
    "depthwise": ((256, 256, 129, 3, 1, 256), "direct", "direct"),
}


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", CHOICES)
def test_choice_is_what_was_measured_to_be_fastest(name):
    (inputs, outputs, size, kernel, rate, groups), by_pixels, planar = CHOICES[name]
    shapes = (1, inputs, size, size), (outputs, inputs // groups, kernel, kernel)
    padding = [rate * (kernel - 1) // 2] * 4
    arguments = *shapes, (rate, rate), padding, (1, 1), groups
    for channels_last, expected in ((True, by_pixels), (False, planar)):
        choose = partial(ops.dilated_conv2d_algorithm, *arguments, channels_last)
        assert choose("default", False, True) == expected
        assert choose("default", True, True) != "torch"
        assert choose("high", True, True) not in ("winograd", "strassen", "torch")


@pytest.mark.cpu_only
def test_choice_does_not_depend_on_threads(num_threads):
    arguments = (1, 512, 65, 65), (512, 512, 3, 3), (2, 2), (2, 2, 2, 2), (1, 1), 1
    choices = set()
    for threads in (1, 2):
        num_threads(threads)
        choices.add(ops.dilated_conv2d_algorithm(*arguments, True, "default", False, True))
    assert len(choices) == 1
    assert choices <= set(ALGORITHMS)


# Rejections

IMAGE, WEIGHT = torch.ones(1, 2, 4, 5), torch.ones(3, 2, 3, 3)
REJECTED = {
    "input-kind": ({"input": [1]}, TypeError, "input must be a torch.Tensor, got list"),
    "weight-kind": ({"weight": None}, TypeError, "weight must be a torch.Tensor, got NoneType"),
    "bias-kind": ({"bias": 1.0}, TypeError, "bias must be a torch.Tensor, got float"),
    "residual-kind": ({"residual": 0}, TypeError, "residual must be a torch.Tensor, got int"),
    "input-rank": (
        {"input": torch.ones(2, 4, 5)},
        ValueError,
        "input must have shape (B, C, H, W), got (2, 4, 5)",
    ),
    "weight-rank": (
        {"weight": torch.ones(3, 2, 3)},
        ValueError,
        "weight must have shape (O, C / groups, KH, KW), got (3, 2, 3)",
    ),
    "input-size": (
        {"input": torch.ones(1, 2, 0, 5)},
        ValueError,
        "input must have sizes (B, C, H, W) from 1 to 2^30 (B from 0), got shape (1, 2, 0, 5)",
    ),
    "weight-size": (
        {"weight": torch.ones(3, 2, 0, 3)},
        ValueError,
        "weight must have sizes (O, C / groups, KH, KW) from 1 to 2^30, got shape (3, 2, 0, 3)",
    ),
    "channels": (
        {"input": torch.ones(1, 3, 4, 5)},
        ValueError,
        "input must have 2 channels for weights of shape (3, 2, 3, 3) in 1 group, got 3",
    ),
    "groups": (
        {"groups": 2, "input": torch.ones(1, 4, 4, 5)},
        ValueError,
        "groups must divide the 3 output channels, got 2",
    ),
    "groups-low": ({"groups": 0}, ValueError, "groups must be between 1 and 1073741824, got 0"),
    "groups-kind": ({"groups": 1.0}, TypeError, "groups must be an integer, got 1.0"),
    "rate-low": ({"rate": 0}, ValueError, "rate[0] must be between 1 and 1073741824, got 0"),
    "rate-kind": (
        {"rate": 1.5},
        TypeError,
        "rate must be an integer or a pair of integers, got 1.5",
    ),
    "rate-length": (
        {"rate": (1, 1, 1)},
        ValueError,
        "rate must be an integer or a pair of integers, got (1, 1, 1)",
    ),
    "stride-low": (
        {"stride": (1, -1)},
        ValueError,
        "stride[1] must be between 1 and 1073741824, got -1",
    ),
    "stride-kind": (
        {"stride": "2"},
        TypeError,
        "stride must be an integer or a pair of integers, got '2'",
    ),
    "padding-low": (
        {"padding": (0, 1, -1, 0)},
        ValueError,
        "padding[2] must be between 0 and 1073741824, got -1",
    ),
    "padding-name": (
        {"padding": "full"},
        ValueError,
        'padding must be "same", "valid", an integer, (vertical, horizontal) or '
        "(top, bottom, left, right), got 'full'",
    ),
    "padding-length": (
        {"padding": (1, 2, 3)},
        ValueError,
        'padding must be "same", "valid", an integer, (vertical, horizontal) or '
        "(top, bottom, left, right), got (1, 2, 3)",
    ),
    "padding-kind": (
        {"padding": None},
        TypeError,
        'padding must be "same", "valid", an integer, (vertical, horizontal) or '
        "(top, bottom, left, right), got None",
    ),
    "too-small": (
        {"rate": 2},
        ValueError,
        "input must be at least as large, with its padding, as the kernel's 5 x 5 field of view, "
        "got 4 x 5",
    ),
    "input-dtype": (
        {"input": IMAGE.int()},
        TypeError,
        "input must have dtype float32, float64, float16 or bfloat16, got int32",
    ),
    "weight-dtype": (
        {"weight": WEIGHT.double()},
        TypeError,
        "weight must have the dtype of input, float32, got float64",
    ),
    "bias-dtype": (
        {"bias": torch.ones(3).half()},
        TypeError,
        "bias must have the dtype of input, float32, got float16",
    ),
    "bias-shape": (
        {"bias": torch.ones(2)},
        ValueError,
        "bias must have shape (3,), got (2,)",
    ),
    "residual-shape": (
        {"residual": torch.ones(1, 3, 2, 1)},
        ValueError,
        "residual must have shape (1, 3, 2, 3), got (1, 3, 2, 1)",
    ),
    "residual-dtype": (
        {"residual": torch.ones(1, 3, 2, 3).double()},
        TypeError,
        "residual must have the dtype of input, float32, got float64",
    ),
    "activation": (
        {"activation": "tanh"},
        ValueError,
        "activation must be None, 'relu' or 'relu6', got 'tanh'",
    ),
    "accuracy": (
        {"accuracy": "low"},
        ValueError,
        "accuracy must be 'default' or 'high', got 'low'",
    ),
    "algorithm": (
        {"algorithm": "fft"},
        ValueError,
        "algorithm must be one of 'direct', 'winograd', 'winograd-high', 'pointwise', "
        "'strassen', 'torch', got 'fft'",
    ),
    "algorithm-and-determinism": (
        {"algorithm": "torch", "deterministic": True},
        ValueError,
        "algorithm must be one of fastseg's own where deterministic is true, got 'torch'",
    ),
    "algorithm-winograd": (
        {"algorithm": "winograd", "stride": 2},
        ValueError,
        "algorithm must serve the layer, got 'winograd', which needs a 3x3 kernel, stride 1, one "
        "group and 16 channels",
    ),
    "algorithm-pointwise": (
        {"algorithm": "pointwise"},
        ValueError,
        "algorithm must serve the layer, got 'pointwise', which needs a 1x1 kernel, no padding and "
        "one group",
    ),
    "algorithm-strassen": (
        {
            "algorithm": "strassen",
            "input": torch.ones(1, 33, 4, 5),
            "weight": torch.ones(48, 33, 1, 1),
        },
        ValueError,
        "algorithm must serve the layer, got 'strassen', which needs a 1x1 kernel, no padding, one "
        "group, an even number of input channels and at least 32 inputs and outputs",
    ),
    "algorithm-float64": (
        {
            "algorithm": "winograd",
            "input": torch.ones(1, 16, 4, 5).double(),
            "weight": torch.ones(16, 16, 3, 3).double(),
        },
        ValueError,
        "algorithm must be 'direct' for float64, got 'winograd'",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("algorithm", [None, "direct", "torch"])
def test_rejects(case, algorithm, moved):
    change, error, message = REJECTED[case]
    named = change.get("algorithm")
    if on_gpu() and named not in (None, "torch"):  # none of a GPU's
        names = ", ".join(map(repr, GPU_ALGORITHMS))
        message = f"algorithm must be one of {names}, got {named!r}"
    arguments = moved({"input": IMAGE, "weight": WEIGHT, "algorithm": algorithm, **change})
    with pytest.raises(error, match=f"^{re.escape(f'dilated_conv2d: {message}')}$"):
        dilated_conv2d(arguments.pop("input"), arguments.pop("weight"), **arguments)


@pytest.mark.cpu_only
def test_transformed_weights_of_another_layer():
    packed = torch.zeros(7)
    numbers = [3, 2, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(RuntimeError, match=r"dilated_conv2d_transformed: transformed must have"):
        ops.dilated_conv2d_transformed(IMAGE, packed, None, None, numbers, "none", "direct")
    with pytest.raises(RuntimeError, match="weight_and_geometry must have 13 entries, got 12"):
        ops.dilated_conv2d_transformed(IMAGE, packed, None, None, numbers[1:], "none", "direct")
