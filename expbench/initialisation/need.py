"""Need: a requirement of a construction on a run."""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """A requirement of a construction. option: as a user types it. met: true if the run satisfies it."""

    option: str
    met: bool
