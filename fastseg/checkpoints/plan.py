"""What a recognised checkpoint becomes: the model to build, and tensors by that model's names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from fastseg.checkpoints.errors import CheckpointError
from fastseg.models.input_convention import InputConvention
from fastseg.models.systems import SYSTEMS
from fastseg.nn.recipe import Recorded

Tensors = dict[str, Tensor]


@dataclass
class Plan:
    """Of one checkpoint."""

    format: str
    build: Callable[[], Recorded]
    tensors: Tensors
    """By the names of the model; what has no place in it keeps the name it had in the file."""
    input_convention: InputConvention | None = None
    """None for that of the model."""
    dropped: list[str] = field(default_factory=list)
    note: str = ""
    keep_dtype: bool = False
    """Otherwise floating tensors become float32."""
    variants: tuple[str, ...] = ()
    """What the caller may have said of this file, beside the name of the system."""


class Contents(NamedTuple):
    """Of a file."""

    tensors: Tensors
    metadata: Mapping[str, Any]
    """What stood beside the tensors."""
    kind: str
    """Of file: ``"pth"``, ``"safetensors"``, ``"npz"``, ``"h5"`` or ``"caffemodel"``."""
    digest: str = ""
    """The MD5 sum, where names alone leave the origin open."""
    sha256: str = ""
    """The other sum, where there is the first."""


class Request(NamedTuple):
    """What the caller of :func:`fastseg.load_weights` said."""

    variant: str | None
    model: Recorded | None


class Format(NamedTuple):
    """One origin of checkpoints."""

    name: str
    matches: Callable[[Contents], bool]
    plan: Callable[[Contents, Request], Plan]


def builder(system: str, num_classes: int, **options: Any) -> Callable[[], Recorded]:
    """For :attr:`Plan.build`: a system of the registry."""
    return lambda: SYSTEMS[system].build(num_classes, **options)


def builder_on(
    pattern: str, backbone: str, num_classes: int, **options: Any
) -> Callable[[], Recorded]:
    """As :func:`builder`, for ``pattern`` with a backbone in its place, registered or not."""
    system = pattern.format(backbone)
    if system not in SYSTEMS:
        system = pattern.format("resnet50")
    return builder(system, num_classes, **{"backbone": backbone, **options})


def choose_variant(
    request: Request, variants: Mapping[str, tuple[str, ...]], known: str | None, why: str
) -> str:
    """The variant that the caller, the model to be filled, or the file decides for.

    Args:
        request: of the caller.
        variants: other spellings of each variant.
        known: the variant that ``request.model`` is or the file says, or None.
        why: what cannot be told apart.

    Raises:
        CheckpointError: nobody decides, or for something else.
    """
    words = " or ".join(f"variant={name!r}" for name in variants)
    if request.variant is None:
        if known is not None:
            return known
        raise CheckpointError(
            f"load_weights: variant must be given for this file, got None: {why} have the same "
            f"names and shapes; say {words}, or load into a model of one"
        )
    asked = plain(request.variant)
    for name, spellings in variants.items():
        if asked in {plain(name), *map(plain, spellings)}:
            if known is not None and known != name:
                raise CheckpointError(
                    f"load_weights: variant must be {known!r}, as the "
                    f"{'file says' if request.model is None else 'model is or the file says'}, "
                    f"got {name!r}"
                )
            return name
    raise CheckpointError(f"load_weights: say {words} for this file, got {request.variant!r}")


def check_variant(request: Request, plan: Plan, system: str | None) -> None:
    """Raises CheckpointError for a variant that says nothing about this file."""
    known = (*plan.variants, *([] if system is None else [system]))
    if request.variant is None or plain(request.variant) in map(plain, known):
        return
    words = f"None or {', '.join(known)}" if known else "None"
    raise CheckpointError(
        f"load_weights: variant must be {words} for this file of {plan.format}, "
        f"got {request.variant!r}"
    )


def plain(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
