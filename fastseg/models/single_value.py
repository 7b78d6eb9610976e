"""Training on one image too small for it: the deepest map of a batch norm is one pixel."""

import torch
from torch import Tensor, nn

from fastseg.nn.receptive_field import on_meta

SINGLE_VALUE = "more than 1 value per channel"
"""Of torch's own error."""
LARGEST = 4096


def explained(network: nn.Module, input: Tensor, least: int) -> ValueError:
    """In place of torch's error, one that says what to do; ``least`` is the network's least side.

    The least side to train on is found by running the network without values.
    """
    copied = on_meta(network)

    def trains(side: int) -> bool:
        image = input.new_empty(1, input.shape[1], side, side, device="meta")
        try:
            with torch.no_grad():
                copied(image)
        except ValueError as error:
            if SINGLE_VALUE in str(error):
                return False
            raise
        return True

    low, high = least, least + 1  # low is too short
    while not trains(high) and high < LARGEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trains(middle) else (middle, high)
    height, width = input.shape[2:]
    return ValueError(
        f"{type(network).__name__}: input must have sides of at least {high} pixels to train on "
        f"one image, for batch norm needs more than one value, got {height} x {width}; "
        "enlarge the image or train on two at once"
    )
