"""Classifiers with fully connected layers, and those layers as convolutions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg.backbones.alexnet import AlexNet
from fastseg.backbones.vgg import VGG16
from fastseg.nn import DilatedConv2d
from fastseg.nn.checked import Count, checked
from fastseg.nn.recipe import Recorded


class Classifier(Recorded):
    """VGG-16 or AlexNet with its fully connected layers ``fc6``, ``fc7`` and ``fc8``.

    Args:
        backbone: :class:`VGG16` or :class:`AlexNet`.
        num_classes: outputs of fc8.
        grid: fc6 sees this many rows and columns of the last map, 7 of VGG-16 and 6 of AlexNet;
            maps of another size are averaged into them.
    """

    @checked
    def __init__(
        self, backbone: VGG16 | AlexNet, *, num_classes: Count = 1000, grid: Count | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.grid = grid or (7 if isinstance(backbone, VGG16) else 6)
        self.fc6 = nn.Linear(backbone.out_channels[-1] * self.grid**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)``."""
        pooled = functional.adaptive_avg_pool2d(self.backbone(input)[-1], self.grid)
        top = self.dropout(self.fc6(pooled.flatten(1)).relu())
        top = self.dropout(self.fc7(top).relu())
        logits: Tensor = self.fc8(top)
        return logits


def fully_convolutional(
    classifier: Classifier,
    fc6: DilatedConv2d,
    fc7: DilatedConv2d,
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Write the fully connected layers fc6 and fc7 into two convolutions (Long et al. 2015, 3.1).

    An fc6 of the classifier's own size, such as FCN's 7x7 with 4096 filters, then computes at each
    place what the classifier computes of the window there. A smaller kernel takes every so-manieth
    tap, and fewer filters a random choice of the 4096, as DeepLab's LargeFOV does (Chen et al.
    2015, sec. 4.1): see :func:`decimate`. fc7 keeps the columns of the chosen filters.

    Args:
        classifier: where the weights are.
        fc6, fc7: the convolutions to write to, of equally many filters; fc7 is 1x1.
        generator: of the random choices, for fc6 first; torch's own if None.

    Raises:
        ValueError: the shapes cannot be derived from the classifier's.
    """
    grid, channels = classifier.grid, classifier.backbone.out_channels[-1]
    filters = classifier.fc6.out_features
    with torch.no_grad():
        weight = classifier.fc6.weight.view(filters, channels, grid, grid)
        chosen = choose(filters, fc6.out_channels, generator)
        fc6.weight.copy_(decimate(weight, fc6.kernel_size[0])[chosen])
        outputs = choose(classifier.fc7.out_features, fc7.out_channels, generator)
        fc7.weight.copy_(classifier.fc7.weight[outputs][:, chosen, None, None])
        for conv, linear, rows in ((fc6, classifier.fc6, chosen), (fc7, classifier.fc7, outputs)):
            assert conv.bias is not None
            conv.bias.copy_(linear.bias[rows])


def decimate(weight: Tensor, kernel_size: int) -> Tensor:
    """Every so-manieth tap of a kernel: ``(O, I, k, k)`` to ``(O, I, kernel_size, kernel_size)``.

    The taps kept are spread evenly from the first to the last: rows and columns 0, 3 and 6 of 7
    for a kernel of 3, and 0, 2, 4 and 6 for one of 4 (Chen et al. 2015, sec. 3.1).

    Raises:
        ValueError: even steps do not reach from the first tap to the last.
    """
    taps = weight.shape[-1]
    step, rest = divmod(taps - 1, max(kernel_size - 1, 1))
    if not 1 < kernel_size <= taps or rest:
        raise ValueError(
            f"decimate: kernel_size must divide the {taps - 1} steps of a kernel of {taps} taps, "
            f"got {kernel_size}"
        )
    return weight[..., ::step, ::step]


def choose(total: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Sorted indices of ``count`` of ``total`` filters; all of them without a draw."""
    if count > total:
        raise ValueError(f"fully_convolutional: filters must be at most {total}, got {count}")
    if count == total:
        return torch.arange(total)
    return torch.randperm(total, generator=generator)[:count].sort().values
