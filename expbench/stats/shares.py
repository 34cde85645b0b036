"""Tests of the share of runs that solve a task, for paired and unpaired runs.

Paired: McNemar's exact test (1947), a sign test on the units in which exactly one side solves the task. It is valid for
equal shares, whatever the shapes. If a unit has several runs, its difference is a difference of shares, and the signs of
these differences are flipped. Unpaired: Fisher's exact test (1922).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from expbench.stats.intervals import refuse_nan
from expbench.stats.resampling import sign_flip_p


def paired_share_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the differences in share solved, one for each unit, in -1..1.

    Units without a difference do not count. NaN without units; ValueError for NaN.
    """
    if not differences:
        return math.nan
    refuse_nan(differences)
    discordant = [d for d in differences if d]
    if not discordant:
        return 1.0
    if len({abs(d) for d in discordant}) > 1:
        return sign_flip_p(discordant)
    n = len(discordant)
    more = sum(d > 0 for d in discordant)
    tail: int = sum(math.comb(n, k) for k in range(max(more, n - more), n + 1))
    return min(1.0, tail / (1 << (n - 1)))


def unpaired_share_p(solved: tuple[int, int], trials: tuple[int, int]) -> float:
    """Return the two-sided p-value of Fisher's exact test for the numbers solved of two sides; NaN without trials."""
    if not all(trials):
        return math.nan
    total, both = sum(solved), sum(trials)
    ways = [math.comb(trials[0], k) * math.comb(trials[1], total - k) for k in range(total + 1)]
    return sum(way for way in ways if way <= ways[solved[0]]) / math.comb(both, total)
