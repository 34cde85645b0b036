import math
import random

import pytest
from scipy import stats

from expbench.statistics import mean_interval, nested_interval, share_interval


def test_mean_interval_is_students() -> None:
    values = [1.0, 2.0, 4.0, 4.5]
    expected = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert mean_interval(values)[1:] == pytest.approx(expected)
    assert mean_interval(values).half_width == pytest.approx((expected[1] - expected[0]) / 2)


def test_intervals_of_too_little_are_unknown() -> None:
    assert mean_interval([3.0]).center == 3
    assert math.isnan(mean_interval([3.0]).low)
    assert math.isnan(mean_interval([]).center)
    assert math.isnan(share_interval(0, 0).center)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_coverage_is_what_it_says(n: int) -> None:
    source = random.Random(n)
    inside = 0
    for _ in range(2000):
        interval = mean_interval([source.gauss(7, 2) for _ in range(n)])
        inside += interval.low <= 7 <= interval.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 5), (5, 5), (7, 20)])
def test_wilson(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert share_interval(successes, trials) == pytest.approx((successes / trials, *expected), abs=1e-12)


def test_instances_are_the_independent_units_where_there_are_several() -> None:
    groups = [[1.0, 1.2, 0.8], [3.0, 3.2, 2.8]]
    assert nested_interval(groups) == pytest.approx(mean_interval([1.0, 3.0]))
    assert nested_interval([groups[0], []]) == pytest.approx(mean_interval(groups[0]))
    assert math.isnan(nested_interval([[], []]).center)
