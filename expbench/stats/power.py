"""Power: how many units a verdict needs, if the true differences are distributed as those observed.

The observed differences are resampled to each of a list of sizes, and each resample is judged by the same rule as a claim:
the test of sign flips at the level that the corrections leave, and the interval of the mean. The number plans the next
experiment. It is itself uncertain, since the observed differences are a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from expbench.stats.intervals import CONFIDENCE, refuse_nan
from expbench.stats.resampling import DRAWS

POWER = 0.8
SIZES = (10, 12, 14, 17, 20, 25, 30, 35, 40, 50, 60, 70, 85, 100, 120, 140, 170, 200)
_RESAMPLES = 1000
LEAST_OBSERVED = 5  # a resample of fewer differences says little about their distribution


def power(differences: Sequence[float], n: int, level: float, margin: float) -> float:
    """Return the share of resamples of n units that give a verdict.

    A verdict is a p-value of at most `level` with an interval that excludes 0, or an interval within the margin. Means are
    taken as normal given the resample; a test of n units has no p-value below 2 / 2^n or, if flips are drawn, 1 / 10,001.
    """
    values = np.asarray(differences, dtype=np.float64)
    drawn = values[np.random.default_rng(n).integers(len(values), size=(_RESAMPLES, n))]
    mean, squares = drawn.mean(axis=1), (drawn**2).mean(axis=1)
    half = ndtri(0.5 + CONFIDENCE / 2) * drawn.std(axis=1) / math.sqrt(n)
    far = np.abs(mean) * math.sqrt(n) >= -ndtri(level / 2) * np.sqrt(squares)
    reachable = max(2.0 ** (1 - n), 1 / (DRAWS + 1) if n > 20 else 0.0) <= level
    differs = far & (np.abs(mean) > half) & (squares > 0) & reachable
    return float((differs | (np.abs(mean) + half <= margin)).mean())


def units_needed(differences: Sequence[float], level: float, margin: float) -> int | None:
    """Return the least of `SIZES` at which 80 % of resamples give a verdict; None if even the largest is too small.

    differences: one for each observed unit. level: p-value that a verdict needs before correction. None also for fewer than
    five units. The size is found by bisection, as power grows with it but for the noise of resampling.
    """
    refuse_nan(differences)
    if len(differences) < LEAST_OBSERVED or power(differences, SIZES[-1], level, margin) < POWER:
        return None
    low, high = -1, len(SIZES) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(differences, SIZES[middle], level, margin) >= POWER else (middle, high)
    return SIZES[high]
