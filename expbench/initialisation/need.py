"""Need: what a construction asks of a run."""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """What a construction asks of a run: an option as a user types it, and whether the run is as it says."""

    option: str
    met: bool
