"""Amounts of memory in words; imports nothing heavy."""

import re

UNITS = ("", "k", "m", "g", "t")


def parse_bytes(text: object, what: str = "Segmenter: max_memory") -> int:
    """Bytes of ``"2GB"``, ``"500 MB"``, ``"1.5GiB"`` or a number of bytes.

    Raises:
        TypeError: no text and no number.
        ValueError: not such a text, or not positive. Messages begin with ``what``.
    """
    rule = f'{what} must be a size such as "2GB" or "500MB"'
    if isinstance(text, bool) or not (isinstance(text, str) or hasattr(text, "__float__")):
        raise TypeError(f"{rule}, got {text!r}")
    match = re.fullmatch(r"\s*([\d.]+(?:e\+?\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    try:
        if match is None:
            raise ValueError
        number, unit, binary = match.groups()
        size = float(number) * (1024 if binary else 1000) ** UNITS.index(unit)
        if not 1 <= size < 1e18:
            raise ValueError
    except ValueError:
        raise ValueError(f"{rule}, got {text!r}") from None
    return int(size)


def show_bytes(size: float) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if size >= power:
            return f"{size / power:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
