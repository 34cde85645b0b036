"""Sampling error of a normalised error: the part of its uncertainty that comes from the size of the test set.

The normalised error (nmse) is a mean over the test set of squared errors divided by the variance of the label. A constant
prediction has squared errors y^2, so its nmse has the relative standard error sqrt((E y^4 / E[y^2]^2 - 1) / n) on n test
sequences. It is known before training. The error that is measured for each run is the metric `nmse_standard_error`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from expbench.stats.margins import RELATIVE_MARGIN

# a test set that is less precise than the smallest relevant difference decides nothing
MOST_SAMPLING_ERROR = RELATIVE_MARGIN


def sampling_error(kurtosis: Any, effective_sample_size: Any, n: Any) -> Any:
    """Return the relative standard error of the nmse of a constant prediction, the same shape as the arguments.

    kurtosis: E y^4 / E[y^2]^2 of the centred labels, exact. effective_sample_size: (sum y^2)^2 / sum y^4 of the n test
    labels. The larger of the two errors that these imply counts: a sample may lack rare large labels, or have too many.
    """
    exact, sample = (np.asarray(each, dtype=np.float64) for each in (kurtosis, effective_sample_size))
    n = np.asarray(n, dtype=np.float64)
    return np.sqrt(np.maximum(np.maximum((exact - 1) / n, 1 / sample - 1 / n), 0))


def is_well_posed(kurtosis: Any, effective_sample_size: Any, n: Any) -> Any:
    """Return whether verdicts may rest on a test set of n such labels, for numbers or columns; False for NaN."""
    return sampling_error(kurtosis, effective_sample_size, n) <= MOST_SAMPLING_ERROR
