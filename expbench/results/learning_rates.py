"""Learning rates: the same selection rule for every model, on seeds that are never reported.

All compared models share one grid. If the best rate of one model is the lowest or highest tried, the grid is extended for
all models, so that each has the same number of tuning runs, up to the boundary of the largest grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from expbench.run import RESERVED as RESERVED

RATE_GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
INITIAL_GRID = (3e-3, 1e-2, 3e-2, 1e-1)  # the initial grid of every search
TUNING_RUNS = 5  # per rate

# Validation results of one configuration by rate, one number per run, None for a run that diverged or failed.
Tried = Mapping[float, Sequence[float | None]]


def choose(tried: Tried, higher_is_better: bool) -> float:
    """Return the rate with the fewest runs that diverged or failed; ties go to the best mean, then to the lowest rate."""

    def rank(rate: float) -> tuple[int, float, float]:
        ended = [value for value in tried[rate] if value is not None and math.isfinite(value)]
        mean = sum(ended) / len(ended) if ended else 0.0
        return len(tried[rate]) - len(ended), -mean if higher_is_better else mean, rate

    return min(tried, key=rank)


def extended(grid: Sequence[float], chosen: Sequence[float]) -> tuple[float, ...]:
    """Return the grid, extended by one rate at each end where a chosen rate lies; unchanged if none lies at an end."""
    low, high = RATE_GRID.index(min(grid)), RATE_GRID.index(max(grid))
    low -= min(grid) in chosen and low > 0
    high += max(grid) in chosen and high < len(RATE_GRID) - 1
    return RATE_GRID[low : high + 1]


def at_grid_boundary(rate: float) -> bool:
    """Return whether a rate lies on the grid boundary, so that a better rate may lie beyond it."""
    return rate in (RATE_GRID[0], RATE_GRID[-1])
