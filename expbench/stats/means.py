"""A test of equal means that holds for sides of unlike shapes, and a measure of bimodality.

A permutation test compares distributions: with equal means and unlike shapes it rejects too often. Student's t does so too
for skewed values. No test holds for all distributions (Bahadur and Savage, 1956), since a rare value that was not seen can
decide the mean; bounds on the values are needed. For values within known bounds, bets on the mean give a test that holds at
every sample size (Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86, 2024): under equal means no bet on
the sign of the differences gains wealth on average, so by Markov's inequality the wealth exceeds 1 / p with probability p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_UNITS_FOR_MEANS = 30
BIMODAL_SHARES = (0.1, 0.9)  # a side with a share solved strictly between these has two modes
BIMODAL_COEFFICIENT = 5 / 9  # of the uniform distribution
_STAKES = (np.arange(20) + 0.5) / 20


def bimodality_coefficient(values: Sequence[float]) -> float:
    """Return Sarle's bimodality coefficient, corrected for sample size.

    Source: Pfister and others, Frontiers in Psychology 4, 2013. It is 1/3 for normal values, 5/9 for uniform ones, and near
    1 for two separate values; strong skew also raises it. 0 if all values are equal; NaN for fewer than four values.
    """
    n = len(values)
    if n < 4:
        return math.nan
    centred = np.asarray(values, dtype=np.float64) - np.mean(values)
    scale = float(np.abs(centred).max())
    if scale <= 1e-12 * float(np.abs(values).max()):
        return 0.0
    centred = centred / scale  # powers of very small values would underflow
    second, third, fourth = (float((centred**k).mean()) for k in (2, 3, 4))
    skew = third / second**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / second**2 - 3) + 6)
    return float((skew**2 + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))))


def is_bimodal(values: Sequence[float], solved: float) -> bool:
    """Return whether a side is bimodal, or too skewed to tell. values: one for each unit. solved: its share solved."""
    return BIMODAL_SHARES[0] < solved < BIMODAL_SHARES[1] or bimodality_coefficient(values) > BIMODAL_COEFFICIENT


def equal_means_p(differences: Sequence[float], span: float) -> float:
    """Return the two-sided p-value of the null that the differences have mean 0, given that they lie within -span..span.

    The wealth is the average over fixed stakes, so the order of the differences does not matter. ValueError for NaN or a
    difference beyond the span.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.all(np.abs(values) <= span * (1 + 1e-9)):
        raise ValueError(f"a difference is NaN or larger than the span {span:g}")
    if not len(values) or span == 0:
        return 1.0
    gains = np.multiply.outer(_STAKES, values / span)
    wealth = np.concatenate([np.log1p(gains).sum(axis=1), np.log1p(-gains).sum(axis=1)])
    most = wealth.max()
    return float(min(1.0, math.exp(-(most + math.log(np.exp(wealth - most).mean())))))
