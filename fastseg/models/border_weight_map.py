"""The weight map of U-Net's loss (Ronneberger et al. 2015, eq. 2)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fastseg._arguments import check_tensor
from fastseg.nn.checked import Number, Several

NEGLIGIBLE = 1e-9


def border_weight_map(
    instances: Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: tuple[float, float] | None = None,
    separate: bool = False,
) -> Tensor:
    """Weights that make the network learn the narrow borders between touching objects.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), with d1 and d2 the distances of x to
    the nearest and the second nearest object. The second term counts on the background, where the
    borders to be learnt are; it is zero where there are fewer than two objects.

    Args:
        instances: ``(H, W)``, integers: 0 is background, every other number an object.
        w0: weight of a border between objects that all but touch.
        sigma: its reach, in pixels.
        class_weights: w_c of background and objects; None balances them, half the pixels' sum for
            each, and 1 where only one of them occurs.
        separate: first make background of the pixels of an object that touch another, diagonally
            too: the map is for labels in which touching objects are apart.

    Returns:
        ``(H, W)`` float32, on the device of ``instances``. The second term is zero where it is
        below 1e-9. Memory is that of a few maps, however many objects there are.

    Raises:
        ValueError, TypeError: the shape, the dtype or a number breaks a rule above.
    """
    check_tensor("border_weight_map", "instances", instances)
    if instances.dim() != 2 or instances.numel() == 0:
        raise ValueError(
            "border_weight_map: instances must have shape (H, W) and hold a pixel, "
            f"got {tuple(instances.shape)}"
        )
    if instances.is_floating_point() or instances.is_complex():
        raise TypeError(
            f"border_weight_map: instances must have an integer dtype, got {instances.dtype}"
        )
    instances = instances.long()  # torch computes little on wider unsigned integers
    w0 = Number("be a finite number of at least 0")("border_weight_map: w0", w0)
    sigma = Number("be positive", math.ulp(0))("border_weight_map: sigma", sigma)
    if class_weights is not None:
        rule = Several(Number("be a finite number of at least 0"), 2)
        class_weights = rule("border_weight_map: class_weights", class_weights)
    if separate:
        instances = separated(instances)
    objects = instances != 0
    nearest = torch.full(instances.shape, torch.inf, device=instances.device)
    second = nearest.clone()
    reach = math.ceil(sigma * math.sqrt(2 * math.log(max(w0, NEGLIGIBLE) / NEGLIGIBLE)))
    for label, rows, columns in boxes(instances, reach):
        distance = distance_to(instances[rows, columns] == label)
        first, other = nearest[rows, columns], second[rows, columns]
        other.copy_(torch.minimum(other, torch.maximum(first, distance)))
        first.copy_(torch.minimum(first, distance))
    border = w0 * torch.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return class_map(objects, class_weights) + border.masked_fill(objects, 0)


def boxes(instances: Tensor, reach: int) -> Iterator[tuple[int, slice, slice]]:
    """Each object with its rows and columns, ``reach`` pixels more on each side."""
    labels, place = torch.unique(instances, return_inverse=True)
    bounds = []
    for axis in (0, 1):
        size = instances.shape[axis]
        index = torch.arange(size, device=instances.device)
        index = index.view(-1, 1) if axis == 0 else index.view(1, -1)
        flat = index.expand_as(place).flatten()
        low = flat.new_full(labels.shape, size).scatter_reduce(0, place.flatten(), flat, "amin")
        high = flat.new_zeros(labels.shape).scatter_reduce(0, place.flatten(), flat, "amax")
        bounds.append((low.sub(reach).clamp_min(0).tolist(), high.add(reach + 1).tolist()))
    (top, bottom), (left, right) = bounds
    for i, label in enumerate(labels.tolist()):
        if label != 0:
            yield label, slice(top[i], bottom[i]), slice(left[i], right[i])


def class_map(objects: Tensor, class_weights: tuple[float, float] | None) -> Tensor:
    if class_weights is None:
        share = objects.float().mean()
        uniform = (share == 0) | (share == 1)
        background = torch.where(uniform, 1.0, 0.5 / (1 - share))
        foreground = torch.where(uniform, 1.0, 0.5 / share)
    else:
        background, foreground = (
            torch.tensor(float(w), device=objects.device) for w in class_weights
        )
    return torch.where(objects, foreground, background)


def separated(instances: Tensor) -> Tensor:
    """``instances`` without the pixels whose eight neighbours hold another object."""
    around = functional.pad(instances, (1, 1, 1, 1))
    height, width = instances.shape
    touching = torch.zeros_like(instances, dtype=torch.bool)
    for row in range(3):
        for column in range(3):
            other = around[row : row + height, column : column + width]
            touching |= (other != 0) & (other != instances)
    return instances.masked_fill(touching, 0)


def distance_to(mask: Tensor) -> Tensor:
    """Euclidean distance of every pixel to the nearest of ``mask``, which is not empty; float32.

    Down and up each column first, then along the rows over the columns that the mask reaches:
    d(y, x)^2 = min over x' of (x - x')^2 + g(y, x')^2.
    """
    height, width = mask.shape
    columns = mask.any(0).nonzero().flatten()
    rows = torch.arange(height, device=mask.device)[:, None]
    far = height + width
    inside = mask[:, columns]
    above = torch.where(inside, rows, -far).cummax(0).values
    below = torch.where(inside, rows, far + height).flip(0).cummin(0).values.flip(0)
    vertical = torch.minimum(rows - above, below - rows).double() ** 2
    squared = torch.full((height, width), torch.inf, dtype=torch.float64, device=mask.device)
    places = torch.arange(width, device=mask.device)
    for index, column in enumerate(columns.tolist()):
        along = (places - column).double() ** 2
        torch.minimum(squared, vertical[:, index, None] + along, out=squared)
    return squared.sqrt().float()
