"""Atomic file writes: write to a temporary file and rename it, so that a killed process leaves no partial file.

Temporary files have unique hidden names. Several processes may write the same file at once; the last one wins.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE_SECONDS = 3600.0


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; at the end of the block it replaces `target` atomically, unless the block raises."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Delete temporary files of killed processes in a folder, if they are more than an hour old."""
    for left in folder.glob(f".*.{'[0-9a-f]' * 8}.tmp"):
        with suppress(FileNotFoundError):  # its process may just have renamed it
            found = left.lstat()
            if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _STALE_SECONDS:
                left.unlink()


def make_folder(path: Path) -> None:
    """Make a folder inside a results folder if it does not exist; raise OSError if it is a link.

    A results folder may come from elsewhere: what it links to is neither read, written nor deleted.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and links in a results folder are not followed", str(path))
    path.mkdir(parents=True, exist_ok=True)


def write_named(path: Path, text: str) -> None:
    """Write a file that the user names: a pipe or a device as it is, any other atomically; raise OSError if it is a link."""
    if path.is_symlink() and path.parent != Path("/dev"):
        raise OSError(errno.ELOOP, "it is a link, which is not followed", str(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):
        number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe that nobody reads is refused
        os.set_blocking(number, True)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        return
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
