"""FCN-AlexNet (Long, Shelhamer and Darrell 2015): one stream on Caffe's AlexNet."""

from torch import Tensor, nn

from fastseg.backbones.alexnet import AlexNet
from fastseg.models.fcn import crop, score_layer
from fastseg.models.input_convention import FCN
from fastseg.models.network import Network
from fastseg.nn import DilatedConv2d, TransposedConv2d
from fastseg.nn.checked import Count, checked


class FCNAlexNet(Network):
    """AlexNet behind 100 pixels of padding, fc6, fc7 and scores, enlarged 32 times.

    Args:
        num_classes: K.
        in_channels: channels of the image.
    """

    input_convention = FCN

    @checked
    def __init__(self, num_classes: Count = 21, *, in_channels: Count = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = AlexNet(in_channels, convention="caffe", first_padding=100)
        self.fc6 = DilatedConv2d(256, 4096, kernel_size=6, padding="valid", activation="relu")
        self.fc7 = DilatedConv2d(4096, 4096, kernel_size=1, activation="relu")
        self.dropout = nn.Dropout(0.5)
        self.score_fr = score_layer(4096, num_classes)
        self.upscore = TransposedConv2d(
            num_classes, num_classes, kernel_size=63, stride=32, bias=False
        ).requires_grad_(False)
        self.upscore.init_bilinear_()

    def scores(self, input: Tensor) -> Tensor:
        """``(B, K, h, w)`` at stride 32, of the padded image."""
        self.check_size(input)
        top = self.dropout(self.fc6(self.backbone(input)[-1]))
        scores: Tensor = self.score_fr(self.dropout(self.fc7(top)))
        return scores

    def upsample(self, scores: Tensor, input: Tensor) -> Tensor:
        return crop(self.upscore(scores), 18, input)
