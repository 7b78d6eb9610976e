"""Whole networks on one image, against the fastest of torch's ways to run the same layers."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, scenes, torch_sides
from benchmarks.models.plain_torch import plain_torch

BOUND = 1e-3  # a hundred layers add up their rounding
SIZES = {  # sides of the papers' images, by the beginning of the systems' names
    "fcn_resnet": 520, "fcn": 500, "deconvnet": 224, "unet": 572,
    "deeplabv1_base": 514, "deeplabv1_7x7": 514, "deeplabv1_4x4": 514, "deeplab": 513,
}  # fmt: skip
REQUIRED = {"deeplabv1_largefov": (2.0, 3.0), "deeplabv2_resnet101": (1.25, 1.8)}  # must and aim


@dataclass(frozen=True, kw_only=True)
class ModelCase(harness.Case):
    """A system and the side of its square image."""

    size: int


def case_of(system: str, size: int) -> ModelCase:
    must, aim = REQUIRED.get(system, (None, None))
    return ModelCase(
        id=system,
        setting=f"{size}x{size}",
        must={} if must is None else {2: must},
        aim=aim,
        size=size,
    )


def cases() -> list[ModelCase]:
    """Every system but CRF-RNN: torch has no mean field, which ``run.py crf`` times."""
    names = import_module("fastseg.models").list_systems()
    return [
        case_of(name, next(size for begin, size in SIZES.items() if name.startswith(begin)))
        for name in names
        if not name.startswith("crf_rnn")
    ]


def network(name: str) -> Any:
    """With weights from a fixed seed, and norms that keep the scale of what passes them."""
    torch = import_module("torch")
    torch.manual_seed(0)
    model = import_module("fastseg.models").build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4:
                fan_in = parameter[0].numel()
                parameter.normal_(0, (2 / fan_in) ** 0.5)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.constant_(norm.weight, 0.5)  # residual sums stay bounded
    return model.eval().requires_grad_(False)


def scene_of(case: ModelCase, photograph: Path | None) -> dict[str, np.ndarray]:
    """A photograph in the system's convention."""
    system = import_module("fastseg.models").SYSTEMS[case.id]
    pixels = scenes.read_photograph(photograph or scenes.default_photograph())
    pixels = scenes.fit(pixels, case.size, case.size)
    return {"image": system.convention.normalise(pixels)[None].numpy()}


def judge(expected: np.ndarray, actual: np.ndarray, bound: float = BOUND) -> harness.Verdict:
    """99.9 % of the logits within ``bound`` of torch's, relative to the largest, and with the
    bound of float32 as many labels; with a wider one 99 %.

    Not all: where two values of a pool are equal but for rounding, DeconvNet's unpooling moves one
    to another place, by which torch's own ways to run it differ, too.
    """
    difference = np.abs(expected - actual) / np.abs(expected).max()
    within = float((difference <= bound).mean())  # NaN is not
    agreement = float((expected.argmax(1) == actual.argmax(1)).mean())
    accepted = within >= 0.999 and agreement >= (0.999 if bound <= BOUND else 0.99)
    figures = {"error": float(difference.max()), "within": within, "agreement": agreement}
    return harness.Verdict(accepted, figures)


def prepare_eager(channels_last: bool) -> Any:
    def prepare(case: ModelCase, scene: harness.Scene, threads: int) -> harness.Call:
        torch = import_module("torch")
        format = torch.channels_last if channels_last else torch.contiguous_format
        model = plain_torch(network(case.id)).to(memory_format=format)
        image = torch.from_numpy(scene["image"]).contiguous(memory_format=format)
        return torch_sides.without_gradients(lambda: model(image), threads)

    return prepare


def prepare_compiled(case: ModelCase, scene: harness.Scene, threads: int) -> harness.Call:
    """torch.compile with its weights frozen: norms folded, weights prepacked for oneDNN."""
    torch = import_module("torch")
    inductor = import_module("torch._inductor.config")
    inductor.freezing = True
    torch.set_num_threads(threads)  # written into the generated code
    torch._dynamo.reset()
    model = plain_torch(network(case.id)).to(memory_format=torch.channels_last)
    image = torch.from_numpy(scene["image"]).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(model)
    return torch_sides.without_gradients(lambda: compiled(image), threads)


def prepare_ours(case: ModelCase, scene: harness.Scene, threads: int) -> harness.Call:
    torch = import_module("torch")
    fastseg = import_module("fastseg")
    model = fastseg.compile_for_inference(network(case.id))
    image = torch.from_numpy(scene["image"])
    return torch_sides.without_gradients(lambda: model(image), threads)


SUITE = harness.Suite(
    module="benchmarks.models.bench_models",
    name="models",
    title="whole networks, an image to logits of its size",
    cases=cases(),
    opponent=torch_sides.side("eager nchw", prepare_eager(False)),
    rivals=[
        torch_sides.side("eager channels_last", prepare_eager(True)),
        torch_sides.side("torch.compile", prepare_compiled),
    ],
    ours=[torch_sides.side("compile_for_inference", prepare_ours)],
    scene=scene_of,
    judge=judge,
)


def test_models(case, entrant, race):
    race(SUITE, case, entrant)
