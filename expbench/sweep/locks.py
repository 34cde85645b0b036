"""Locks: processes with the same work in one folder divide it by a lock for each part.

A lock is released when its process ends for any reason, and another process can then take the part. On a file system
without locks, or if the folder of locks is a link, each process does all of the work: that costs time and changes no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expbench import files

_LOCKS = ".at-work"


def abandoned(folder: Path, part: object) -> bool:
    """Return whether a process died while it held the lock of a part; a living process may hold it now."""
    return _path(folder, part).exists()


@contextmanager
def lock(folder: Path, part: object) -> Iterator[bool]:
    """Lock `part` of the work in a folder, named by its text; yield False if another process holds the lock."""
    path = _path(folder, part)
    # A process waiting on the deleted file and one on its successor may both get a lock; both check for results first.
    with files.locked(path, remove=True) as ours:
        yield ours


def _path(folder: Path, part: object) -> Path:
    return folder / _LOCKS / hashlib.sha256(str(part).encode()).hexdigest()[:16]
