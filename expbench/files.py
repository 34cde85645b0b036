"""Atomic file writes: write to a temporary file and rename it, so that a killed process leaves no partial file.

Temporary files have unique hidden names. Several processes may write the same file at once; the last one wins.
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
    """Yield a temporary path; at the end of the block it replaces `target` atomically, unless the block raises."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Delete temporary files of killed processes in a folder, if they are more than an hour old."""
    for left in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # its process may just have renamed it
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
