"""Fully connected CRFs: kernels, inference module, energy, and the search for their settings.

Names are loaded on first use: ``from fastseg.crf import PRESETS`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastseg._limits import PROBABILITY_FLOOR
    from fastseg.crf.dense_crf import DenseCRF
    from fastseg.crf.grid_search import SearchResult, Trial, search
    from fastseg.crf.kernels import BilateralKernel, FeatureKernel, GaussianKernel, PairwiseKernel
    from fastseg.crf.labelling_energy import Energy, energy
    from fastseg.crf.presets import PRESETS, SEARCH_GRIDS, Preset, SearchGrid
    from fastseg.reference.mean_field import mean_field_exact

__all__ = [
    "PRESETS",
    "PROBABILITY_FLOOR",
    "SEARCH_GRIDS",
    "BilateralKernel",
    "DenseCRF",
    "Energy",
    "FeatureKernel",
    "GaussianKernel",
    "PairwiseKernel",
    "Preset",
    "SearchGrid",
    "SearchResult",
    "Trial",
    "energy",
    "mean_field_exact",
    "search",
]

_HOME = {
    "PRESETS": "fastseg.crf.presets",
    "PROBABILITY_FLOOR": "fastseg._limits",
    "SEARCH_GRIDS": "fastseg.crf.presets",
    "BilateralKernel": "fastseg.crf.kernels",
    "DenseCRF": "fastseg.crf.dense_crf",
    "Energy": "fastseg.crf.labelling_energy",
    "FeatureKernel": "fastseg.crf.kernels",
    "GaussianKernel": "fastseg.crf.kernels",
    "PairwiseKernel": "fastseg.crf.kernels",
    "Preset": "fastseg.crf.presets",
    "SearchGrid": "fastseg.crf.presets",
    "SearchResult": "fastseg.crf.grid_search",
    "Trial": "fastseg.crf.grid_search",
    "energy": "fastseg.crf.labelling_energy",
    "mean_field_exact": "fastseg.reference.mean_field",
    "search": "fastseg.crf.grid_search",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
