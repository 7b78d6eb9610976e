"""DeepLab v2 (Chen et al., "DeepLab: ... Atrous Convolution, and Fully Connected CRFs", 2017)."""

from torch import Tensor, nn

from fastseg.backbones.resnet import ConventionName, Depth, ResNet
from fastseg.models.deeplab_v1 import dilated_vgg16
from fastseg.models.input_convention import DEEPLAB
from fastseg.models.network import Network, freeze_norms, gaussian_
from fastseg.nn import ASPP, DilatedConv2d
from fastseg.nn.checked import Count, Counts, RatesOrZero, checked

LARGE_FOV, ASPP_S, ASPP_L = (12,), (2, 4, 8, 12), (6, 12, 18, 24)


class DeepLabV2VGG16(Network):
    """VGG-16 at output stride 8, then one fc6-fc7-fc8 a rate, summed (fig. 7).

    Args:
        num_classes: K.
        rates: of the branches' fc6: (6, 12, 18, 24) is ASPP-L, (2, 4, 8, 12) ASPP-S and (12,)
            LargeFOV.
        average_pool: whether pool5a, an average over 3x3, follows pool5; ports of the release
            disagree. LargeFOV had it.
        in_channels: channels of the image.
        align_corners: as Caffe's Interp, see :class:`Network`.
    """

    input_convention = DEEPLAB
    crf_preset = "deeplab-vgg"

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        rates: Counts = ASPP_L,
        average_pool: bool = False,
        in_channels: Count = 3,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners
        self.rates = tuple(rates)
        self.backbone = dilated_vgg16(in_channels=in_channels)
        self.pool5a = nn.AvgPool2d(3, 1, 1) if average_pool else nn.Identity()
        self.branches = nn.ModuleList(Branch(num_classes, rate) for rate in rates)

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at output stride 8."""
        self.check_size(input)
        pool5 = self.pool5a(self.backbone(input)[-1])
        first, *others = self.branches
        scores: Tensor = first(pool5)
        for branch in others:
            scores = scores + branch(pool5)
        return scores


class Branch(nn.Module):
    """fc6 at a rate, fc7 and fc8."""

    def __init__(self, num_classes: int, rate: int) -> None:
        super().__init__()
        self.fc6 = DilatedConv2d(512, 1024, rate=rate, activation="relu")
        self.fc7 = DilatedConv2d(1024, 1024, kernel_size=1, activation="relu")
        self.fc8 = DilatedConv2d(1024, num_classes, kernel_size=1)
        self.dropout = nn.Dropout(0.5)
        gaussian_(self.fc8)

    def forward(self, pool5: Tensor) -> Tensor:
        top = self.dropout(self.fc7(self.dropout(self.fc6(pool5))))
        scores: Tensor = self.fc8(top)
        return scores


class DeepLabV2ResNet(Network):
    """ResNet at output stride 8, then a score head a rate, summed (sec. 4.1.2).

    Args:
        num_classes: K.
        depth: of the ResNet.
        rates: of the 3x3 score heads: (6, 12, 18, 24) is ASPP, (12,) LargeFOV; (0,) is the plain
            1x1 head of the baseline.
        convention: of the ResNet; the release is ``"caffe"``, see :class:`ResNet`.
        frozen_norm: batch norms stay as they were trained on ImageNet, as in the paper.
        in_channels: channels of the image.
        align_corners: as Caffe's Interp, see :class:`Network`.
    """

    input_convention = DEEPLAB
    crf_preset = "deeplab-resnet"

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        depth: Depth = 101,
        rates: RatesOrZero = ASPP_L,
        convention: ConventionName = "caffe",
        frozen_norm: bool = True,
        in_channels: Count = 3,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners
        self.frozen_norm = frozen_norm
        self.backbone = ResNet(
            depth, in_channels=in_channels, output_stride=8, convention=convention
        )
        self.aspp = ASPP(self.backbone.out_channels[-1], num_classes, rates=rates, combine="sum")
        for head in self.aspp.branches:
            gaussian_(head)
        self.train()

    def train(self, mode: bool = True) -> "DeepLabV2ResNet":
        super().train(mode)
        if self.frozen_norm:
            freeze_norms(self.backbone)
        return self

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at output stride 8."""
        self.check_size(input)
        scores: Tensor = self.aspp(self.backbone(input)[-1])
        return scores
