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

import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.pairing import Candidate, MatchedPair
from expbench.results.configurations import Configuration
from expbench.stats.intervals import ABSOLUTE_MARGIN, RELATIVE_MARGIN
from expbench.stats.means import LEAST_UNITS_FOR_MEANS, equal_means_p, is_bimodal
from expbench.stats.resampling import LEAST_UNITS, Paired, paired
from expbench.stats.shares import paired_share_p, unpaired_share_p

# Best value of a metric, and the worst that a run may have without being seen here: nmse 1 is a constant prediction.
_BEST = {"nmse": 0.0, "accuracy": 1.0, "balanced_accuracy": 1.0, "perplexity": 1.0}
_WORST = {"nmse": 1.0, "accuracy": 0.0, "balanced_accuracy": 0.0}
_NEARLY_ALL = 0.9  # share solved from which a side is at the ceiling
_VALUES = ["value_left", "value_right"]


class Shares(NamedTuple):
    """Comparison of the shares solved.

    solved, trials: numbers of runs of both sides. excess: mean difference of the shares, left minus right. p: NaN if it was
    not tested. units: number of units.
    """

    solved: tuple[int, int]
    trials: tuple[int, int]
    excess: float
    p: float
    units: int

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

    pairs: the pairs of runs, with both values, NaN if diverged. tests: one of the finished pairs; if runs diverged, another
    with these as the worst value. margin: smallest relevant difference.
    """

    claim: Claim
    pair: MatchedPair
    pairs: pd.DataFrame
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
    def decidable(self) -> bool:
        """True if there are enough units for any values; the correction leaves out tests that cannot be decided."""
        return self.posed and self.tests[0].units >= LEAST_UNITS

    @cached_property
    def differences(self) -> list[float]:
        """Differences of the finished pairs, left minus right, averaged in each unit."""
        return _of_units(self._ended, self._ended["value_left"] - self._ended["value_right"])

    @property
    def _ended(self) -> pd.DataFrame:
        return self.pairs.dropna(subset=_VALUES)

    @cached_property
    def shares(self) -> Shares:
        """Comparison of the shares solved: paired if enough units have both sides, otherwise unpaired if possible."""
        solved = [_solved(side.configuration, self.pairs[v]) for side, v in zip(self._sides, _VALUES, strict=True)]
        differences = _of_units(self.pairs, solved[0] - solved[1])
        if len(differences) >= LEAST_UNITS:
            sums, n = (int(solved[0].sum()), int(solved[1].sum())), len(self.pairs)
            excess = sum(differences) / len(differences)
            return Shares(sums, (n, n), excess, paired_share_p(differences) if self.posed else math.nan, len(differences))
        sides = [_solved(side.configuration, side.results["value"]) for side in self._sides]
        sums, trials = (int(sides[0].sum()), int(sides[1].sum())), (len(sides[0]), len(sides[1]))
        excess = sums[0] / trials[0] - sums[1] / trials[1] if all(trials) else math.nan
        apart = self.pairs.empty and min(trials) >= LEAST_UNITS and all(map(_independent, self._sides))
        return Shares(sums, trials, excess, unpaired_share_p(sums, trials) if apart else math.nan, min(trials))

    @property
    def _sides(self) -> tuple[Candidate, Candidate]:
        return self.pair.left, self.pair.right

    @cached_property
    def means(self) -> Means:
        """Test of equal means, or the reason why there is none."""
        n, metric = len(self.differences), self.configurations[0].metric
        if n < LEAST_UNITS_FOR_MEANS:
            return Means(math.nan, f"{n} of {LEAST_UNITS_FOR_MEANS} units")
        if len(self._ended) < len(self.pairs):
            return Means(math.nan, "runs diverged")
        if metric not in _WORST:
            return Means(math.nan, f"the range of {metric} is unknown")
        for configuration, value in zip(self.configurations, _VALUES, strict=True):
            share = float(_solved(configuration, self._ended[value]).mean())
            if is_bimodal(_of_units(self._ended, self._ended[value]), share):
                return Means(math.nan, f"{configuration['model']} is bimodal or skewed")
        ends = [_BEST[metric], _WORST[metric], *(float(end(self._ended[v])) for v in _VALUES for end in (min, max))]
        return Means(equal_means_p(self.differences, max(ends) - min(ends)), "")

    @property
    def ceiling(self) -> bool:
        """True if both sides solve the task in nearly all runs, or their means are within the margin of the best value."""
        best = _BEST.get(self.configurations[0].metric)
        means = [_mean(self._ended, value) for value in _VALUES]
        return self.shares.ceiling or (best is not None and all(abs(best - mean) <= self.margin for mean in means))


def compared(claim: Claim, pair: MatchedPair) -> Comparison:
    """Compare the sides of a matched pair."""
    pairs = pair.left.results.merge(pair.right.results, on=["instance", "seed"], suffixes=("_left", "_right"))
    higher = pair.left.configuration.higher_is_better
    ended = pairs.dropna(subset=_VALUES)
    tests = [_tested(ended)]
    worst = pairs[_VALUES].min().min() if higher else pairs[_VALUES].max().max()
    if len(ended) < len(pairs) and not pd.isna(worst):
        tests.append(_tested(pairs.fillna(dict.fromkeys(_VALUES, worst))))
    default = ABSOLUTE_MARGIN if higher else RELATIVE_MARGIN * max(_mean(ended, value) for value in _VALUES)
    oldest = pairs[["created_left", "created_right"]].min().min()
    late = claim.created is None or not (pairs.empty or oldest >= claim.created)  # a run of unknown age may be older
    return Comparison(claim, pair, pairs, tests, default if claim.margin is None else claim.margin, late)


def _tested(pairs: pd.DataFrame) -> Paired:
    differences = (pairs["value_left"] - pairs["value_right"]).groupby(pairs["instance"])
    return paired([list(group) for _, group in differences])


def _of_units(pairs: pd.DataFrame, values: pd.Series[float]) -> list[float]:
    """Return the values of each unit: their means by instance if there are several, otherwise as they are."""
    if pairs["instance"].nunique() < 2:
        return [float(value) for value in values]
    return [float(value) for value in values.groupby(pairs["instance"]).mean()]


def _independent(side: Candidate) -> bool:
    """Return whether each run of a side is a unit of its own: one instance, or one run of each."""
    return side.results["instance"].nunique() in (1, len(side.results))


def _solved(configuration: Configuration, values: pd.Series[float]) -> pd.Series[float]:
    """Return 1 for each value that reaches the success threshold and 0 for others; NaN, of a diverged run, is unsolved."""
    threshold = configuration.success_threshold
    return (values >= threshold if configuration.higher_is_better else values <= threshold).astype(float)


def _mean(pairs: pd.DataFrame, value: str) -> float:
    return float(pairs.groupby("instance")[value].mean().mean())
