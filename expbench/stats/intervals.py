"""Statistics of a few runs: intervals that are honest about how few they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import ndtri, stdtrit

# The least differences that matter: relative to an error, and of an accuracy. Claims and comparisons judge by the same.
RELATIVE_MARGIN, ABSOLUTE_MARGIN = 0.1, 0.05
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A central value with the ends of its confidence interval; the ends are NaN where they cannot be known."""

    center: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with Student's t interval, which holds for as few as two normal values; a bootstrap of so few does not."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = sum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def further_interval(values: Sequence[float], k: int = 3) -> Interval:
    """Where the mean of k further values will lie in 95 of 100 cases, by Student's t: of as few as two normal values."""
    n, known = len(values), mean_interval(values)
    if n < 2:
        return known
    half = known.half_width * math.sqrt(1 + n / k)  # s (1/n + 1/k)^.5 in the place of s (1/n)^.5
    return Interval(known.center, known.center - half, known.center + half)


def nested_interval(groups: Sequence[Sequence[float]]) -> Interval:
    """Mean over instances of the means over seeds; with several instances they, not the seeds, are the independent units."""
    filled = [group for group in groups if len(group)]
    if len(filled) == 1:
        return mean_interval(filled[0])
    return mean_interval([sum(group) / len(group) for group in filled])


def share_interval(successes: int, trials: int) -> Interval:
    """Share of successes with Wilson's score interval (1927)."""
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    p = successes / trials
    scale = 1 + z**2 / trials
    center = (p + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / scale
    low = center - half if successes else 0.0  # exact at both ends, where rounding would leave a trace
    high = center + half if successes < trials else 1.0
    return Interval(p, low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): of all claimed where these are at most .05, nothing is false in .95 of cases."""
    adjusted = [math.nan] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def best_of(values: Sequence[float], k: int, *, higher_is_better: bool) -> float:
    """The expected best of k values drawn without replacement: what makes the best of few runs and of many comparable.

    The i-th from the worst is the best of C(i - 1, k - 1) of the C(n, k) draws. NaN of fewer than k values.
    """
    n = len(values)
    if not 1 <= k <= n:
        return math.nan
    worst_first = sorted(values, reverse=not higher_is_better)
    draws = math.comb(n, k)
    return sum(math.comb(i, k - 1) / draws * value for i, value in enumerate(worst_first))
