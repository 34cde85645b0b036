"""Rates: how a learning rate is chosen, alike for every model, on seeds that are never reported.

One grid serves all models that are compared. Where the best rate of one of them is the lowest or the highest tried, the
grid is extended for all, so that each has had the same number of tuning runs; the ladder's ends are the cap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from expbench.run import RESERVED as RESERVED

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
START = (3e-3, 1e-2, 3e-2, 1e-1)  # where every search begins
TUNING_RUNS = 5  # of each rate

# Of one cell: what each rate reached on the selection split, a number a run, None for one that diverged or failed.
Tried = Mapping[float, Sequence[float | None]]


def choose(tried: Tried, higher_is_better: bool) -> float:
    """The rate with the best mean of those at which the fewest runs broke down; of equals the lowest."""

    def rank(rate: float) -> tuple[int, float, float]:
        ended = [value for value in tried[rate] if value is not None and math.isfinite(value)]
        mean = sum(ended) / len(ended) if ended else 0.0
        return len(tried[rate]) - len(ended), -mean if higher_is_better else mean, rate

    return min(tried, key=rank)


def extended(grid: Sequence[float], chosen: Sequence[float]) -> tuple[float, ...]:
    """The grid with its neighbour on the ladder at each end at which one of the chosen rates lies; the same if none does."""
    low, high = LADDER.index(min(grid)), LADDER.index(max(grid))
    low -= min(grid) in chosen and low > 0
    high += max(grid) in chosen and high < len(LADDER) - 1
    return LADDER[low : high + 1]


def at_the_cap(rate: float) -> bool:
    """Whether a rate is an end of the ladder, so that a better one may lie beyond."""
    return rate in (LADDER[0], LADDER[-1])
