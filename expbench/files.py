"""Atomic file writes: write to a temporary file and rename it, so that a killed process leaves no partial file.

Temporary files have unique hidden names. Several processes may write the same file at once; the last one wins. A disk that
is full, read-only or gone raises `NotWritten`, which is neither a bug nor the failure of a run.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE_SECONDS = 3600.0
_IO_ERROR = re.compile(r"\b(?:Os \{ code: |os error )(\d+)")


class NotWritten(OSError):
    """A file cannot be written, for the reason that the system gives."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; at the end of the block it replaces `target` atomically, unless the block raises.

    Raise `NotWritten` if the system refuses.
    """
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(target)
    except OSError as error:
        raise NotWritten(error.errno, error.strerror or str(error), str(target)) from error
    except Exception as error:
        refused = _IO_ERROR.search(str(error))  # a library in Rust, such as safetensors, has an error of its own for it
        if refused is None:
            raise
        raise NotWritten(int(refused[1]), os.strerror(int(refused[1])), str(target)) from error
    finally:
        with suppress(OSError):  # left to `remove_stale`
            aside.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Return one line on an error of the system: the file and the reason."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return why
    return f"{error.filename} cannot be {'written' if isinstance(error, NotWritten) else 'used'} ({why})"


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
        number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # without waiting: a pipe that nobody reads is refused
        os.set_blocking(number, True)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        return
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path, *, remove: bool = False) -> Iterator[bool]:
    """Lock a file inside a results folder; yield False if another process holds the lock.

    Yield True without a lock if the file system has none, or if the file or its folder is a link. remove: delete the file
    before it is released.
    """
    from filelock import FileLock, Timeout  # commands that lock nothing start faster without it

    lock = FileLock(path)
    try:
        make_folder(path.parent)
        if path.is_symlink():
            raise OSError("a link is not followed")
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return
    try:
        yield True
    finally:
        if remove:
            path.unlink(missing_ok=True)
        lock.release()
