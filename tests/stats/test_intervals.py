import itertools
import math
import random

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from expbench.results.configurations import Configuration
from expbench.stats.intervals import best_of, holm, mean_interval, nested_interval, share_interval
from expbench.stats.resampling import DRAWS, bootstrap_interval, further_mean_interval, paired, sign_flip_p


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


SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


@pytest.mark.parametrize("p", SHARES)
def test_the_share_solved_of_20_seeds_is_covered_whatever_it_is(p: float) -> None:
    intervals = [share_interval(k, 20) for k in range(21)]
    covered = sum(stats.binom.pmf(k, 20, p) for k, interval in enumerate(intervals) if interval.low <= p <= interval.high)
    assert covered >= 0.9


@pytest.mark.parametrize("p", [0.1, 0.5, 0.85])
def test_the_share_solved_of_bimodal_outcomes_is_covered(p: float) -> None:
    source = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        solved = source.random(20) < p
        values = np.where(solved, source.uniform(0, 0.01, 20), source.normal(0.5, 0.1, 20))
        configuration = Configuration(
            {}, pd.DataFrame({"value": values, "status": "ok"}), "nmse", False, success_threshold=0.01
        )
        inside += configuration.solved_share.low <= p <= configuration.solved_share.high
    assert inside / 200 >= 0.9


def test_the_bootstrap_covers_at_20_and_is_too_narrow_at_3() -> None:
    source = np.random.default_rng(1)
    shares = {}
    for n in (3, 20):
        intervals = [bootstrap_interval([source.normal(7, 2, n)]) for _ in range(200)]
        shares[n] = sum(interval.low <= 7 <= interval.high for interval in intervals) / 200
    assert shares[20] >= 0.9
    assert shares[3] == pytest.approx(0.75, abs=0.05), "as its docstring says"


def test_a_nested_bootstrap_resamples_instances_and_seeds_within_them() -> None:
    spread = math.sqrt(2 / 3)  # of 1, 2 and 3
    same_seeds = bootstrap_interval([[1.0] * 4, [2.0], [3.0] * 2])
    assert (same_seeds.center, same_seeds.low, same_seeds.high) == pytest.approx((2, 1, 3)), "of 27 samples one is all 1s"
    both = bootstrap_interval([list(np.linspace(-9, 9, 30) + instance) for instance in range(30)])
    among, within = np.std(range(30)) / math.sqrt(30), np.std(np.linspace(-9, 9, 30)) / 30
    assert both.center == pytest.approx(14.5)
    assert both.half_width == pytest.approx(1.96 * math.hypot(among, within), rel=0.03)
    seeds = bootstrap_interval([[1.0, 2.0, 3.0] * 20])
    assert seeds.half_width == pytest.approx(1.96 * spread / math.sqrt(60), rel=0.05), "and with one instance seeds alone"
    assert bootstrap_interval([[1.0, 2.0, 3.0] * 20]) == seeds, "the same draws every time"


@pytest.mark.parametrize("interval", [bootstrap_interval, further_mean_interval])
def test_a_bootstrap_of_too_little_is_unknown(interval: type) -> None:
    assert math.isnan(interval([]).center)
    assert interval([[], [3.0]]).center == 3
    assert math.isnan(interval([[3.0]]).low)


def test_a_mean_of_three_further_seeds_lies_where_it_is_said_to() -> None:
    source = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = further_mean_interval([source.normal(7, 2, 20)])
        inside += interval.low <= source.normal(7, 2, 3).mean() <= interval.high
    assert inside / 200 >= 0.88
    values = list(source.normal(7, 2, 400))
    assert further_mean_interval([values]).half_width == pytest.approx(1.96 * np.std(values) / math.sqrt(3), rel=0.04)
    assert further_mean_interval([values], k=12).half_width == pytest.approx(1.96 * np.std(values) / math.sqrt(12), rel=0.06)
    assert further_mean_interval([values]).center == pytest.approx(np.mean(values))


def test_further_seeds_have_instances_of_their_own_where_there_are_several() -> None:
    groups = [[float(instance)] * 5 for instance in range(100)]
    each = further_mean_interval(groups)
    assert each.center == 49.5
    assert each.half_width == pytest.approx(1.96 * np.std(range(100)) / math.sqrt(3), rel=0.06), "not one for all three"


def test_signs_are_enumerated() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8, "of the 8 signs, all plus and all minus"
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1, "no sum is nearer 0"
    assert sign_flip_p([3.0, 2.0, -1.0]) == 4 / 8, "6, 4 and their negatives"
    assert sign_flip_p([0.1, 0.2, 0.3, -0.1]) == 6 / 16, "0.5 two ways, 0.7, however they are rounded"
    assert sign_flip_p([0.5] * 14) == 2 / 2**14
    assert sign_flip_p([0.0, 0.0]) == 1
    assert math.isnan(sign_flip_p([]))


def test_many_signs_are_drawn_and_counted_with_those_observed() -> None:
    assert sign_flip_p([1.0] * 40) == 1 / 10_001
    values = list(np.random.default_rng(2).normal(0.4, 1, 16))
    sums = [abs(sum(map(math.prod, zip(values, signs, strict=True)))) for signs in itertools.product((1, -1), repeat=16)]
    exact = sum(s >= abs(sum(values)) - 1e-12 for s in sums) / 2**16
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.01)
    assert 0.01 < exact < 0.5


def test_differences_are_tested_by_instance_where_there_are_several() -> None:
    seeds = paired([[0.1, 0.3, 0.2] * 5])
    assert (seeds.pairs, seeds.units) == (15, 15)
    assert seeds.difference == bootstrap_interval([[0.1, 0.3, 0.2] * 5])
    groups = [[0.1, 0.3], [0.2], [], [0.4, 0.8]]
    several = paired(groups)
    assert (several.pairs, several.units, several.p) == (5, 3, 2 / 8)
    assert several.difference == nested_interval(groups), "of so few units Student's is honest"


def test_holm_by_hand() -> None:
    # in order .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; and none is below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_the_best_of_k_is_the_mean_over_all_draws() -> None:
    values = [5.0, 1.0, 2.0, 8.0, 2.0]
    for k in range(1, 6):
        rng = list(itertools.combinations(values, k))
        for higher, best in ((True, max), (False, min)):
            expected = sum(map(best, rng)) / len(rng)
            assert best_of(values, k, higher_is_better=higher) == pytest.approx(expected), (k, higher)
    assert math.isnan(best_of(values, 6, higher_is_better=True))
    assert math.isnan(best_of(values, 0, higher_is_better=True))


def test_kept_random_numbers_and_chunks_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(3)
    groups = [[list(source.normal(size=n)) for n in sizes] for sizes in ([25], [30], [25], [4, 7, 5], [7, 5, 4])]

    def found() -> list[object]:
        return [f(own) for own in groups for f in (paired, bootstrap_interval, further_mean_interval)]

    kept = found()
    monkeypatch.setattr("expbench.stats.resampling._KEPT", 0)
    assert found() == kept
    assert sign_flip_p(groups[0][0]) == paired(groups[0]).p
    signs = 1 - 2 * np.random.default_rng(0).integers(2, size=(DRAWS, 25))
    extreme = np.abs(signs @ np.array(groups[0][0])) >= abs(sum(groups[0][0])) - 1e-9
    assert paired(groups[0]).p == (extreme.sum() + 1) / (DRAWS + 1)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_half_sums_give_the_p_value_of_all_sign_vectors(n: int) -> None:
    source = np.random.default_rng(n)
    for values in (source.normal(0.3, 1, n), source.integers(-2, 3, n) / 4, np.zeros(n)):
        least = abs(values.sum()) - 1e-12
        sums = [abs(sum(map(math.prod, zip(values, signs, strict=True)))) for signs in itertools.product((1, -1), repeat=n)]
        assert sign_flip_p(list(values)) == sum(s >= least for s in sums) / 2**n
