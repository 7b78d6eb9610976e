"""The choice of an algorithm by table: the user's, from ``fastseg tune``, over the package's."""

import warnings
from functools import lru_cache
from importlib import resources

import torch

from fastseg import __version__
from fastseg.tuning import tables

# The kernels for these also run on later GPUs of the same major version.
BUILT_FOR = ((8, 0), (8, 6), (9, 0), (10, 0), (12, 0))


class TuningWarning(UserWarning):
    """A table of choices is not used; the message names its file and says why."""


def choose(op: str, shape_class: str, capability: tuple[int, int]) -> str | None:
    """The algorithm that the tables have for a class of layers on a GPU.

    The user's table counts before the package's. Each is read at the first call and kept; nothing
    is measured here, and nothing waits for the GPU, so that a call under graph capture can ask.

    Args:
        op: the operator, such as ``"dilated_conv2d"``.
        shape_class: from :func:`fastseg.tuning.shape_class`.
        capability: compute capability, as ``torch.cuda.get_device_capability`` says it.

    Returns:
        The name of an algorithm, ``"torch"`` for torch's own, or None where no table has the class.

    Warns:
        TuningWarning: the user's table cannot be used; once for each file.
    """
    found = _users_choices(architecture_of(capability)).get((op, shape_class))
    if found is None:
        found = _package_choices(built_architecture(capability)).get((op, shape_class))
    return found


def forget() -> None:
    """Read the tables again at the next call of :func:`choose`."""
    _users_choices.cache_clear()
    _package_choices.cache_clear()


def architecture_of(capability: tuple[int, int]) -> str:
    """``"sm_90"`` for ``(9, 0)``."""
    return f"sm_{capability[0]}{capability[1]}"


def built_architecture(capability: tuple[int, int]) -> str:
    """The latest that the package has kernels for and the GPU can run, or the GPU's own."""
    fit = [built for built in BUILT_FOR if built[0] == capability[0] and built <= capability]
    return architecture_of(max(fit, default=capability))


@lru_cache
def _users_choices(architecture: str) -> dict[tuple[str, str], str]:
    try:
        path = tables.path_of(architecture)
    except RuntimeError:  # no home directory
        return {}
    try:
        table = tables.read(path)
        reason = tables.unfit(table, architecture, torch.__version__, __version__)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except tables.TableError as error:
        reason = str(error)
    if reason is None:
        return table.choices()
    warnings.warn(
        f"{path}: {reason}; fastseg's own choices are used until `fastseg tune` writes it anew",
        TuningWarning,
        stacklevel=3,
    )
    return {}


@lru_cache
def _package_choices(architecture: str) -> dict[tuple[str, str], str]:
    """Of a table that `fastseg tune` wrote before release, whatever torch it was measured with."""
    with resources.as_file(resources.files("fastseg.tuning") / "measured") as folder:
        path = folder / f"{architecture}.json"
        return tables.read(path).choices() if path.exists() else {}
