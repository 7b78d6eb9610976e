"""What the suites that race against torch itself have in common."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import harness

BOUND = 3e-5  # greatest difference from float64 that counts as right, relative to the largest value


def missing() -> str | None:
    try:
        import_module("fastseg.ops")
    except ImportError as error:
        return f"fastseg is not built ({error})"
    return None


def without_gradients(run: Callable[[], Any], threads: int) -> harness.Call:
    """The call that is timed: on that many threads, recording nothing."""
    torch = import_module("torch")

    def call() -> Any:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return run()

    return call


def read(result: Any) -> np.ndarray:
    return result.contiguous().numpy()


def judge(expected: np.ndarray, actual: np.ndarray) -> harness.Verdict:
    """Within 3e-5 of the float64 result, relative to its largest value."""
    if actual.shape != expected.shape:
        return harness.Verdict(False, {"error": float("nan")})
    difference = float(np.abs(expected - actual).max() / np.abs(expected).max())
    return harness.Verdict(difference <= BOUND, {"error": difference})  # false where NaN


def prepacked(weight: Any, geometry: tuple[Any, ...], input_shape: tuple[int, ...]) -> Any:
    """Weights in oneDNN's own layout for (padding, stride, dilation, groups)."""
    torch = import_module("torch")
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.to_mkldnn(), *geometry, input_shape)


def convolve_prepacked(
    image: Any, packed: Any, bias: Any, geometry: tuple[Any, ...], activation: str
) -> Any:
    """oneDNN's convolution with the activation fused, as inductor calls it when it freezes."""
    torch = import_module("torch")
    return torch.ops.mkldnn._convolution_pointwise(
        image, packed, bias, *geometry, activation, [], ""
    )


def side(name: str, prepare: Any) -> harness.Side:
    """A side of one of these suites."""
    return harness.Side(name, prepare, read, missing)


def of_layer(prepare_torch: Any, prepare_onednn: Any, prepare_ours: Any) -> dict[str, Any]:
    """The sides of a suite of convolutions: torch in its formats, oneDNN prepacked, and ours.

    ``prepare_torch(channels_last)`` prepares torch's own function in that format.
    """
    return {
        "opponent": side("conv2d channels_last", prepare_torch(True)),
        "rivals": [
            side("conv2d nchw", prepare_torch(False)),
            side("oneDNN prepacked", prepare_onednn),
        ],
        "ours": [side("fastseg", prepare_ours)],
    }
