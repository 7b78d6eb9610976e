"""How a compiled operator speaks to the user.

A failing check of the stable ABI can only be a RuntimeError. Operators mark its text with the kind
of error they mean, "fastseg ValueError: ...", and the public functions raise that kind.
"""

import functools
import re
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

KINDS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "TypeError": TypeError,
    "MemoryError": MemoryError,
    "OutOfMemoryError": torch.OutOfMemoryError,
    "RuntimeError": RuntimeError,
}
MARK = re.compile(rf"fastseg ({'|'.join(KINDS)}): ([^\n]*)")


def raise_for_user(error: RuntimeError) -> NoReturn:
    """Raises the kind of error that a marked text names, or ``error`` itself if it has no mark."""
    found = MARK.search(str(error))
    if found is None:
        raise error
    raise KINDS[found[1]](found[2]) from None


def user_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Makes operators called inside ``function`` raise ValueError, TypeError and MemoryError.

    A lack of a GPU's memory is torch.OutOfMemoryError, as in torch's own operators. A compiled
    graph runs the operators and not ``function``: there the text is the same and the kind stays
    RuntimeError.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            raise_for_user(error)

    return wrapper
