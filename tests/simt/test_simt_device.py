"""The CUDA kernels as a device of the tests: they run, and in any order with the same bits."""

import pytest
import simt_device
import torch

from fastseg import bilinear_upsample, upsample_argmax, upsample_cross_entropy, upsample_softmax
from fastseg._info import CUDA_OPERATORS
from fastseg.ops import permutohedral_filter, permutohedral_lattice

pytestmark = pytest.mark.skipif(
    simt_device.missing() is not None, reason=str(simt_device.missing())
)


def upsampling_results(layout=torch.contiguous_format):
    torch.manual_seed(0)
    logits = torch.randn(2, 37, 5, 6).contiguous(memory_format=layout).requires_grad_()
    labels = torch.randint(0, 37, (2, 19, 24))
    upsampled = bilinear_upsample(logits, (19, 24))
    probs = upsample_softmax(logits, (19, 24))
    loss = upsample_cross_entropy(logits, labels)
    losses = upsample_cross_entropy(logits, labels, reduction="none")
    results = [upsampled, probs, upsample_argmax(logits, (19, 24)), loss, losses]
    for result in (upsampled, probs, loss, losses):
        results += torch.autograd.grad(result, logits, torch.ones_like(result) / 3)
    return results


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_bits_in_any_order(layout):
    results = []
    for order in simt_device.ORDERS:
        with simt_device.emulated(order, seed=3):
            results.append(upsampling_results(layout))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def lattice_results():
    torch.manual_seed(0)
    features = (2 * torch.randn(2, 5, 20, 17)).requires_grad_()
    values = torch.randn(2, 3, 20, 17, requires_grad=True)
    lattice = permutohedral_lattice(features)
    filtered = permutohedral_filter(values, features, normalization="symmetric")
    grads = torch.autograd.grad(filtered, (values, features), torch.randn_like(filtered))
    return [*lattice, filtered, *grads]


def test_lattices_have_the_same_bits_in_any_order():
    """More contributions than one block scans or sorts."""
    results = []
    for order in simt_device.ORDERS:
        with simt_device.emulated(order, seed=3):
            results.append(lattice_results())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_indices_that_are_out_of_range_make_nan():
    """No index is read back to be refused, and none is trusted."""
    features, values = torch.randn(1, 2, 4, 5), torch.randn(1, 20, 2)
    with simt_device.emulated():
        vertices, weights, _, neighbours, segments, contributors = permutohedral_lattice(features)
        ops, large = torch.ops.fastseg, 2**30
        wrong = contributors.clone()
        wrong[0] = large
        splatted = ops.permutohedral_splat(values, vertices, weights, segments, wrong)
        assert splatted[0].isnan().all() and not splatted[1:].isnan().any()
        wrong = segments.clone()
        wrong[-1] = large
        splatted = ops.permutohedral_splat(values, vertices, weights, wrong, contributors)
        assert splatted[-1].isnan().all() and not splatted[:-1].isnan().any()
        wrong = vertices.clone()
        wrong[0, 3] = -1
        sliced = ops.permutohedral_slice(splatted.nan_to_num(), wrong, weights)
        assert sliced[0, 3].isnan().all() and not sliced[0, :3].isnan().any()
        products = ops.permutohedral_vertex_products(splatted.nan_to_num(), values, wrong)
        assert products[0, 3].isnan().all() and not products[0, :3].isnan().any()
        wrong = neighbours.clone()
        wrong[2, 0] = large
        assert ops.permutohedral_blur(splatted.nan_to_num(), wrong, False)[0].isnan().all()


def test_cuda_kernels_run_inside_only():
    count = simt_device.library().simt_launch_count
    before = count()
    expected = upsampling_results()
    assert count() == before
    with simt_device.emulated():
        found = upsampling_results()
    launched = count() - before
    assert launched > len(found)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    upsampling_results()
    assert count() == before + launched


def test_operators_that_fastseg_names():
    assert tuple(simt_device.emulated_operators()) == CUDA_OPERATORS


CUDA_ERRORS = {
    209: "the GPU must be of an architecture that fastseg was built for .*; build fastseg with "
    "TORCH_CUDA_ARCH_LIST set to the GPU's compute capability, 8.0 or later, or run it on the CPU",
    35: r"the NVIDIA driver must support CUDA \d+\.\d, got an older one; update the driver, .*",
    700: r"CUDA reports an error set by a test \(error 700\)",
}


@pytest.fixture
def gpu():
    """Setter of the driver's CUDA version and of the compute capability; both are put back."""
    library = simt_device.library()
    toolkit = library.simt_toolkit()
    yield library.simt_set_gpu
    library.simt_set_gpu(toolkit, 9, 0)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 3), (12, 1)])
def test_gpus_that_can_run_the_kernels(gpu, capability):
    toolkit = simt_device.library().simt_toolkit()
    with simt_device.emulated():
        for driver in (toolkit, toolkit // 1000 * 1000, 99000):  # minor versions are compatible
            gpu(driver, *capability)
            assert bilinear_upsample(torch.ones(1, 1, 2, 2), 4).shape == (1, 1, 4, 4)


def test_driver_older_than_the_toolkit_is_named(gpu):
    toolkit = simt_device.library().simt_toolkit()
    gpu(toolkit // 1000 * 1000 - 1000 + 40, 9, 0)
    text = (
        f"upsample_argmax: the NVIDIA driver must support CUDA {toolkit // 1000}."
        f"{toolkit % 1000 // 10}, with which fastseg was built, got one for CUDA "
        f"{toolkit // 1000 - 1}.4; update the driver, or build fastseg with a toolkit of that "
        "version"
    )
    with simt_device.emulated(), pytest.raises(RuntimeError) as caught:
        upsample_argmax(torch.ones(1, 1, 2, 2), 4)
    assert str(caught.value) == text


def test_gpu_older_than_the_oldest_built_is_named(gpu):
    gpu(99000, 7, 5)
    calls = [
        ("bilinear_upsample", lambda: bilinear_upsample(torch.ones(1, 1, 2, 2), 4)),
        ("permutohedral_lattice", lambda: permutohedral_lattice(torch.ones(1, 2, 4, 5))),
    ]
    with simt_device.emulated():
        for op, call in calls:
            with pytest.raises(
                RuntimeError,
                match=rf"^{op}: the GPU must be of compute capability 8\.0 or later \(fastseg was "
                r"built for sm_80, sm_90\), got 7\.5; its kernels need 8\.0 at least: run it on "
                r"the CPU$",
            ):
                call()


@pytest.mark.parametrize("error", CUDA_ERRORS)
def test_cuda_errors_say_what_to_do(error):
    with simt_device.emulated():
        simt_device.library().simt_set_error(error)
        with pytest.raises(RuntimeError, match=f"^bilinear_upsample: {CUDA_ERRORS[error]}$"):
            bilinear_upsample(torch.ones(1, 1, 2, 2), 4)
        bilinear_upsample(torch.ones(1, 1, 2, 2), 4)
