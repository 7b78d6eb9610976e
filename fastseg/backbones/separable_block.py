"""What the blocks of Xception and of its aligned form share."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from fastseg.nn import ConvNormReLU, SeparableConvNormReLU


class SeparableBlock(nn.Module):
    """Separable convolutions in a row, from one of ``widths`` to the next, beside a shortcut."""

    last_activation: str | None = "relu"

    def __init__(
        self,
        widths: tuple[int, ...],
        stride: int,
        conv: "partial[ConvNormReLU]",
        separable: "partial[SeparableConvNormReLU]",
    ) -> None:
        super().__init__()
        self.stride = stride
        *first, last = pairwise(widths)
        self.convs = nn.ModuleList(separable(*pair) for pair in first)
        self.convs.append(separable(*last, activation=self.last_activation))
        self.shortcut: ConvNormReLU | None = None
        if stride > 1 or widths[0] != widths[-1]:
            self.shortcut = conv(widths[0], widths[-1], kernel_size=1, activation=None)

    def around(self, input: Tensor) -> Tensor:
        """What goes past the convolutions."""
        return input if self.shortcut is None else self.shortcut(input)
