"""Draw the coarse scores of ``fastseg demo``: python tools/draw_demo_scores.py

The outlines below were clicked by hand on the photograph, few points and no care for the last ten
pixels. They are rasterised, averaged over cells of 16 pixels as a network of output stride 16 would
see them, blurred by one cell and mixed with an even share of doubt.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DEMO = Path(__file__).parent.parent / "fastseg" / "data" / "demo"
STRIDE = 16
BLUR = (0.25, 0.5, 0.25)  # over the cells, along each axis
CERTAINTY = 0.9  # the rest is shared by all labels

# Labels in the order in which they are painted; 0, the table, is everything else. Points are (x, y)
# in pixels.
OUTLINES: dict[int, list[tuple[int, int]]] = {
    # floor
    1: [(0, 0), (180, 0), (60, 60), (0, 115)],
    # cup and saucer
    2: [(60, 230), (110, 120), (170, 85), (165, 50), (225, 20), (335, 20), (410, 60), (455, 140),
        (495, 230), (450, 310), (365, 383), (215, 385), (110, 310)],
    # coffee
    4: [(195, 150), (225, 95), (300, 80), (385, 120), (375, 165), (320, 185), (230, 185)],
    # spoon
    3: [(310, 270), (345, 230), (385, 205), (400, 60), (430, 55), (420, 180), (410, 290),
        (365, 335), (325, 320)],
}  # fmt: skip


def draw_labels(size: tuple[int, int]) -> Image.Image:
    """The outlines filled with their labels, ``size (width, height)``."""
    labels = Image.new("L", size, 0)
    for label, outline in OUTLINES.items():
        ImageDraw.Draw(labels).polygon(outline, fill=label)
    return labels


def blur(plane: np.ndarray) -> np.ndarray:
    """``plane (H, W)`` under BLUR, its border repeated outwards."""
    padded = np.pad(plane, 1, "edge")
    rows = sum(share * padded[i : i + plane.shape[0]] for i, share in enumerate(BLUR))
    return sum(share * rows[:, i : i + plane.shape[1]] for i, share in enumerate(BLUR))


def soften(labels: Image.Image) -> np.ndarray:
    """Probabilities ``(L, H / 16, W / 16)`` float16 of ``labels``."""
    cells = (-(-labels.width // STRIDE), -(-labels.height // STRIDE))
    values = np.asarray(labels)
    planes = []
    for label in range(len(OUTLINES) + 1):
        share = Image.fromarray((values == label).astype(np.float32))
        coarse = share.resize(cells, Image.Resampling.BOX)
        planes.append(blur(np.asarray(coarse)))
    scores = np.stack(planes)
    scores = CERTAINTY * scores / scores.sum(axis=0) + (1 - CERTAINTY) / len(scores)
    return scores.astype(np.float16)


def main() -> None:
    with Image.open(DEMO / "coffee.jpg") as photo:
        size = photo.size
    np.savez_compressed(DEMO / "coffee_scores.npz", probabilities=soften(draw_labels(size)))


if __name__ == "__main__":
    main()
