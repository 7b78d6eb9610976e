"""What every command shares: how it speaks, how it fails, and how it goes through many files."""

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastseg.batch import Failure

FAILED = 1
USAGE = 2
INTERRUPTED = 130
DISK_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Item = TypeVar("Item")


def make_console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def say(console: "Console", style: str, word: str, message: str) -> None:
    """One coloured word and a message; brackets in the message are not markup."""
    from rich.text import Text

    console.print(Text.assemble((f"{word}: ", style), message), soft_wrap=True)


def usage_error(message: str) -> typer.Exit:
    say(make_console(stderr=True), "bold red", "error", message)
    return typer.Exit(USAGE)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of the user, the files and the machine end in one line, not in a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            make_console(stderr=True),
            "yellow",
            "interrupted",
            "every file written so far is whole",
        )
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        say(make_console(stderr=True), "bold red", "error", reason(error))
        raise typer.Exit(FAILED) from None


def reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory for a photo of this size and this number of labels"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


@contextlib.contextmanager
def spoken_warnings(console: "Console", with_name: Callable[[str], str]) -> Iterator[None]:
    """Warnings about files are printed, each once, as ``with_name`` completes them."""
    from fastseg.data.errors import DataWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                say(console, "yellow", "warning", with_name(text))


def progress_bar(console: "Console") -> "Progress":
    """A bar with its count and the time that is left; none where ``console`` is no terminal."""
    from rich import progress

    return progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def run_all(
    items: Sequence[Item],
    run: Callable[[Item, "Progress"], object],
    name: Callable[[Item], str],
    *,
    failures: Iterable["Failure"],
    done_before: int,
    verb: str,
) -> None:
    """``run`` on each of ``items`` behind a progress bar; what fails is listed at the end.

    ``run`` is given the bar, to print above it or to add one of its own. A disk that takes no more
    ends the run: what is computed after it could not be written either.

    Raises typer.Exit with status 1 if something failed.
    """
    from fastseg.batch import Failure

    console = make_console(stderr=True)
    failed = list(failures)
    succeeded, tried = 0, 0

    def summary() -> str:
        left = len(items) - tried
        text = f"{succeeded} {verb}, {done_before} done before, {len(failed)} failed"
        return text + (f", {left} left: the same command goes on with them" if left else "")

    with progress_bar(console) as progress:
        task = progress.add_task("", total=len(items))
        for item in items:
            progress.update(task, description=name(item))
            try:
                run(item, progress)
                succeeded += 1
            except KeyboardInterrupt:
                console.print(summary())
                raise
            except Exception as error:  # the other files can still be done
                failed.append(Failure(name(item), reason(error)))
                if isinstance(error, OSError) and error.errno in DISK_TAKES_NO_MORE:
                    tried += 1
                    break
            tried += 1
            progress.advance(task)
    make_console().print(summary())
    for item_name, why in sorted(failed):
        text = why if item_name in why else f"{item_name}: {why}"
        say(console, "bold red", "failed", text)
    if failed:
        raise typer.Exit(FAILED)


def check_writable(folder: Path) -> None:
    """Raises OSError unless files can be put into ``folder``, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "files cannot be written there", str(folder))


def set_megapixel_limit(max_megapixels: int) -> None:
    """Pillow refuses above twice its own number."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max_megapixels * 1_000_000 // 2


def set_threads(threads: int | None, *, torch_too: bool = False) -> None:
    if threads is None:
        return
    from fastseg import _numpy

    _numpy.set_num_threads(threads)
    if torch_too:
        import torch

        torch.set_num_threads(threads)


def names_file(text: str, paths: Iterable[Path]) -> bool:
    return any(str(path) in text for path in paths)
