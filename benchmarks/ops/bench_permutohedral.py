"""The permutohedral lattice alone: building it, and one filter over all labels.

pydensecrf does not expose its filter. The nearest it has is timed instead: for ``build``,
constructing a CRF and adding one kernel, which builds the lattice and filters one channel to
normalise it, against our lattice and one channel filtered; for ``filter``, one ``stepInference``
with that one kernel, which filters all labels and takes a softmax, against our filter, which
filters all labels and one channel more to normalise. So a ratio here is a bearing, not a verdict;
the verdict is ``run.py crf``.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.ops import bench_mean_field as mean_field


@dataclass(frozen=True, kw_only=True)
class LatticeCase(harness.Case):
    """What is timed, ``build`` or ``filter``, over the bilateral features of a CRF case."""

    stage: str
    crf: mean_field.CrfCase


CASES = [
    LatticeCase(id=crf.id, setting=f"{crf.setting} {stage}", stage=stage, crf=crf)
    for crf in mean_field.CASES
    if crf.shape in {(375, 500), (1080, 1920), (64, 128, 128)}
    for stage in ("build", "filter")
]


def scene_of(case: LatticeCase, photograph: Path | None) -> dict[str, np.ndarray]:
    """``features`` ``(D, N)`` float32, standard deviation one, and ``energies`` ``(L, N)``."""
    crf = case.crf
    scene = mean_field.scene_of(crf, photograph)
    places = np.indices(crf.shape, dtype=np.float32) / crf.sigma_xy
    colours = np.atleast_3d(scene["image"].reshape(crf.pixels, -1).T / crf.sigma_rgb)[..., 0]
    features = np.concatenate([places.reshape(len(crf.shape), -1), colours]).astype(np.float32)
    return {"features": features, "energies": scene["energies"]}


@dataclass(frozen=True)
class Lattice:
    """A built lattice or a filtered Q, with what it takes to make one update of it."""

    case: LatticeCase
    scene: harness.Scene
    content: Any


def softmax(energies: np.ndarray) -> np.ndarray:
    exponentials = np.exp(energies.min(axis=0) - energies)
    return exponentials / exponentials.sum(axis=0)


def prepare_pydensecrf(case: LatticeCase, scene: harness.Scene, threads: int) -> harness.Call:
    densecrf = import_module("pydensecrf.densecrf")

    def build() -> Any:
        crf = densecrf.DenseCRF(case.crf.pixels, case.crf.labels)
        crf.addPairwiseEnergy(scene["features"], compat=case.crf.weight)
        return crf

    if case.stage == "build":
        return lambda: Lattice(case, scene, build())
    crf = build()
    crf.setUnaryEnergy(scene["energies"])
    state = crf.startInference()

    def step() -> Lattice:
        crf.stepInference(*state)
        return Lattice(case, scene, state[0])

    return step


def read_pydensecrf(lattice: Lattice) -> np.ndarray:
    """Q after one update."""
    if lattice.case.stage == "filter":
        return np.array(lattice.content, dtype=np.float32)
    crf = lattice.content
    crf.setUnaryEnergy(lattice.scene["energies"])
    state = crf.startInference()
    crf.stepInference(*state)
    return np.array(state[0], dtype=np.float32)


def prepare_operator(case: LatticeCase, scene: harness.Scene, threads: int) -> harness.Call:
    torch = import_module("torch")
    ops = import_module("fastseg.ops")
    features = torch.from_numpy(scene["features"])[None]
    values = torch.from_numpy(softmax(scene["energies"]))[None]
    one_channel = torch.ones(1, 1, case.crf.pixels)

    def build() -> Lattice:
        torch.set_num_threads(threads)
        lattice = ops.permutohedral_lattice(features)
        ops.permutohedral_filter(one_channel, None, lattice=lattice)
        return Lattice(case, scene, lattice)

    if case.stage == "build":
        return build
    lattice = build().content
    return lambda: Lattice(case, scene, filtered(values, lattice, threads))


def filtered(values: Any, lattice: Any, threads: int) -> Any:
    import_module("torch").set_num_threads(threads)
    permutohedral_filter = import_module("fastseg.ops").permutohedral_filter
    return permutohedral_filter(values, None, lattice=lattice, normalization="symmetric")


def read_operator(lattice: Lattice) -> np.ndarray:
    """Q after one update with our filter."""
    torch = import_module("torch")
    energies = lattice.scene["energies"]
    message = lattice.content
    if lattice.case.stage == "build":
        values = torch.from_numpy(softmax(energies))[None]
        message = filtered(values, lattice.content, torch.get_num_threads())
    return softmax(energies - lattice.case.crf.weight * message[0].numpy())


SUITE = harness.Suite(
    module="benchmarks.ops.bench_permutohedral",
    name="lattice",
    title="permutohedral lattice: build, and one filter over all labels",
    cases=CASES,
    opponent=harness.Side(
        "pydensecrf",
        prepare_pydensecrf,
        read_pydensecrf,
        lambda: mean_field.requires("pydensecrf.densecrf"),
        threads=1,
    ),
    ours=[
        harness.Side(
            "fastseg.ops",
            prepare_operator,
            read_operator,
            lambda: mean_field.requires("torch", "fastseg._C", "fastseg.ops"),
        )
    ],
    scene=scene_of,
    judge=mean_field.judge,
)


def test_permutohedral(case, entrant, race):
    race(SUITE, case, entrant)
