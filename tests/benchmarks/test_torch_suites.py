"""The suites that race against torch: every side runs a small case and is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from thin import CLASSES, thin

from benchmarks import conv_scaling, harness, torch_sides
from benchmarks.models import bench_models
from benchmarks.models.plain_torch import plain_torch
from benchmarks.ops import bench_aspp, bench_dilated_conv
from fastseg import models, nn
from fastseg.backbones.resnet import DEPTHS

CONV_CASES = [
    bench_dilated_conv.case_of("3x3", (18, 20), 11, rate=2),
    bench_dilated_conv.case_of("3x3", (18, 20), 11, rate=2, channels_last=False),
    bench_dilated_conv.case_of("stride", (3, 8), 13, kernel=7, stride=2, batch=2),
    bench_dilated_conv.case_of("1x1", (18, 20), 9, kernel=1),
    bench_dilated_conv.case_of("depthwise", (16, 16), 9, depthwise=True),
]
ASPP_CASES = [
    bench_aspp.case_of("sum", (20, 5), 9, (1, 2), "sum", channels_last=False),
    bench_aspp.case_of("concat", (20, 16), 9, (0, 2), "concat", channels_last=True),
]


def run_once(suite, case, entrants):
    scene = suite.scene(case, None)
    return harness.measure(suite, case, scene, entrants, repeats=1)


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        *((replace(bench_dilated_conv.SUITE, seconds=0), case) for case in CONV_CASES),
        *((replace(bench_aspp.SUITE, seconds=0), case) for case in ASPP_CASES),
    ],
    ids=[f"{case.id} {case.setting}" for case in [*CONV_CASES, *ASPP_CASES]],
)
def test_tiny_case_end_to_end(suite, case, num_threads):
    num_threads(1)
    entrants = harness.entrants_of(suite.ours, [1, 2])
    found = run_once(suite, case, entrants)
    assert [m.entrant.threads for m in found] == [1, 2]
    for m in found:
        assert m.rival.threads == m.entrant.threads
        assert m.verdict.figures["error"] <= torch_sides.BOUND


@pytest.mark.parametrize(
    "suite", [bench_dilated_conv.SUITE, bench_aspp.SUITE, bench_models.SUITE], ids=lambda s: s.name
)
def test_cases_are_told_apart_by_id_and_setting(suite):
    names = [(case.id, case.setting) for case in suite.cases]
    assert len(set(names)) == len(names)


def test_judge():
    expected = np.random.default_rng(0).standard_normal((2, 3, 5, 5)) * 7
    assert torch_sides.judge(expected, expected.astype(np.float32)).accepted
    for wrong in (expected * 1.0001, expected[:1], np.full_like(expected, np.nan)):
        assert not torch_sides.judge(expected, wrong).accepted
        assert not bench_models.judge(expected, wrong * 1.01).accepted


@pytest.mark.parametrize(
    ("system", "side"),
    [
        ("fcn8s", 33), ("fcn_resnet50", 33), ("deconvnet", 224), ("unet_caffe", 188),
        ("unet_bilinear", 33), ("deeplabv1_base", 34), ("deeplabv1_msc_largefov", 33),
        ("deeplabv2_resnet101_msc", 33), ("deeplabv3_mobilenet_v2_vainf", 33),
        ("deeplabv3plus_xception_vainf", 105), ("deeplabv3plus_resnet50_smp", 33),
    ],
)  # fmt: skip
def test_torchs_network_computes_the_same(system, side, monkeypatch):
    for depth in (50, 101):
        monkeypatch.setitem(DEPTHS, depth, (1, 1, 1, 1))
    model = thin(models.build, system, CLASSES).eval()
    plain = plain_torch(model)
    assert not any(isinstance(m, (nn.DilatedConv2d, nn.ASPP)) for m in plain.modules())
    image = torch.randn(1, model.input_convention.num_channels, side, side)
    with torch.no_grad():
        expected = model(image)
        for ours in ("bilinear_upsample", "dilated_conv2d", "aspp"):  # torch's does without
            monkeypatch.setattr(torch.ops.fastseg, ours, None)
        with pytest.raises((TypeError, AttributeError), match="'NoneType' object"):
            model(image)
        actual = plain(image)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(next(model.parameters()), next(plain.parameters()))


def test_torchs_network_compiles_to_torchs_operators():
    plain = plain_torch(thin(models.build, "unet_bilinear", CLASSES).eval())
    targets = []

    def backend(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    image = torch.randn(1, 3, 33, 33)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(plain, fullgraph=True, backend=backend)(image)
        torch.testing.assert_close(compiled, plain(image))
    assert sum("interpolate" in target for target in targets) == 4
    assert not any("fastseg" in target for target in targets)


def test_every_system_has_a_case():
    ids = [case.id for case in bench_models.SUITE.cases]
    assert ids == [name for name in models.list_systems() if not name.startswith("crf_rnn")]
    (case,) = (case for case in bench_models.SUITE.cases if case.id == "unet")
    assert bench_models.scene_of(case, None)["image"].shape == (1, 1, 572, 572)


def test_scaling_says_whether_pixels_cost_alike(tmp_path):
    cases = conv_scaling.cases_of("1x1 1024-256")
    even = [conv_scaling.Point("1x1", c, c.batch * c.size**2 * 1e-8, 0.1) for c in cases]
    uneven = [*even[:-1], replace(even[-1], seconds=even[-1].seconds * 1.5)]
    assert "10 to 10 ns a pixel, varies 1.00x: within 1.3x" in conv_scaling.summary(even)
    assert "varies 1.50x: NOT within" in conv_scaling.summary(uneven)
    pytest.importorskip("matplotlib")
    about = {"cpu": "some", "cores": "2", "instruction_set": "avx2"}
    conv_scaling.plot([even, uneven], tmp_path / "plot.png", about)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    row = conv_scaling.as_row(even[0], 2)
    assert (row["batch"], row["size"], row["ns_per_pixel"]) == ("1", "65", "10.0")
