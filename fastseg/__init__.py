"""fastseg: fast kernels for semantic segmentation, beginning with the dense CRF.

Nothing heavy is loaded by ``import fastseg``: a name below is imported when it is first used, so
that the NumPy side (``fastseg.pydensecrf``) never waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastseg import crf, ops, pydensecrf, reference
    from fastseg._info import build_info
    from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel
    from fastseg.ops.mean_field import mean_field
    from fastseg.ops.permutohedral import permutohedral_filter, permutohedral_lattice

__version__ = "0.1.0"

__all__ = [
    "BilateralKernel",
    "DenseCRF",
    "FeatureKernel",
    "GaussianKernel",
    "__version__",
    "build_info",
    "crf",
    "mean_field",
    "ops",
    "permutohedral_filter",
    "permutohedral_lattice",
    "pydensecrf",
    "reference",
]

_SUBMODULES = {"crf", "ops", "pydensecrf", "reference"}

_HOME = {
    "BilateralKernel": "fastseg.crf",
    "DenseCRF": "fastseg.crf",
    "FeatureKernel": "fastseg.crf",
    "GaussianKernel": "fastseg.crf",
    "build_info": "fastseg._info",
    "mean_field": "fastseg.ops",
    "permutohedral_filter": "fastseg.ops",
    "permutohedral_lattice": "fastseg.ops",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"fastseg.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
