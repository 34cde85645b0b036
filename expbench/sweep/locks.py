"""Sharing: processes that are given the same work in one folder divide it among themselves, by a lock for each part.

A lock is let go when its process ends, however it ends, and then another takes that part up. Where a file system knows no
locks each process does all of the work, which costs time and changes no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOCKS = ".at-work"


@contextmanager
def reserved(folder: Path, part: object) -> Iterator[bool]:
    """Holds `part` of the work in a folder, named by its text; false if another process is at it."""
    path = folder / _LOCKS / hashlib.sha256(str(part).encode()).hexdigest()[:16]
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        # Who waits for the old file may hold it beside one who holds the next: both look first whether the part is done.
        path.unlink(missing_ok=True)
        lock.release()
