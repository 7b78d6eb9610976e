import pytest
import torch

from fastseg.ops.conv_geometry import ConvGeometry
from fastseg.tuning import pyramid_class, shape_class
from fastseg.tuning.shape_class import power_of_two, quarters, share_inside, taps_inside


def class_of(
    shape=(1, 512, 65, 65),
    weight=(512, 512, 3, 3),
    dtype=torch.float32,
    tf32=False,
    channels_last=True,
    **geometry,
):
    made = ConvGeometry.of("test", weight[2:], **{"rate": 2, "padding": "same", **geometry})
    return shape_class(shape, weight, made, dtype, tf32=tf32, channels_last=channels_last)


def test_in_words():
    assert class_of() == "float32 nhwc 3x3 stride 1 dilated 4/4 dense pixels 2^12 channels 2^9 2^9"
    assert class_of((2, 3, 513, 513), (64, 3, 7, 7), rate=1, stride=(2, 1), padding=3) == (
        "float32 nhwc 7x7 stride 2x1 plain 4/4 dense pixels 2^18 channels 2^2 2^6"
    )


def test_what_is_alike_has_one_class():
    assert class_of() == class_of((1, 500, 70, 60), (540, 500, 3, 3), rate=3)
    assert class_of() == class_of((4, 512, 33, 32))  # as many pixels in a batch
    assert class_of(dtype=torch.float16, tf32=True) == class_of(dtype=torch.float16)


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": torch.float16},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float64},
        {"tf32": True},
        {"channels_last": False},
        {"weight": (512, 512, 1, 1)},
        {"weight": (512, 512, 3, 1)},
        {"weight": (1024, 512, 3, 3)},
        {"shape": (1, 1024, 65, 65)},
        {"shape": (1, 512, 129, 65)},
        {"weight": (512, 1, 3, 3), "groups": 512},
        {"weight": (512, 16, 3, 3), "groups": 32},
        {"rate": 1},
        {"rate": 24},
        {"stride": 2},
    ],
    ids=str,
)
def test_what_differs_has_another(other):
    assert class_of(**other) != class_of()


def test_groups_are_told_apart():
    assert " depthwise " in class_of(weight=(512, 1, 3, 3), groups=512)
    assert " grouped " in class_of(weight=(512, 16, 3, 3), groups=32)


def test_powers_of_two_by_ratio():
    found = [power_of_two(n) for n in (0, 1, 2, 3, 5, 6, 11, 12, 4225, 2**20)]
    assert found == ["2^0", "2^0", "2^1", "2^2", "2^2", "2^3", "2^3", "2^4", "2^12", "2^20"]


@pytest.mark.parametrize(
    ("size", "rate", "stride"), [(65, 24, 1), (9, 12, 1), (8, 3, 2), (7, 2, 3)]
)
def test_taps_inside_are_those_that_are_counted(size, rate, stride):
    geometry = ConvGeometry.of("test", (3, 3), rate=rate, padding=rate, stride=stride)
    outputs, _ = geometry.output_size((size, size), (3, 3))
    for tap in range(3):
        offset = rate * (tap - 1)
        counted = sum(0 <= offset + stride * i < size for i in range(outputs))
        found = taps_inside(offset=offset, stride=stride, outputs=outputs, size=size)
        assert found == counted


def test_share_inside():
    def share(rate, size=(65, 65)):
        geometry = ConvGeometry.of("test", (3, 3), rate=rate, padding=rate)
        return share_inside(size, (3, 3), geometry)

    assert share(65) == pytest.approx(1 / 9)
    assert share(13) == pytest.approx(((1 + 2 * 52 / 65) / 3) ** 2)
    found = [quarters([share(rate)]) for rate in (1, 6, 12, 24, 36, 60, 65)]
    assert found == ["4/4", "4/4", "4/4", "3/4", "2/4", "1/4", "1/4"]
    nothing_inside = ConvGeometry.of("test", (1, 1), padding=(4, 0, 0, 0), stride=9)
    assert quarters([share_inside((1, 1), (1, 1), nothing_inside)]) == "1/4"
    assert quarters([0.75]) == "3/4"


def test_pyramids():
    def class_of_pyramid(rates, combine="sum", outputs=21, size=65):
        weights = tuple((outputs, 2048, *((3, 3) if rate else (1, 1))) for rate in rates)
        geometries = tuple(
            ConvGeometry.of("test", weight[2:], rate=max(rate, 1), padding="same")
            for weight, rate in zip(weights, rates, strict=True)
        )
        shape = (1, 2048, size, size)
        options = {"tf32": True, "channels_last": True}
        return pyramid_class(shape, weights, geometries, combine, torch.float32, **options)

    v2 = class_of_pyramid((6, 12, 18, 24))
    assert v2 == "tf32 nhwc sum of 36 taps 3/4 pixels 2^12 channels 2^11 2^4"
    assert class_of_pyramid((7, 11, 18, 23)) == v2
    v3 = class_of_pyramid((0, 12, 24, 36), "concat", 256)
    assert v3 == "tf32 nhwc concat of 28 taps 3/4 pixels 2^12 channels 2^11 2^10"
    assert (
        len({v2, v3, class_of_pyramid((6, 12, 18)), class_of_pyramid((6, 12, 18, 24), size=33)})
        == 4
    )
