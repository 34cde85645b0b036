"""Files that are there whole or not at all: written aside and renamed, so that a killed process leaves no half of one.

What is being written has a hidden name of its own: processes may write the same file at once, and the last one wins.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE_SECONDS = 3600.0


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to. At the end of the block the file takes the place of `target` in one stroke; not if it raises."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def sweep_away(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left aside in a folder, an hour ago or earlier."""
    for left in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # whose process has just renamed it
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
