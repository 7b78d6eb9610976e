"""The CUDA kernels as a device of the tests: they run, and in any order with the same bits."""

import itertools
import subprocess
from unittest import mock

import pytest
import simt_build
import simt_device
import torch
from torch.nn.functional import one_hot

from benchmarks import roofline_crf
from fastseg import bilinear_upsample, upsample_argmax, upsample_cross_entropy, upsample_softmax
from fastseg._info import CUDA_OPERATORS
from fastseg.crf import BilateralKernel, DenseCRF, GaussianKernel
from fastseg.ops import mean_field, permutohedral_filter, permutohedral_lattice

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


@pytest.fixture
def small_grids():
    """Grids of two blocks, as if every call had more than 2^31 of them."""
    set_largest = simt_device.library().simt_set_largest_grid
    set_largest(2)
    yield
    set_largest(2**31 - 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_bits_in_one_grid_and_in_several(layout, request):
    count = simt_device.library().simt_launch_count
    with simt_device.emulated():
        counts = [count()]
        expected = upsampling_results(layout)
        counts.append(count())
        request.getfixturevalue("small_grids")
        found = upsampling_results(layout)
        counts.append(count())
    assert counts[2] - counts[1] > counts[1] - counts[0]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_arrays_that_no_test_can_hold():
    """The label of 2^24 classes and more, and the last pixels of the widest row."""
    program = simt_build.build_program("plain", "size_corners_test")
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "classes: right\ncolumns: right\n")


def lattice_results():
    torch.manual_seed(0)
    features = (2 * torch.randn(2, 5, 20, 18)).requires_grad_()
    values = torch.randn(2, 3, 20, 18, requires_grad=True)
    lattice = permutohedral_lattice(features)
    results = [*lattice]
    for kind in ("symmetric", "mean"):
        filtered = permutohedral_filter(values, features, normalization=kind)
        grads = torch.autograd.grad(filtered, (values, features), torch.randn_like(filtered))
        results += [filtered, *grads]
    return [*results, torch.ops.fastseg.permutohedral_sum(torch.randn(1, 9001, 2))]


@pytest.mark.small
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
        for index in (large, len(splatted), -2, -(2**31)):
            for axis in (0, 1, 2):
                wrong = neighbours.clone()
                wrong[axis, 0] = index
                blurred = ops.permutohedral_blur(splatted.nan_to_num(), wrong, False)
                assert blurred[0].isnan().all()
                assert not blurred.isnan().all()


@pytest.mark.parametrize("index", [2**30, -2])
def test_the_cpu_refuses_these_indices(index):
    vertices, weights, _, neighbours, segments, contributors = permutohedral_lattice(
        torch.randn(1, 2, 4, 5)
    )
    ops, values = torch.ops.fastseg, torch.randn(1, 20, 2)
    lattice = ops.permutohedral_splat(values, vertices, weights, segments, contributors)
    neighbours[1, 0, 0] = index
    message = rf"permutohedral_blur: neighbours must be in \[-1, {len(lattice)}\), got {index}$"
    with pytest.raises(RuntimeError, match=message):
        ops.permutohedral_blur(lattice, neighbours, False)
    vertices[0, 0, 0] = index
    message = rf"permutohedral_slice: vertices must be in \[0, {len(lattice)}\), got {index}$"
    with pytest.raises(RuntimeError, match=message):
        ops.permutohedral_slice(lattice, vertices, weights)


def test_neighbours_need_not_be_aligned():
    """A pair is read at once; these begin at an odd number of 4 bytes."""
    lattice = permutohedral_lattice(torch.randn(1, 2, 4, 5))
    count = lattice.neighbours.shape[1]
    memory = torch.empty(lattice.neighbours.numel() + 1, dtype=torch.int32)
    odd = memory[1:].view(lattice.neighbours.shape).copy_(lattice.neighbours)
    assert odd.is_contiguous() and odd.data_ptr() % 8 == 4
    values, blur = torch.randn(count, 3), torch.ops.fastseg.permutohedral_blur
    with simt_device.emulated():
        for reverse in (False, True):
            assert torch.equal(
                blur(values, odd, reverse), blur(values, lattice.neighbours, reverse)
            )


@pytest.mark.small
def test_far_points_take_wide_keys_with_the_same_result():
    """A point so far away that packed keys have no room for it changes no other point's place."""
    for dims in (1, 2, 5, 9):
        near = 3 * torch.randn(1, dims, 60)
        far = torch.cat([near, torch.full((1, dims, 1), 1e9 / (dims + 1))], 2)
        with simt_device.emulated("random"):
            packed, wide = permutohedral_lattice(near), permutohedral_lattice(far)
        count = packed.neighbours.shape[1]
        assert torch.equal(wide.vertices[:, :60], packed.vertices)
        assert torch.equal(wide.neighbours[:, :count], packed.neighbours)
        assert (wide.vertices[:, 60] >= count).all()
        others = wide.neighbours[:, count:]
        assert ((others < 0) | (others >= count)).all()


def field(size=(6, 7), labels=21, dtype=torch.float32):
    """A position and a bilateral kernel."""
    torch.manual_seed(0)
    unary = torch.randn(1, labels, *size).to(dtype)
    features = [torch.randn(1, dims, *size) for dims in (2, 5)]
    return unary, features, [torch.tensor(3.0), torch.tensor(4.0)]


def test_launches_are_those_of_the_roofline():
    """An update is of six: splat and join, two axes of the blur each, slice and softmax."""
    unary, features, transforms = field((60, 80), 3)
    with simt_device.emulated():
        vertices = [permutohedral_lattice(points).neighbours.shape[1] for points in features]
        assert max(vertices) > 256  # more than one digit to be sorted by
        for iterations in (0, 1, 3):
            before = simt_device.library().simt_launch_count()
            mean_field(unary, features, transforms, iterations=iterations)
            launched = simt_device.library().simt_launch_count() - before
            kernels = [roofline_crf.Lattice(d, m) for d, m in zip((2, 5), vertices, strict=True)]
            build, updates = roofline_crf.mean_field(60 * 80, 3, kernels, iterations)
            assert launched == sum(step.launches for step in build + updates)
            assert sum(step.launches for step in updates) == 6 * iterations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mean_field_can_be_captured(dtype):
    """Nothing is read back: there is room for as many vertices as there may be."""
    unary, features, transforms = field(dtype=dtype)
    with simt_device.emulated():
        expected = mean_field(unary, features, transforms)
        with simt_device.captured():
            found = mean_field(unary, features, transforms)
            features[1][0, 2, 3, 4] = float("nan")
            refused = mean_field(unary, features, transforms)
            message = "permutohedral_lattice: the stream must not be under capture, got one that is"
            with pytest.raises(RuntimeError, match=f"^{message}"):
                permutohedral_lattice(features[0])
    assert torch.equal(found, expected)
    assert refused.isnan().all()


def changes_of_memory(call):
    """Bytes that torch's allocator gives, and takes back as negative ones, one after the other."""
    settings = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
    with torch.profiler.profile(**settings) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def test_scratch_of_the_build_is_given_back_before_the_updates():
    unary, features, transforms = field((30, 40), 21)

    def run(iterations):
        return mean_field(unary, features, transforms, iterations=iterations)

    with simt_device.emulated():
        build, call = (changes_of_memory(lambda n=n: run(n)) for n in (0, 2))
    assert sum(build) == sum(call) == 0
    assert max(itertools.accumulate(call)) == max(itertools.accumulate(build))
    given = sum(change for change in call if change > 0)
    assert given > 1.15 * max(itertools.accumulate(call))  # both would be held together


def test_points_are_not_summed_by_a_scan():
    """torch's is not of one order on a GPU, nor the same for one image as for many."""
    values, features = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 4, 5)
    inputs = [tensor.requires_grad_() for tensor in (values, features, torch.ones(3))]
    scan, axes = torch.Tensor.cumsum, []

    def counted(tensor, axis):
        axes.append(axis)
        return scan(tensor, axis)

    with simt_device.emulated(), mock.patch.object(torch.Tensor, "cumsum", counted):
        filtered = permutohedral_filter(values, features, normalization="mean")
        torch.autograd.grad(filtered.square().sum(), inputs[:2])
        probs = mean_field(
            values, [features], inputs[2:], normalization="mean", features_gradient="gaussian"
        )
        torch.autograd.grad(probs.square().sum(), inputs)
    assert set(axes) == {2}  # along a point's features


def test_more_pixels_than_an_edge_can_name():
    with (
        simt_device.emulated(),
        pytest.raises(
            ValueError,
            match=r"^mean_field: unary must have "
            r"fewer than 2\^32 pixels in a batch on CUDA, got 4294967296$",
        ),
    ):
        mean_field(torch.zeros(1).expand(1, 1, 2**16, 2**16), [], [])


def test_a_crf_stores_halves_where_it_is_asked_to():
    torch.manual_seed(0)
    scores, image = torch.randn(1, 3, 6, 7).half(), torch.randint(0, 255, (1, 3, 6, 7))
    kernels = [GaussianKernel(3.0, 2.0), BilateralKernel(10.0, 20.0, 3.0)]
    with simt_device.emulated():
        rounded = DenseCRF(kernels)(scores, image)
        stored = DenseCRF(kernels, half_storage=True)(scores, image)
    assert stored.dtype == torch.float16
    assert not torch.equal(stored, rounded)  # Q was rounded on the way
    torch.testing.assert_close(stored, rounded, rtol=0, atol=2e-3)


def test_half_precision_of_many_points_neither_overflows_nor_underflows():
    """A flat image sums up thousands of points, and a lone one is as near to float32."""
    points = 3000
    features = torch.zeros(1, 2, points)
    features[0, :, -1] = 40.0
    unary = -4.0 * one_hot(torch.arange(points) % 3, 3).T[None].float()
    for kind, weight in (("after", 2.0), ("none", 1e-3)):
        settings = [features], [torch.tensor(weight)]
        expected = mean_field(unary, *settings, iterations=2, normalization=kind)
        with simt_device.emulated():
            for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
                probs = mean_field(unary.to(dtype), *settings, iterations=2, normalization=kind)
                torch.testing.assert_close(probs.float(), expected, rtol=0, atol=tolerance)


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


@pytest.mark.small
def test_more_labels_than_lanes_and_more_kernels_than_a_launch():
    """Logits that do not fit into registers, in each type of storage, and a second pass."""
    unary, features, _ = field((4, 5), 37)
    features = [*features, *features, features[0]]
    transforms = [torch.tensor(0.3), torch.rand(37), torch.randn(37, 37) / 9] * 2
    expected = mean_field(unary, features, transforms[:5], iterations=2)
    with simt_device.emulated():
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-3)):
            probs = mean_field(unary.to(dtype), features, transforms[:5], iterations=2)
            torch.testing.assert_close(probs.float(), expected, rtol=0, atol=tolerance)


CUDA_ERRORS = {
    209: "the GPU must be of an architecture that fastseg was built for .*; build fastseg with "
    "TORCH_CUDA_ARCH_LIST set to the GPU's compute capability, 8.0 or later, or run it on the CPU",
    35: r"the NVIDIA driver must support CUDA \d+\.\d, got an older one; update the driver, .*",
    700: r"CUDA reports an error set by a test \(error 700\)",
    2: r"CUDA reports an error set by a test \(error 2\)",  # no memory
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
                r"built for sm_90, sm_80, compute_90\), got 7\.5; its kernels need 8\.0 at least: "
                r"run it on the CPU$",
            ):
                call()


@pytest.mark.parametrize("error", CUDA_ERRORS)
def test_cuda_errors_say_what_to_do(error):
    with simt_device.emulated():
        simt_device.library().simt_set_error(error)
        with pytest.raises(
            RuntimeError, match=f"^bilinear_upsample: {CUDA_ERRORS[error]}$"
        ) as caught:
            bilinear_upsample(torch.ones(1, 1, 2, 2), 4)
        assert type(caught.value) is (torch.OutOfMemoryError if error == 2 else RuntimeError)
        bilinear_upsample(torch.ones(1, 1, 2, 2), 4)
