"""Closed-form statistics for few runs: intervals with correct coverage for small samples.

Sources: Student's t, Wilson's score interval (1927) and Holm's correction (1979). `resampling.py` has the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Central value and ends of its confidence interval; the ends are NaN if they cannot be estimated."""

    center: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half-width of the interval."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean with Student's t interval.

    The interval is valid from two normal values on; a bootstrap of so few values is not.
    """
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
    """Return Student's t 95% prediction interval for the mean of k further values; valid from two normal values on."""
    n, known = len(values), mean_interval(values)
    if n < 2:
        return known
    half = known.half_width * math.sqrt(1 + n / k)  # the spread is s (1/n + 1/k)^.5, not s (1/n)^.5
    return Interval(known.center, known.center - half, known.center + half)


def nested_interval(groups: Sequence[Sequence[float]]) -> Interval:
    """Return the mean over instances of the means over seeds, with Student's t interval.

    With several instances the independent units are the instances, otherwise the seeds.
    """
    filled = [group for group in groups if len(group)]
    if len(filled) == 1:
        return mean_interval(filled[0])
    return mean_interval([sum(group) / len(group) for group in filled])


def share_interval(successes: int, trials: int) -> Interval:
    """Return the share of successes with Wilson's score interval (1927)."""
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    p = successes / trials
    scale = 1 + z**2 / trials
    center = (p + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / scale
    low = center - half if successes else 0.0  # exact values; the formula would leave a rounding error
    high = center + half if successes < trials else 1.0
    return Interval(p, low, high)


def refuse_nan(values: Sequence[float]) -> None:
    """Raise ValueError if a value is NaN: every comparison with it is false, and it would pass for a result."""
    if any(math.isnan(value) for value in values):
        raise ValueError(f"NaN among {len(values)} values; leave out what was not measured")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979); rejecting at .05 keeps the family-wise error rate at most .05.

    Raise ValueError if one is NaN: a test that could not be made is no member of the family.
    """
    refuse_nan(p_values)
    adjusted = [math.nan] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def best_of(values: Sequence[float], k: int, *, higher_is_better: bool) -> float:
    """Return the expected best of k values drawn without replacement; NaN for fewer than k values.

    It makes the best of few runs comparable with the best of many. The i-th worst value is the best in C(i - 1, k - 1) of
    the C(n, k) draws.
    """
    n = len(values)
    if not 1 <= k <= n:
        return math.nan
    worst_first = sorted(values, reverse=not higher_is_better)
    draws = math.comb(n, k)
    return sum(math.comb(i, k - 1) / draws * value for i, value in enumerate(worst_first))
