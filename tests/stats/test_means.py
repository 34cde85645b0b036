import math

import numpy as np
import pytest

from expbench.stats.means import bimodality_coefficient, equal_means_p, is_bimodal
from expbench.stats.resampling import sign_flip_p

SIMULATIONS = 800
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_bimodality() -> None:
    source = np.random.default_rng(0)
    large = 200_000
    assert bimodality_coefficient(source.normal(size=large).tolist()) == pytest.approx(1 / 3, abs=0.01)
    assert bimodality_coefficient(source.random(large).tolist()) == pytest.approx(5 / 9, abs=0.01)
    assert bimodality_coefficient([0.0] * 30 + [1.0] * 30) > 0.9
    assert bimodality_coefficient([1e-30] * 30 + [2e-30] * 30) > 0.9, "powers of small errors do not vanish"
    assert bimodality_coefficient([0.3] * 60) == 0
    assert math.isnan(bimodality_coefficient([1.0, 2.0, 3.0]))
    values = source.normal(0.5, 0.1, 60).tolist()
    assert not is_bimodal(values, 0.05)
    assert is_bimodal(values, 0.5), "some runs solve the task and others do not"


def test_a_clear_difference_of_means_is_found_and_order_does_not_matter() -> None:
    source = np.random.default_rng(1)
    differences = source.normal(-0.3, 0.2, 60).clip(-1, 1)
    p = equal_means_p(differences.tolist(), 1.0)
    assert p < 0.001
    assert equal_means_p(sorted(differences), 1.0) == pytest.approx(p)
    assert equal_means_p((-differences).tolist(), 1.0) == pytest.approx(p), "both directions count"
    assert equal_means_p([0.0] * 40, 1.0) == 1
    for values in ([0.1, math.nan], [0.1, 1.5]):
        with pytest.raises(ValueError, match="larger than the span 1"):
            equal_means_p(values, 1.0)


@pytest.mark.parametrize("n", [10, 30, 60])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_equal_means_of_unlike_shapes(n: int, share: float) -> None:
    """One side solves in a share of runs, the other has the mean as a constant: flips reject too often, bets do not."""
    source = np.random.default_rng(n)
    drawn = [np.where(source.random(n) < share, 0.0, 1.0) - (1 - share) for _ in range(SIMULATIONS)]
    assert sum(equal_means_p(d.tolist(), 1.0) <= 0.05 for d in drawn) / SIMULATIONS <= ALLOWED
    if (n, share) in {(10, 0.9), (30, 0.97)}:
        assert sum(sign_flip_p(d.tolist()) <= 0.05 for d in drawn) / SIMULATIONS > 0.2
