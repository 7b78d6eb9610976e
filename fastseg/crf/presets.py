"""Published settings of the dense CRF, as data. Imports nothing outside the standard library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One published setting: a bilateral kernel, a position kernel, and how they were run.

    Attributes:
        weight, sigma_xy, sigma_rgb: the bilateral kernel: its weight, its width in pixels and its
            width in 0-255 units. The papers' w1, sigma_alpha, sigma_beta.
        position_weight, position_sigma_xy: the position kernel: its weight and its width in
            pixels. The papers' w2, sigma_gamma.
        iterations: mean-field iterations at test time.
        train_iterations: mean-field iterations in training.
        normalization: how the implementation that ran these numbers normalised its kernels.
        verified: true where the numbers were read in the paper or in the released code itself,
            false where they come from another source that reports them.
        source: where the numbers stand.
    """

    weight: float
    sigma_xy: float
    sigma_rgb: float
    position_weight: float
    position_sigma_xy: float
    iterations: int
    train_iterations: int
    normalization: str
    verified: bool
    source: str


# A setting is worth nothing under another normalisation: the weights multiply normalised kernels.
PRESETS: dict[str, Preset] = {
    "default": Preset(
        weight=10.0,
        sigma_xy=80.0,
        sigma_rgb=13.0,
        position_weight=3.0,
        position_sigma_xy=3.0,
        iterations=10,
        train_iterations=10,
        normalization="symmetric",
        verified=True,
        source="pydensecrf's README and its default normalisation; 10 iterations as DeepLab",
    ),
    "pydensecrf": Preset(
        weight=10.0,
        sigma_xy=80.0,
        sigma_rgb=13.0,
        position_weight=3.0,
        position_sigma_xy=3.0,
        iterations=5,
        train_iterations=5,
        normalization="symmetric",
        verified=True,
        source="pydensecrf's README, with its 5 iterations and its default normalisation",
    ),
    "deeplab-code": Preset(
        weight=10.0,
        sigma_xy=60.0,
        sigma_rgb=20.0,
        position_weight=3.0,
        position_sigma_xy=3.0,
        iterations=10,
        train_iterations=10,
        normalization="after",
        verified=True,
        source="default arguments of DeepLab's dense_inference.cpp",
    ),
    "deeplab-largefov": Preset(
        weight=4.0,
        sigma_xy=121.0,
        sigma_rgb=5.0,
        position_weight=3.0,
        position_sigma_xy=3.0,
        iterations=10,
        train_iterations=10,
        normalization="after",
        verified=False,
        source="DeepLab v1 (Chen et al. 2015) LargeFOV, as a reimplementation reports it",
    ),
    "deeplab-vgg": Preset(
        weight=4.0,
        sigma_xy=65.0,
        sigma_rgb=3.0,
        position_weight=2.0,
        position_sigma_xy=2.0,
        iterations=10,
        train_iterations=10,
        normalization="after",
        verified=False,
        source="DeepLab v2 (Chen et al. 2017) VGG-16 release, as two reimplementations report it",
    ),
    "deeplab-resnet": Preset(
        weight=4.0,
        sigma_xy=67.0,
        sigma_rgb=3.0,
        position_weight=3.0,
        position_sigma_xy=1.0,
        iterations=10,
        train_iterations=10,
        normalization="after",
        verified=True,
        source="DeepLab v2 (Chen et al. 2017) ResNet-101 release",
    ),
    "deeplab-resnet-symmetric": Preset(
        weight=4.0,
        sigma_xy=67.0,
        sigma_rgb=3.0,
        position_weight=3.0,
        position_sigma_xy=1.0,
        iterations=10,
        train_iterations=10,
        normalization="symmetric",
        verified=True,
        source="the ResNet-101 numbers as PyTorch ports run them, through pydensecrf",
    ),
    "deeplab-caffe-layer": Preset(
        weight=5.0,
        sigma_xy=21.0,
        sigma_rgb=3.0,
        position_weight=4.0,
        position_sigma_xy=1.0,
        iterations=10,
        train_iterations=10,
        normalization="after",
        verified=True,
        source="the CRF layer left commented in DeepLab v2's test.prototxt",
    ),
    "crf-rnn": Preset(
        weight=5.0,
        sigma_xy=160.0,
        sigma_rgb=3.0,
        position_weight=3.0,
        position_sigma_xy=3.0,
        iterations=10,
        train_iterations=5,
        normalization="after",
        verified=True,
        source="CRF-RNN (Zheng et al. 2015): initial values of the trained kernels",
    ),
}


@dataclass(frozen=True)
class SearchGrid:
    """The values of the bilateral kernel that a paper searched, its position kernel fixed.

    Attributes:
        weight, sigma_xy, sigma_rgb: values tried, in the units of :class:`Preset`.
        position_weight, position_sigma_xy: the position kernel meanwhile.
        source: where the ranges stand.
    """

    weight: tuple[float, ...]
    sigma_xy: tuple[float, ...]
    sigma_rgb: tuple[float, ...]
    position_weight: float
    position_sigma_xy: float
    source: str


SEARCH_GRIDS: dict[str, SearchGrid] = {
    "deeplab-v1": SearchGrid(
        weight=(5.0, 6.0, 7.0, 8.0, 9.0, 10.0),
        sigma_xy=(50.0, 60.0, 70.0, 80.0, 90.0, 100.0),
        sigma_rgb=(3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0),
        position_weight=3.0,
        position_sigma_xy=3.0,
        source="DeepLab v1 (Chen et al. 2015): w1 in [5, 10], its step ours; 50:10:100; 3:1:10",
    ),
    "deeplab-v2": SearchGrid(
        weight=(3.0, 4.0, 5.0, 6.0),
        sigma_xy=(30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0),
        sigma_rgb=(3.0, 4.0, 5.0, 6.0),
        position_weight=3.0,
        position_sigma_xy=3.0,
        source="DeepLab v2 (Chen et al. 2017): w1 in 3:6; 30:10:100; 3:6",
    ),
}
