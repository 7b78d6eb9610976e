"""Drop-in for pydensecrf: the same names, arguments and results, on fastseg's kernels.

Either change the import::

    import fastseg.pydensecrf.densecrf as dcrf
    from fastseg.pydensecrf.utils import unary_from_softmax

or leave the code as it is and call :func:`install` once, before it runs::

    import fastseg.pydensecrf
    fastseg.pydensecrf.install()
    import pydensecrf.densecrf as dcrf  # fastseg's

Importing it does not import torch. Where pydensecrf refuses an argument the same type of exception
is raised here. Where it crashes, reads memory that is not its own or returns NaN, this package
raises a ValueError or TypeError, or does what was meant: arrays that are read-only or not
contiguous, labels of an unsigned type, a unary object used twice and Python subclasses are served.

Results are those of the lattice's definition, and pydensecrf's to rounding where the number of
pixels is a multiple of four. For other numbers pydensecrf fills its last group of four with points
at the origin of the features, whose lattice vertices carry mass between real ones. Its Q then
differs by up to 1e-2 in images of a hundred pixels, and by 3e-6 in the mean in a photograph of
375x499, which is as much as rounding makes at 375x500.
"""

import sys
from types import ModuleType

from fastseg._numpy import get_num_threads, set_num_threads
from fastseg.pydensecrf import densecrf, eigen, utils

__all__ = [
    "densecrf",
    "eigen",
    "get_num_threads",
    "install",
    "set_num_threads",
    "uninstall",
    "utils",
]

_replaced: dict[str, ModuleType] = {}


def _modules() -> dict[str, ModuleType]:
    names = {"pydensecrf": sys.modules[__name__]}
    return names | {
        f"pydensecrf.{m.__name__.rpartition('.')[2]}": m for m in (densecrf, eigen, utils)
    }


def _imported() -> dict[str, ModuleType]:
    """Every module of pydensecrf's name that is imported, ours or another's."""
    return {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "pydensecrf" and module is not None
    }


def install(force: bool = False) -> None:
    """Make ``import pydensecrf`` and its submodules resolve to this package, in this process.

    Call it before anything imports pydensecrf; a second call changes nothing. A process that is
    started afresh (``multiprocessing`` with ``spawn``) has to call it again; a fork keeps it.

    Args:
        force: also where another pydensecrf was imported before. Only imports that follow resolve
            to this package: a module that already holds pydensecrf's names keeps them.

    Raises:
        RuntimeError: another pydensecrf was imported before and ``force`` is false.
    """
    ours = _modules()
    foreign = {name: m for name, m in _imported().items() if ours.get(name) is not m}
    if foreign and not force:
        first = next(iter(foreign.values()))
        raise RuntimeError(
            "install: pydensecrf must not be imported before fastseg.pydensecrf.install(), got "
            f"{getattr(first, '__file__', None) or first.__name__}; call install() first, or "
            "install(force=True) to replace it for the imports that follow"
        )
    for name in foreign:
        del sys.modules[name]
    _replaced.update(foreign)
    sys.modules.update(ours)


def uninstall() -> None:
    """Undo :func:`install`: ``import pydensecrf`` resolves to what it did before.

    Modules that already hold this package's names keep them. Without an :func:`install` before it
    this changes nothing.
    """
    ours = _modules()
    for name, module in _imported().items():
        if ours.get(name) is module:
            del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()
