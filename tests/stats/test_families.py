"""The gatekeeper over families of tests, and Holm's correction within each."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from expbench.stats.families import Gate, gates, simes
from expbench.stats.intervals import holm
from expbench.stats.resampling import sign_flip_p
from expbench.stats.shares import paired_share_p


def test_simes_by_hand() -> None:
    assert simes([0.01, 0.04, 0.03]) == pytest.approx(0.03), "3 x .01, 3/2 x .03 and 3/3 x .04"
    assert simes([0.02, 0.02]) == pytest.approx(0.02)
    assert simes([0.7]) == 0.7


def test_one_family_of_one_test_is_not_corrected() -> None:
    (gate,) = gates([[0.03]])
    assert (gate.p, gate.opened, gate.within([0.03])) == (0.03, True, [0.03])


def test_the_level_within_a_family_is_that_of_the_opened_share() -> None:
    opened, closed = gates([[0.001, 0.02], [0.4, 0.6]])
    assert (opened.p, closed.p) == pytest.approx((0.004, 0.6)), "Simes' p of the first is .002, times 2 families"
    assert opened.share == closed.share == 0.5
    assert opened.within([0.001, 0.02]) == pytest.approx([0.004, 0.04]), "Holm's .002 and .02, at half the level"
    assert min(closed.within([0.4, 0.6])) > 0.05
    both = gates([[0.001, 0.02], [0.001, 0.6]])
    assert [gate.share for gate in both] == [1, 1]
    assert Gate(0.2, 1.0).within([0.001]) == [0.2], "nothing is rejected behind a closed gate"


def test_one_claim_does_not_pay_for_the_pairs_of_others() -> None:
    """With 12 units the least p is 2 / 2^12; one correction over 166 pairs left only clean sweeps decided."""
    least = 2 / 2**12
    claims = [[least, least, 3 * least], *([[least] * 10] * 16)]
    pooled = holm([p for family in claims for p in family])
    assert max(pooled[:3]) > 0.05
    assert max(gates(claims)[0].within(claims[0])) < 0.05


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_error_rates_under_global_and_partial_nulls(correlation: float) -> None:
    source = np.random.default_rng(0)
    families, pairs, simulations = 6, 4, 1500

    def false_ones(effects: np.ndarray) -> tuple[float, float, float]:
        anywhere, by_family, of_opened = 0.0, np.zeros(families), 0.0
        for _ in range(simulations):
            common, own = source.normal(size=(families, 1)), source.normal(size=(families, pairs))
            z = effects + math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
            p_values = 2 * ndtr(-np.abs(z))
            found = gates(p_values.tolist())
            adjusted = np.array([gate.within(own.tolist()) for gate, own in zip(found, p_values, strict=True)])
            false = ((adjusted <= 0.05) & (effects == 0)).any(axis=1)
            anywhere, by_family = anywhere + false.any(), by_family + false
            of_opened += false.sum() / max(1, sum(gate.opened for gate in found))
        return anywhere / simulations, float(by_family.max()) / simulations, of_opened / simulations

    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / simulations)
    assert false_ones(np.zeros((families, pairs)))[0] <= allowed
    for differing in (1, families // 2, families):
        effects = np.zeros((families, pairs))
        effects[:differing, 0] = 6
        _, in_one, of_opened = false_ones(effects)
        assert in_one <= allowed
        assert of_opened <= allowed


@pytest.mark.parametrize("test", [holm, simes, sign_flip_p, paired_share_p])
def test_nan_is_refused(test: object) -> None:
    assert callable(test)
    with pytest.raises(ValueError, match="NaN among 3 values"):
        test([0.1, math.nan, 0.2])
