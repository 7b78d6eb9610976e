"""Modules of plain torch: what is fused in them, and that nothing else is."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastseg.inference import compile_for_inference, undo_compile_for_inference
from fastseg.inference.fused_conv import FusedConv
from fastseg.inference.fused_forward import FusedStraightLine

ROUNDING = dict(rtol=1e-4, atol=1e-4)
C = 8


def conv(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(C, C, kernel, padding=kernel // 2, bias=False)


class Parts(nn.Module):
    """What the modules below are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(), nn.BatchNorm2d(C)
        self.conv2, self.bn2 = conv(1), nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        self.scale = 2.0
        self.offset = nn.Parameter(torch.randn(1, C, 1, 1))


class BasicBlock(Parts):
    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Downsampled(BasicBlock):
    def __init__(self) -> None:
        super().__init__()
        self.downsample = nn.Sequential(conv(1), nn.BatchNorm2d(C))


class ThroughMethod(Parts):
    def _forward_impl(self, x):
        x = self.bn1(self.conv1(x))
        return F.relu(x, inplace=True)

    def forward(self, x):
        return self._forward_impl(x) * self.scale


class Functional(Parts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds on the left, then asks for the size."""
        y: torch.Tensor = torch.relu(torch.add(x, self.bn1(self.conv1(x))))
        z = F.interpolate(self.conv2(y).relu(), x.shape[2:], mode="nearest")
        return torch.cat([y, z], 1)


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(conv(), nn.BatchNorm2d(C)) for _ in range(2))
        self.last, self.norm = conv(), nn.BatchNorm2d(C)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(self.last(x))


class WithoutNorm(Parts):
    def forward(self, x):
        return self.conv2(self.conv1(x).relu_()).add(x)


class CapsAtSix(Parts):
    """As MobileNetV2's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.cap = nn.ReLU6(inplace=True)

    def forward(self, x):
        return F.relu6(self.bn2(self.conv2(self.cap(self.bn1(self.conv1(8 * x))))) + x)


class CapsElsewhere(CapsAtSix):
    def __init__(self) -> None:
        super().__init__()
        self.cap = nn.Hardtanh(0, 5)


class SeveralOutputs(Parts):
    def forward(self, x):
        first = self.bn1(self.conv1(x))
        return {"first": first, "both": (first, self.bn2(self.conv2(first)))}


class Broadcast(Parts):
    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x)) + self.offset)


class SharedNorm(Parts):
    def forward(self, x):
        return self.bn1(self.conv2(self.bn1(self.conv2(x))))


class UsedTwice(Parts):
    """The convolution's own result is needed; only the norm of the second is folded."""

    def forward(self, x):
        y = self.conv1(x)
        return self.relu(self.bn1(y)) + self.bn2(self.conv2(x)) + y


class WritesItsInput(Parts):
    def forward(self, x):
        y = self.conv1(x)
        x = self.relu(x)
        return self.bn1(y) + x


class WritesTheResidual(Parts):
    def forward(self, x):
        identity = x * 1
        y = self.bn1(self.conv1(x))
        identity += y
        return identity + x


class WritesBeforeTheSum(Parts):
    def forward(self, x):
        identity = x * 1
        y = self.bn1(self.conv1(x))
        other = identity.mul_(2)
        return y + identity + other


FUSED = {  # runs of two calls and more, and calls on fused kernels
    BasicBlock: (2, 2),
    Downsampled: (2, 3),
    ThroughMethod: (1, 1),
    Functional: (2, 2),
    Pieces: (1, 3),
    WithoutNorm: (2, 2),
    CapsAtSix: (2, 2),
    CapsElsewhere: (2, 2),
    SeveralOutputs: (2, 2),
    Broadcast: (1, 1),
    SharedNorm: (2, 2),
    UsedTwice: (1, 2),
    WritesTheResidual: (1, 1),
    WritesBeforeTheSum: (1, 1),
}


class AsksForTraining(Parts):
    def forward(self, x):
        return self.bn1(self.conv1(x)) if self.training else self.bn2(self.conv1(x))


class DropsOut(Parts):
    def forward(self, x):
        return F.dropout(self.bn1(self.conv1(x)), 0.5, self.training)


class DependsOnValues(Parts):
    def forward(self, x):
        y = self.bn1(self.conv1(x))
        if x.shape[0] > 1:
            y = y * 2
        return y


class DependsOnTheMode(Parts):
    def forward(self, x):
        y = self.bn1(self.conv1(x))
        return y * 2 if torch.is_grad_enabled() else y


class TwoArguments(Parts):
    def forward(self, x, other=None):
        y = self.bn1(self.conv1(x))
        return y if other is None else y + other


class MakesConstants(Parts):
    def forward(self, x):
        return self.bn1(self.conv1(x)) + torch.rand(1)


class ReadsAGlobal(Parts):
    def forward(self, x):
        return self.bn1(self.conv1(x)) * FACTOR[0]


class CallsAFunction(Parts):
    def forward(self, x):
        return doubled(self.bn1(self.conv1(x)))


class Remembers(Parts):
    def forward(self, x):
        self.last = self.bn1(self.conv1(x))
        return self.last


class ReadsAList(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.factors = [2.0]

    def forward(self, x):
        return self.bn1(self.conv1(x)) * self.factors[0]


class Decorated(Parts):
    @torch.no_grad()
    def forward(self, x):
        return self.bn1(self.conv1(x))


class Decides(Parts):
    def forward(self, x):
        return self.bn1(self.conv1(x)) if self.scale > 1 else x


FACTOR = [3.0]


def doubled(x):
    return 2 * x


UNREADABLE = [
    *(AsksForTraining, DropsOut, DependsOnValues, DependsOnTheMode, TwoArguments, MakesConstants),
    *(ReadsAGlobal, CallsAFunction, Remembers, ReadsAList, Decorated, Decides, WritesItsInput),
]


def made(kind):
    """In evaluation mode, with norms that do something."""
    module = kind().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
    return module


@torch.no_grad()
def run(module, image):
    output = module(image.clone())
    if isinstance(output, dict):
        return torch.cat([output["first"], *output["both"]], 1)
    return output


@pytest.fixture
def image():
    return torch.randn(2, C, 9, 10)


@pytest.fixture
def fused(monkeypatch):
    """Counts the calls that ran on fused kernels."""
    count = [0]
    original = FusedConv.__call__

    def counted(self, *arguments):
        output = original(self, *arguments)
        count[0] += output is not None
        return output

    monkeypatch.setattr(FusedConv, "__call__", counted)
    return count


def runs_of(module):
    return [step for step in module.forward.line.steps if len(step.calls) > 1]


@pytest.mark.parametrize("kind", FUSED)
def test_runs_are_found(kind, image, fused):
    module = made(kind)
    expected = run(module, image)
    attributes = set(vars(module))
    compile_for_inference(module)
    assert isinstance(module.forward, FusedStraightLine)
    torch.testing.assert_close(run(module, image), expected, **ROUNDING)
    assert (len(runs_of(module)), fused[0]) == FUSED[kind]
    assert set(vars(module)) == attributes | {"forward"}
    undo_compile_for_inference(module)
    assert torch.equal(run(module, image), expected)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_others_are_left_alone(kind, image):
    module = made(kind)
    torch.manual_seed(1)
    expected = run(module, image)
    attributes = set(vars(module))
    compile_for_inference(module)
    assert "forward" not in vars(module)
    assert set(vars(module)) == attributes
    torch.manual_seed(1)
    torch.testing.assert_close(run(module, image), expected, **ROUNDING)


def test_what_is_written_in_place_is_written(image):
    module = made(WritesBeforeTheSum)
    other = copy.deepcopy(module)
    compile_for_inference(module)
    torch.testing.assert_close(run(module, image), run(other, image), **ROUNDING)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("kind", [Downsampled, Functional, SeveralOutputs])
def test_copies(kind, copied, image, fused):
    module = compile_for_inference(made(kind))
    expected = run(module, image)
    calls, fused[0] = fused[0], 0
    other = copied(module)
    assert torch.equal(run(other, image), expected)
    assert fused[0] == calls
    with torch.no_grad():
        other.conv1.weight.mul_(2)
    undone = undo_compile_for_inference(copy.deepcopy(other))
    torch.testing.assert_close(run(other, image), run(undone, image), **ROUNDING)
    assert torch.equal(run(module, image), expected)


CHANGES = {
    "attribute": lambda m: setattr(m, "scale", 5.0),
    "child": lambda m: setattr(m, "bn1", nn.BatchNorm2d(C).eval()),
    "kind of child": lambda m: setattr(m, "bn1", nn.Sigmoid()),
    "removed": lambda m: setattr(m, "bn1", nn.Identity()),
    "parameter": lambda m: setattr(m.conv1, "weight", nn.Parameter(torch.randn(C, C, 3, 3))),
    "training": lambda m: m.train(),
    "training of one": lambda m: m.bn1.train(),
    "hook": lambda m: m.bn1.register_forward_hook(lambda *_: torch.ones(2, C, 9, 10)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_later_is_seen(change, image):
    module = compile_for_inference(made(ThroughMethod))
    run(module, image)
    CHANGES[change](module)
    undone = undo_compile_for_inference(copy.deepcopy(module))
    torch.testing.assert_close(run(module, image), run(undone, image), **ROUNDING)


def test_branch_that_is_not_taken_any_more(image):
    module = compile_for_inference(made(BasicBlock))
    module.downsample = nn.Sequential(nn.Conv2d(C, C, 1))
    undone = undo_compile_for_inference(copy.deepcopy(module))
    torch.testing.assert_close(run(module, image), run(undone, image), **ROUNDING)


def test_gradients_flow(image):
    module = made(Downsampled)
    other = compile_for_inference(copy.deepcopy(module))
    for one in (module, other):
        one(image).square().sum().backward()
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        if p.grad is not None or q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


def test_graph_of_a_compiled_module(image):
    module = compile_for_inference(made(Downsampled))
    graph = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(graph, image), run(module, image), **ROUNDING)


def test_memory_of_intermediate_results_is_given_back(image):
    module = compile_for_inference(made(Downsampled))
    steps = module.forward.line.steps
    made_by = {call.number for step in steps for call in step.calls}
    finished = [number for step in steps for number in step.finished]
    assert len(finished) == len(set(finished))
    assert made_by - set(finished) == {steps[-1].calls[-1].number}
