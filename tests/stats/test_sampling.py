import math

import numpy as np
import pytest

from expbench.stats.sampling import is_well_posed, sampling_error


def test_the_error_is_that_of_a_constant_prediction() -> None:
    """Labels of kurtosis 9 (exponential, centred): the spread of their mean square over samples of 500."""
    source = np.random.default_rng(0)
    labels = source.exponential(size=(4000, 500)) - 1
    spread = (labels**2).mean(axis=1).std()
    assert sampling_error(9.0, 500 / 9, 500) == pytest.approx(spread, rel=0.05)


def test_the_larger_of_the_exact_and_the_observed_error_counts() -> None:
    n = 65536
    assert sampling_error(145.0, 225.0, n) == pytest.approx(math.sqrt(1 / 225 - 1 / n)), "more large labels than expected"
    assert sampling_error(1000.0, 900.0, n) == pytest.approx(math.sqrt(999 / n)), "fewer"
    assert sampling_error(1.0, float(n), n) == 0


def test_the_limit_is_the_smallest_relevant_difference() -> None:
    posed = is_well_posed([654.0, 658.0, np.nan], [1e9] * 3, [65536.0] * 3)
    assert posed.tolist() == [True, False, False]
