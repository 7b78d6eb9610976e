"""The dense CRF, lattice and ten iterations, against pydensecrf: cases, sides, and what is equal.

One script serves both sides of the comparison, with ``pydensecrf`` or with
``fastseg.pydensecrf`` imported; ``fastseg.crf.DenseCRF`` runs beside them.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import harness, scenes

ITERATIONS = 10
GAUSSIAN_SIGMA = 3
GAUSSIAN_WEIGHT = 3
AGREEMENT = 0.995  # least share of pixels whose label is the opponent's
DIFFERENCE = 1e-3  # greatest mean |dQ|


@dataclass(frozen=True, kw_only=True)
class CrfCase(harness.Case):
    """An image or volume and the bilateral kernel over it; the Gaussian one is always 3/3."""

    shape: tuple[int, ...]
    labels: int
    sigma_xy: float
    sigma_rgb: float
    weight: float

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape))


def case_of(
    shape: tuple[int, ...],
    labels: int,
    sigmas: tuple[float, float, float],
    must: dict[int, float] | None = None,
    aim: float | None = None,
) -> CrfCase:
    sigma_xy, sigma_rgb, weight = sigmas
    return CrfCase(
        id="x".join(map(str, (*shape, labels))),
        setting=f"{sigma_xy:g}/{sigma_rgb:g}",
        must=must or {},
        aim=aim,
        shape=shape,
        labels=labels,
        sigma_xy=sigma_xy,
        sigma_rgb=sigma_rgb,
        weight=weight,
    )


WIDE, NARROW = (80, 13, 10), (67, 3, 4)  # sigma_xy, sigma_rgb, weight
VOLUME_WIDE, VOLUME_NARROW = (20, 13, 10), (17, 3, 4)

CASES = [
    case_of((375, 500), 21, WIDE, {1: 6, 2: 9}, 14),
    case_of((375, 500), 21, NARROW, {1: 3.3, 2: 5.5}, 10),
    case_of((512, 512), 21, WIDE, {2: 8}, 14),
    case_of((512, 512), 21, NARROW, {2: 5}, 10),
    case_of((1024, 1024), 19, WIDE, {2: 8}, 14),
    case_of((1024, 1024), 19, NARROW, {2: 5}, 10),
    case_of((1080, 1920), 2, WIDE, {2: 14}, 25),
    case_of((1080, 1920), 2, NARROW, {2: 8}, 15),
    case_of((64, 128, 128), 2, VOLUME_WIDE, {2: 8}, 15),
    case_of((64, 128, 128), 2, VOLUME_NARROW, {2: 8}, 15),
]


def scene_of(case: CrfCase, photograph: Path | None) -> dict[str, np.ndarray]:
    """``image`` and ``energies``, the unary ``(L, N)`` float32."""
    if len(case.shape) == 3:
        image, energies = scenes.volume(*case.shape)
    else:
        path = photograph or scenes.default_photograph()
        image = scenes.fit(scenes.read_photograph(path), *case.shape)
        energies = scenes.energies_of_photograph(image, case.labels)
    return {"image": image, "energies": energies}


def infer(densecrf: ModuleType, utils: ModuleType, case: CrfCase, scene: harness.Scene) -> Any:
    """The script of a pydensecrf user, from construction to the last iteration."""
    crf = construct(densecrf, case)
    crf.setUnaryEnergy(scene["energies"])
    add_gaussian(crf, utils, case)
    add_bilateral(crf, utils, case, scene["image"])
    return crf.inference(ITERATIONS)


def construct(densecrf: ModuleType, case: CrfCase) -> Any:
    if len(case.shape) == 2:
        height, width = case.shape
        return densecrf.DenseCRF2D(width, height, case.labels)
    return densecrf.DenseCRF(case.pixels, case.labels)


def add_gaussian(crf: Any, utils: ModuleType, case: CrfCase) -> None:
    if len(case.shape) == 2:
        crf.addPairwiseGaussian(sxy=GAUSSIAN_SIGMA, compat=GAUSSIAN_WEIGHT)
    else:
        features = utils.create_pairwise_gaussian((GAUSSIAN_SIGMA,) * 3, case.shape)
        crf.addPairwiseEnergy(features, compat=GAUSSIAN_WEIGHT)


def add_bilateral(crf: Any, utils: ModuleType, case: CrfCase, image: np.ndarray) -> None:
    if len(case.shape) == 2:
        crf.addPairwiseBilateral(
            sxy=case.sigma_xy, srgb=case.sigma_rgb, rgbim=image, compat=case.weight
        )
    else:
        features = utils.create_pairwise_bilateral((case.sigma_xy,) * 3, (case.sigma_rgb,), image)
        crf.addPairwiseEnergy(features, compat=case.weight)


def phases(
    side: str, case: CrfCase, scene: harness.Scene, threads: int
) -> list[tuple[str, harness.Call]]:
    """The stages of :func:`infer`, each a call, to be made in this order."""
    densecrf = import_module(f"{side}.densecrf")
    utils = import_module(f"{side}.utils")
    if side == DROP_IN.name:
        import_module("fastseg.pydensecrf").set_num_threads(threads)
    crf = construct(densecrf, case)
    return [
        ("unary", lambda: crf.setUnaryEnergy(scene["energies"])),
        ("gaussian kernel", lambda: add_gaussian(crf, utils, case)),
        ("bilateral kernel", lambda: add_bilateral(crf, utils, case, scene["image"])),
        ("1 iteration", lambda: crf.inference(1)),
        ("10 iterations", lambda: crf.inference(10)),
    ]


def prepare_pydensecrf(case: CrfCase, scene: harness.Scene, threads: int) -> harness.Call:
    densecrf = import_module("pydensecrf.densecrf")
    utils = import_module("pydensecrf.utils")
    return lambda: infer(densecrf, utils, case, scene)


def prepare_drop_in(case: CrfCase, scene: harness.Scene, threads: int) -> harness.Call:
    densecrf = import_module("fastseg.pydensecrf.densecrf")
    utils = import_module("fastseg.pydensecrf.utils")
    set_num_threads = import_module("fastseg.pydensecrf").set_num_threads

    def call() -> Any:
        set_num_threads(threads)
        return infer(densecrf, utils, case, scene)

    return call


def module_arguments(case: CrfCase, scene: harness.Scene) -> tuple[list[Any], dict[str, Any]]:
    """The kernels of ``DenseCRF``, and what it is called with beside the scores."""
    torch = import_module("torch")
    crf = import_module("fastseg.crf")
    if len(case.shape) == 3:
        kernels = [crf.FeatureKernel(GAUSSIAN_WEIGHT), crf.FeatureKernel(case.weight)]
        return kernels, volume_features(case, scene["image"])
    kernels = [
        crf.GaussianKernel(sigma_xy=GAUSSIAN_SIGMA, weight=GAUSSIAN_WEIGHT),
        crf.BilateralKernel(case.sigma_xy, case.sigma_rgb, weight=case.weight),
    ]
    image = torch.from_numpy(scene["image"]).permute(2, 0, 1)[None].contiguous()
    return kernels, {"image": image}


def prepare_module(case: CrfCase, scene: harness.Scene, threads: int) -> harness.Call:
    """``fastseg.crf.DenseCRF`` on tensors that exist already."""
    torch = import_module("torch")
    crf = import_module("fastseg.crf")
    scores = torch.from_numpy(-scene["energies"]).reshape(1, case.labels, *case.shape)
    kernels, arguments = module_arguments(case, scene)
    module = crf.DenseCRF(kernels, iterations=ITERATIONS)

    def call() -> Any:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return module(scores, **arguments)

    return call


def volume_features(case: CrfCase, image: np.ndarray) -> dict[str, Any]:
    """The features of pydensecrf's ``utils``, which begin with the slices.

    ``GaussianKernel`` and ``BilateralKernel`` begin with x, in 3-D as in 2-D. A lattice places
    its points otherwise when the axes are in another order, so the two differ by about as much
    as either does from the exact kernel.
    """
    torch = import_module("torch")
    utils = import_module("fastseg.pydensecrf.utils")
    near = utils.create_pairwise_gaussian((GAUSSIAN_SIGMA,) * 3, case.shape)
    alike = utils.create_pairwise_bilateral((case.sigma_xy,) * 3, (case.sigma_rgb,), image)
    return {"features": [torch.from_numpy(f).reshape(1, -1, *case.shape) for f in (near, alike)]}


def read_array(result: Any) -> np.ndarray:
    return np.array(result, dtype=np.float32)


def read_tensor(result: Any) -> np.ndarray:
    return result[0].flatten(1).cpu().numpy()


def judge(expected: np.ndarray, actual: np.ndarray) -> harness.Verdict:
    """Labels equal on 99.5 % of the pixels, and mean |dQ| at most 1e-3."""
    if actual.shape != expected.shape:
        return harness.Verdict(False, {"agreement": 0.0, "mean_dq": float("nan")})
    agreement = float((expected.argmax(axis=0) == actual.argmax(axis=0)).mean())
    difference = float(np.abs(expected - actual).mean(dtype=np.float64))
    accepted = agreement >= AGREEMENT and difference <= DIFFERENCE  # false where not finite
    return harness.Verdict(accepted, {"agreement": agreement, "mean_dq": difference})


def requires(*modules: str) -> str | None:
    """Why one of the modules cannot be imported, or nothing."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            return f"{module} is missing ({error})"
    return None


PYDENSECRF = harness.Side(
    "pydensecrf",
    prepare_pydensecrf,
    read_array,
    lambda: requires("pydensecrf.densecrf"),
    threads=1,
)
DROP_IN = harness.Side(
    "fastseg.pydensecrf",
    prepare_drop_in,
    read_array,
    lambda: requires("fastseg.pydensecrf.densecrf", "fastseg.pydensecrf.utils"),
)
MODULE = harness.Side(
    "fastseg.crf",
    prepare_module,
    read_tensor,
    lambda: requires("torch", "fastseg._C", "fastseg.crf"),
)

SUITE = harness.Suite(
    module="benchmarks.ops.bench_mean_field",
    name="crf",
    title="dense CRF, lattice and 10 iterations",
    cases=CASES,
    opponent=PYDENSECRF,
    ours=[DROP_IN, MODULE],
    scene=scene_of,
    judge=judge,
    phases=phases,
)


def test_mean_field(case, entrant, race):
    race(SUITE, case, entrant)
