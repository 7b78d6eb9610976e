"""Writes the README's table of systems: ``python tools/systems_table.py`` after a change of one."""

from pathlib import Path

from fastseg.models import SYSTEMS

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- table of systems: tools/systems_table.py -->", "<!-- end of the table -->"
HEAD = "| `fastseg.models.build` | paper | follows | parameters | checkpoints that load |"


def table() -> str:
    """A row a system, parameters for its usual number of classes."""
    rows = [
        f"| `{row.name}` | {row.paper} | {row.figure} | {row.parameters:,} | "
        f"{', '.join(row.checkpoints)} |"
        for row in SYSTEMS.values()
    ]
    return "\n".join([HEAD, "|---|---|---|---|---|", *rows])


def with_table(text: str) -> str:
    """``text`` of the README with the table between its two marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
