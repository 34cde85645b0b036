"""Constructions: weights of a given network that are set, not drawn, so that it computes what a theorem says that it can."""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """What a construction asks of a run: an option as a user types it, and whether the run is as it says."""

    option: str
    met: bool
