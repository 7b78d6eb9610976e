"""U-Net (Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015)."""

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from fastseg.models.input_convention import UNIT_GREY, UNIT_RGB
from fastseg.models.network import Network, check_image
from fastseg.models.unet_blocks import DoubleConv, UpLevel
from fastseg.nn import DilatedConv2d, TransposedConv2d
from fastseg.nn.checked import Count, Integer, OneOf, Share, checked

DEEPEST = 16  # poolings: sides of 65536 pixels and more


class UNet(Network):
    """Contracting levels, expanding levels, and the skips between them (fig. 1).

    The paper's network has valid convolutions: an image of 572x572 gives logits of 388x388, the
    skips are cropped about their centre, and the sides must be 188 + 16 k for the four poolings to
    come out even. ``padding="same"`` is the form that keeps the size, for sides of any length.

    Args:
        num_classes: K.
        in_channels: channels of the image.
        depth: poolings, 4 in the paper.
        width: channels of the first level, 64 in the paper; each level has twice those before.
        padding: ``"valid"`` or ``"same"``.
        norm: whether batch norm, and no bias, goes with each convolution.
        up: ``"deconv"``: 2x2 transposed convolutions of stride 2 that halve the channels.
            ``"bilinear"``: interpolation, corner samples coinciding; the deepest level then keeps
            the channels of the one above, and the first convolution of each level halves them.
        caffe: the released network: the last up-convolution keeps its channels, and ReLU follows
            each of them.
        dropout: at the end of the two deepest contracting levels, in training.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 2,
        *,
        in_channels: Count = 1,
        depth: Annotated[int, Integer(1, DEEPEST)] = 4,
        width: Count = 64,
        padding: Annotated[str, OneOf("valid", "same")] = "valid",
        norm: bool = False,
        up: Annotated[str, OneOf("deconv", "bilinear")] = "deconv",
        caffe: bool = False,
        dropout: Share = 0.5,
    ) -> None:
        super().__init__()
        self.num_classes, self.depth, self.padding = num_classes, depth, padding
        self.input_convention = UNIT_GREY if in_channels == 1 else UNIT_RGB
        widths = [width << level for level in range(depth + 1)]
        if up == "bilinear":
            widths[-1] //= 2
        self.encoder = nn.ModuleList()
        for channels in widths:
            self.encoder.append(
                DoubleConv(in_channels, channels, channels, padding=padding, norm=norm)
            )
            in_channels = channels
        self.decoder = nn.ModuleList()
        for level in reversed(range(depth)):
            skip, below = widths[level], in_channels
            kept = below if up == "bilinear" or (caffe and level == 0) else skip
            in_channels = max(skip // 2, width) if up == "bilinear" else skip
            middle = (kept + skip) // 2 if up == "bilinear" else skip
            self.decoder.append(
                UpLevel(
                    None
                    if up == "bilinear"
                    else TransposedConv2d(below, kept, kernel_size=2, stride=2),
                    DoubleConv(kept + skip, middle, in_channels, padding=padding, norm=norm),
                    relu=caffe,
                    crop=padding == "valid",
                )
            )
        self.score = DilatedConv2d(in_channels, num_classes, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 2 / N), N the inputs of a neuron (sec. 3), and zero biases."""
        for layer in self.modules():
            if isinstance(layer, DilatedConv2d | TransposedConv2d):
                weight, bias = layer.weight, layer.bias
                inputs = len(weight) if isinstance(layer, TransposedConv2d) else weight[0].numel()
                nn.init.normal_(weight, std=(2 / inputs) ** 0.5)
                if bias is not None:
                    nn.init.zeros_(bias)

    @property
    def min_size(self) -> int:
        return self.valid_size(1)

    @property
    def margin(self) -> int:
        """Pixels of each border that the logits leave out: 92 in the paper."""
        return 0 if self.padding == "same" else (12 << self.depth) // 2 - 4

    def valid_size(self, least: int) -> int:
        """The smallest side of at least ``least`` pixels that the network takes."""
        if self.padding == "same":
            return max(least, 1 << self.depth)
        step = 1 << self.depth
        smallest = 2 * self.margin + 4
        return smallest + max(0, -(-(least - smallest) // step)) * step

    def scores(self, input: Tensor) -> Tensor:
        """Logits: at the size of the image, or ``margin`` pixels less on each side.

        Raises:
            ValueError: sides that the poolings do not divide, or too short.
        """
        self.check_size(input)
        skips = []
        for level, double_conv in enumerate(self.encoder):
            input = double_conv(functional.max_pool2d(input, 2) if level else input)
            if level >= self.depth - 1:
                input = self.dropout(input)
            skips.append(input)
        output = skips.pop()
        for up_level in self.decoder:
            output = up_level(output, skips.pop())
        scores: Tensor = self.score(output)
        return scores

    def forward(self, input: Tensor) -> Tensor:
        return self.scores(input)

    def check_size(self, input: Tensor) -> None:
        check_image("UNet", input)
        height, width = input.shape[2:]
        step, least = 1 << self.depth, self.min_size
        valid = self.padding == "valid"
        for side in (height, width):
            if side >= least and not (valid and (side - least) % step):
                continue
            rule = f"{least} + {step} k pixels" if valid else f"at least {least} pixels"
            raise ValueError(
                f"UNet: input must have sides of {rule}, got {height} x {width}; the next is "
                f"{self.valid_size(height)} x {self.valid_size(width)}, and overlap_tile takes "
                "any size"
            )
