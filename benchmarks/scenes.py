"""What the benchmarks segment: photographs at any size, a volume, and plausible network output.

Every array is a function of the photograph and of fixed seeds: two runs time the same numbers.
"""

from pathlib import Path

import numpy as np
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # photographs come from the user's own disk

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "fastseg" / "data" / "demo"
SUFFIXES = {".jpg", ".jpeg", ".png"}

STRIDE = 8  # cells of the coarse scores, as from a network of output stride 8
PRESENT = 8  # labels that a photograph shows; the others stay improbable everywhere
MARGIN = 4.0  # mean lead, in logits, of a cell's best label over its second
ABSENT = -8.0  # logit of a label that is not there, relative to the best
NOISE = 2.0  # standard deviation of the logits' noise, per cell, before smoothing


def photographs_in(folder: Path) -> list[Path]:
    """The photographs of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def default_photograph() -> Path:
    """The photograph that ``fastseg demo`` uses."""
    found = [path for path in photographs_in(DEMO) if path.suffix.lower() != ".png"]
    if not found:
        raise FileNotFoundError(f"no photograph in {DEMO}: give one with --image")
    return found[0]


def read_photograph(path: Path) -> np.ndarray:
    """``(H, W, 3)`` uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def fit(photograph: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a photograph to ``(height, width, 3)`` without ever enlarging it.

    Enlarging blurs, and a blurred photograph has fewer colours a pixel, so fewer lattice vertices
    than a real one of that size. A photograph that is large enough both ways is reduced (Lanczos)
    and cut to the middle; any other is continued at its own scale by mirroring at its borders,
    which keeps its detail, and repeats it.
    """
    rows, columns, _ = photograph.shape
    scale = max(height / rows, width / columns)
    if scale > 1:
        photograph = photograph[mirrored(rows, height)][:, mirrored(columns, width)]
    elif scale < 1:
        reduced = (max(width, round(columns * scale)), max(height, round(rows * scale)))
        photograph = np.asarray(
            Image.fromarray(photograph).resize(reduced, Image.Resampling.LANCZOS)
        )
    top = (photograph.shape[0] - height) // 2
    left = (photograph.shape[1] - width) // 2
    return np.ascontiguousarray(photograph[top : top + height, left : left + width])


def mirrored(size: int, wanted: int) -> np.ndarray:
    """Indices 0, ..., size - 1, size - 1, ..., 0, 0, ... of length ``wanted``."""
    index = np.arange(wanted) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def energies_of_photograph(image: np.ndarray, labels: int, seed: int = 0) -> np.ndarray:
    """A unary as a network of output stride 8 would give it: ``(labels, H * W)`` float32.

    The mean colours of 8x8 cells, smoothed, are clustered together with their places into at most
    eight labels (k-means). A cell's logit falls with the squared distance to the cluster, by four
    on the average from the best label to the second; labels that are not there are eight lower
    than the best; noise is added cell by cell; and the logits are smoothed over 3x3 cells (a
    receptive field is wider than its cell) and enlarged bilinearly. The energy is minus the
    logarithm of their softmax. So borders are soft, misplaced by some pixels and wrong in places:
    what a CRF is run to mend.
    """
    height, width, _ = image.shape
    rng = np.random.default_rng(seed)
    cells = describe_cells(image)
    sample = cells.reshape(-1, cells.shape[2])
    if len(sample) > 4096:
        sample = sample[rng.choice(len(sample), 4096, replace=False)]
    present = min(labels, PRESENT)
    centres = cluster(sample, present, rng)
    scale = MARGIN / mean_lead(squared_distances(sample, centres))
    nearest = np.min([np.square(cells - centre).sum(axis=2) for centre in centres], axis=0)

    energies = np.empty((labels, height, width), np.float32)
    for label in range(labels):
        logits = rng.normal(0, NOISE, cells.shape[:2]).astype(np.float32)
        if label < present:
            logits += scale * (nearest - np.square(cells - centres[label]).sum(axis=2))
        else:
            logits += ABSENT
        coarse = Image.fromarray(smooth(logits))
        energies[label] = coarse.resize((width, height), Image.Resampling.BILINEAR)
    return negative_log_softmax(energies.reshape(labels, -1))


def describe_cells(image: np.ndarray) -> np.ndarray:
    """``(rows, columns, 5)`` float32: colour in [0, 1] and place in [0, 1/2] of each 8x8 cell."""
    colours = np.asarray(Image.fromarray(image).reduce(STRIDE), dtype=np.float32) / 255
    rows, columns, _ = colours.shape
    cells = np.empty((rows, columns, 5), np.float32)
    for channel in range(3):
        cells[..., channel] = smooth(smooth(colours[..., channel]))
    cells[..., 3] = np.linspace(0, 0.5, rows)[:, None]
    cells[..., 4] = np.linspace(0, 0.5, columns)
    return cells


def mean_lead(distances: np.ndarray) -> float:
    """How much farther, on the average, the second nearest centre is than the nearest."""
    if distances.shape[1] == 1:
        return 1.0
    nearest = np.sort(distances, axis=1)
    return float((nearest[:, 1] - nearest[:, 0]).mean()) + 1e-6


def cluster(cells: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``(count, 5)`` cluster centres of cells: k-means++ seeds, then five rounds of k-means."""
    centres = cells[rng.integers(len(cells), size=1)]
    for _ in range(count - 1):
        nearest = squared_distances(cells, centres).min(axis=1) + 1e-12
        chosen = rng.choice(len(cells), p=nearest / nearest.sum())
        centres = np.concatenate([centres, cells[chosen : chosen + 1]])
    for _ in range(5):
        owner = squared_distances(cells, centres).argmin(axis=1)
        for label in np.unique(owner):
            centres[label] = cells[owner == label].mean(axis=0)
    return centres


def squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """``(points, centres)``."""
    return np.square(points[:, None] - centres[None]).sum(axis=2)


def smooth(cells: np.ndarray) -> np.ndarray:
    """Mean over 3x3 cells, borders continued."""
    padded = np.pad(cells, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def negative_log_softmax(logits: np.ndarray) -> np.ndarray:
    """In place over the labels, in pieces so that a large image needs no second copy."""
    for begin in range(0, logits.shape[1], 1 << 18):
        piece = logits[:, begin : begin + (1 << 18)]
        piece -= piece.max(axis=0)
        np.subtract(np.log(np.exp(piece).sum(axis=0)), piece, out=piece)
    return logits


def volume(depth: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A scan of one modality ``(D, H, W)`` float32 in 0-255 and its unary ``(2, D * H * W)``.

    Two tissues, 90 and 160, parted by a smooth random surface; the brightness drifts by some units
    over the volume and every voxel has noise of standard deviation 5. The unary is the tissue at a
    quarter of the resolution, noisy, enlarged linearly.
    """
    rng = np.random.default_rng(seed)
    sizes = (depth, height, width)
    tissue = enlarge(rng.normal(0, 1, [max(2, size // 16) for size in sizes]), sizes)
    drift = enlarge(rng.normal(0, 4, (2, 2, 2)), sizes)
    scan = 90 + 70 * sigmoid(8 * tissue) + drift + rng.normal(0, 5, sizes)

    quarter = [max(2, size // 4) for size in sizes]
    coarse = 3 * enlarge(tissue, quarter) + rng.normal(0, 1, quarter)
    evidence = enlarge(coarse, sizes).reshape(-1)
    logits = np.stack([np.zeros_like(evidence), evidence]).astype(np.float32)
    return scan.clip(0, 255).astype(np.float32), negative_log_softmax(logits)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def enlarge(grid: np.ndarray, sizes: tuple[int, ...] | list[int]) -> np.ndarray:
    """Linear interpolation along each axis, corners on corners; also samples a finer grid."""
    for axis, size in enumerate(sizes):
        position = np.linspace(0, grid.shape[axis] - 1, size)
        low = np.minimum(position.astype(int), grid.shape[axis] - 2)
        weight = (position - low).reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
        grid = grid.take(low, axis) * (1 - weight) + grid.take(low + 1, axis) * weight
    return grid
