"""What only a GPU can show. Here, too, is said aloud that the operators' tests left it out."""

import copy

import pytest
import torch

from fastseg import aspp, bilinear_upsample, dilated_conv2d, upsample_cross_entropy
from fastseg.crf import BilateralKernel, DenseCRF, GaussianKernel
from fastseg.ops import mean_field, permutohedral_filter, permutohedral_lattice

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu(missing_for_cuda):
    if missing_for_cuda:
        pytest.skip(f"{missing_for_cuda}: no operator's test ran on the device cuda")


def test_graph_capture():
    """No call waits for the GPU or allocates outside torch's pools: both would end a capture."""
    logits = torch.randn(1, 5, 9, 9, device="cuda", requires_grad=True)
    labels = torch.randint(0, 5, (1, 33, 33), device="cuda")
    expected = upsample_cross_entropy(logits, labels)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = upsample_cross_entropy(logits, labels)
        (grad,) = torch.autograd.grad(loss, logits)
    graph.replay()
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


def test_other_streams_and_devices():
    for device in range(torch.cuda.device_count()):
        scores = torch.randn(1, 3, 64, 64, device=f"cuda:{device}")
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))  # which draws the scores
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            found = bilinear_upsample(scores * 2, 512)
        stream.synchronize()
        torch.testing.assert_close(found, bilinear_upsample(scores * 2, 512))
        assert found.device == scores.device


def captured(call):
    """What a call gives inside a CUDA graph, replayed, after it was run once outside."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    graph.replay()
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("algorithm", [None, "torch"])
def test_capture_of_convolutions(dtype, algorithm):
    image = torch.randn(1, 32, 17, 17, device="cuda", dtype=dtype)
    weight = torch.randn(16, 32, 3, 3, device="cuda", dtype=dtype)
    options = {"rate": 2, "padding": 2, "activation": "relu", "algorithm": algorithm}
    with torch.no_grad():
        expected = dilated_conv2d(image, weight, **options)
        found = captured(lambda: dilated_conv2d(image, weight, **options))
        torch.testing.assert_close(found, expected)
        weights = [weight, weight]
        expected = aspp(image, weights, None, [1, 3])
        torch.testing.assert_close(captured(lambda: aspp(image, weights, None, [1, 3])), expected)


def test_capture_of_the_crf():
    """The lattices too: nothing is read back while the stream is captured."""
    scores = torch.randn(1, 4, 20, 26, device="cuda")
    image = torch.randint(0, 256, (1, 3, 20, 26), dtype=torch.uint8, device="cuda")
    crf = DenseCRF([GaussianKernel(3.0, 3.0), BilateralKernel(80.0, 13.0, 10.0)]).cuda()
    with torch.no_grad():
        expected = crf(scores, image)
        assert torch.equal(captured(lambda: crf(scores, image)), expected)


def test_capture_of_a_crf_that_was_never_called():
    """Nothing is known of its parameters then, and nothing may be read of them."""
    scores = torch.rand(1, 4, 20, 26, device="cuda").softmax(1)
    image = torch.rand(1, 3, 20, 26, device="cuda")
    kernels = [GaussianKernel(3.0, 3.0), BilateralKernel(80.0, (13.0, 9.0, 13.0), torch.ones(4))]
    crf = DenseCRF(kernels, "full", labels=4, half_storage=True).cuda()
    with torch.no_grad():
        with pytest.warns(UserWarning, match="image should hold 0-255 values"):
            expected = copy.deepcopy(crf)(scores, image, kind="probabilities")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = crf(scores, image, kind="probabilities")
        graph.replay()
    assert torch.equal(found, expected)


def test_parameters_are_read_once_for_each_change():
    """A call waits for the GPU in the operator, and, at a change, for the parameter."""
    scores = torch.randn(1, 4, 20, 26, device="cuda")
    crf = DenseCRF([GaussianKernel(3.0, 3.0)]).cuda()
    crf(scores)
    torch.cuda.set_sync_debug_mode("error")  # of torch's own waits; the operator's are not seen
    try:
        crf(scores)
        with torch.no_grad():
            crf.kernels[0].weight.add_(1)
        with pytest.raises(RuntimeError, match="synchroniz"):
            crf(scores)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("size", [(9, 11), (200, 300)])
def test_batches_and_runs_of_the_mean_normalisation_have_the_same_bits(size):
    values, features = (torch.randn(3, c, *size, device="cuda") for c in (1, 2))
    together, again = (permutohedral_filter(values, features, normalization="mean") for _ in "12")
    assert torch.equal(together, again)
    for image in range(3):
        one = slice(image, image + 1)
        alone = permutohedral_filter(values[one], features[one], normalization="mean")
        assert torch.equal(together[one], alone)


def test_capture_of_mean_field():
    unary = torch.randn(1, 3, 20, 26, device="cuda")
    features, transform = torch.randn(1, 2, 20, 26, device="cuda"), torch.eye(3, device="cuda")
    expected = mean_field(unary, [features], [transform])
    assert torch.equal(captured(lambda: mean_field(unary, [features], [transform])), expected)


def test_capture_of_a_filter_on_a_lattice_that_is_there():
    """Building a lattice reads back how many vertices there are, and says so under capture."""
    features, values = (torch.randn(1, c, 20, 26, device="cuda") for c in (5, 3))
    lattice = permutohedral_lattice(features)
    expected = permutohedral_filter(values, None, lattice=lattice)
    found = captured(lambda: permutohedral_filter(values, None, lattice=lattice))
    assert torch.equal(found, expected)
