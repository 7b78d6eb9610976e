"""Output files that appear whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` for writing and move it there once everything is written.

    The move is one ``os.replace``: a reader sees the old file or the new one. An exception,
    Ctrl-C included, removes the unfinished file and leaves ``path`` as it was. The folder of
    ``path`` is made if it is missing. An OSError names ``path``, or the part of it that is in the
    way: a folder at ``path`` itself, or a device such as /dev/null, is never replaced.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a file that can be replaced", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        message = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, message, error.filename) from None
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    # Ctrl-C may strike as soon as the file is there, so it is opened inside.
    try:
        try:
            file = open(unfinished, "xb")  # noqa: SIM115  closed below, its error named after path
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            with file:
                yield file
        except OSError as error:  # such as a full disk, which names no file
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
