"""The lattice and the dense CRF on paper: what their kernels move, and what others' must."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.roofline_cards import Plan, Rival, Step

FLOAT, INDEX, LONG = 4, 4, 8
ITERATIONS = 10


class Field(NamedTuple):
    """A case of ``run.py crf``; ``kernels`` are (dims, lattice vertices) of the demo's photograph,
    or of the benchmark's volume, as its operator counts them."""

    name: str
    pixels: int
    labels: int
    kernels: tuple[tuple[int, int], ...]


CASES = [
    Field("375x500x21 80/13", 375 * 500, 21, ((2, 24540), (5, 13370))),
    Field("375x500x21 67/3", 375 * 500, 21, ((2, 24540), (5, 172352))),
    Field("512x512x21 80/13", 512 * 512, 21, ((2, 34056), (5, 18679))),
    Field("512x512x21 67/3", 512 * 512, 21, ((2, 34056), (5, 239113))),
    Field("1024x1024x19 80/13", 1024 * 1024, 19, ((2, 135288), (5, 61643))),
    Field("1024x1024x19 67/3", 1024 * 1024, 19, ((2, 135288), (5, 818885))),
    Field("1080x1920x2 80/13", 1080 * 1920, 2, ((2, 267509), (5, 114082))),
    Field("1080x1920x2 67/3", 1080 * 1920, 2, ((2, 267509), (5, 1573488))),
    Field("64x128x128x2 20/13", 64 * 128 * 128, 2, ((3, 47634), (4, 2450))),
    Field("64x128x128x2 17/3", 64 * 128 * 128, 2, ((3, 47634), (4, 13651))),
]


def dense_crf() -> Iterator[Plan]:
    """Build and ten iterations of each case apart, and together beside what others must do."""
    for case in CASES:
        build, updates = mean_field(case.pixels, case.labels, list(case.kernels), ITERATIONS)
        rows = case.pixels * case.labels * FLOAT
        features = case.pixels * FLOAT * sum(dims for dims, _ in case.kernels)
        edges = case.pixels * (INDEX + FLOAT) * sum(dims + 1 for dims, _ in case.kernels)
        name = f"mean field {case.name}"
        yield Plan(f"{name}: build", tuple(build), rows + features + edges)
        yield Plan(f"{name}: {ITERATIONS} iterations", tuple(updates), 2 * rows + edges)
        yield Plan(
            f"dense CRF {case.name}: whole call",
            (*build, *updates),
            2 * rows + features,
            rivals={
                "MONAI": others(case, rebuilds=True),
                "heiwang1997/DenseCRF": others(case, rebuilds=False),
            },
        )


def others(case: Field, *, rebuilds: bool) -> Rival:
    """The public CUDA implementations, both after Adams et al. 2010, read on 2026-11-24.

    MONAI's PermutohedralFilter (monai/csrc/filtering/permutohedral), as its CRF block calls it,
    ``rebuilds`` the lattice for every filter; DenseCRF (github.com/heiwang1997/DenseCRF) keeps it.
    A slot is one of N (d + 1) contributions: both clear values of L + 1 floats for each slot in
    every filter, MONAI a second array of them too, and 8 bytes of table and 2 d of keys; both look
    through all slots on every axis to find which are vertices. What they read through the cache,
    the look-ups and the atomic additions, is left out: this is the least.
    """
    moved, launches = 0.0, 0
    rows = case.pixels * case.labels * FLOAT
    for dims, vertices in case.kernels:
        slots = float(case.pixels * (dims + 1))
        values, used = slots * (case.labels + 1) * FLOAT, vertices * (case.labels + 1.0) * FLOAT
        tables = slots * (8 + 2 * dims)
        build = tables + case.pixels * dims * FLOAT + slots * 8 + slots * 8  # matrix; cleaning
        splat = rows + slots * 8 + used
        blur = (dims + 1) * (slots * 8 + 2 * used)
        slicing = slots * 8 + used + rows
        each = values + splat + blur + slicing
        if rebuilds:
            moved += ITERATIONS * (each + build + values)
            launches += ITERATIONS * (4 + 2 + 1 + dims + 1 + 1)
        else:
            moved += build + ITERATIONS * each
            launches += 4 + ITERATIONS * (2 + dims + 1 + 1)
    # The sum of the messages with the unary, and the softmax, in passes of their own.
    moved += ITERATIONS * (3.0 * len(case.kernels) + 2) * rows
    launches += ITERATIONS * (len(case.kernels) + 2)
    return Rival(moved, launches=launches)


def lattice_filter() -> Iterator[Plan]:
    """The public filter of 21 channels, and its gradient, on 375x500 points of five features."""
    pixels, channels, dims, vertices = 375 * 500, 21, 5, 13370
    corners, rows = dims + 1, 375 * 500 * 21 * FLOAT
    contributions = float(pixels * corners)
    lattice = float(vertices * channels * FLOAT)
    pieces = contributions / 64 * channels * FLOAT
    edges = contributions * (INDEX + FLOAT)

    def blurred() -> list[Step]:
        return [
            Step(
                "splat_pieces",
                (rows, contributions * (2 * INDEX + FLOAT), lattice, pieces),
                2.0 * contributions * channels,
            ),
            Step("join_pieces", (pieces, lattice), contributions / 64 * channels),
            Step("blur_axes", (2 * lattice, vertices * 4.0 * INDEX), 12.0 * vertices * channels,
                 -(-corners // 2)),
        ]  # fmt: skip

    slicing = Step("slice_points", (lattice, edges, rows), 2.0 * contributions * channels)
    products = Step(
        "multiply_vertices", (2 * lattice, 2 * rows, edges), 2.0 * contributions * channels
    )
    name = f"permutohedral filter 375x500x{channels}, {dims} features"
    yield Plan(name, (*blurred(), slicing), 2 * rows + edges)
    yield Plan(f"{name}: gradient", (*blurred(), slicing, products), 4 * rows + 2 * edges)
    norm, parts = pixels * float(FLOAT), -(-pixels // 4096) * 2.0 * FLOAT
    sums = (
        Step("sum_blocks", (norm, parts), float(pixels)),
        Step("join_blocks", (parts,), float(pixels // 4096)),
    )
    yield Plan(f"{name}: sum of the norm for the mean normalisation", sums, norm)


def field_options() -> Iterator[Plan]:
    """What only some settings run: the normalisation "mean", and a full matrix of labels."""
    pixels, labels = 375 * 500, 21
    lattices = [vertices * labels * float(FLOAT) for vertices in (24540, 13370)]
    yield Plan(
        "mean field 375x500x21: mean normalisation",
        (Step("mean_of_images", (pixels * float(FLOAT),), float(pixels)),),
        pixels * float(FLOAT),
    )
    yield Plan(
        "mean field 375x500x21: label matrices, an iteration",
        tuple(Step("transform_rows", (size, size), 2 * labels * size / FLOAT) for size in lattices),
        2 * sum(lattices),
    )


def sort_passes(limit: int) -> int:
    """Launches of a radix sort of keys below ``limit``, eight bits each."""
    return max(1, -(-(limit - 1).bit_length() // 8))


def mean_field(
    pixels: int, labels: int, kernels: list[tuple[int, int]], iterations: int
) -> tuple[list[Step], list[Step]]:
    """The steps of build and updates, of up to four kernels, each (dims, lattice vertices)."""
    rows = pixels * labels * FLOAT
    # There and back, and the first softmax.
    build = [
        Step("transpose_tiles", (rows, rows), 0, 2),
        Step("find_not_finite", (len(kernels) * float(FLOAT),), 0),
        Step("update_pixels", (rows, rows), 30.0 * pixels * labels),
    ]
    for dims, vertices in kernels:
        corners, contributions = dims + 1, pixels * (dims + 1)
        table = contributions * 2.0 * 2 * LONG  # two slots a contribution, if unlucky
        links = corners * vertices * 2 * INDEX
        build += [
            Step("place_points", (pixels * dims * FLOAT, contributions * 9.0, table),
                 pixels * 100.0),
            Step("enter_vertices", (contributions * (5.0 + LONG), table), contributions * 60.0),
            Step("number_vertices", (contributions * float(LONG), table), contributions * 4.0),
            Step("name_vertices", (contributions * (LONG + 2.0 * INDEX),), contributions * 4.0),
            Step(
                "scatter_pairs",
                (contributions * (3.0 * INDEX + 2.0 * LONG),),
                contributions * 20.0,
                sort_passes(vertices),
            ),
            Step(
                "link_vertices",
                (contributions * float(INDEX), links, vertices * 3.0 * LONG),
                vertices * corners * 120.0,
            ),
            Step(
                "normalize_weights",
                (contributions * (INDEX + LONG + 4.0 * FLOAT), vertices * float(FLOAT)),
                pixels * corners * corners * 6.0,
            ),
        ]  # fmt: skip
    build += filter_steps(pixels, 1, kernels, contribution_bytes=LONG + FLOAT)
    edges = sum(pixels * (d + 1) * (INDEX + FLOAT) + m * labels * FLOAT for d, m in kernels)
    operations = (
        sum(2.0 * pixels * (dims + 1) * labels for dims, _ in kernels) + 40.0 * pixels * labels
    )
    update = [
        *filter_steps(pixels, labels, kernels, contribution_bytes=INDEX + FLOAT),
        Step("update_pixels", (rows, edges, rows), operations),
    ]
    repeated = [
        Step(step.kernel, step.arrays, step.operations, step.launches * iterations)
        for step in update
    ]
    return build, repeated


def filter_steps(
    pixels: int, channels: int, kernels: list[tuple[int, int]], contribution_bytes: float
) -> list[Step]:
    """Splat and blur of all kernels together, of ``channels`` channels: two axes a launch."""
    contributions = float(sum(pixels * (dims + 1) for dims, _ in kernels))
    lattice = float(sum(vertices for _, vertices in kernels) * channels * FLOAT)
    values = pixels * channels * FLOAT if channels > 1 else 0
    tiles = contributions / 64 * channels * FLOAT
    steps = [
        Step(
            "splat_rows",
            (values, contributions * contribution_bytes, lattice, tiles),
            2.0 * contributions * channels,
        ),
        Step("join_rows", (tiles, lattice), contributions / 64 * channels),
    ]
    for axis in range(0, max(dims for dims, _ in kernels) + 1, 2):
        some = float(sum(vertices for dims, vertices in kernels if axis <= dims))
        steps.append(
            Step(
                "blur_rows",
                (2 * some * channels * FLOAT, some * 4 * INDEX),
                12.0 * some * channels,
            )
        )
    return steps
