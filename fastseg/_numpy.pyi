from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

cuda_architectures: str
cuda_toolkit: str

def instruction_set() -> str: ...
def set_instruction_set(name: str) -> None: ...
def available_instruction_sets() -> list[str]: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: SupportsIndex) -> None: ...
def image_features(
    spatial: Sequence[SupportsIndex],
    sigma_spatial: Sequence[SupportsFloat],
    image: ArrayLike | None = None,
    sigma_image: Sequence[SupportsFloat] = (),
) -> NDArray[np.float32]: ...

class MeanField:
    def __init__(self, spatial: Sequence[SupportsIndex], labels: SupportsIndex) -> None: ...
    def add_kernel(
        self,
        features: ArrayLike,
        transform: ArrayLike,
        normalization: str = "symmetric",
        self_message: bool = True,
    ) -> None: ...
    def run(
        self, unary: ArrayLike, iterations: SupportsIndex, initial: ArrayLike | None = None
    ) -> NDArray[np.float32]: ...
    def message(self, q: ArrayLike) -> NDArray[np.float32]: ...
