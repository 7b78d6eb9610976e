"""Fill a table: one job after the other, the file written whole after each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fastseg import __version__
from fastseg.tuning import tables
from fastseg.tuning.choice import forget
from fastseg.tuning.gpu import Gpu
from fastseg.tuning.measure import Found, Job


def table_to_fill(gpu: Gpu, path: Path, *, overwrite: bool) -> tuple[tables.Table, str | None]:
    """The table at ``path``, to go on with, or an empty one; and why an old one does not count."""
    fresh = tables.Table(gpu.name, gpu.architecture, gpu.driver, torch.__version__, __version__)
    if overwrite or not path.exists():
        return fresh, None
    try:
        found = tables.read(path)
    except tables.TableError as error:
        return fresh, str(error)
    reason = tables.unfit(found, gpu.architecture, torch.__version__, __version__)
    for what, old, new in (("on", found.gpu, gpu.name), ("with driver", found.driver, gpu.driver)):
        if reason is None and old != new:
            reason = f"was measured {what} {old}, this is {new}"
    return (found, None) if reason is None else (fresh, reason)


def fill(
    table: tables.Table,
    path: Path,
    jobs: Sequence[Job],
    measure: Callable[[Job], Found],
    report: Callable[[Job, Found], None],
) -> None:
    """Measure the jobs into the table; an interrupted run has what it had measured."""
    try:
        for job in jobs:
            found = measure(job)
            if found.times:
                table.add(job.layer.op, job.shape_class, str(job.layer), found.times)
                tables.write(table, path)
            report(job, found)
    finally:
        forget()  # this process chooses by the new table from now on
