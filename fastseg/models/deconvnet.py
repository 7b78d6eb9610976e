"""DeconvNet (Noh, Hong and Han, "Learning Deconvolution Network", ICCV 2015)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastseg._arguments import check_tensor
from fastseg.backbones.vgg import VGG16
from fastseg.models.input_convention import VGG
from fastseg.models.network import Network, without_variance
from fastseg.nn import ConvNormReLU, DilatedConv2d, MaxUnpool2d, TransposedConv2d
from fastseg.nn.checked import LARGEST, Count, Integer, Several, checked
from fastseg.ops import bilinear_upsample

DECODER = (  # channels of the deconvolutions after each unpooling, from the coarsest
    (512, 512, 512),
    (512, 512, 256),
    (256, 256, 128),
    (128, 64),
    (64, 64),
)


class DeconvNet(Network):
    """VGG-16-bn with fc6 and fc7, and its mirror image: unpooling by the pools' indices.

    Fig. 2 of the paper; made for proposals of 224x224, and defined from there on. Every layer but
    the last is followed by batch norm and ReLU. ``scores`` are the logits themselves.

    Args:
        num_classes: K.
        in_channels: channels of the image.
    """

    input_convention = VGG

    @checked
    def __init__(self, num_classes: Count = 21, *, in_channels: Count = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = VGG16(in_channels, batch_norm=True)
        self.fc6 = ConvNormReLU(512, 4096, kernel_size=7, padding="valid", bias=True)
        self.fc7 = ConvNormReLU(4096, 4096, kernel_size=1, bias=True)
        self.deconv_fc6 = DeconvNormReLU(4096, 512, kernel_size=7, padding=0)
        channels = 512
        self.unpool = MaxUnpool2d(2)
        self.decoder = nn.ModuleList()
        for widths in DECODER:
            stage = nn.Sequential()
            for width in widths:
                stage.append(DeconvNormReLU(channels, width, kernel_size=3, padding=1))
                channels = width
            self.decoder.append(stage)
        self.score = DilatedConv2d(channels, num_classes, kernel_size=1)

    @property
    def min_size(self) -> int:
        return 224

    def scores(self, input: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` of images of 224 x 224 pixels or more.

        Raises:
            ValueError: a side is shorter.
        """
        self.check_size(input)
        sizes: list[tuple[int, int]] = []
        places: list[Tensor] = []
        for names in self.backbone.stages:
            for name in names:
                input = self.backbone.get_submodule(name)(input)
            sizes.append((input.shape[2], input.shape[3]))
            input, indices = functional.max_pool2d(input, 2, return_indices=True)
            places.append(indices)
        output = without_variance(self.fc7, without_variance(self.fc6, input))
        output = self.deconv_fc6(output)
        for stage in self.decoder:
            output = stage(self.unpool(output, places.pop(), sizes.pop()))
        scores: Tensor = self.score(output)
        return scores

    def forward(self, input: Tensor) -> Tensor:
        return self.scores(input)


class DeconvNormReLU(nn.Module):
    """Transposed convolution with bias, batch norm and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, padding: int
    ) -> None:
        super().__init__()
        self.deconv = TransposedConv2d(
            in_channels, out_channels, kernel_size=kernel_size, padding=padding
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.norm(self.deconv(input)).relu()
        return output


def aggregate_proposals(
    scores: Sequence[Tensor],
    boxes: Sequence[tuple[int, int, int, int]],
    size: tuple[int, int],
    *,
    combine: str = "max",
) -> Tensor:
    """Score maps of proposals, put in their places and joined (Noh et al. 2015, sec. 3.3).

    Each map is zero outside its box; ``combine`` is the largest (eq. 2) or the sum (eq. 3) over all
    proposals, so that the largest is not negative where one of them does not reach.

    Args:
        scores: one map ``(K, h, w)`` a proposal; resized to its box bilinearly.
        boxes: (top, left, bottom, right) of each in pixels, bottom and right excluded. A part
            outside the image is cut off.
        size: (H, W) of the image.
        combine: ``"max"`` or ``"sum"``.

    Returns:
        ``(K, H, W)``, of the dtype of the maps.

    Raises:
        ValueError: there are no maps, not as many boxes, maps of different K, an empty box, or
            another word for ``combine``.
        TypeError: a map that is no tensor, or corners that are no integers.
    """
    if combine not in ("max", "sum"):
        raise ValueError(f"aggregate_proposals: combine must be 'max' or 'sum', got {combine!r}")
    if not scores or len(scores) != len(boxes):
        raise ValueError(
            "aggregate_proposals: boxes must be one for each of one or more scores, "
            f"got {len(boxes)} for {len(scores)}"
        )
    height, width = Several(Integer(), 2)("aggregate_proposals: size", size)
    corners = Several(Integer(-LARGEST), 4)
    total: Tensor | None = None
    for index, (map, box) in enumerate(zip(scores, boxes, strict=True)):
        check_tensor("aggregate_proposals", f"scores[{index}]", map)
        top, left, bottom, right = corners(f"aggregate_proposals: boxes[{index}]", box)
        if map.dim() != 3 or len(map) != len(scores[0]):
            raise ValueError(
                f"aggregate_proposals: scores[{index}] must have shape ({len(scores[0])}, h, w), "
                f"got {tuple(map.shape)}"
            )
        if (
            top >= bottom
            or left >= right
            or min(bottom, right) <= 0
            or top >= height
            or left >= width
        ):
            raise ValueError(
                f"aggregate_proposals: boxes[{index}] must hold a pixel of the image, "
                f"got {(top, left, bottom, right)} for {height} x {width}"
            )
        placed = bilinear_upsample(map[None], (bottom - top, right - left))[0]
        placed = functional.pad(placed, (left, width - right, top, height - bottom))
        if total is None:
            total = placed
        else:
            total = torch.maximum(total, placed) if combine == "max" else total + placed
    assert total is not None
    return total
