"""Progress of a count: a bar with a time estimate on a terminal, one line per 10 % elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def duration(seconds: float) -> str:
    """Format seconds as a rounded duration in s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a callback that takes the number of finished items and reports progress.

    Progress is a bar with a time estimate on a terminal, and one line per 10 % elsewhere.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what) as bar:

            def advanced(done: int) -> None:
                bar.update(done - bar.n)

            yield advanced
        return
    began, said = time.monotonic(), 0

    def told(done: int) -> None:
        nonlocal said
        if 10 * done // total > said:
            said = 10 * done // total
            left = duration((time.monotonic() - began) * (total - done) / done)
            print(f"{done} of {total} {what} (about {left} left)", file=sys.stderr, flush=True)

    yield told
