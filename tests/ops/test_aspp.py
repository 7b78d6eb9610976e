"""Spatial pyramid pooling: equal to the float64 reference, differentiable, deterministic."""

import os
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fastseg import reference
from fastseg.ops import aspp, dilated_conv2d, gpu
from fastseg.ops.aspp import pool_transformed, transform_weights

ops = torch.ops.fastseg
pytestmark = pytest.mark.usefixtures("device")
CHANNELS_LAST = torch.channels_last

# input (B, C, H, W), outputs of a branch, kernel of each branch, rates
CASES = {
    "v2-resnet": ((1, 40, 13, 14), 21, (3, 3, 3, 3), (6, 12, 18, 24)),
    "v2-small-rates": ((2, 9, 9, 11), 5, (3, 3, 3), (1, 2, 3)),
    "v3": ((1, 33, 12, 11), 16, (1, 3, 3, 3), (0, 3, 6, 9)),
    "one-branch": ((2, 5, 7, 6), 3, (3,), (2,)),
    "one-by-one": ((2, 5, 7, 6), 3, (1, 1), (0, 1)),
    "mixed-kernels": ((1, 4, 15, 14), 6, (1, 3, 5), (4, 3, 2)),
    "equal-rates": ((1, 4, 9, 9), 3, (3, 3), (2, 2)),
    "one-pixel": ((1, 6, 1, 1), 4, (3, 3), (1, 6)),
    "one-row": ((1, 6, 1, 30), 4, (3, 3), (2, 7)),
    "beyond-the-image": ((1, 6, 5, 4), 4, (3, 3), (5, 30)),
    "many-outputs": ((1, 16, 17, 18), 70, (3, 3), (2, 5)),
    "empty-batch": ((0, 6, 5, 4), 4, (3, 3), (1, 2)),
}
if os.environ.get("FASTSEG_NIGHTLY"):  # several tiles each way, and many steps of depth
    CASES |= {
        "large-v2": ((1, 64, 25, 27), 21, (3, 3, 3, 3), (6, 12, 18, 24)),
        "large-v3": ((1, 66, 17, 19), 72, (1, 3, 3, 3), (0, 6, 12, 18)),
        "deep-v3": ((1, 515, 5, 7), 40, (1, 3), (0, 2)),
    }
BOUND = {  # greatest error, relative to the largest output
    torch.float64: 1e-13,
    torch.float32: 3e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


# A GPU's float32 is multiplied as such; TF32 has 2^-11 in each factor.
GPU_BOUND, TF32_BOUND = 3e-6, 2e-3
SMALL = ["one-by-one", "beyond-the-image"]


def on_gpu():
    """Whether the CUDA kernels run, emulated or not."""
    return gpu.serves(torch.empty(0))


def algorithms(dtype):
    """None, and of a GPU every tile, and depths in one part and in several."""
    if not on_gpu():
        return [None, "torch"]
    if dtype == torch.float64:
        return [None, "direct", "torch"]
    names = [None, "direct", "gemm-128x128", "gemm-64x64-split2", "gemm-128x32", "torch"]
    return names + (["gemm-64x64-tf32"] if dtype == torch.float32 else [])


def bound_of(dtype, algorithm):
    if algorithm == "torch":  # rounds each branch, too
        return {torch.float32: TF32_BOUND if on_gpu() else 3e-5, torch.float64: 1e-13}.get(
            dtype, 4 * BOUND[dtype]
        )
    if dtype != torch.float32 or not on_gpu():
        return BOUND[dtype]
    if algorithm is None or algorithm.endswith("-tf32"):
        return TF32_BOUND  # torch's own switch is on
    return GPU_BOUND


def pyramid(case, dtype=torch.float32, channels_last=False):
    """Input, weights, biases and rates."""
    shape, outputs, kernels, rates = CASES[case]
    image = torch.randn(shape, dtype=dtype)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    weights = [torch.randn(outputs, shape[1], k, k, dtype=dtype) for k in kernels]
    return image, weights, [torch.randn(outputs, dtype=dtype) for _ in kernels], list(rates)


def assert_near(actual, expected, bound=None):
    assert actual.shape == expected.shape
    if actual.numel():
        difference = (actual.double() - expected.double()).abs().max()
        bound = bound_of(actual.dtype, None) if bound is None else bound
        assert difference <= bound * expected.double().abs().max()


# Against the reference


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in SMALL])
def test_matches_reference(case, combine, channels_last, device, instruction_set):
    matches_reference(case, combine, channels_last)


@pytest.mark.small
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("case", SMALL)
def test_small_pyramid_matches_reference(case, combine, channels_last, device, instruction_set):
    matches_reference(case, combine, channels_last)


def matches_reference(case, combine, channels_last):
    for dtype in BOUND:
        image, weights, biases, rates = pyramid(case, dtype, channels_last)
        calls = [(None, biases), ("relu", biases), (None, [])]
        algorithms_of = [(*calls[1], a) for a in algorithms(dtype)]
        for activation, terms, algorithm in [*((*c, None) for c in calls), *algorithms_of]:
            output = aspp(image, weights, terms, rates, combine, activation, algorithm=algorithm)
            arguments = image.double(), weights, terms, rates, combine, activation
            assert_near(output, reference.aspp(*arguments), bound_of(dtype, algorithm))
            assert output.dtype == dtype
            if channels_last and image.shape[1] > 1 and not image.is_contiguous():
                assert output.is_contiguous(memory_format=CHANNELS_LAST)
            else:
                assert output.is_contiguous()


@pytest.mark.small
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_relu6_cuts_the_same_sums(combine, device, instruction_set):
    for dtype in BOUND:
        image, weights, biases, rates = pyramid(SMALL[0], dtype)
        image = image * 10
        for algorithm in [None, *algorithms(dtype)]:
            sums, output = (
                aspp(image, weights, biases, rates, combine, activation, algorithm=algorithm)
                for activation in (None, "relu6")
            )
            assert torch.equal(output, sums.clamp(0, 6))
            assert (output == 0).any()
            assert (output == 6).any()


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 2),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    size=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    branches=st.lists(
        st.tuples(st.sampled_from([1, 3, 3, 3, 5]), st.integers(1, 25)), min_size=1, max_size=5
    ),
    combine=st.sampled_from(["sum", "concat"]),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_pyramid(batch, channels, outputs, size, branches, combine, channels_last, seed):
    torch.manual_seed(seed)
    image = torch.randn(batch, channels, *size)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    weights = [torch.randn(outputs, channels, k, k) for k, _ in branches]
    rates = [rate for _, rate in branches]
    accuracy = "high" if on_gpu() else "default"  # not TF32
    output = aspp(image, weights, None, rates, combine, accuracy=accuracy)
    scale = float(torch.stack([w.abs().sum((1, 2, 3)).max() for w in weights]).max()) * 4
    torch.testing.assert_close(
        output,
        reference.aspp(image, weights, [], rates, combine),
        rtol=0,
        atol=3e-6 * scale * len(rates),
    )


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_outputs_of_different_branches_may_differ_where_concatenated(combine):
    image = torch.randn(1, 6, 9, 8)
    weights = [torch.randn(outputs, 6, 3, 3) for outputs in (2, 7, 3)]
    arguments = image, weights, None, [1, 2, 3], combine
    if combine == "concat":
        output = aspp(*arguments)
        assert output.shape == (1, 12, 9, 8)
        assert_near(output, reference.aspp(image, weights, [], [1, 2, 3], "concat"))
    else:
        with pytest.raises(ValueError, match=r"^aspp: weights\[1\] must have"):
            aspp(*arguments)


@pytest.mark.cpu_only
@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("case", ["v2-small-rates", "v3", "mixed-kernels", "many-outputs"])
def test_transformed_weights(case, combine):
    shape, outputs, kernels, rates = CASES[case]
    image = torch.randn(shape)
    weights = [torch.randn(outputs, shape[1], k, k) for k in kernels]
    biases = [torch.randn(outputs) for _ in kernels]
    transformed = transform_weights(weights, shape[2:], rates, combine, "default")
    shapes = [weight.shape for weight in weights]
    output = pool_transformed(image, transformed, biases, shapes, rates, combine, "relu", "default")
    assert torch.equal(output, aspp(image, weights, biases, rates, combine, "relu"))


REAL = {  # input channels, outputs, size, rates, combine
    "v2 ResNet": (2048, 21, 41, (6, 12, 18, 24), "sum"),
    "v2 VGG fc6": (512, 16, 41, (6, 12, 18, 24), "concat"),
    "v3": (2048, 16, 33, (0, 12, 24, 36), "concat"),
}


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", REAL)
def test_accuracy_on_real_layers(name):
    channels, outputs, size, rates, combine = REAL[name]
    image = torch.randn(1, channels, size, size).relu_().to(memory_format=CHANNELS_LAST)
    scale = (2 / (9 * channels)) ** 0.5
    weights = [scale * torch.randn(outputs, channels, *[3 if r else 1] * 2) for r in rates]
    exact = reference.aspp(image.double(), weights, [], rates, combine)
    torchs = [
        functional.conv2d(image, w, padding=r * (w.shape[2] // 2), dilation=max(r, 1))
        for w, r in zip(weights, rates, strict=True)
    ]
    torchs = torch.cat(torchs, 1) if combine == "concat" else sum(torchs)
    torchs_error = ((torchs.double() - exact).abs().max() / exact.abs().max()).item()
    assert_near(aspp(image, weights, None, rates, combine), exact)
    output = aspp(image, weights, None, rates, combine, accuracy="high")
    assert_near(output, exact, max(3e-6, torchs_error))


# Known answers


def test_sum_and_concatenation_of_convolutions():
    image, weights, biases, rates = pyramid("v3")
    outputs = [
        dilated_conv2d(image, w, b, rate=max(r, 1), padding="same", algorithm="direct")
        for w, b, r in zip(weights, biases, rates, strict=True)
    ]
    assert_near(aspp(image, weights, biases, rates, "sum"), sum(outputs))
    assert_near(aspp(image, weights, biases, rates, "concat"), torch.cat(outputs, 1))


def test_rates_beyond_the_image_leave_the_centre():
    image, weights, _, _ = pyramid("beyond-the-image")
    centres = sum(w[:, :, 1:2, 1:2] for w in weights)
    assert_near(aspp(image, weights, None, [5, 30]), functional.conv2d(image, centres))


def test_activation_follows_the_sum():
    image = torch.ones(1, 1, 2, 2)
    weights = [torch.full((1, 1, 1, 1), value) for value in (3.0, -2.0)]
    for combine, expected in (("sum", [1.0]), ("concat", [3.0, 0.0])):
        output = aspp(image, weights, [], [0, 0], combine, "relu")
        assert output[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_awkward_layouts(combine):
    image, weights, biases, rates = pyramid("v2-small-rates")
    expected = aspp(image, weights, biases, rates, combine)
    padded = functional.pad(image, (1, 2, 2, 1))
    moved = {
        "transposed": image.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": padded[:, :, 2:-1, 1:-2],
        "channels-last-crop": padded.to(memory_format=CHANNELS_LAST)[:, :, 2:-1, 1:-2],
        "every-other-channel": image.repeat_interleave(2, 1)[:, ::2],
    }
    strided = [w.transpose(0, 1).contiguous().transpose(0, 1) for w in weights]
    terms = [b.repeat_interleave(2)[::2] for b in biases]
    for other in moved.values():
        assert torch.equal(other, image)
        assert_near(aspp(other, strided, terms, rates, combine), expected)


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_nan_spreads_to_what_sees_it(combine):
    image, weights, _, rates = pyramid("v2-small-rates")
    image[0, 3, 4, 5] = float("nan")
    output = aspp(image, weights, None, rates, combine, "relu")
    expected = reference.aspp(image, weights, [], rates, combine, "relu")
    assert output[0][expected[0].isnan()].isnan().all()
    assert output[1].isfinite().all()


@pytest.mark.cpu_only
def test_device_without_kernels():
    image, weights, biases, rates = pyramid("v3", channels_last=True)
    tensors = [t.to("meta") for t in (image, *weights, *biases)]
    for combine in ("sum", "concat"):
        expected = aspp(image, weights, biases, rates, combine, "relu")
        output = aspp(tensors[0], tensors[1:5], tensors[5:], rates, combine, "relu")
        assert (output.device.type, output.shape) == ("meta", expected.shape)


# Gradients, graphs


@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize(("with_bias", "activation"), [(True, "relu"), (False, "relu6")])
def test_gradients(combine, with_bias, activation):
    image = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(2, 2, k, k, dtype=torch.float64, requires_grad=True) for k in (1, 3, 3)]
    biases = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(3 * with_bias)]

    def pool(image, *tensors):
        return aspp(image, tensors[:3], tensors[3:], [0, 1, 3], combine, activation)

    assert gradcheck(pool, (image, *weights, *biases), fast_mode=True)
    assert gradgradcheck(pool, (image, *weights, *biases), fast_mode=True)


@pytest.mark.parametrize("wanted", ["image", "weight", "bias"])
def test_gradient_of_one_argument(wanted):
    image, weights, biases, rates = pyramid("v2-small-rates", torch.float64)
    tensor = {"image": image, "weight": weights[1], "bias": biases[1]}[wanted].requires_grad_()
    (gradient,) = torch.autograd.grad(aspp(image, weights, biases, rates).square().sum(), tensor)
    (expected,) = torch.autograd.grad(
        reference.aspp(image, weights, biases, rates).square().sum(), tensor
    )
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("combine", "with_bias"), [("sum", True), ("concat", False)])
def test_registration(combine, with_bias):
    image, weights, biases, rates = pyramid("v3", channels_last=with_bias)
    for weight in weights:
        weight.requires_grad_()
    arguments = image, weights, biases if with_bias else [], rates, combine, "relu", "default"
    torch.library.opcheck(ops.aspp.default, arguments)


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        _, weights, biases, self.rates = pyramid("v2-small-rates")
        self.weights = torch.nn.ParameterList(weights)
        self.biases = torch.nn.ParameterList(biases)

    def forward(self, image):
        summed = aspp(image, [*self.weights], [*self.biases], self.rates)
        return torch.cat([summed, aspp(image, [*self.weights], None, self.rates, "concat")], 1)


def test_compiled_graph():
    head = Head()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((9, 10), (12, 7)):
        image = torch.randn(2, 9, *size, requires_grad=True)
        assert_near(compiled(image), head(image))
        gradients = [torch.autograd.grad(f(image).sum(), image)[0] for f in (compiled, head)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_exported_graph():
    head, image = Head(), torch.randn(2, 9, 9, 10)
    sizes = {0: torch.export.Dim("B", max=8), 2: torch.export.Dim("H", min=4, max=99)}
    exported = torch.export.export(head, (image,), dynamic_shapes=(sizes,)).module()
    other = torch.randn(5, 9, 14, 10)
    assert_near(exported(other), head(other))


def test_autocast():
    image, weights, biases, rates = pyramid("v2-small-rates")
    with torch.autocast(image.device.type, torch.bfloat16):
        output = aspp(image, weights, biases, rates)
    assert output.dtype == torch.bfloat16
    assert_near(output, reference.aspp(image, weights, biases, rates), 2e-2)


def test_mixed_devices_are_refused():
    image, weights, biases, rates = pyramid("v2-small-rates")
    for name, tensors in (("weights", weights), ("biases", biases)):
        mixed = {"weights": weights, "biases": biases}
        mixed[name] = [tensors[0], tensors[1].to("meta"), *tensors[2:]]
        rule = rf"{name}\[1\] must be on the device of input, {image.device}, got meta"
        with pytest.raises(ValueError, match=rule):
            aspp(image, rates=rates, **mixed)


@pytest.mark.cpu_only
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_same_bits_for_every_number_of_threads(
    combine, channels_last, instruction_set, num_threads
):
    image = torch.randn(2, 64, 33, 34)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST)
    weights = [torch.randn(21, 64, k, k) for k in (1, 3, 3)]
    outputs = []
    for threads in (1, 2, 3, 1):
        num_threads(threads)
        outputs.append(aspp(image, weights, None, [0, 6, 12], combine))
    assert all(torch.equal(output, outputs[0]) for output in outputs[1:])
    alone = aspp(image[1:], weights, None, [0, 6, 12], combine)
    assert torch.equal(alone, outputs[0][1:])


# Rejections

IMAGE = torch.ones(1, 2, 5, 6)
WEIGHTS, BIASES = [torch.ones(3, 2, 3, 3)] * 2, [torch.ones(3)] * 2
REJECTED = {
    "input-kind": (
        {"input": 1},
        TypeError,
        "input must be a torch.Tensor, got int",
    ),
    "weights-kind": (
        {"weights": WEIGHTS[0]},
        TypeError,
        "weights must be a list with one tensor for each branch, got Tensor",
    ),
    "weight-kind": (
        {"weights": [WEIGHTS[0], 1]},
        TypeError,
        "weights[1] must be a torch.Tensor, got int",
    ),
    "biases-kind": (
        {"biases": 3},
        TypeError,
        "biases must be a list with one tensor for each branch, got int",
    ),
    "bias-kind": (
        {"biases": [BIASES[0], None]},
        TypeError,
        "biases[1] must be a torch.Tensor, got NoneType",
    ),
    "rates-kind": (
        {"rates": 6},
        TypeError,
        "rates must be a list with one integer for each branch, got 6",
    ),
    "rate-kind": (
        {"rates": [6, 1.5]},
        TypeError,
        "rates must be a list with one integer for each branch, got [6, 1.5]",
    ),
    "no-branch": (
        {"weights": [], "biases": [], "rates": []},
        ValueError,
        "weights must have at least one entry, got 0",
    ),
    "rates-length": (
        {"rates": [1]},
        ValueError,
        "rates must have one entry for each of the 2 weights, got 1",
    ),
    "biases-length": (
        {"biases": BIASES[:1]},
        ValueError,
        "biases must have one entry for each of the 2 weights, or none, got 1",
    ),
    "rate-low": (
        {"rates": [1, -1]},
        ValueError,
        "rates[1] must be between 1 and 1048576, got -1",
    ),
    "rate-zero": (
        {"rates": [1, 0]},
        ValueError,
        "rates[1] must be between 1 and 1048576, got 0",
    ),
    "input-rank": (
        {"input": torch.ones(2, 5, 6)},
        ValueError,
        "input must have shape (B, C, H, W), got (2, 5, 6)",
    ),
    "weight-rank": (
        {"weights": [WEIGHTS[0], torch.ones(3, 2, 3)]},
        ValueError,
        "weights[1] must have shape (O, C, KH, KW), got (3, 2, 3)",
    ),
    "even-kernel": (
        {"weights": [WEIGHTS[0], torch.ones(3, 2, 2, 2)]},
        ValueError,
        "weights[1] must have an odd kernel, got 2 x 2",
    ),
    "channels": (
        {"weights": [WEIGHTS[0], torch.ones(3, 4, 3, 3)]},
        ValueError,
        "input must have 4 channels for weights of shape (3, 4, 3, 3) in 1 group, got 2",
    ),
    "outputs": (
        {"weights": [WEIGHTS[0], torch.ones(4, 2, 3, 3)], "biases": []},
        ValueError,
        "weights[1] must have the 3 output channels of weights[0] to be summed, got 4",
    ),
    "bias-shape": (
        {"biases": [BIASES[0], torch.ones(2)]},
        ValueError,
        "biases[1] must have shape (3,), got (2,)",
    ),
    "input-dtype": (
        {"input": IMAGE.int()},
        TypeError,
        "input must have dtype float32, float64, float16 or bfloat16, got int32",
    ),
    "weight-dtype": (
        {"weights": [WEIGHTS[0], WEIGHTS[1].double()]},
        TypeError,
        "weights[1] must have the dtype of input, float32, got float64",
    ),
    "bias-dtype": (
        {"biases": [BIASES[0], BIASES[1].half()]},
        TypeError,
        "biases[1] must have the dtype of input, float32, got float16",
    ),
    "combine": (
        {"combine": "mean"},
        ValueError,
        "combine must be 'sum' or 'concat', got 'mean'",
    ),
    "accuracy": (
        {"accuracy": "low"},
        ValueError,
        "accuracy must be 'default' or 'high', got 'low'",
    ),
    "activation": (
        {"activation": "tanh"},
        ValueError,
        "activation must be None, 'relu' or 'relu6', got 'tanh'",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case, moved):
    change, error, message = REJECTED[case]
    good = {"input": IMAGE, "weights": WEIGHTS, "biases": BIASES, "rates": [1, 2]}
    arguments = moved({**good, **change})
    with pytest.raises(error, match=f"^{re.escape(f'aspp: {message}')}$"):
        aspp(**arguments)
