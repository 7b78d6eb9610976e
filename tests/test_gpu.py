"""What only a GPU can show. Here, too, is said aloud that the operators' tests left it out."""

import pytest
import torch

from fastseg import bilinear_upsample, upsample_cross_entropy

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
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            found = bilinear_upsample(scores * 2, 512)
        stream.synchronize()
        torch.testing.assert_close(found, bilinear_upsample(scores * 2, 512))
        assert found.device == scores.device
