"""Comparison of the two sides of a matched pair: tests of their distributions, of the shares solved and of the means.

The runs are paired by instance and seed. Units are instances if there are several, otherwise pairs. A diverged run has no
metric, so its pair does not enter the differences. If there are diverged runs, a second test replaces their metrics by the
worst value of either side in the matched pair. In the share solved a diverged run counts as unsolved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expbench.claims.claim import Claim
from expbench.claims.pairing import Candidate, MatchedPair
from expbench.results.configurations import Configuration
from expbench.stats.families import SIGNIFICANCE
from expbench.stats.margins import ABSOLUTE_MARGIN, RELATIVE_MARGIN
from expbench.stats.means import LEAST_UNITS_FOR_MEANS, equal_means_p, is_bimodal
from expbench.stats.resampling import LEAST_UNITS, Paired, paired
from expbench.stats.shares import paired_share_p, unpaired_share_p

# Best value of a metric, and the worst that a run may have without being seen here: nmse 1 is a constant prediction.
_BEST = {"nmse": 0.0, "accuracy": 1.0, "balanced_accuracy": 1.0, "perplexity": 1.0}
_WORST = {"nmse": 1.0, "accuracy": 0.0, "balanced_accuracy": 0.0}
_OF_SHARE = 0.1  # part of the level of the gatekeeper
_NEARLY_ALL = 0.9  # share solved from which a side is at the ceiling
_Reals = NDArray[np.float64]


class Pairs(NamedTuple):
    """Pairs of runs: their instances (P,) and the values of both sides (P, 2), NaN if diverged."""

    instances: NDArray[np.int64]
    values: _Reals

    @property
    def ended(self) -> Pairs:
        """Pairs without a diverged run."""
        kept = ~np.isnan(self.values).any(axis=1)
        return Pairs(self.instances[kept], self.values[kept])

    @property
    def differences(self) -> list[list[float]]:
        """Differences, left minus right, grouped by instance."""
        left, right = self.values.T
        return [(left - right)[self.instances == instance].tolist() for instance in np.unique(self.instances)]

    def of_units(self, values: _Reals) -> _Reals:
        """Return the means of values (P, ...) in each unit: an instance if there are several, otherwise a pair."""
        instances, codes = np.unique(self.instances, return_inverse=True)
        if len(instances) < 2:
            return values
        member = codes == np.arange(len(instances))[:, None]
        means: _Reals = (member @ values) / member.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        return means


class Shares(NamedTuple):
    """Comparison of the shares solved.

    solved, trials: numbers of runs of both sides. excess: mean difference of the shares, left minus right. p: NaN if it was
    not tested. units: number of units. discordant: number of paired units in which the shares differ.
    """

    solved: tuple[int, int]
    trials: tuple[int, int]
    excess: float
    p: float
    units: int
    discordant: int = 0

    @property
    def ceiling(self) -> bool:
        """True if nearly all runs of both sides solve the task."""
        return all(n and s >= _NEARLY_ALL * n for s, n in zip(self.solved, self.trials, strict=True))


class Means(NamedTuple):
    """Test of equal means. p: NaN if no statement about means is possible, for this reason."""

    p: float
    reason: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Matched pair with its tests.

    tests: one of the finished pairs; if runs diverged, another with these as the worst value. margin: smallest relevant
    difference.
    """

    claim: Claim
    pair: MatchedPair
    pairs: Pairs
    tests: list[Paired]
    margin: float
    is_post_hoc: bool

    @property
    def configurations(self) -> tuple[Configuration, Configuration]:
        """Configurations of both sides."""
        return self.pair.left.configuration, self.pair.right.configuration

    @property
    def p(self) -> float:
        """Largest p-value of its tests of equal distributions."""
        return max(test.p for test in self.tests)

    @property
    def excluded(self) -> int:
        """Number of ill-posed instances that are left out."""
        return max(side.excluded for side in (self.pair.left, self.pair.right))

    @property
    def posed(self) -> bool:
        """False if all its labels are ill-posed."""
        return bool(self.tests[0].pairs or not self.excluded)

    @property
    def gate_p(self) -> float:
        """P-value of the null that both sides have the same distribution, by either test; NaN if neither was made.

        Nine tenths of the level belong to the test of the distributions and one tenth to that of the share solved, unless
        too few units are discordant for the latter to reach its part; this number is the same for all flips (Tarone 1990).
        """
        share = self.shares
        if not self.decidable:
            return share.p
        if 2.0 ** (1 - share.discordant) > _OF_SHARE * SIGNIFICANCE:
            return self.p
        return min(1.0, self.p / (1 - _OF_SHARE), share.p / _OF_SHARE)

    @property
    def decidable(self) -> bool:
        """True if there are enough units for any values; the correction leaves out tests that cannot be decided."""
        return self.posed and self.tests[0].units >= LEAST_UNITS

    @property
    def p_values(self) -> tuple[float, float, float]:
        """P-values of the distributions, of the share solved and of the means; NaN for a test that was not made."""
        means = self.means.p if self.decidable else math.nan
        return self.p if self.decidable else math.nan, self.shares.p, means

    @cached_property
    def ended(self) -> Pairs:
        """Pairs in which both runs ended well."""
        return self.pairs.ended

    @cached_property
    def differences(self) -> list[float]:
        """Differences of the finished pairs, left minus right, averaged in each unit."""
        left, right = self.ended.of_units(self.ended.values).T
        found: list[float] = (left - right).tolist()
        return found

    @cached_property
    def shares(self) -> Shares:
        """Comparison of the shares solved: paired if enough units have both sides, otherwise unpaired if possible."""
        solved = _solved(self.configurations[0], self.pairs.values)
        left, right = self.pairs.of_units(solved).T
        if len(left) >= LEAST_UNITS:
            differences = np.round(left - right, 12)
            sums, n = (int(solved[:, 0].sum()), int(solved[:, 1].sum())), len(solved)
            excess, discordant = float(differences.mean()), int(np.count_nonzero(differences))
            return Shares(sums, (n, n), excess, paired_share_p(differences.tolist()), len(left), discordant)
        sides = [_solved(side.configuration, side.results["value"].to_numpy(np.float64)) for side in self._sides]
        sums, trials = (int(sides[0].sum()), int(sides[1].sum())), (len(sides[0]), len(sides[1]))
        excess = sums[0] / trials[0] - sums[1] / trials[1] if all(trials) else math.nan
        apart = not len(left) and min(trials) >= LEAST_UNITS and all(map(_independent, self._sides))
        return Shares(sums, trials, excess, unpaired_share_p(sums, trials) if apart else math.nan, len(left) or min(trials))

    @property
    def _sides(self) -> tuple[Candidate, Candidate]:
        return self.pair.left, self.pair.right

    @cached_property
    def means(self) -> Means:
        """Test of equal means, or the reason why there is none."""
        n, metric = len(self.differences), self.configurations[0].metric
        if n < LEAST_UNITS_FOR_MEANS:
            return Means(math.nan, f"{n} of {LEAST_UNITS_FOR_MEANS} units")
        if len(self.ended.values) < len(self.pairs.values):
            return Means(math.nan, "runs diverged")
        if metric not in _WORST:
            return Means(math.nan, f"the range of {metric} is unknown")
        shares = _solved(self.configurations[0], self.ended.values).mean(axis=0)
        values = self.ended.of_units(self.ended.values)
        for configuration, own, share in zip(self.configurations, values.T, shares, strict=True):
            if is_bimodal(own.tolist(), float(share)):
                return Means(math.nan, f"{configuration['model']} is bimodal or skewed")
        ends = [_BEST[metric], _WORST[metric], float(self.ended.values.min()), float(self.ended.values.max())]
        return Means(equal_means_p(self.differences, max(ends) - min(ends)), "")

    @property
    def ceiling(self) -> bool:
        """True if both sides solve the task in nearly all runs, or their means are within the margin of the best value."""
        best = _BEST.get(self.configurations[0].metric)
        return self.shares.ceiling or (best is not None and bool((np.abs(best - _means(self.ended)) <= self.margin).all()))


def compared(claim: Claim, pair: MatchedPair) -> Comparison:
    """Compare the sides of a matched pair."""
    rows = pair.left.results.merge(pair.right.results, on=["instance", "seed"], suffixes=("_left", "_right"))
    pairs = Pairs(rows["instance"].to_numpy(np.int64), rows[["value_left", "value_right"]].to_numpy(np.float64))
    oldest = rows[["created_left", "created_right"]].min().min()
    late = claim.created is None or not (rows.empty or oldest >= claim.created)  # a run of unknown age may be older
    return compared_values(claim, pair, pairs, is_post_hoc=late)


def compared_values(claim: Claim, pair: MatchedPair, pairs: Pairs, *, is_post_hoc: bool) -> Comparison:
    """Compare the values of the sides of a matched pair."""
    values = pairs.values
    ended = pairs.ended
    tests = [paired(ended.differences)]
    higher = pair.left.configuration.higher_is_better
    if len(ended.values) < len(values) and not np.isnan(values).all():
        worst = np.nanmin(values) if higher else np.nanmax(values)
        tests.append(paired(pairs._replace(values=np.where(np.isnan(values), worst, values)).differences))
    margin = claim.margin
    if margin is None:
        margin = ABSOLUTE_MARGIN if higher else RELATIVE_MARGIN * float(_means(ended).max())
    return Comparison(claim, pair, pairs, tests, margin, is_post_hoc)


def _independent(side: Candidate) -> bool:
    """Return whether each run of a side is a unit of its own: one instance, or one run of each."""
    return side.results["instance"].nunique() in (1, len(side.results))


def _solved(configuration: Configuration, values: _Reals) -> _Reals:
    """Return 1 for each value that reaches the success threshold and 0 for others; NaN, of a diverged run, is unsolved."""
    solved: _Reals = configuration.criterion.solves(values).astype(np.float64)
    return solved


def _means(pairs: Pairs) -> _Reals:
    """Return the means of both sides (2,) over units; NaN without pairs."""
    units = pairs.of_units(pairs.values)
    return units.mean(axis=0) if len(units) else np.full(2, math.nan)
