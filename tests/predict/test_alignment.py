"""Labels lie where their scores were taken: centres of fields against those of the upsampling."""

import numpy as np
import pytest
import torch
from thin import CLASSES, thin
from torch import nn

from fastseg.backbones.resnet import DEPTHS
from fastseg.models import DeepLabV3, DeepLabV3Plus, build, list_systems
from fastseg.nn import receptive_field
from fastseg.predict import Segmenter, passes
from fastseg.predict.forward import Enlarged

SIDES, WINDOW = (97, 500, 513, 514, 607), 320
ALIGNED = 0.5  # pixels, of networks whose corner samples coincide with the image's
FARTHER = {  # as published
    # Its code takes sides of 16 k alone, over which aligned corners stretch the scores.
    "deeplabv3_resnet50_smp": 7.0,
    "deeplabv3plus_resnet50_smp": 3.0,
    "deeplabv3plus_resnet101_smp": 3.0,
    # The stem's convolutions are without padding, and the map is enlarged as if they were not.
    "deeplabv3_xception_vainf": 41.0,
    "deeplabv3plus_xception_vainf": 4.5,
}


class Grid(nn.Module):
    """The layer whose samples the scores lie on: image pooling, which sees all, is left out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input):
        if isinstance(self.network, DeepLabV3):
            return self.network.backbone(input)[-1]
        if isinstance(self.network, DeepLabV3Plus):
            return self.network.backbone(input)[0]
        return self.network.scores(input)


@pytest.fixture(params=[name for name in list_systems() if "deeplab" in name or "resnet" in name])
def system(request, monkeypatch):
    """A system that enlarges its scores, and the sides of the inputs that a Segmenter gives it."""
    for depth in (50, 101):
        monkeypatch.setitem(DEPTHS, depth, (1, 1, 1, 1))
    with torch.device("meta"):
        model = build(request.param).eval()
    segmenter = Segmenter(thin(build, request.param, CLASSES), compile=False)
    sides = set()

    def run(model, input, image):
        sides.add(input.shape[2])
        return Enlarged(torch.zeros(1, CLASSES, 1, 1), tuple(input.shape[2:]), False)

    monkeypatch.setattr(passes, "run_model", run)
    for side in SIDES:
        segmenter.predict(np.zeros((side, side, 3), np.uint8))
    segmenter.tile = WINDOW
    segmenter.predict(np.zeros((607, 607, 3), np.uint8))
    return request.param, getattr(model, "network", model), sorted(sides)


def test_labels_lie_on_the_centres_of_their_fields(system):
    """To half a pixel with aligned corners; without, to less than the scores are apart."""
    name, network, sides = system
    grid = Grid(network)
    field = receptive_field(grid, in_channels=3)
    centre, stride = field.start[0] + (field.size[0] - 1) / 2, float(field.stride[0])
    bound = FARTHER.get(name, ALIGNED if network.align_corners else stride)
    for side in sides:
        count = grid(torch.empty(1, 3, side, side, device="meta")).shape[2]
        pixel = torch.arange(side).double()
        sample = (
            pixel * (count - 1) / (side - 1)
            if network.align_corners
            else (pixel + 0.5) * count / side - 0.5
        )
        assert (centre + stride * sample - pixel).abs().max() <= bound, side
