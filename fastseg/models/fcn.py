"""FCN (Long, Shelhamer and Darrell, "Fully Convolutional Networks", CVPR 2015), on VGG-16."""

from torch import Tensor, nn

from fastseg.backbones.vgg import VGG16
from fastseg.models.input_convention import FCN as FCN_PIXELS
from fastseg.models.network import Network
from fastseg.nn import DilatedConv2d, TransposedConv2d
from fastseg.nn.checked import Count, checked


class FCN(Network):
    """What the three streams share: VGG-16 behind 100 pixels of padding, fc6, fc7, ``score_fr``.

    The padding lets an image of one pixel through. Everything after it follows from Caffe's
    geometry: pools round up, and each sum and each output is cropped by a fixed offset so that
    the maps' centres coincide. The score layers start at zero.

    Args:
        num_classes: K.
        in_channels: channels of the image.
        learn_upsampling: whether the deconvolutions before the last are trained, as the paper
            says; the released networks keep all of them at bilinear interpolation.
    """

    input_convention = FCN_PIXELS

    @checked
    def __init__(
        self, num_classes: Count = 21, *, in_channels: Count = 3, learn_upsampling: bool = False
    ) -> None:
        super().__init__()
        self.num_classes, self.learn_upsampling = num_classes, learn_upsampling
        self.backbone = VGG16(in_channels, first_padding=100, ceil_mode=True)
        self.fc6 = DilatedConv2d(512, 4096, kernel_size=7, padding="valid", activation="relu")
        self.fc7 = DilatedConv2d(4096, 4096, kernel_size=1, activation="relu")
        self.dropout = nn.Dropout(0.5)
        self.score_fr = score_layer(4096, num_classes)

    def coarse(self, pool5: Tensor) -> Tensor:
        """Scores at stride 32."""
        top = self.dropout(self.fc6(pool5))
        scores: Tensor = self.score_fr(self.dropout(self.fc7(top)))
        return scores


class FCN32s(FCN):
    """One stream, enlarged 32 times."""

    @checked
    def __init__(
        self, num_classes: Count = 21, *, in_channels: Count = 3, learn_upsampling: bool = False
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, learn_upsampling=learn_upsampling)
        self.upscore = TransposedConv2d.bilinear(num_classes, 32, padding=0, trainable=False)

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at stride 32, of the padded image."""
        self.check_size(input)
        return self.coarse(self.backbone(input)[-1])

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        return crop(self.upscore(scores), 19, input)


class FCN16s(FCN):
    """Two streams: the coarse scores, enlarged twice, and those of pool4."""

    @checked
    def __init__(
        self, num_classes: Count = 21, *, in_channels: Count = 3, learn_upsampling: bool = False
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, learn_upsampling=learn_upsampling)
        self.score_pool4 = score_layer(512, num_classes)
        self.upscore2 = TransposedConv2d.bilinear(
            num_classes, 2, padding=0, trainable=learn_upsampling
        )
        self.upscore16 = TransposedConv2d.bilinear(num_classes, 16, padding=0, trainable=False)

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at stride 16, of the padded image."""
        self.check_size(input)
        *_, pool4, pool5 = self.backbone(input)
        upscore2: Tensor = self.upscore2(self.coarse(pool5))
        return upscore2 + crop(self.score_pool4(pool4), 5, upscore2)

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        return crop(self.upscore16(scores), 27, input)


class FCN8s(FCN):
    """Three streams: those of FCN-16s, enlarged twice, and the scores of pool3.

    Args:
        at_once: the network trained in one stage, whose pools are scaled before they are scored,
            pool4 by 0.01 and pool3 by 0.0001. Weights of either kind fit the other and give
            wrong results.
        upscore2_bias: whether ``upscore2`` has a bias, as one port of CRF-RNN does.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        at_once: bool = False,
        upscore2_bias: bool = False,
        in_channels: Count = 3,
        learn_upsampling: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, learn_upsampling=learn_upsampling)
        self.at_once = at_once
        self.score_pool4 = score_layer(512, num_classes)
        self.score_pool3 = score_layer(256, num_classes)
        self.upscore2 = TransposedConv2d(
            num_classes, num_classes, kernel_size=4, stride=2, bias=upscore2_bias
        ).requires_grad_(learn_upsampling)
        self.upscore2.init_bilinear_()
        self.upscore_pool4 = TransposedConv2d.bilinear(
            num_classes, 2, padding=0, trainable=learn_upsampling
        )
        self.upscore8 = TransposedConv2d.bilinear(num_classes, 8, padding=0, trainable=False)

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at stride 8, of the padded image."""
        self.check_size(input)
        *_, pool3, pool4, pool5 = self.backbone(input)
        if self.at_once:
            pool3, pool4 = pool3 * 0.0001, pool4 * 0.01
        upscore2: Tensor = self.upscore2(self.coarse(pool5))
        fuse_pool4 = upscore2 + crop(self.score_pool4(pool4), 5, upscore2)
        upscore_pool4: Tensor = self.upscore_pool4(fuse_pool4)
        return upscore_pool4 + crop(self.score_pool3(pool3), 9, upscore_pool4)

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        return crop(self.upscore8(scores), 31, input)


def crop(map: Tensor, offset: int, like: Tensor) -> Tensor:
    """Rows and columns from ``offset`` on, as many as ``like`` has."""
    height, width = like.shape[2:]
    return map[:, :, offset : offset + height, offset : offset + width]


def score_layer(in_channels: int, num_classes: int) -> DilatedConv2d:
    """A 1x1 convolution that starts at zero (sec. 4.1 of the paper)."""
    layer = DilatedConv2d(in_channels, num_classes, kernel_size=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
