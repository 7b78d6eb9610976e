"""FCN on a dilated ResNet, as torchvision has it."""

from torch import Tensor, nn

from fastseg.backbones.resnet import ConventionName, Depth, ResNet
from fastseg.models.network import Network
from fastseg.nn import ConvNormReLU, DilatedConv2d
from fastseg.nn.checked import Count, Stride, checked


class FCNHead(nn.Module):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 scores."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = ConvNormReLU(in_channels, in_channels // 4)
        self.dropout = nn.Dropout(0.1)
        self.score = DilatedConv2d(in_channels // 4, num_classes, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.score(self.dropout(self.reduce(input)))
        return scores


class FCNResNet(Network):
    """A ResNet at output stride 8 and one stream of scores.

    Args:
        num_classes: K.
        depth: of the ResNet.
        aux: whether ``layer3`` has a head of its own; in training mode the model then returns
            :class:`TrainingOutput`, whose ``aux`` holds its logits at the image's size.
        convention, output_stride: of the ResNet, see :class:`ResNet`.
        in_channels: channels of the image.
        align_corners: see :class:`Network`.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        depth: Depth = 50,
        aux: bool = False,
        convention: ConventionName = "torchvision",
        output_stride: Stride = 8,
        in_channels: Count = 3,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners
        self.backbone = ResNet(
            depth, in_channels=in_channels, output_stride=output_stride, convention=convention
        )
        self.head = FCNHead(self.backbone.out_channels[3], num_classes)
        self.aux_head = FCNHead(self.backbone.out_channels[2], num_classes) if aux else None

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at the output stride."""
        self.check_size(input)
        scores: Tensor = self.head(self.backbone(input)[3])
        return scores

    def heads(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`scores`, and in training mode those of ``layer3``'s head, if there is one."""
        if self.aux_head is None or not self.training:
            return self.scores(input), ()
        self.check_size(input)
        layer3, layer4 = self.backbone(input)[2:]
        return self.head(layer4), (self.aux_head(layer3),)
