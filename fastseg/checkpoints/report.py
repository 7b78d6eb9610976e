"""What loading a checkpoint did, in words."""

from dataclasses import dataclass

SHOWN = 6


@dataclass(frozen=True)
class LoadReport:
    """Of one call of :func:`fastseg.load_weights`, as ``model.load_report``."""

    path: str
    format: str
    """Whose file it is."""
    system: str
    """What was built or filled."""
    loaded: int
    """Tensors."""
    missing: tuple[str, ...] = ()
    """Names of the model that the file does not have; they keep their values."""
    unexpected: tuple[str, ...] = ()
    """Names of the file that the model does not have."""
    dropped: tuple[str, ...] = ()
    """Names of the file that are known and of no use to the model, such as a classifier's."""
    note: str = ""
    """A choice that the file leaves open, and how to choose otherwise."""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, {self.system}, {self.loaded} tensors loaded"]
        for word in ("missing", "unexpected", "dropped"):
            names = getattr(self, word)
            if names:
                lines.append(f"  {len(names)} {word}: {shortened(names)}")
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def shortened(names: tuple[str, ...] | list[str]) -> str:
    """The first names, and how many more there are."""
    words = ", ".join(names[:SHOWN])
    return words if len(names) <= SHOWN else f"{words} and {len(names) - SHOWN} more"
