"""DeepLab v3+ (Chen et al., "Encoder-Decoder with Atrous Separable Convolution", 2018)."""

from typing import Annotated

import torch
from torch import Tensor, nn

from fastseg.backbones.build import BACKBONES, build_backbone
from fastseg.backbones.resnet import ConventionName
from fastseg.models.pyramid_pooling import Norm, TwoStrides
from fastseg.nn import ConvNormReLU, DilatedConv2d
from fastseg.nn.checked import Count, Counts, Epsilon, Integer, OneOf, Share, Stride, checked
from fastseg.ops import bilinear_upsample


class DeepLabV3Plus(TwoStrides):
    """The encoder of v3, and a decoder that adds features of stride 4 (fig. 2).

    The encoder's 256 channels are enlarged to the low-level map, which a 1x1 convolution has
    reduced to 48 channels and which is put behind them; then 3x3 convolutions and scores.

    Args:
        num_classes: K.
        backbone, rates, multi_grid, convention, norm_between, dropout, norm_eps, norm_momentum,
            in_channels: see :class:`DeepLabV3`.
        output_stride, train_output_stride: of the encoder, in evaluation and in training mode.
        separable: whether ASPP and the 3x3 convolutions are depthwise separable, which the paper's
            Xception networks have.
        decoder_convs: 3x3 convolutions of the decoder; 2 in the paper.
        head_conv: whether a 3x3 convolution follows ASPP.
        align_corners: of both enlargements, see :class:`Network`.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        backbone: Annotated[str, OneOf(*BACKBONES)] = "resnet101",
        rates: Counts = (6, 12, 18),
        multi_grid: Counts = (1, 2, 4),
        output_stride: Stride = 16,
        train_output_stride: Stride = 16,
        convention: ConventionName = "caffe",
        separable: bool = False,
        norm_between: bool = True,
        decoder_convs: Annotated[int, Integer(0)] = 2,
        head_conv: bool = False,
        dropout: Share = 0.0,
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
        self.reduce = ConvNormReLU(self.backbone.out_channels[0], 48, kernel_size=1, **norm)
        self.decoder = nn.Sequential(
            *(self.conv3x3(256 if index else 304, 256) for index in range(decoder_convs))
        )
        self.score = DilatedConv2d(256 if decoder_convs else 304, num_classes, kernel_size=1)
        self.train()

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at stride 4."""
        self.check_size(input)
        low, *_, high = self.backbone(input)
        low = self.reduce(low)
        encoder = bilinear_upsample(self.encode(high), tuple(low.shape[2:]), self.align_corners)
        scores: Tensor = self.score(self.decoder(torch.cat([encoder, low], dim=1)))
        return scores
