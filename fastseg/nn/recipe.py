"""What a model was built from, so that a file of weights can say how to build it again."""

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

Recipe = dict[str, Any]
"""``{"class": name, "arguments": {...}}``, made of what JSON holds; an argument may be a recipe."""


class Recorded(nn.Module):
    """A module that remembers the arguments it was made with, in :attr:`arguments`."""

    settings: ClassVar[tuple[str, ...]] = ()
    """Attributes that may be changed afterwards, and so are recorded as they are."""
    arguments: dict[str, Any]
    """Those of ``__init__`` that were given, by name."""
    system: str | None = None
    """See :class:`fastseg.models.Network`."""
    input_convention: Any = None
    """See :class:`fastseg.models.Network`; None where nobody has said."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Recorded":
        module: Recorded = super().__new__(cls)
        # Copying and unpickling come here without arguments and bring the recorded ones.
        arguments: dict[str, Any] = {}
        if args or kwargs:
            try:
                bound = inspect.signature(cls.__init__).bind(module, *args, **kwargs)
            except TypeError:  # __init__ says it better
                return module
            arguments = dict(list(bound.arguments.items())[1:])
        object.__setattr__(module, "arguments", arguments)
        return module


def recipe_of(module: nn.Module) -> Recipe:
    """How ``module`` was built.

    Raises:
        TypeError: it is no :class:`Recorded` module, or an argument is not of a kind that JSON
            holds.
    """
    if not isinstance(module, Recorded):
        raise TypeError(
            "recipe_of: module must be a network or backbone of fastseg, "
            f"got {type(module).__name__}"
        )
    arguments = {name: _plain(name, value) for name, value in module.arguments.items()}
    return {"class": type(module).__name__, "arguments": arguments}


def settings_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """The present :attr:`Recorded.settings` of ``module`` (by the name ``""``) and of its parts.

    Raises:
        TypeError: one is not of a kind that JSON holds.
    """
    return {
        name: {key: _plain(key, getattr(part, key)) for key in part.settings}
        for name, part in module.named_modules()
        if isinstance(part, Recorded) and part.settings
    }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return recipe_of(value)
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(name, entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"recipe_of: {name} must be a number, word, list, tensor or network, "
        f"got {type(value).__name__}"
    )
