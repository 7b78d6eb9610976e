"""The lattice and the dense CRF on paper: what their kernels move, and what others' must."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.roofline_cards import Plan, Rival, Step

FLOAT, HALF, INDEX, LONG = 4, 2, 4, 8
SECTOR, WARP = 32, 32  # bytes that the cache gives at least; lanes
ITERATIONS = 10


class Lattice(NamedTuple):
    """A Gaussian kernel's lattice, as the operator builds it.

    ``reads`` are the rows that a vertex needs in each launch of the blur, along two axes or the
    last: 9 or 3 where all neighbours exist, as is assumed if nothing is said. ``hottest`` is the
    largest number of contributions to one vertex.
    """

    dims: int
    vertices: int
    reads: tuple[float, ...] = ()
    hottest: int = 0

    def rows(self, axis: int) -> float:
        """That a vertex needs in the launch for ``axis`` and the next one."""
        if self.reads:
            return self.reads[axis // 2]
        return 9.0 if axis < self.dims else 3.0


class Field(NamedTuple):
    """A case of ``run.py crf``, its lattices those of the demo's photograph or of the volume."""

    name: str
    pixels: int
    labels: int
    kernels: tuple[Lattice, ...]


def gathered(rows: float, channels: int, size: int, *, adjoining: bool = True) -> float:
    """Bytes through the cache of ``rows`` that lie anywhere, in whole sectors, a lane a channel.

    Lanes that follow one another ask for ``adjoining`` rows, which then begin within a warp and are
    cut at its end; or each row has lanes of its own.
    """
    width = channels * size
    if SECTOR % width == 0:
        return rows * SECTOR
    parts = 1 + (channels - 1) / WARP if adjoining else -(-channels // WARP)
    return rows * (width + parts * (SECTOR - size))


CASES = [
    Field(
        "375x500x21 80/13",
        375 * 500,
        21,
        (Lattice(2, 24540, (8.91, 2.98), 28), Lattice(5, 13370, (5.37, 5.44, 5.18), 6954)),
    ),
    Field(
        "375x500x21 67/3",
        375 * 500,
        21,
        (Lattice(2, 24540, (8.91, 2.98), 28), Lattice(5, 172352, (3.68, 4.45, 5.03), 1563)),
    ),
    Field(
        "512x512x21 80/13",
        512 * 512,
        21,
        (Lattice(2, 34056, (8.92, 2.99), 28), Lattice(5, 18679, (5.44, 5.69, 5.18), 7729)),
    ),
    Field(
        "512x512x21 67/3",
        512 * 512,
        21,
        (Lattice(2, 34056, (8.92, 2.99), 28), Lattice(5, 239113, (3.72, 4.61, 4.98), 1921)),
    ),
    Field(
        "1024x1024x19 80/13",
        1024 * 1024,
        19,
        (Lattice(2, 135288, (8.96, 2.99), 28), Lattice(5, 61643, (5.59, 5.77, 5.25), 8240)),
    ),
    Field(
        "1024x1024x19 67/3",
        1024 * 1024,
        19,
        (Lattice(2, 135288, (8.96, 2.99), 28), Lattice(5, 818885, (3.94, 4.68, 5.06), 2198)),
    ),
    Field(
        "1080x1920x2 80/13",
        1080 * 1920,
        2,
        (Lattice(2, 267509, (8.97, 2.99), 28), Lattice(5, 114082, (5.81, 5.76, 5.24), 10309)),
    ),
    Field(
        "1080x1920x2 67/3",
        1080 * 1920,
        2,
        (Lattice(2, 267509, (8.97, 2.99), 28), Lattice(5, 1573488, (4.08, 4.75, 5.13), 3255)),
    ),
    Field(
        "64x128x128x2 20/13",
        64 * 128 * 128,
        2,
        (Lattice(3, 47634, (8.43, 8.69), 118), Lattice(4, 2450, (6.03, 7.05, 2.75), 21634)),
    ),
    Field(
        "64x128x128x2 17/3",
        64 * 128 * 128,
        2,
        (Lattice(3, 47634, (8.43, 8.69), 118), Lattice(4, 13651, (6.37, 7.13, 2.92), 5078)),
    ),
]


def dense_crf() -> Iterator[Plan]:
    """Build and ten iterations of each case apart, and together beside what others must do."""
    for case in CASES:
        build, updates = mean_field(case.pixels, case.labels, case.kernels, ITERATIONS)
        rows = case.pixels * case.labels * FLOAT
        features = case.pixels * FLOAT * sum(kernel.dims for kernel in case.kernels)
        edges = case.pixels * (INDEX + FLOAT) * sum(kernel.dims + 1 for kernel in case.kernels)
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
        build, updates = mean_field(case.pixels, case.labels, case.kernels, ITERATIONS, HALF)
        name = f"dense CRF {case.name}: whole call, half storage"
        yield Plan(name, (*build, *updates), rows + features)


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
    for dims, vertices, *_ in case.kernels:
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
    pixels, channels, lattice_of = 375 * 500, 21, CASES[0].kernels[1]
    dims, vertices, *_ = lattice_of
    corners, rows = dims + 1, 375 * 500 * 21 * FLOAT
    contributions = float(pixels * corners)
    lattice = float(vertices * channels * FLOAT)
    pieces = contributions / 64 * channels * FLOAT
    edges = contributions * (INDEX + FLOAT)

    each = gathered(contributions, channels, FLOAT)

    def blurred() -> list[Step]:
        return [
            Step(
                "splat_pieces",
                (rows, contributions * (2 * INDEX + FLOAT), lattice, pieces),
                2.0 * contributions * channels,
                l2_bytes=each + contributions * (LONG + SECTOR) + lattice + pieces,
            ),
            Step("join_pieces", (pieces, lattice), contributions / 64 * channels,
                 l2_bytes=pieces + lattice),
            *(blur("blur_axes", [lattice_of], axis, channels, FLOAT)
              for axis in range(0, corners, 2)),
        ]  # fmt: skip

    slicing = Step(
        "slice_points",
        (lattice, edges, rows),
        2.0 * contributions * channels,
        l2_bytes=each + edges + rows,
    )
    # A thread reads a row by itself: its sectors come once, if they stay in the first level.
    products = Step(
        "multiply_vertices",
        (2 * lattice, 2 * rows, edges),
        2.0 * contributions * channels,
        l2_bytes=2 * gathered(contributions, channels, FLOAT, adjoining=False) + edges,
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
    pixels: int,
    labels: int,
    kernels: Sequence[Lattice],
    iterations: int,
    size: int = FLOAT,
) -> tuple[list[Step], list[Step]]:
    """The steps of build and updates, of up to four kernels, numbers stored in ``size`` bytes."""
    rows = float(pixels * labels * size)
    # There and back, and the first softmax.
    build = [
        Step("transpose_tiles", (rows, rows), 0, 2, l2_bytes=2 * rows),
        Step("find_not_finite", (len(kernels) * float(FLOAT),), 0),
        Step("update_pixels", (rows, rows), 30.0 * pixels * labels, l2_bytes=2 * rows),
    ]
    for kernel in kernels:
        build += lattice_steps(pixels, kernel)
    build += filter_steps(pixels, 1, kernels, FLOAT, contribution_bytes=LONG + FLOAT)
    contributions = float(sum(pixels * (kernel.dims + 1) for kernel in kernels))
    edges = contributions * (INDEX + FLOAT)
    lattice = float(sum(kernel.vertices for kernel in kernels) * labels * size)
    operations = 2.0 * contributions * labels + 40.0 * pixels * labels
    update = [
        *filter_steps(pixels, labels, kernels, size, contribution_bytes=INDEX + FLOAT),
        Step(
            "update_pixels",
            (rows, edges + lattice, rows),
            operations,
            l2_bytes=gathered(contributions, labels, size, adjoining=False) + edges + 2 * rows,
        ),
    ]
    return build, [replace(step, launches=step.launches * iterations) for step in update]


def lattice_steps(pixels: int, kernel: Lattice) -> list[Step]:
    """The build of one lattice, without the weights of its vertices."""
    dims, vertices, _, hottest = kernel
    corners, contributions = dims + 1, pixels * (dims + 1.0)
    table = contributions * 2.0 * 2 * LONG  # two slots a contribution, if unlucky
    links = corners * vertices * 2.0 * INDEX
    # Instructions of which half could be two operations: features scaled and elevated, the largest,
    # rounding, ranks, the sort (six passes of two comparisons for five features), and weights.
    doubles = 2 * pixels * (5.0 * dims + 11.0 * corners + 1.5 * dims * corners)
    place = (pixels * dims * float(FLOAT), contributions * 9.0, table)
    return [
        Step("place_points", place, pixels * 10.0 * corners, l2_bytes=sum(place), doubles=doubles,
             in_turn=pixels / WARP),
        # Two atomics a contribution, in one slot, which most find at once.
        Step("enter_vertices", (contributions * (5.0 + LONG), table), contributions * 60.0,
             l2_bytes=contributions * (5.0 + LONG + 2 * SECTOR), in_turn=2.0 * hottest),
        Step("number_vertices", (contributions * float(LONG), table), contributions * 4.0,
             l2_bytes=contributions * (LONG + SECTOR) + vertices * (SECTOR + LONG)),
        Step("name_vertices", (contributions * (LONG + 2.0 * INDEX),), contributions * 4.0,
             l2_bytes=contributions * (LONG + INDEX + SECTOR)),
        # Keys, places and, at last, where these went.
        Step("scatter_pairs", (contributions * (3.0 * INDEX + 2.0 * LONG),), contributions * 20.0,
             sort_passes(vertices), l2_bytes=contributions * (2 * INDEX + LONG + 3 * SECTOR)),
        # Of a vertex its place, its cells, and for each neighbour a slot and its number.
        Step("link_vertices", (contributions * INDEX, links, vertices * 3.0 * LONG),
             vertices * corners * 120.0,
             l2_bytes=contributions * INDEX + links + vertices * corners * 6.0 * SECTOR),
        Step("normalize_weights",
             (contributions * (INDEX + LONG + 4.0 * FLOAT), vertices * float(FLOAT)),
             pixels * corners * corners * 6.0,
             l2_bytes=contributions * (INDEX + LONG + 2.0 * FLOAT + 2 * SECTOR)),
    ]  # fmt: skip


def filter_steps(
    pixels: int,
    channels: int,
    kernels: Sequence[Lattice],
    size: int,
    contribution_bytes: float,
) -> list[Step]:
    """Splat and blur of all kernels together, of ``channels`` channels: two axes a launch."""
    contributions = float(sum(pixels * (kernel.dims + 1) for kernel in kernels))
    lattice = float(sum(kernel.vertices for kernel in kernels) * channels * size)
    values = float(pixels * channels * size if channels > 1 else 0)
    tiles = contributions / 64 * channels * FLOAT
    streamed = contributions * contribution_bytes
    steps = [
        Step(
            "splat_rows",
            (values, streamed, lattice, tiles),
            2.0 * contributions * channels,
            l2_bytes=gathered(contributions, channels, size) + streamed + lattice + tiles,
        ),
        Step(
            "join_rows",
            (tiles, lattice),
            contributions / 64 * channels,
            l2_bytes=tiles + lattice,
        ),
    ]
    for axis in range(0, max(kernel.dims for kernel in kernels) + 1, 2):
        some = [kernel for kernel in kernels if axis <= kernel.dims]
        steps.append(blur("blur_rows", some, axis, channels, size))
    return steps


def blur(name: str, kernels: Sequence[Lattice], axis: int, channels: int, size: int) -> Step:
    """Of all vertices along ``axis`` and the next one.

    A vertex's row, those of its neighbours, and the pairs that name these, of which a neighbour's
    lie anywhere. Half storage has a scale for each row.
    """
    vertices = float(sum(kernel.vertices for kernel in kernels))
    rows = sum(kernel.vertices * kernel.rows(axis) for kernel in kernels)
    width = channels * float(size)
    pairs = sum(
        kernel.vertices * (4.0 * INDEX + 2 * SECTOR if axis < kernel.dims else 2.0 * INDEX)
        for kernel in kernels
    )
    scales = rows * SECTOR if size < FLOAT else 0.0
    return Step(
        name,
        (2 * vertices * width, vertices * 4 * INDEX),
        12.0 * vertices * channels,
        l2_bytes=gathered(rows, channels, size) + pairs + scales + vertices * width,
    )
