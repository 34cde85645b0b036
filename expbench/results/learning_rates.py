"""Learning rates: the same selection rule for every model, on seeds that are never reported.

All compared models share one grid. If the best rate of one model is the lowest or highest tried, the grid is extended for
all models, so that each has the same number of tuning runs, up to the boundary of the largest grid. Likewise all of them get
more tuning runs if the outcomes of one are bimodal, since the mean of a few such outcomes says little about a rate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from expbench.run import RESERVED as RESERVED

RULE = 2  # the present rule; rows before schema 8 state none: their rates were chosen by rule 1
RATE_GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
INITIAL_GRID = (3e-3, 1e-2, 3e-2, 1e-1)  # the initial grid of every search
TUNING_RUNS = 5  # per rate
BIMODAL_RUNS = 10  # per rate where outcomes are bimodal

# Validation results of one configuration by rate, one number per run, None for a run that diverged or failed.
Tried = Mapping[float, Sequence[float | None]]


class Criterion(NamedTuple):
    """What a good validation result is: the direction of the metric, and its success threshold."""

    higher_is_better: bool
    success_threshold: float

    def solves(self, values: Any) -> Any:
        """Return whether a value, or each of an array, reaches the success threshold; NaN does not."""
        return values >= self.success_threshold if self.higher_is_better else values <= self.success_threshold

    def solved(self, values: Iterable[float]) -> int:
        """Count the results that reach the success threshold."""
        return sum(map(self.solves, values))


class Tuning(NamedTuple):
    """Tuning of a configuration. rates: learning rates tried. runs: total number of tuning runs. best: the chosen rate.

    rule: the number of the rule that chose it.
    """

    rates: tuple[float, ...]
    runs: int
    best: float
    rule: int


def choose(tried: Tried, criterion: Criterion, rule: int = RULE) -> float:
    """Return the chosen rate.

    Rule 2: the smallest share of runs that diverged or failed, then the largest share solved, then the best mean, then the
    middle of the rates that are equal in all three. Where at each rate all runs solve or none does, the mean decides alone.
    Rule 1: without the share solved, and the lowest of equal rates.
    """

    def rank(rate: float) -> tuple[float, float, float]:
        ended = _ended(tried[rate])
        mean = math.fsum(ended) / len(ended) if ended else 0.0
        solved = criterion.solved(ended) / len(tried[rate]) if rule > 1 else 0.0
        return _lost(tried[rate]), -solved, -mean if criterion.higher_is_better else mean

    ranks = {rate: rank(rate) for rate in sorted(tried)}
    equal = [rate for rate, own in ranks.items() if own == min(ranks.values())]
    return middle(equal) if rule > 1 else equal[0]


def middle(rates: Collection[float]) -> float:
    """Return the middle rate of some neighbours in the grid, the lower one of two."""
    return sorted(rates)[(len(rates) - 1) // 2]


def bimodal(tried: Tried, criterion: Criterion) -> bool:
    """Return whether some but not all runs solve the task, at a rate with the fewest runs that diverged or failed."""
    fewest = min(map(_lost, tried.values()))
    candidates = [values for values in tried.values() if _lost(values) == fewest]
    return any(0 < criterion.solved(_ended(values)) < len(values) for values in candidates)


def hopeless(tried: Tried) -> bool:
    """Return whether every run diverged or failed, so that only lower rates can be better."""
    return all(_lost(values) == 1 for values in tried.values())


def tuning(rows: Iterable[tuple[float, float | None, int]], criterion: Criterion, rule: int) -> Tuning | None:
    """Return the tuning of a configuration by a rule, from (rate, validation result, rule) of its tuning runs.

    A rule uses the runs that were made under it or an earlier one. None if there are none.
    """
    tried: dict[float, list[float | None]] = {}
    for rate, value, made_under in rows:
        if made_under <= rule:
            tried.setdefault(rate, []).append(value)
    if not tried:
        return None
    return Tuning(tuple(sorted(tried)), sum(map(len, tried.values())), choose(tried, criterion, rule), rule)


def extended(grid: Sequence[float], chosen: Collection[float]) -> tuple[float, ...]:
    """Return the grid, extended by one rate at each end where a chosen rate lies; unchanged if none lies at an end."""
    low, high = RATE_GRID.index(min(grid)), RATE_GRID.index(max(grid))
    low -= min(grid) in chosen and low > 0
    high += max(grid) in chosen and high < len(RATE_GRID) - 1
    return RATE_GRID[low : high + 1]


def at_grid_boundary(rate: float) -> bool:
    """Return whether a rate lies on the grid boundary, so that a better rate may lie beyond it."""
    return rate in (RATE_GRID[0], RATE_GRID[-1])


def _ended(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _lost(values: Sequence[float | None]) -> float:
    """Return the share of runs that diverged or failed."""
    return 1 - len(_ended(values)) / len(values)
