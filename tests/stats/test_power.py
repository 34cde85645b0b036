import math

import numpy as np
import pytest

from expbench.stats.power import POWER, SIZES, power, units_needed
from expbench.stats.resampling import paired


def test_power_is_that_of_the_test_itself() -> None:
    source = np.random.default_rng(0)
    observed = source.normal(-0.1, 0.2, 20)
    for n in (15, 30):
        decided = 0
        for _ in range(300):
            found = paired([source.choice(observed, n).tolist()])
            decided += found.p <= 0.02 and not found.difference.low <= 0 <= found.difference.high
        assert power(observed.tolist(), n, 0.02, margin=0.0) == pytest.approx(decided / 300, abs=0.09)


def test_more_units_for_a_smaller_effect_and_a_stricter_level() -> None:
    source = np.random.default_rng(1)
    noise = source.normal(0, 0.2, 40)
    noise -= noise.mean()
    sizes = [units_needed((noise + shift).tolist(), 0.05, 0.0) or 999 for shift in (0.3, 0.15, 0.08, 0.001)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 10
    assert 14 <= sizes[1] <= 20, "by Student's t 16 units have 80 % power at .75 standard deviations"
    assert sizes[3] == 999, "no effect is not found by more units"
    strict = units_needed((noise + 0.15).tolist(), 1e-3, 0.0)
    assert strict is not None
    assert strict > sizes[1]
    assert units_needed((noise + 0.15).tolist(), 1e-5, 0.0) is None, "drawn flips have no p so small"


def test_equal_sides_are_settled_by_an_interval_within_the_margin() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 40)
    found = units_needed((noise - noise.mean()).tolist(), 0.05, margin=0.05)
    assert found in SIZES
    assert power((noise - noise.mean()).tolist(), found, 0.05, 0.05) >= POWER
    assert units_needed([0.1, 0.2, 0.3, 0.4], 0.05, 0.0) is None, "too few to resample"
    with pytest.raises(ValueError, match="NaN"):
        units_needed([0.1] * 9 + [math.nan], 0.05, 0.0)
