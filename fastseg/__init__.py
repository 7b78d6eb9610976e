"""fastseg: fast kernels for semantic segmentation.

Nothing heavy is loaded by ``import fastseg``: a name below is imported when it is first used, so
that the NumPy side (``fastseg.pydensecrf``) never waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastseg import (
        backbones,
        checkpoints,
        crf,
        models,
        nn,
        ops,
        predict,
        pydensecrf,
        reference,
        tuning,
    )
    from fastseg._info import build_info
    from fastseg.checkpoints import load_weights, save_weights
    from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel
    from fastseg.inference import compile_for_inference, undo_compile_for_inference
    from fastseg.ops.aspp import aspp
    from fastseg.ops.bilinear_upsample import (
        bilinear_upsample,
        upsample_argmax,
        upsample_cross_entropy,
        upsample_softmax,
    )
    from fastseg.ops.dilated_conv import dilated_conv2d
    from fastseg.ops.mean_field import mean_field
    from fastseg.ops.permutohedral import permutohedral_filter, permutohedral_lattice
    from fastseg.predict import Segmenter

__version__ = "0.1.0"

__all__ = [
    "BilateralKernel",
    "DenseCRF",
    "FeatureKernel",
    "GaussianKernel",
    "Segmenter",
    "__version__",
    "aspp",
    "backbones",
    "bilinear_upsample",
    "build_info",
    "checkpoints",
    "compile_for_inference",
    "crf",
    "dilated_conv2d",
    "load_weights",
    "mean_field",
    "models",
    "nn",
    "ops",
    "permutohedral_filter",
    "permutohedral_lattice",
    "predict",
    "pydensecrf",
    "reference",
    "save_weights",
    "tuning",
    "undo_compile_for_inference",
    "upsample_argmax",
    "upsample_cross_entropy",
    "upsample_softmax",
]

_SUBMODULES = {
    "backbones",
    "checkpoints",
    "crf",
    "models",
    "nn",
    "ops",
    "predict",
    "pydensecrf",
    "reference",
    "tuning",
}

_HOME = {
    "BilateralKernel": "fastseg.crf",
    "DenseCRF": "fastseg.crf",
    "FeatureKernel": "fastseg.crf",
    "GaussianKernel": "fastseg.crf",
    "Segmenter": "fastseg.predict",
    "aspp": "fastseg.ops",
    "bilinear_upsample": "fastseg.ops",
    "build_info": "fastseg._info",
    "compile_for_inference": "fastseg.inference",
    "dilated_conv2d": "fastseg.ops",
    "load_weights": "fastseg.checkpoints",
    "mean_field": "fastseg.ops",
    "permutohedral_filter": "fastseg.ops",
    "permutohedral_lattice": "fastseg.ops",
    "save_weights": "fastseg.checkpoints",
    "undo_compile_for_inference": "fastseg.inference",
    "upsample_argmax": "fastseg.ops",
    "upsample_cross_entropy": "fastseg.ops",
    "upsample_softmax": "fastseg.ops",
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
