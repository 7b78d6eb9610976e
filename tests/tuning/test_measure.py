"""What is measured, and how: on the CPU, whose operators have the same interface."""

import contextlib
from typing import NamedTuple

import pytest
import torch

from fastseg import __version__
from fastseg.ops import dilated_conv2d
from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.tuning import measure, networks, run, stopwatch, tables
from fastseg.tuning.gpu import Gpu
from fastseg.tuning.layer import ConvLayer, PyramidLayer

LAYER = ConvLayer(
    (2, 16, 9, 11),
    (16, 16, 3, 3),
    ConvGeometry.of("test", (3, 3), rate=2, padding=(2, 1, 0, 3)),
)
DEPTHWISE = ConvLayer(
    (1, 8, 9, 9), (8, 1, 3, 3), ConvGeometry.of("test", (3, 3), padding=1, stride=2, groups=8)
)
PYRAMID = PyramidLayer((1, 6, 9, 9), ((5, 6, 3, 3), (5, 6, 1, 1)), (2, 0), "sum")
GPU = Gpu("Some GPU", "sm_80", "580.1")


class Ticking:
    """A stopwatch whose calls take as long as it is told, by the order in which they first came."""

    device = torch.device("cpu")

    def __init__(self, *seconds):
        self.seconds_of, self.order = list(seconds), []
        self.turns = []

    def seconds(self, call):
        if call not in self.order:
            self.order.append(call)
        self.turns.append(self.order.index(call))
        call()
        return self.seconds_of[self.turns[-1]]


def job(layer=LAYER, precision="float32", format="nhwc"):
    return measure.Job(layer, precision, format)


@pytest.mark.parametrize("format", measure.FORMATS)
@pytest.mark.parametrize("layer", [LAYER, DEPTHWISE], ids=["uneven", "depthwise"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_algorithm_that_serves_is_right_and_timed(layer, format, precision):
    names = ["direct", "winograd", "pointwise", "torch"]
    watch = stopwatch.CpuStopwatch()
    found = measure.measure(job(layer, precision, format), names, watch, rounds=3)
    assert not found.wrong
    served = {"direct", "torch"} | ({"winograd"} if layer is LAYER else set())
    assert set(found.times) == served
    assert all(taken > 0 for taken in found.times.values())


class Faulty(NamedTuple):
    """A layer whose algorithms are off by what their names say."""

    input_shape: tuple[int, ...] = (1, 4)

    @property
    def op(self):
        return "faulty"

    def shape_class(self, dtype, *, tf32, channels_last):
        return f"{dtype} {tf32} {channels_last}"

    def tensors(self):
        return torch.ones(1, 4, 3, 3), [], []

    def run_torch(self, input, weights, biases):
        return input.clone()

    def run(self, input, weights, biases, algorithm):
        if algorithm == "too large":
            raise torch.OutOfMemoryError("none left")
        if algorithm == "too large for the CPU":
            raise MemoryError("none left")
        if algorithm == "other shape":
            return input[:, :2]
        return input + float(algorithm)


def test_wrong_results_are_not_timed():
    names = ["0", "1e-6", "0.5", "nan", "other shape", "too large", "too large for the CPU"]
    watch = Ticking(0.002, 0.001)
    found = measure.measure(job(Faulty()), names, watch, rounds=4)
    assert found.times == pytest.approx({"0": 2.0, "1e-6": 1.0})
    assert set(found.wrong) == {"0.5", "nan", "other shape"}
    assert found.wrong["0.5"] == pytest.approx(0.5)


@pytest.mark.parametrize(("precision", "bound"), [("float32", 3e-5), ("tf32", 2e-3)])
def test_bounds(precision, bound):
    names = [str(bound * 0.9), str(bound * 1.2)]
    found = measure.measure(job(Faulty(), precision), names, Ticking(1.0), rounds=3)
    assert set(found.times) == {names[0]}


def test_hopeless_ones_get_no_more_rounds():
    watch = Ticking(0.010, 0.014, 0.016)
    found = measure.measure(job(Faulty()), ["0", "1e-6", "1e-7"], watch, rounds=7)
    assert found.times == pytest.approx({"0": 10.0, "1e-6": 14.0, "1e-7": 16.0})
    assert [watch.turns.count(i) for i in range(3)] == [10, 10, 3]
    assert watch.turns[:9] == [0, 1, 2, 1, 2, 0, 2, 0, 1]  # a round starts one call later


def test_nothing_served_is_no_time():
    assert measure.measure(job(Faulty()), [], Ticking(), rounds=3) == measure.Found({}, {})


def test_torchs_switches_are_put_back(monkeypatch):
    seen = []
    cudnn = torch.backends.cudnn

    class Looking(Faulty):
        def run(self, *_):
            seen.append((cudnn.allow_tf32, cudnn.benchmark))
            raise ValueError

        def run_torch(self, input, *_):
            seen.append((cudnn.allow_tf32, cudnn.benchmark))
            return input

    before = cudnn.allow_tf32, cudnn.benchmark
    for precision in ("float32", "tf32"):
        measure.measure(job(Looking(), precision), ["any"], Ticking(), rounds=3)
    assert seen == [(False, True), (False, True), (False, True), (True, True)]
    assert (cudnn.allow_tf32, cudnn.benchmark) == before


def test_tf32_only_where_it_is_asked_for():
    names = ("direct", "gemm-64x64", "gemm-64x64-split4-tf32", "torch")
    assert measure.algorithms_for("tf32", names) == ["torch", *names[:3]]
    assert measure.algorithms_for("float32", names) == ["torch", *names[:2]]


def test_classes_of_jobs():
    classes = {j.shape_class for j in measure.jobs_of([LAYER], measure.PRECISIONS, measure.FORMATS)}
    assert len(classes) == 8
    assert job().shape_class.startswith("float32 nhwc 3x3 stride 1 dilated")
    assert job(PYRAMID).shape_class.startswith("float32 nhwc sum of 10 taps")
    assert str(job()) == "2x16x9x11 by 16x16x3x3, rate 2, padding 2x1x0x3, float32 nhwc"
    assert str(DEPTHWISE) == "1x8x9x9 by 8x1x3x3, padding 1, stride 2, groups 8"
    assert str(PYRAMID) == "1x6x9x9 by sum of 5x6x3x3 rate 2, 5x6x1x1 rate 0"


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_torchs_pyramid_is_fastsegs(combine):
    from fastseg import aspp

    layer = PYRAMID._replace(combine=combine)
    input, weights, biases = layer.tensors()
    expected = aspp(input, weights, biases, layer.rates, combine, "relu")
    torch.testing.assert_close(layer.run_torch(input, weights, biases), expected)


def test_torchs_convolution_is_fastsegs():
    for layer in (LAYER, DEPTHWISE):
        input, weights, biases = layer.tensors()
        rate, padding, stride, groups = layer.geometry
        expected = dilated_conv2d(
            input, weights[0], biases[0], rate=rate, padding=padding, stride=stride, groups=groups,
            activation="relu",
        )  # fmt: skip
        torch.testing.assert_close(layer.run_torch(input, weights, biases), expected)


# Networks


def test_layers_of_a_system():
    layers = networks.layers_of_system("deeplabv2_resnet101", (65, 65), batch=2)
    pyramid = next(layer for layer in layers if isinstance(layer, PyramidLayer))
    assert pyramid == PyramidLayer((2, 2048, 9, 9), ((21, 2048, 3, 3),) * 4, (6, 12, 18, 24), "sum")
    branches = [layer for layer in layers if layer.input_shape[1] == 2048 and layer != pyramid]
    rates = [layer.geometry.rate[0] for layer in branches if layer.weight_shape[0] == 21]
    assert rates == [6, 12, 18, 24]
    assert layers[0].input_shape == (2, 3, 65, 65)
    assert len(set(layers)) == len(layers)


def test_layers_before_a_crf():
    assert networks.layers_of_system("crf_rnn", (97, 97))[0].input_shape[:2] == (1, 3)


# Filling a table


def found_of(milliseconds):
    return measure.Found({"direct": milliseconds, "torch": 1.0}, {})


def test_interrupted_run_goes_on(tmp_path):
    path = tmp_path / "new" / "sm_80.json"
    jobs = measure.jobs_of([LAYER, DEPTHWISE, PYRAMID], ["float32"], ["nhwc"])
    table, reason = run.table_to_fill(GPU, path, overwrite=False)
    assert reason is None and measure.unmeasured(jobs, table) == jobs

    def interrupted(job):
        if job.layer is PYRAMID:
            raise KeyboardInterrupt
        return found_of(2.0)

    with pytest.raises(KeyboardInterrupt):
        run.fill(table, path, jobs, interrupted, lambda *_: None)

    table, reason = run.table_to_fill(GPU, path, overwrite=False)
    assert reason is None and measure.unmeasured(jobs, table) == jobs[2:]
    reported = []
    run.fill(table, path, jobs[2:], lambda _: found_of(0.5), lambda *r: reported.append(r))
    assert reported == [(jobs[2], found_of(0.5))]
    assert tables.read(path).choices() == {
        ("dilated_conv2d", jobs[0].shape_class): "torch",
        ("dilated_conv2d", jobs[1].shape_class): "torch",
        ("aspp", jobs[2].shape_class): "direct",
    }
    fresh, reason = run.table_to_fill(GPU, path, overwrite=True)
    assert reason is None and measure.unmeasured(jobs, fresh) == jobs


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "Other GPU"}, "was measured on Other GPU, this is Some GPU"),
        ({"driver": "570"}, "was measured with driver 570, this is 580.1"),
        ({"fastseg": "0.0"}, "was measured with fastseg 0.0, this is"),
    ],
    ids=str,
)
def test_other_tables_are_begun_anew(tmp_path, change, reason):
    path = tmp_path / "sm_80.json"
    facts = {"gpu": GPU.name, "architecture": "sm_80", "driver": GPU.driver}
    versions = {"torch": torch.__version__, "fastseg": __version__}
    tables.write(tables.Table(**{**facts, **versions, **change}), path)
    table, found = run.table_to_fill(GPU, path, overwrite=False)
    assert reason in found and not table.layers
    path.write_text("{")
    assert "is no JSON" in run.table_to_fill(GPU, path, overwrite=False)[1]


def test_nothing_measured_is_not_written(tmp_path):
    path = tmp_path / "sm_80.json"
    table, _ = run.table_to_fill(GPU, path, overwrite=False)
    run.fill(table, path, [job()], lambda _: measure.Found({}, {"direct": 1.0}), lambda *_: None)
    assert not path.exists()


def test_cpu_stopwatch_times_the_call():
    taken = stopwatch.CpuStopwatch().seconds(lambda: torch.ones(10).sum())
    assert 0 < taken < 10


class Paused(stopwatch.CudaStopwatch):
    """A GPU that works for 0.2 ms, on calls that the host queues in what they return."""

    def __init__(self):
        self.pauses = []

    def after_pause(self, call, pause):
        self.pauses.append(pause)
        queueing = call()
        return 2e-4 + max(0.0, queueing - pause), queueing


@pytest.mark.parametrize(
    ("queueing", "pauses"), [(9e-4, [1e-3]), (5e-3, [1e-3, 1e-2]), (1.0, [1e-3, 0.25])]
)
def test_pause_is_longer_than_the_queueing(queueing, pauses):
    watch = Paused()
    taken = watch.seconds(lambda: queueing)
    assert watch.pauses == pytest.approx(pauses)
    assert (taken == pytest.approx(2e-4)) == (queueing < 0.25)


def test_gpu_pauses_before_what_is_timed(monkeypatch):
    """The order in which the stream is given what it does, with events that count."""
    given = []

    class Event:
        def __init__(self, device, enable_timing):
            assert enable_timing

        def record(self):
            self.at = given.count("event")
            given.append("event")

        def synchronize(self):
            given.append("wait")

        def elapsed_time(self, other):
            return 1e3 * (other.at - self.at)

    class Flush:
        def zero_(self):
            given.append("flush")

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: given.append(f"pause {cycles}"))
    watch = stopwatch.CudaStopwatch.__new__(stopwatch.CudaStopwatch)
    watch.device, watch.flush = torch.device("cuda"), Flush()
    taken, queueing = watch.after_pause(lambda: given.append("call"), 2e-3)
    assert given == ["pause 6000000", "flush", "event", "call", "event", "wait"]
    assert taken == 1.0 and 0 < queueing < 1
