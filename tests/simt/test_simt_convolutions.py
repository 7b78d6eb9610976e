"""The GPU's convolutions: which algorithm a layer takes, what is refused, bits in any order."""

import re
import sys

import pytest
import simt_device
import torch

from fastseg.ops import aspp, dilated_conv2d, gpu
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.ops.dilated_conv import GPU_ALGORITHMS, Layer

pytestmark = pytest.mark.skipif(
    simt_device.missing() is not None, reason=str(simt_device.missing())
)
ops = torch.ops.fastseg
ASPP = sys.modules["fastseg.ops.aspp"]  # the package has the function of that name


@pytest.fixture
def emulated():
    with simt_device.emulated():
        yield


def chosen(channels, outputs, size, rate, *, batch=1, kernel=3, groups=1, **options):
    named = {"dtype": "float16", "tf32": False, "fused": 3, "deterministic": False, **options}
    return ops.dilated_conv2d_gpu_algorithm(
        (batch, channels, size, size),
        (outputs, channels // groups, kernel, kernel),
        (rate, rate),
        [rate * (kernel // 2)] * 4,
        (1, 1),
        groups,
        *named.values(),
        "",
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_choice(dtype):
    """Large rates skip most taps; one image of few pixels is split in depth."""
    own = {"dtype": dtype, "deterministic": True}
    if dtype == "float64":
        assert chosen(512, 512, 41, 12, **own) == "direct"
        assert chosen(512, 512, 41, 12, dtype=dtype) == "torch"
        return
    assert chosen(512, 1024, 41, 24, dtype=dtype).startswith("gemm-")
    assert chosen(512, 1024, 65, 1, dtype=dtype, fused=0) == "torch"
    assert chosen(512, 512, 33, 2, **own).count("-split") == 1
    if dtype != "float32":
        assert chosen(512, 512, 129, 2, batch=8, **own) == "gemm-128x128"
        assert chosen(2048, 21, 129, 2, batch=8, **own) == "gemm-128x32"
    assert chosen(256, 256, 129, 2, groups=256, dtype=dtype) == "direct"
    names = {
        chosen(c, o, s, 2, batch=b, **own)
        for c in (3, 64, 2048)
        for o in (21, 256, 1024)
        for s in (9, 33, 129)
        for b in (1, 16)
    }
    assert names < set(GPU_ALGORITHMS)
    assert not any(name.endswith("-tf32") for name in names)


def test_geometry_beyond_the_tiles_arithmetic():
    huge = chosen(8, 8, 9, 2**29, kernel=1, deterministic=True)
    assert huge == "direct"
    assert chosen(8, 8, 9, 2**29, kernel=1) == "torch"


def test_torchs_switch_allows_tf32(emulated, monkeypatch):
    ran = []
    monkeypatch.setattr(
        "fastseg.ops.dilated_conv.call_plainly", lambda _, arguments: ran.append(arguments[-1])
    )
    image, weight = torch.ones(1, 64, 40, 40), torch.ones(64, 64, 3, 3)
    options = {"rate": 24, "padding": 24}
    for allowed in (True, False):
        with torch.backends.cudnn.flags(allow_tf32=allowed):
            dilated_conv2d(image, weight, **options)
            dilated_conv2d(image, weight, accuracy="high", **options)
            dilated_conv2d(image.half(), weight.half(), **options)
    assert all(name.startswith("gemm") for name in ran)
    assert [name.endswith("-tf32") for name in ran] == [True] + [False] * 5


def test_tf32_rounds_and_float32_does_not(emulated):
    weight, image = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 1 + 2**-12)
    nearest = {"gemm-64x64": 1 + 2**-12, "gemm-64x64-tf32": 1.0}
    for algorithm, value in nearest.items():
        assert dilated_conv2d(image, weight, algorithm=algorithm).item() == value
    for allowed, value in ((True, 1.0), (False, 1 + 2**-12)):
        with torch.backends.cudnn.flags(allow_tf32=allowed):
            assert aspp(image, [weight], None, [0]).item() == value
            assert aspp(image, [weight], None, [0], accuracy="high").item() == 1 + 2**-12


@pytest.mark.parametrize("listed", ["gemm-64x64-split8", "torch", "unknown", "gemm-64x64-tf32"])
def test_the_table_comes_first(emulated, monkeypatch, listed):
    asked = []
    monkeypatch.setattr(gpu, "listed", lambda op, key, input: asked.append((op, key)) or listed)
    image, weight = torch.ones(1, 16, 9, 9).half(), torch.ones(16, 16, 3, 3).half()
    geometry = ConvGeometry.of("test", (3, 3), padding="same")
    layer = Layer(image, weight, None, None, geometry, "none")
    serves = listed in ("gemm-64x64-split8", "torch")
    modelled = ops.dilated_conv2d_gpu_algorithm(
        image.shape, weight.shape, *geometry, "float16", False, 0, False, ""
    )
    assert layer.choose("default", False) == (listed if serves else modelled)
    assert layer.choose("default", True) != "torch"
    ran = []
    monkeypatch.setattr(ASPP, "call_plainly", lambda _, arguments: ran.append(arguments[-1]))
    monkeypatch.setattr(ASPP, "pool_by_torch", lambda *arguments: ran.append(arguments[-1]))
    aspp(image, [weight], None, [1])
    assert ran == [listed if serves else "auto"]
    assert {op for op, _ in asked} == {"dilated_conv2d", "aspp"}


REFUSED = {
    "gemm-64x64-tf32": (torch.float16, "which needs float32"),
    "gemm-64x64": (
        torch.float64,
        "which needs float32, float16 or bfloat16, and sizes with padding below 268435456",
    ),
}


@pytest.mark.parametrize("algorithm", REFUSED)
def test_refused(emulated, algorithm):
    dtype, needs = REFUSED[algorithm]
    image, weight = torch.ones(1, 2, 3, 3, dtype=dtype), torch.ones(2, 2, 1, 1, dtype=dtype)
    message = f"algorithm must serve the layer, got '{algorithm}', {needs}"
    with pytest.raises(ValueError, match=f"^dilated_conv2d: {re.escape(message)}$"):
        dilated_conv2d(image, weight, algorithm=algorithm)
    with pytest.raises(ValueError, match=f"^aspp: {re.escape(message)}$"):
        aspp(image, [weight], None, [0], algorithm=algorithm)
    with pytest.raises(RuntimeError, match="algorithm must be 'direct' or, for example, 'gemm"):
        ops.dilated_conv2d(
            image, weight, None, None, [1, 1], [0] * 4, [1, 1], 1, "none", "winograd"
        )


def test_more_branches_than_a_kernels_arguments_hold(emulated):
    image = torch.randn(1, 3, 6, 5)
    weights = [torch.randn(2, 3, 3, 3) for _ in range(37)]
    biases, rates = [torch.randn(2) for _ in weights], [1 + i % 4 for i in range(37)]
    for combine in ("sum", "concat"):
        expected = aspp(
            image.double(), [w.double() for w in weights], [b.double() for b in biases], rates,
            combine, algorithm="torch",
        )  # fmt: skip
        for algorithm in ("direct", "gemm-64x64", "gemm-128x32-split4"):
            output = aspp(image, weights, biases, rates, combine, algorithm=algorithm)
            torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-4)


def results():
    torch.manual_seed(0)
    image = torch.randn(2, 9, 9, 8)
    weights = [torch.randn(21, 9, 3, 3) for _ in range(3)]
    outputs = []
    for dtype in (torch.float32, torch.float16):
        for algorithm in ("gemm-64x64", "gemm-128x32-split4", "direct"):
            options = {"rate": 6, "padding": 6, "algorithm": algorithm}
            outputs.append(dilated_conv2d(image.to(dtype), weights[0].to(dtype), **options))
        moved = [weight.to(dtype) for weight in weights]
        for combine in ("sum", "concat"):
            outputs.append(aspp(image.to(dtype), moved, None, [1, 6, 12], combine))
    return outputs


def test_same_bits_in_any_order():
    found = []
    for order in simt_device.ORDERS:
        with simt_device.emulated(order, seed=3):
            found.append(results())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("algorithm", ["gemm-64x64", "gemm-64x64-tf32"])
def test_depth_is_summed_as_accurately_as_torch_does(emulated, algorithm):
    image = torch.randn(1, 256, 6, 6).relu_().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 256, 3, 3) / 34
    options = {"rate": 2, "padding": 2}
    exact = dilated_conv2d(image.double(), weight.double(), algorithm="torch", **options)
    output = dilated_conv2d(image, weight, algorithm=algorithm, **options)
    error = (output.double() - exact).abs().max() / exact.abs().max()
    assert error <= (1e-3 if algorithm.endswith("tf32") else 3e-6)
