"""Compiled models: equal to what they were, and following their parameters wherever those go."""

import copy
import io
import pickle
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

import fastseg
from fastseg.inference import compile_for_inference, undo_compile_for_inference
from fastseg.inference.fused_conv import FusedConv
from fastseg.inference.fused_forward import FusedForward
from fastseg.inference.fused_pyramid import FusedPyramid
from fastseg.nn import ASPP, ConvNormReLU, DilatedConv2d, TransposedConv2d

ROUNDING = dict(rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """Residual block of fastseg's own parts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(channels, channels, rate=2)
        self.second = ConvNormReLU(channels, channels, kernel_size=1)

    def forward(self, input):
        return self.second(self.first(input), input)


class Network(nn.Module):
    """All that can be fused, between parts that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False),
            nn.BatchNorm2d(8, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 8, 3, padding="same", dilation=2),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8, affine=False),
        )
        self.block = Block(8)
        self.depthwise = DilatedConv2d(8, 8, groups=8, bias=False)
        self.summed = ASPP(8, 5, rates=(0, 2, 4))
        self.concatenated = ASPP(8, 3, rates=(0, 2), combine="concat", norm=True, activation="relu")
        self.head = nn.Conv2d(11, 4, 1)

    def forward(self, input):
        hidden = self.depthwise(self.block(self.stem(input)))
        outputs = torch.cat([self.summed(hidden), self.concatenated(hidden)], 1)
        return functional.interpolate(self.head(outputs), input.shape[2:], mode="bilinear")


def network() -> Network:
    """In evaluation mode, with norms that do something."""
    model = Network().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


@pytest.fixture
def model():
    return network()


@pytest.fixture
def image():
    return torch.randn(2, 3, 41, 37)


@pytest.fixture
def fused(monkeypatch):
    """Counts the calls that ran on fused kernels."""
    count = [0]

    def counted(original):
        def call(self, *arguments):
            output = original(self, *arguments)
            count[0] += output is not None
            return output

        return call

    for kind, method in ((FusedConv, "__call__"), (FusedPyramid, "pool")):
        monkeypatch.setattr(kind, method, counted(getattr(kind, method)))

    def calls() -> int:
        before, count[0] = count[0], 0
        return before

    return calls


@torch.no_grad()
def run(model, image):
    return model(image)


def run_before(model, image):
    """What the model would compute without fused kernels."""
    undone = undo_compile_for_inference(copy.deepcopy(model))
    return run(undone, image)


def assert_follows(model, image):
    torch.testing.assert_close(run(model, image), run_before(model, image), **ROUNDING)


CALLS = 9  # stem 3, block 2, depthwise, pyramids 2, head


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("accuracy", ["default", "high"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_same_results(model, image, fused, accuracy, deterministic, channels_last):
    expected = run(model, image)
    compiled = compile_for_inference(
        model, accuracy=accuracy, deterministic=deterministic, channels_last=channels_last
    )
    assert compiled is model
    for _ in range(2):
        output = run(model, image)
        assert fused() >= CALLS
        torch.testing.assert_close(output, expected, **ROUNDING)
        format = torch.channels_last if channels_last else torch.contiguous_format
        assert output.is_contiguous(memory_format=format)


def test_sizes_in_turn(model):
    compile_for_inference(model)
    for height in (41, 30, 35, 33, 48, 64, 41, 30):
        assert_follows(model, torch.randn(1, 3, height, 37))


def test_sizes_share_the_weights_that_serve_them_all():
    conv = compile_for_inference(DilatedConv2d(32, 64, kernel_size=1).eval(), deterministic=True)
    pyramid = ASPP(16, 5, rates=(1, 2)).eval()
    outputs = {size: pyramid(torch.ones(1, 16, size, size)) for size in (17, 18, 19)}
    compile_for_inference(pyramid)
    with torch.no_grad():
        for size in outputs:
            conv(torch.ones(1, 32, size, size))
            output = pyramid(torch.ones(1, 16, size, size))
            torch.testing.assert_close(output, outputs[size], **ROUNDING)
    assert len(conv.forward.conv.folded.forms) == 1
    assert len(pyramid.forward.made[1]) == 1


def test_public_name():
    assert fastseg.compile_for_inference is compile_for_inference
    assert fastseg.undo_compile_for_inference is undo_compile_for_inference


# What stays as it is


def test_state_dict_is_unchanged(model, image):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [*dict(model.named_modules())]
    run(compile_for_inference(model), image)
    after = model.state_dict()
    assert [*after] == [*before]
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [*dict(model.named_modules())] == modules


def test_undone(model, image, fused):
    expected = run(model, image)
    classes = [type(module) for module in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    run(compile_for_inference(model), image)
    fused()
    assert undo_compile_for_inference(model) is model
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(run(model, image), expected)
    assert fused() == 0
    undo_compile_for_inference(model)


def test_compiled_twice(model, image, fused):
    compile_for_inference(compile_for_inference(model))
    assert_follows(model, image)
    once = fused()
    run(model, image)
    assert fused() == once
    undo_compile_for_inference(model)
    run(model, image)
    assert fused() == 0


# Weights that follow the parameters


@pytest.fixture
def compiled(model, image, fused):
    """Compiled, and run so that all weights have been transformed."""
    run(compile_for_inference(model), image)
    fused()
    return model


def test_loaded_state(compiled, image, fused):
    other = network()
    compiled.load_state_dict(other.state_dict())
    torch.testing.assert_close(run(compiled, image), run(other, image), **ROUNDING)
    assert fused() >= CALLS


def test_assigned_state(compiled, image):
    other = network()
    compiled.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(run(compiled, image), run(other, image), **ROUNDING)


def test_dtype_and_back(compiled, image, fused):
    compiled.double()
    torch.testing.assert_close(run(compiled, image.double()), run_before(compiled, image.double()))
    assert fused() == 0
    compiled.float()
    assert_follows(compiled, image)
    compiled.bfloat16().float()  # rounds; the memory may come back to the same address
    assert_follows(compiled, image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(compiled, image, fused, dtype):
    expected = run(compiled, image)
    output = run(compiled.to(dtype), image.to(dtype))
    assert fused() >= CALLS
    assert output.dtype == dtype
    scale = expected.abs().max()
    assert (output.float() - expected).abs().max() <= 0.05 * scale


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies(compiled, image, fused, copied):
    expected = run(compiled, image)
    fused()
    if copied == "deepcopy":
        other = copy.deepcopy(compiled)
    elif copied == "pickle":
        other = pickle.loads(pickle.dumps(compiled))
        assert len(pickle.dumps(compiled)) < 1.2 * len(pickle.dumps(network()))
    else:
        file = io.BytesIO()
        torch.save(compiled, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(run(other, image), expected)
    assert fused() >= CALLS
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert_follows(other, image)
    assert torch.equal(run(compiled, image), expected)  # has weights of its own


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_steps(compiled, image, name, training):
    optimizer = OPTIMIZERS[name](compiled.parameters())
    before = run(compiled, image)
    for _ in range(2):
        compiled.train(training)
        optimizer.zero_grad()
        compiled(image).square().mean().backward()
        run(compiled.eval(), image)  # transforms the weights again, before they change
        optimizer.step()
        assert_follows(compiled, image)
    assert (run(compiled, image) - before).abs().max() > 1e-3


def test_fused_optimizer_with_gradients_from_elsewhere(compiled, image):
    for parameter in compiled.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch.optim.Adam(compiled.parameters(), lr=0.1, fused=True).step()
    assert_follows(compiled, image)


@torch.no_grad()
def test_values_written_in_place(compiled, image):
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(compiled.stem[1], name)
        value.add_(torch.rand_like(value))
        assert_follows(compiled, image)
    compiled.stem[1].eps = 0.3
    assert_follows(compiled, image)
    compiled.head.bias.fill_(3)
    assert_follows(compiled, image)


def test_values_written_behind_pytorchs_back(compiled, image):
    compiled.head.weight.data.mul_(2)
    compile_for_inference(compiled)
    assert_follows(compiled, image)
    compiled.head.weight.data.mul_(2)
    compiled.train()
    compiled(image)
    assert_follows(compiled.eval(), image)


def test_parameters_that_are_replaced(compiled, image):
    compiled.head.weight = nn.Parameter(torch.randn_like(compiled.head.weight))
    assert_follows(compiled, image)
    compiled.stem[4] = nn.Conv2d(8, 8, 5, padding=2)
    assert_follows(compiled, image)
    compiled.stem.append(nn.ReLU())
    assert_follows(compiled, image)
    compiled.block.first.conv.geometry = compiled.block.first.conv.geometry._replace(rate=(1, 1))
    compiled.block.second.activation = None


def test_functional_call(compiled, image):
    other = network()
    with torch.no_grad():
        output = torch.func.functional_call(compiled, dict(other.state_dict()), image)
    torch.testing.assert_close(output, run(other, image), **ROUNDING)
    assert_follows(compiled, image)


# When nothing is fused


def test_training_mode(compiled, image, fused):
    expected = undo_compile_for_inference(copy.deepcopy(compiled)).train()
    compiled.train()
    output = run(compiled, image)
    assert fused() == 0
    torch.testing.assert_close(output, run(expected, image))
    for norm, other in zip(compiled.modules(), expected.modules(), strict=True):
        if isinstance(norm, nn.BatchNorm2d):
            torch.testing.assert_close(norm.running_var, other.running_var)
    assert_follows(compiled.eval(), image)


def test_frozen_norm_alone_in_evaluation_mode(compiled, image, fused):
    compiled.train()
    for module in compiled.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(run(compiled, image), run_before(compiled, image))


def test_gradients_flow(compiled, image, fused):
    image.requires_grad_()
    expected = undo_compile_for_inference(copy.deepcopy(compiled))
    gradients = [
        torch.autograd.grad(m(image).square().mean(), [image, *m.parameters()])
        for m in (compiled, expected)
    ]
    assert fused() == 0
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other)


def test_frozen_parameters_need_no_context(compiled, image, fused):
    compiled.requires_grad_(False)
    compiled(image)
    assert fused() >= CALLS
    with torch.inference_mode():
        inside = compiled(image)
    assert fused() >= CALLS
    assert torch.equal(inside, compiled(image))


def test_first_call_in_inference_mode(model, image):
    compile_for_inference(model)
    with torch.inference_mode():
        inside = model(image)
    assert_follows(model, image)
    assert torch.equal(inside, run(model, image))


def test_parameters_made_in_inference_mode(image, fused):
    with torch.inference_mode():
        model = compile_for_inference(network())
        model(image)
        model.head.weight.mul_(3)
        torch.testing.assert_close(
            model(image), undo_compile_for_inference(copy.deepcopy(model))(image), **ROUNDING
        )
    assert fused() == 0


def test_autocast(compiled, image, fused):
    with torch.autocast("cpu", torch.bfloat16):
        output = run(compiled, image)
    assert fused() == 0
    assert output.dtype == torch.bfloat16


def test_empty_batch(compiled):
    assert run(compiled, torch.randn(0, 3, 41, 37)).shape == (0, 4, 41, 37)


def test_unbatched_image_of_plain_torch(fused):
    conv = compile_for_inference(nn.Conv2d(3, 4, 3)).eval()
    assert run(conv, torch.randn(3, 8, 8)).shape == (4, 6, 6)
    assert fused() == 0


def test_wrong_input_speaks_as_before(compiled):
    for image in (torch.randn(2, 4, 41, 37), torch.randn(2, 3, 41, 37).int(), "image"):
        with pytest.raises(Exception) as expected:
            run_before(compiled, image)
        with pytest.raises(type(expected.value)) as found:
            run(compiled, image)
        assert str(found.value) == str(expected.value)


def test_hooks_are_called(compiled, image):
    seen = []
    norm = compiled.stem[1]
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    other = compiled.block.first.conv.register_forward_pre_hook(lambda *_: seen.append(None))
    assert_follows(compiled, image)
    assert len(seen) == 4  # here and in the copy
    handle.remove()
    other.remove()
    run(compiled, image)
    assert len(seen) == 4


def test_what_is_left_alone(image):
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    class OwnForward(nn.Conv2d):
        def forward(self, input):
            return super().forward(input) * 2

    class OwnConvolution(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(input, weight, bias) * 2

    parametrized = nn.Conv2d(3, 3, 3)
    parametrize.register_parametrization(parametrized, "weight", Halved())
    normalized = nn.utils.weight_norm(nn.Conv2d(3, 3, 3))
    replaced = nn.Conv2d(3, 3, 3)
    replaced.forward = lambda input: input
    parts = [parametrized, normalized, replaced, OwnForward(3, 3, 3), OwnConvolution(3, 3, 3)]
    parts += [nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(3, 3, 3, 2)]
    model = nn.Sequential(*[m for part in parts for m in (part, nn.BatchNorm2d(3))]).eval()
    expected = run(model, image)
    compile_for_inference(model)
    assert not any(isinstance(vars(m).get("forward"), FusedForward) for m in model.modules())
    torch.testing.assert_close(run(model, image), expected)
    undo_compile_for_inference(model)
    assert replaced(image) is image


def test_runs_in_sequences(image, fused):
    class Named(nn.Sequential):
        pass

    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = Named(
        shared,
        nn.BatchNorm2d(3),
        nn.ReLU(),
        shared,
        nn.ReLU(),
        shared,
        nn.Sigmoid(),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        DilatedConv2d(3, 3, activation="relu"),
        nn.BatchNorm2d(3),
        DilatedConv2d(3, 3, bias=False),
        nn.BatchNorm2d(3, track_running_stats=False),
    ).eval()
    for module in model:
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-1, 1)
    expected = run(model, image)
    torch.testing.assert_close(run(compile_for_inference(model), image), expected, **ROUNDING)
    assert fused() == 5
    assert len(model.forward.parts) == 10


# Transposed convolutions


class Deconv(nn.Module):
    """As DeconvNet has them."""

    def __init__(self, **geometry) -> None:
        super().__init__()
        self.deconv = TransposedConv2d(16, 32, **geometry)
        self.norm = nn.BatchNorm2d(32)

    def forward(self, input):
        return self.norm(self.deconv(input)).relu()


TRANSPOSED = {
    "3x3": dict(kernel_size=3, padding=1),
    "7x7": dict(kernel_size=7),
    "border": dict(kernel_size=3, padding=2, bias=False),
    "per-axis": dict(kernel_size=(3, 2), padding=(1, 0), rate=(2, 1)),
    "groups": dict(kernel_size=3, padding=1, groups=4),
}


@pytest.mark.parametrize(
    ("geometry", "size"), [*((name, (9, 11)) for name in TRANSPOSED), ("7x7", (1, 1))]
)
def test_transposed_convolution(geometry, size, fused):
    model = compile_for_inference(Deconv(**TRANSPOSED[geometry]).eval())
    image = torch.randn(2, 16, *size)
    assert_follows(model, image)
    assert fused() == 1
    with torch.no_grad():
        model.deconv.weight.mul_(-2)
        model.norm.running_var.add_(1)
    assert_follows(model, image)
    assert fused() == 1


def test_transposed_convolution_alone(fused):
    model = compile_for_inference(TransposedConv2d(8, 4, kernel_size=3, padding=1).eval())
    image = torch.randn(1, 8, 6, 7)
    assert_follows(model, image)
    assert fused() == 1
    torch.testing.assert_close(run(model, image[0]), run(model, image)[0], **ROUNDING)
    fused()
    with pytest.raises(RuntimeError, match="channels"):
        run(model, image[:, 1:])
    assert fused() == 0
    with torch.no_grad():  # torch knows what it refuses
        torch.testing.assert_close(model(image, output_size=(6, 7)), model(image), **ROUNDING)


@pytest.mark.parametrize(
    "geometry",
    [
        dict(kernel_size=2, stride=2),
        dict(kernel_size=3, stride=2, padding=1, output_padding=1),
        dict(kernel_size=3, padding=3),
    ],
)
def test_transposed_convolutions_that_are_none(geometry):
    model = compile_for_inference(Deconv(**geometry).eval())
    assert not any("forward" in vars(module) for module in model.modules())


def test_stride_that_a_transposed_convolution_gets_later(fused):
    model = compile_for_inference(TransposedConv2d(8, 4, kernel_size=3, padding=1).eval())
    image = torch.randn(1, 8, 6, 7)
    run(model, image)
    model.stride = (2, 2)
    assert run(model, image).shape == (1, 4, 11, 13)
    assert_follows(model, image)


# What a call takes beside its kernel. Times would tell of the machine; these numbers do not change.


SMALL = {
    "torch": nn.Conv2d(16, 16, 3, padding=1),
    "unpacked": nn.Conv2d(3, 8, 3, stride=2, padding=1),
    "winograd": nn.Conv2d(32, 32, 3, padding=1),
    "pointwise": nn.Conv2d(32, 64, 1),
    "depthwise": nn.Conv2d(32, 32, 3, padding=1, groups=32),
    "norm": ConvNormReLU(16, 16, kernel_size=1),
}


@pytest.mark.parametrize("kind", SMALL)
def test_calls_of_a_small_layer(kind):
    layer = compile_for_inference(copy.deepcopy(SMALL[kind]).eval())
    channels = next(layer.parameters()).shape[1] * getattr(layer, "groups", 1)
    image = torch.randn(1, channels, 33, 33).to(memory_format=torch.channels_last)
    run(layer, image)
    calls = []

    def count(frame, event, argument):
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name)

    with torch.no_grad():
        sys.setprofile(count)
        try:
            layer(image)
        finally:
            sys.setprofile(None)
    assert calls.count("convolve") > 0
    assert len(calls) <= 60, calls


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_known_of_a_size_is_not_asked_again(kind, monkeypatch):
    layer = compile_for_inference(copy.deepcopy(SMALL[kind]).eval())
    channels = next(layer.parameters()).shape[1] * getattr(layer, "groups", 1)
    image = torch.randn(1, channels, 33, 33).to(memory_format=torch.channels_last)
    expected = run(layer, image)
    monkeypatch.setattr(FusedConv, "plan", None)
    torch.testing.assert_close(run(layer, image), expected)
    with pytest.raises(TypeError):
        run(layer, image[:, :, 1:])


# Threads, graphs


def test_two_python_threads(model):
    images = [torch.randn(1, 3, size, 37) for size in (30, 33, 41, 48, 57, 64)]
    expected = [run(model, image) for image in images]
    compile_for_inference(model)
    failures = []

    def work(order):
        try:
            for _ in range(4):
                for i in order:
                    torch.testing.assert_close(run(model, images[i]), expected[i], **ROUNDING)
        except AssertionError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(order,))
        for order in (range(6), reversed(range(6)), [3, 1, 5, 0, 2, 4])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_compiled_graph(compiled, image):
    graph = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(graph, image), run(compiled, image), **ROUNDING)


def test_exported_graph(compiled, image):
    with torch.no_grad():
        exported = torch.export.export(compiled, (image,)).module()
    torch.testing.assert_close(run(exported, image), run(compiled, image), **ROUNDING)


def test_vmap(compiled, image):
    with torch.no_grad():
        head = undo_compile_for_inference(copy.deepcopy(compiled.head))
        hidden = torch.randn(3, 2, 11, 5, 5)
        torch.testing.assert_close(
            torch.vmap(compiled.head)(hidden), torch.stack([head(h) for h in hidden]), **ROUNDING
        )


def test_numbers_of_threads_give_the_same_bits(model, image, num_threads):
    compile_for_inference(model, deterministic=True)
    outputs = []
    for threads in (1, 2):
        num_threads(threads)
        outputs.append(run(model.stem, image))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.relu,),
            TypeError,
            "model must be a torch.nn.Module, got builtin_function_or_method",
        ),
        ((nn.ReLU(), "low"), ValueError, "accuracy must be 'default' or 'high', got 'low'"),
    ],
    ids=["model", "accuracy"],
)
def test_rejects(arguments, error, message):
    model, *rest = arguments
    with pytest.raises(error) as found:
        compile_for_inference(model, **dict(zip(["accuracy"], rest, strict=False)))
    assert str(found.value) == f"compile_for_inference: {message}"
