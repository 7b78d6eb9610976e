"""Tables of choices: the format of their file, what makes one unfit, and where the user's lies."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

FORMAT = 1
FOLDER_VARIABLE = "FASTSEG_TUNING"
TORCH = "torch"
"""The algorithm that is torch's own convolution, cuDNN's on a GPU."""

Times = Mapping[str, float]
"""Milliseconds of the algorithms that served a layer, by their names."""


class TableError(ValueError):
    """A file is no table, or not one for this installation; the message says why."""


@dataclass
class Table:
    """What was found on one GPU.

    ``layers`` maps an operator to its shape classes, those to the layers that were measured of
    each, by what they are called, and those to their times.
    """

    gpu: str
    architecture: str
    driver: str
    torch: str
    fastseg: str
    layers: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)

    def times(self, op: str, shape_class: str, layer: str) -> Times | None:
        """What was measured of a layer, or nothing."""
        return self.layers.get(op, {}).get(shape_class, {}).get(layer)

    def add(self, op: str, shape_class: str, layer: str, times: Times) -> None:
        self.layers.setdefault(op, {}).setdefault(shape_class, {})[layer] = dict(times)

    def choices(self) -> dict[tuple[str, str], str]:
        """The algorithm for each operator and shape class."""
        return {
            (op, shape_class): best_of(list(layers.values()))
            for op, classes in self.layers.items()
            for shape_class, layers in classes.items()
        }


def best_of(layers: list[Times]) -> str:
    """The algorithm that serves all layers of a class with the least geometric mean of times."""
    served = [name for name in layers[0] if all(name in times for times in layers)]
    return min(served, key=lambda name: geometric_mean([times[name] for times in layers]))


def folder() -> Path:
    """Where the user's tables lie: ``FASTSEG_TUNING``, or the cache folder of the user."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fastseg" / "tuning"


def path_of(architecture: str) -> Path:
    return folder() / f"{architecture}.json"


def write(table: Table, path: Path) -> None:
    """Whole or not at all."""
    from fastseg.data.files import whole_file  # Pillow comes with it

    text = json.dumps({"format": FORMAT, **asdict(table)}, indent=1)
    with whole_file(path) as file:
        file.write(text.encode() + b"\n")


def read(path: Path) -> Table:
    """
    Raises:
        TableError: the file is no table of this format.
        OSError: it cannot be opened.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TableError(f"is no JSON ({error})") from None
    if not isinstance(found, dict) or "format" not in found:
        raise TableError("is no table of fastseg's")
    if found.pop("format") != FORMAT:
        raise TableError("is of another format than this version of fastseg writes")
    table = _table_of(found)
    if table is None:
        raise TableError("is damaged")
    return table


def _table_of(found: dict[str, Any]) -> Table | None:
    layers = found.pop("layers", None)
    texts = {"gpu", "architecture", "driver", "torch", "fastseg"}
    if set(found) != texts or not all(isinstance(text, str) for text in found.values()):
        return None
    if not _is_nested(layers, 3) or not all(
        classes and all(_best_exists(list(measured.values())) for measured in classes.values())
        for classes in layers.values()
    ):
        return None
    return Table(**found, layers=layers)


def _is_nested(value: object, depth: int) -> bool:
    """Mappings of mappings, ``depth`` of them around mappings of positive numbers."""
    if not isinstance(value, dict):
        return False
    if depth:
        return all(_is_nested(inner, depth - 1) for inner in value.values())
    return bool(value) and all(
        type(number) in (int, float) and 0 < number < float("inf") for number in value.values()
    )


def _best_exists(layers: list[Times]) -> bool:
    return bool(layers) and bool(set.intersection(*(set(times) for times in layers)))


def unfit(table: Table, architecture: str, torch_version: str, fastseg_version: str) -> str | None:
    """Why a table does not count here, or nothing."""
    if table.architecture != architecture:
        return f"was measured on {table.gpu} ({table.architecture}), this is {architecture}"
    for name, measured, here in (
        ("fastseg", table.fastseg, fastseg_version),
        ("torch", table.torch, torch_version),
    ):
        if measured != here:
            return f"was measured with {name} {measured}, this is {here}"
    return None
