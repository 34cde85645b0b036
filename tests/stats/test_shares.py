import math

import numpy as np
import pytest
from scipy import stats

from expbench.stats.resampling import sign_flip_p
from expbench.stats.shares import paired_share_p, unpaired_share_p


@pytest.mark.parametrize(("more", "fewer"), [(9, 0), (5, 2), (3, 3), (12, 1), (40, 22)])
def test_paired_shares_are_mcnemars(more: int, fewer: int) -> None:
    differences = [1.0] * more + [-1.0] * fewer + [0.0] * 7
    assert paired_share_p(differences) == pytest.approx(stats.binomtest(more, more + fewer).pvalue)


def test_differences_of_several_runs_a_unit_are_flipped() -> None:
    differences = [1.0, 0.5, 0.5, -0.5, 0.0, 0.0]
    assert paired_share_p(differences) == sign_flip_p([1.0, 0.5, 0.5, -0.5])
    assert paired_share_p([0.0] * 20) == 1
    assert math.isnan(paired_share_p([]))


@pytest.mark.parametrize(
    ("solved", "trials"), [((9, 0), (10, 10)), ((3, 7), (20, 25)), ((5, 5), (10, 10)), ((0, 12), (12, 60))]
)
def test_unpaired_shares_are_fishers(solved: tuple[int, int], trials: tuple[int, int]) -> None:
    table = [[s, n - s] for s, n in zip(solved, trials, strict=True)]
    assert unpaired_share_p(solved, trials) == pytest.approx(stats.fisher_exact(table).pvalue)
    assert math.isnan(unpaired_share_p((0, 0), (0, 10)))


def test_mcnemar_holds_for_equal_shares_and_unlike_failures() -> None:
    source = np.random.default_rng(0)
    rejected = 0
    for _ in range(2000):
        one, other = (source.random(30) < 0.6).astype(float), (source.random(30) < 0.6).astype(float)
        rejected += paired_share_p((one - other).tolist()) <= 0.05
    assert rejected / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
