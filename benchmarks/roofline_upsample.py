"""Upsampling and what follows it on paper: what the kernels move, and what torch's must."""

from collections.abc import Iterator

from benchmarks.roofline_cards import Plan, Rival, Step

FLOAT, LONG = 4, 8

CASES = [  # name, batch, classes, source, size
    ("VOC", 1, 21, (65, 65), (513, 513)),
    ("VOC training", 8, 21, (41, 41), (321, 321)),
    ("Cityscapes", 1, 19, (129, 257), (1024, 2048)),
]


def upsampling() -> Iterator[Plan]:
    for case in CASES:
        yield from operators(*case)


def operators(
    name: str, batch: int, classes: int, source: tuple[int, int], size: tuple[int, int]
) -> Iterator[Plan]:
    """Each operator on ``(batch, classes, *source)``, and torch's, one kernel after the other."""
    samples = float(batch * classes * source[0] * source[1] * FLOAT)
    pixels = batch * size[0] * size[1]
    enlarged, labels = float(classes * pixels * FLOAT), pixels * float(LONG)
    blend = 7.0 * classes * pixels  # operations of interpolating everything once
    # Four neighbours of a row interpolate three columns vertically, and each itself horizontally.
    shared = (3 * 3 + 4 * 3) / 4 * classes * pixels
    tables = Step("tabulate_axes", ((size[0] + size[1]) * 16.0,), 0)
    record = 16.0 * pixels
    label = f"{name} {batch}x{classes}x{source[0]}x{source[1]} to {size[0]}x{size[1]}"
    adjoint = 2 * blend  # every pixel row lies in two windows
    soften = 40.0 * classes * pixels

    def plan(op: str, steps: list[Step], floor: float, torch: float, launches: int) -> Plan:
        rival = Rival(torch, launches=launches)
        return Plan(f"{op} {label}", (tables, *steps), floor, blend, rivals={"torch": rival})

    for op, kernel in (("upsample", "upsample_planes"), ("upsample nhwc", "upsample_pixels")):
        moved = samples + enlarged
        yield plan(op, [Step(kernel, (samples, enlarged), blend)], moved, moved, 1)
    yield plan(
        "upsample_argmax",
        [Step("argmax_of_pixels", (samples, labels), shared + blend)],
        samples + labels,
        samples + 2 * enlarged + labels,
        2,
    )
    for op, kernel in (
        ("upsample_softmax", "softmax_of_planes"),
        ("upsample_softmax nhwc", "softmax_of_pixels"),
    ):
        yield plan(
            op,
            [Step(kernel, (samples, enlarged), 2 * blend + soften)],
            samples + enlarged,
            samples + 3 * enlarged,
            2,
        )
    for op, kernel in (
        ("upsample_softmax gradient", "inner_products_of_planes"),
        ("upsample_softmax gradient nhwc", "inner_products_of_pixels"),
    ):
        yield plan(
            op,
            [
                Step(kernel, (2 * enlarged, pixels * float(FLOAT)), 2.0 * classes * pixels),
                Step("upsample_adjoint", (2 * enlarged, samples), adjoint),
            ],
            2 * enlarged + samples,
            3 * enlarged + enlarged + samples,  # of the softmax, of the interpolation
            2,
        )
    yield plan(
        "upsample gradient",
        [Step("upsample_adjoint", (enlarged, samples), adjoint)],
        enlarged + samples,
        enlarged + samples,
        1,
    )
    yield plan(
        "upsample_cross_entropy and gradient",
        [
            Step("losses_of_pixels", (samples, labels, record), shared + soften / 2),
            Step("total_loss", (pixels / 1024 * 24.0,), 0),
            Step("upsample_adjoint", (record, 2 * samples), 2 * shared + soften),
        ],
        2 * samples + labels,
        # interpolate, log_softmax, the loss, and their gradients
        samples + enlarged + 2 * enlarged + labels + 3 * enlarged + enlarged + samples,
        6,
    )
