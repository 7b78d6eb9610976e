"""DeepLab v3 (Chen et al., "Rethinking Atrous Convolution", 2017)."""

from typing import Annotated

from torch import Tensor

from fastseg.backbones.build import BACKBONES, build_backbone
from fastseg.backbones.resnet import ConventionName
from fastseg.models.fcn_resnet import FCNHead
from fastseg.models.pyramid_pooling import Norm, TwoStrides
from fastseg.nn import DilatedConv2d
from fastseg.nn.checked import Count, Counts, Epsilon, OneOf, Share, Stride, checked


class DeepLabV3(TwoStrides):
    """A dilated backbone with multi-grid, ASPP with image pooling, and scores.

    One set of weights runs at two output strides: 16 in training and 8 in evaluation, as in the
    paper; :meth:`train` and :meth:`eval` switch. The rates of ASPP follow the stride.

    Args:
        num_classes: K.
        backbone: ``"resnet18"`` to ``"resnet152"``, ``"mobilenet_v2"``, ``"xception"`` or
            ``"aligned_xception"``.
        rates: of ASPP's 3x3 branches at output stride 16; twice that at 8.
        multi_grid: factors of the rates in a ResNet's last layer.
        output_stride, train_output_stride: in evaluation and in training mode.
        convention: of a ResNet, see :class:`ResNet`; ``"torchvision"`` of a MobileNetV2 pads its
            depthwise convolutions, anything else the blocks' inputs.
        head_conv: whether a 3x3 convolution follows ASPP, as in torchvision.
        separable: whether ASPP and that convolution are depthwise separable.
        norm_between: whether batch norm and ReLU stand inside separable convolutions.
        dropout: after ASPP, in training.
        aux: whether the ResNet's ``layer3`` has a head of its own, as in torchvision; in training
            mode the model then returns :class:`TrainingOutput`, whose ``aux`` holds its logits
            at the image's size.
        norm_eps, norm_momentum: of ``torch.nn.BatchNorm2d``; the paper's decay is 0.9997.
        in_channels: channels of the image.
        align_corners: see :class:`Network`.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        backbone: Annotated[str, OneOf(*BACKBONES)] = "resnet101",
        rates: Counts = (6, 12, 18),
        multi_grid: Counts = (1, 2, 4),
        output_stride: Stride = 8,
        train_output_stride: Stride = 16,
        convention: ConventionName = "caffe",
        head_conv: bool = False,
        separable: bool = False,
        norm_between: bool = True,
        dropout: Share = 0.0,
        aux: bool = False,
        norm_eps: Epsilon = 1e-5,
        norm_momentum: Share | None = 3e-4,
        in_channels: Count = 3,
        align_corners: bool = False,
    ) -> None:
        norm = Norm(norm_eps=norm_eps, norm_momentum=norm_momentum)
        super().__init__(
            build_backbone(
                backbone,
                multi_grid=multi_grid,
                convention=convention,
                in_channels=in_channels,
                **norm,
            ),
            norm,
            rates=rates,
            output_strides=(train_output_stride, output_stride),
            separable=separable,
            norm_between=norm_between,
            head_conv=head_conv,
            dropout=dropout,
        )
        self.num_classes, self.align_corners = num_classes, align_corners
        self.score = DilatedConv2d(256, num_classes, kernel_size=1)
        self.aux_head = FCNHead(self.backbone.out_channels[2], num_classes) if aux else None
        self.train()

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at the output stride."""
        self.check_size(input)
        scores: Tensor = self.score(self.encode(self.backbone(input)[-1]))
        return scores

    def heads(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`scores`, and in training mode those of ``layer3``'s head, if there is one."""
        if self.aux_head is None or not self.training:
            return self.scores(input), ()
        self.check_size(input)
        layer3, layer4 = self.backbone(input)[2:]
        return self.score(self.encode(layer4)), (self.aux_head(layer3),)
