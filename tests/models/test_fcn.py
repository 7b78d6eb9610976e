"""What is particular to FCN: deconvolutions that interpolate, crops that centre, zero scores."""

import pytest
import torch

from fastseg.models import FCN8s, FCN16s, FCN32s, FCNAlexNet
from fastseg.nn import TransposedConv2d, receptive_field


@pytest.mark.parametrize("network", [FCN32s, FCN16s, FCN8s, FCNAlexNet])
def test_crops_centre_the_scores(network):
    """Through deconvolution and crop, the coarse scores' middle lies over the image's.

    A unit of the coarse map stands at the centre of its receptive field; its enlarged peak, after
    every crop, must stand at the same pixel, to half a pixel.
    """
    with torch.device("meta"):
        model = network(1)
        field = receptive_field(model, at="score_fr")
    stride, size, start = int(field.stride[0]), field.size[0], field.start[0]
    index = 3
    centre = start + index * stride + (size - 1) / 2
    side = 32 * 8
    coarse = torch.zeros(1, 1, 10, 10)
    coarse[..., index, index] = 1
    for name, module in list(model.named_children()):
        if isinstance(module, TransposedConv2d):
            filled = module.to_empty(device="cpu")
            filled.init_bilinear_()
            if name in ("upscore2", "upscore_pool4"):
                coarse = filled(coarse)
    enlarged = model.upsample(coarse, torch.empty(1, 1, side, side))
    mass = enlarged[0, 0].sum(1)
    found = float((mass * torch.arange(side)).sum() / mass.sum())
    assert abs(found - centre) <= 0.5


def test_crop_of_pool4_centres_it_on_the_enlarged_scores():
    """Offsets 5 and 9: what is added together is centred on the same pixel, to half a pixel."""
    with torch.device("meta"):
        model = FCN8s(1)
        coarse, pool4, pool3 = (
            receptive_field(model, at=name) for name in ("score_fr", "score_pool4", "score_pool3")
        )

    def centre(field, index):
        return field.start[0] + index * field.stride[0] + (field.size[0] - 1) / 2

    # Output o of a deconvolution of 4 at stride 2 has its centre over (o - 1.5) / 2 of its input.
    assert abs(centre(pool4, 5) - centre(coarse, -1.5 / 2)) <= 0.5
    assert abs(centre(pool3, 9) - centre(coarse, (-1.5 / 2 - 1.5) / 2)) <= 0.5


@pytest.mark.parametrize(
    ("network", "kernels"),
    [
        (FCN32s, {"upscore": 64}),
        (FCN16s, {"upscore2": 4, "upscore16": 32}),
        (FCN8s, {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}),
        (FCNAlexNet, {"upscore": 63}),
    ],
)
def test_upsampling_layers(network, kernels):
    with torch.device("meta"):
        model = network(3)
    layers = {n: m for n, m in model.named_children() if isinstance(m, TransposedConv2d)}
    assert {name: layer.kernel_size[0] for name, layer in layers.items()} == kernels
    for layer in layers.values():
        assert layer.bias is None and not layer.weight.requires_grad
        assert layer.padding == (0, 0)


def test_upsampling_starts_bilinear_and_scores_at_zero():
    model = FCN8s(3)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    expected = torch.eye(3)[..., None, None] * torch.outer(line, line)
    assert torch.equal(model.upscore2.weight, expected)
    assert torch.equal(model.upscore_pool4.weight, expected)
    assert model.upscore8.weight.sum() == pytest.approx(3 * 64)
    layers = [m for name, m in model.named_children() if name.startswith("score_")]
    assert len(layers) == 3
    assert all(not parameter.any() for layer in layers for parameter in layer.parameters())


def test_what_is_trained():
    with torch.device("meta"):
        frozen, learned = FCN8s(), FCN8s(learn_upsampling=True)
    fixed = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert fixed == {"upscore2.weight", "upscore_pool4.weight", "upscore8.weight"}
    fixed = {name for name, parameter in learned.named_parameters() if not parameter.requires_grad}
    assert fixed == {"upscore8.weight"}


def test_streams_share_their_names():
    """FCN-16s starts from the weights of FCN-32s, and FCN-8s from those of FCN-16s."""
    with torch.device("meta"):
        names = [set(network().state_dict()) for network in (FCN32s, FCN16s, FCN8s)]
    shared = names[0] - {"upscore.weight"}
    assert shared <= names[1]
    assert names[1] - {"upscore16.weight"} <= names[2]


def test_at_once_has_the_keys_of_the_other():
    with torch.device("meta"):
        assert FCN8s(at_once=True).state_dict().keys() == FCN8s().state_dict().keys()
