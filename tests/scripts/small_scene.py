"""One small inference, the same in whatever process or thread it runs."""

import numpy as np

from fastseg import _numpy

HEIGHT, WIDTH, LABELS = 48, 61, 4


def scene(seed: int = 0) -> tuple[_numpy.MeanField, np.ndarray, list[np.ndarray]]:
    """Field with its lattices built, unary ``(L, N)``, features of its two kernels ``(D, N)``."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    unary = rng.standard_normal((LABELS, HEIGHT * WIDTH)).astype(np.float32)
    features = [
        _numpy.image_features((HEIGHT, WIDTH), (3, 3)),
        _numpy.image_features((HEIGHT, WIDTH), (40, 40), image, (50, 50, 50)),
    ]
    field = _numpy.MeanField((HEIGHT, WIDTH), LABELS)
    for kernel in features:
        field.add_kernel(kernel, 2.0)
    return field, unary, features


def infer(seed: int = 0) -> np.ndarray:
    field, unary, _ = scene(seed)
    return field.run(unary, 3)
