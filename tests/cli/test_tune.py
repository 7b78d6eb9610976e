"""The command, with the CPU in the place of a GPU: the plan, the table and what is said."""

import pytest
import torch
from typer.testing import CliRunner

from fastseg.cli import app
from fastseg.ops import dilated_conv
from fastseg.tuning import gpu, networks, stopwatch, tables
from fastseg.tuning.gpu import Gpu, why_no_gpu
from fastseg.tuning.layer import ConvLayer

CPU = torch.device("cpu")


def tune(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["tune", *arguments])


def layers_of(*channels):
    geometry = dilated_conv.ConvGeometry((2, 2), (2, 2, 2, 2), (1, 1), 1)
    return [ConvLayer((1, c, 9, 9), (c, c, 3, 3), geometry) for c in channels]


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A GPU that computes and times on the CPU, by three algorithms and torch's own."""
    monkeypatch.setenv(tables.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("fastseg.cli.tune._device", lambda name: CPU)
    monkeypatch.setattr(gpu, "describe", lambda device: Gpu("Some GPU", "sm_80", "580.1"))
    monkeypatch.setattr(stopwatch, "CudaStopwatch", lambda device: stopwatch.CpuStopwatch())
    names = ("direct", "winograd", "pointwise")
    monkeypatch.setattr(dilated_conv, "GPU_ALGORITHMS", names, raising=False)
    monkeypatch.setattr(networks, "default_layers", lambda batch: layers_of(16, 32))
    return tmp_path / "sm_80.json"


ONE = ("--precision", "float32", "--format", "nhwc", "--rounds", "3")


def test_table_is_written_and_gone_on_with(card):
    result = tune(*ONE)
    assert result.exit_code == 0, result.output
    assert f"2 measured, 0 before, 0 results wrong: {card}" in result.output
    assert "2 dilated_conv2d float32 nhwc" in result.output
    table = tables.read(card)
    assert (table.gpu, table.driver, table.torch) == ("Some GPU", "580.1", torch.__version__)
    (measured,) = table.layers.values()
    for layers in measured.values():
        for times in layers.values():
            assert set(times) == {"torch", "direct", "winograd"}
    written = card.read_bytes()

    again = tune(*ONE, "--details")
    assert "0 measured, 2 before" in again.output
    assert "1x16x9x9 by 16x16x3x3, rate 2, padding 2, float32 nhwc" in again.output
    assert card.read_bytes() == written
    assert "2 measured, 2 before" in tune(*ONE, "--format", "nhwc,nchw").output
    assert "2 measured, 0 before" in tune(*ONE, "--overwrite").output


def test_file_of_another_gpu_is_named_and_begun_anew(card):
    versions = (torch.__version__, "0.0")
    tables.write(tables.Table("Other GPU", "sm_80", "580.1", *versions), card)
    result = tune(*ONE)
    assert f"warning: {card}: was measured with fastseg 0.0" in result.output
    assert "begun anew" in result.output
    assert tables.read(card).gpu == "Some GPU"


def test_wrong_algorithm_is_named_and_never_chosen(card, monkeypatch):
    run = ConvLayer.run

    def faulty(self, input, weights, biases, algorithm):
        output = run(self, input, weights, biases, algorithm)
        return output * 1.01 if algorithm == "direct" else output

    monkeypatch.setattr(ConvLayer, "run", faulty)
    result = tune(*ONE)
    assert result.exit_code == 1
    assert "direct is off by 0.01" in result.output and "2 results wrong" in result.output
    assert set(tables.read(card).choices().values()) <= {"torch", "winograd"}


def test_interruption_is_said_and_leaves_the_table_whole(card, monkeypatch):
    run = ConvLayer.run

    def interrupted(self, *arguments):
        if self.input_shape[1] == 32:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(ConvLayer, "run", interrupted)
    result = tune(*ONE)
    assert result.exit_code == 130 and "interrupted" in result.output
    assert len(tables.read(card).choices()) == 1


def test_dry_run_needs_no_gpu():
    result = tune("--dry-run", "--model", "fcn_alexnet", "--size", "99x99", *ONE)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("1x3x99x99 by ") and ": float32 nhwc 11x11 stride 4" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--precision", "int8"), "--precision must be some of float32, tf32, float16, bfloat16"),
        (("--format", "nhwc,"), "--format must be some of nhwc, nchw, got nhwc,"),
        (("--size", "513x513"), "--size must come with --model"),
        (("--model", "fcn8s", "--size", "513"), "--size must be HxW in pixels, got 513"),
        (("--model", "fcn8s", "--size", "0x9"), "--size must be HxW in pixels, got 0x9"),
        (("--model", "fcn9s"), "--model must be a name that `fastseg models` lists, got fcn9s"),
    ],
    ids=str,
)
def test_wrong_command(arguments, text):
    result = tune(*arguments)
    assert result.exit_code == 2
    assert text in result.output


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do():
    result = tune("--model", "fcn_alexnet", "--size", "99x99")
    assert result.exit_code == 1
    assert "error: there is no GPU to tune for: torch" in result.output


@pytest.mark.parametrize(
    ("cuda", "available", "built", "text"),
    [
        (None, False, True, "is built without CUDA; install one that is"),
        (
            "13.0",
            False,
            True,
            "finds no CUDA device; `nvidia-smi` must list one, with a driver for",
        ),
        ("13.0", True, False, "fastseg is built without CUDA kernels; build it with nvcc"),
        ("13.0", True, True, None),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cuda, available, built, text):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    has_kernel = "_dispatch_has_kernel_for_dispatch_key"
    monkeypatch.setattr(torch._C, has_kernel, lambda name, key: built)
    reason = why_no_gpu()
    assert reason is None if text is None else text in reason


def test_old_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=r"must be of sm_80 or later, got Tesla T4 \(sm_75\)"):
        gpu.describe(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert gpu.describe(torch.device("cuda"))[:2] == ("Tesla T4", "sm_90")
