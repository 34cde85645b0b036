"""Verdicts: test claims on the runs of a results table, for each matched pair, and report the evidence for each verdict.

Runs of a matched pair of configurations are paired by instance and seed. Holm's correction covers all claims of a call:
every matched pair of every claim that can be decided.

supported      Holm's p is at most .05, and the interval of the difference is on the claimed side of 0
contradicted   Holm's p is at most .05, and the interval is on the other side of 0
not supported  the interval is within the margin: no relevant difference, whatever p is (for example at a ceiling)
undecided      all other cases, and fewer than 10 independent units; instances with ill-posed labels are excluded

A diverged run has no metric, so its pair does not enter the difference. If there are diverged runs, a second test replaces
their metrics by the worst value of either side in the matched pair. p is the larger of the two p-values, and the claim is
undecided if the two verdicts differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.pairing import MatchedPair, candidates, matched_pairs, unmatched_reason
from expbench.console.formatting import number
from expbench.results.configurations import SIZES, Configuration, divergence, gather, with_context
from expbench.stats.intervals import ABSOLUTE_MARGIN, RELATIVE_MARGIN, Interval, best_of, holm
from expbench.stats.resampling import LEAST_UNITS, Paired, paired

Verdict = Literal["supported", "contradicted", "not supported", "undecided"]
SIGNIFICANCE = 0.05
_LAST = ("task_version", *SIZES, "warmup", "model_version")  # identify matched pairs only if no other column does


@dataclass(frozen=True, eq=False)
class Judgement:
    """Judgement of a claim on one matched pair.

    where: settings that identify the matched pair, as texts. difference: mean of the left side minus mean of the right side.
    p, holm: p-values of the null that both sides have the same distribution, before and after Holm's correction; NaN if not
    tested. units: number of independent units: instances if there are several, otherwise pairs. k, best: expected best of k
    runs for each side, where k is the smaller number of runs. rates: numbers of learning rates that the sides were chosen
    from. after_the_fact: a run is older than the claim. set_aside: number of instances with ill-posed labels.
    budget_dependent: the verdict differs at four times or a quarter of the steps.
    """

    claim: Claim
    left: Configuration
    right: Configuration
    where: dict[str, str]
    rates: tuple[int, int]
    verdict: Verdict
    reason: str
    difference: Interval
    p: float
    holm: float
    pairs: int
    units: int
    margin: float
    k: int
    best: tuple[float, float]
    is_post_hoc: bool
    excluded: int = 0
    budget_dependent: bool = False

    @property
    def failed(self) -> bool:
        """True if the verdict is against the claim."""
        return self.verdict in ("contradicted", "not supported")

    @property
    def solved(self) -> tuple[Interval, Interval]:
        """Shares of runs that solve the task, for both sides, with Wilson's intervals."""
        return self.left.solved_share, self.right.solved_share


@dataclass(frozen=True, eq=False)
class ClaimResult:
    """Result of a claim: a judgement for each matched pair. nowhere: the reason if there is no matched pair."""

    claim: Claim
    judgements: list[Judgement]
    unmatched_reason: str

    @property
    def columns(self) -> list[str]:
        """Columns that distinguish the matched pairs, without columns that follow from earlier ones."""
        seen = [j.where for j in self.judgements]
        columns: list[str] = []
        for name in sorted(dict.fromkeys(name for where in seen for name in where), key=lambda name: name in _LAST):
            if len({_values(p, [*columns, name]) for p in seen}) > len({_values(p, columns) for p in seen}):
                columns.append(name)
        return columns

    @property
    def summary(self) -> str:
        """Counts of the verdicts, and the settings that all failures share and no supported matched pair has."""
        total = len(self.judgements)
        verdicts: tuple[Verdict, ...] = ("supported", "contradicted", "not supported", "undecided")
        held, contradicted, unsupported, undecided = (sum(j.verdict == v for j in self.judgements) for v in verdicts)
        failed = [(v, n) for v, n in (("contradicted", contradicted), ("not supported", unsupported)) if n]
        common = " and ".join(self._common()) if held and failed else ""
        if common and len(failed) == 1:
            rest = [f"{failed[0][0]} with {common}"]
        else:
            rest = [f"{v} in {n}" for v, n in failed] + ([f"all with {common}"] if common else [])
        rest += [f"undecided in {undecided}"] if undecided else []
        parts = [f"holds in {held} of {total} protocol{'s' * (total != 1)}", *([", ".join(rest)] if rest else [])]
        budget, late = sum(j.budget_dependent for j in self.judgements), sum(j.is_post_hoc for j in self.judgements)
        parts += [f"depends on the budget in {budget}"] if budget else []
        parts += [f"post hoc in {late}" if late < total else "post hoc"] if late else []
        return "; ".join(parts)

    def _common(self) -> Iterator[str]:
        for name in self.columns:
            failing = {j.where.get(name) for j in self.judgements if j.failed}
            holding = {j.where.get(name) for j in self.judgements if j.verdict == "supported"}
            if len(failing) == 1 and not failing & holding:
                yield f"{name} {failing.pop()}"


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Matched pair with its tests: one of the finished pairs; if runs diverged, another with these as the worst value."""

    claim: Claim
    pair: MatchedPair
    tests: list[Paired]
    margin: float
    is_post_hoc: bool

    @property
    def configurations(self) -> tuple[Configuration, Configuration]:
        return self.pair.left.configuration, self.pair.right.configuration

    @property
    def p(self) -> float:
        return max(test.p for test in self.tests)

    @property
    def excluded(self) -> int:
        return max(side.excluded for side in (self.pair.left, self.pair.right))

    @property
    def posed(self) -> bool:
        return bool(self.tests[0].pairs or not self.excluded)

    @property
    def decidable(self) -> bool:
        """True if there are enough units for any values; Holm's correction then leaves out tests that cannot be decided."""
        return self.posed and self.tests[0].units >= LEAST_UNITS


def judge(
    claims: Sequence[Claim], frame: pd.DataFrame, configurations: Sequence[Configuration] | None = None
) -> list[ClaimResult]:
    """Return a finding for each claim, in order, from a results table. configurations: those of the frame, if known."""
    among = candidates(frame, gather(with_context(frame)) if configurations is None else configurations)
    comparisons = [[_compared(claim, pair) for pair in matched_pairs(claim, among)] for claim in claims]
    decidable = [c for of_claim in comparisons for c in of_claim if c.decidable]
    adjusted = dict(zip(map(id, decidable), holm([c.p for c in decidable]), strict=True))
    findings = []
    for claim, of_claim in zip(claims, comparisons, strict=True):
        judgements = _with_budgets([_judgement(c, adjusted.get(id(c), math.nan)) for c in of_claim])
        findings.append(ClaimResult(claim, judgements, "" if judgements else unmatched_reason(claim, among)))
    return findings


def rests_on(tested: Paired | Judgement) -> str:
    """Return the number of pairs in words, with the number of instances if these are the units."""
    pairs = f"{tested.pairs} pair{'s' * (tested.pairs != 1)}"
    if tested.pairs != tested.units:
        pairs += f" of {tested.units} instance{'s' * (tested.units != 1)}"
    aside = tested.excluded if isinstance(tested, Judgement) else 0
    return f"{pairs}, {aside} ill-posed excluded" if aside else pairs


def _values(where: Mapping[str, str], columns: Iterable[str]) -> tuple[str | None, ...]:
    return tuple(where.get(name) for name in columns)


def _compared(claim: Claim, pair: MatchedPair) -> _Comparison:
    pairs = pair.left.results.merge(pair.right.results, on=["instance", "seed"], suffixes=("_left", "_right"))
    values = ["value_left", "value_right"]
    higher = pair.left.configuration.higher_is_better
    ended = pairs.dropna(subset=values)
    tests = [_tested(ended)]
    worst = pairs[values].min().min() if higher else pairs[values].max().max()
    if len(ended) < len(pairs) and not pd.isna(worst):
        tests.append(_tested(pairs.fillna(dict.fromkeys(values, worst))))
    default = ABSOLUTE_MARGIN if higher else RELATIVE_MARGIN * max(_mean(ended, value) for value in values)
    oldest = pairs[["created_left", "created_right"]].min().min()
    late = claim.created is None or not (pairs.empty or oldest >= claim.created)  # a run of unknown age may be older
    return _Comparison(claim, pair, tests, default if claim.margin is None else claim.margin, late)


def _tested(pairs: pd.DataFrame) -> Paired:
    differences = (pairs["value_left"] - pairs["value_right"]).groupby(pairs["instance"])
    return paired([list(group) for _, group in differences])


def _mean(pairs: pd.DataFrame, value: str) -> float:
    return float(pairs.groupby("instance")[value].mean().mean())


def _judgement(c: _Comparison, adjusted: float) -> Judgement:
    verdict, reason = _verdict(c, adjusted)
    left, right = c.configurations
    k = min(len(left.values), len(right.values))
    test = c.tests[0]
    return Judgement(
        claim=c.claim,
        left=left,
        right=right,
        where=c.pair.where,
        rates=c.pair.rates,
        verdict=verdict,
        reason=reason,
        difference=test.difference,
        p=c.p,
        holm=adjusted,
        pairs=test.pairs,
        units=test.units,
        margin=c.margin,
        k=k,
        best=(_best(left, k), _best(right, k)),
        is_post_hoc=c.is_post_hoc,
        excluded=c.excluded,
    )


def _best(configuration: Configuration, k: int) -> float:
    return best_of(configuration.values, k, higher_is_better=configuration.higher_is_better)


def _verdict(c: _Comparison, adjusted: float) -> tuple[Verdict, str]:
    """Return the verdict and its reason, worded to follow "because"."""
    if not c.posed:
        return "undecided", "the labels are ill-posed"
    if not c.decidable:
        return "undecided", f"a verdict needs {LEAST_UNITS} units but has {rests_on(c.tests[0])}{_diverged(c)}"
    verdict, *others = [_decided(c, test.difference, adjusted) for test in c.tests]
    if any(other != verdict for other in others):
        return "undecided", f"the verdict depends on the value assigned to diverged runs{_diverged(c)}"
    interval = c.tests[0].difference
    if verdict == "not supported":
        return verdict, f"the interval is within the margin of {number(c.margin)}"
    if verdict != "undecided":
        return verdict, f"the interval is {'below' if interval.high < 0 else 'above'} 0 and Holm's p is {number(adjusted)}"
    if interval.low <= 0 <= interval.high:
        return verdict, f"the interval contains 0 and exceeds the margin of {number(c.margin)}"
    counted = f" with diverged runs counted as the worst{_diverged(c)}" if c.p > c.tests[0].p else ""
    return verdict, f"Holm's p is {number(adjusted)}{counted}"


def _decided(c: _Comparison, interval: Interval, adjusted: float) -> Verdict:
    if -c.margin <= interval.low and interval.high <= c.margin:
        return "not supported"
    if adjusted <= SIGNIFICANCE and not interval.low <= 0 <= interval.high:
        return "supported" if (interval.high < 0) == (c.claim.relation == "<") else "contradicted"
    return "undecided"


def _diverged(c: _Comparison) -> str:
    said = divergence(c.configurations)
    return f" ({said})" if said else ""


def _with_budgets(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Mark judgements whose verdict differs from that of another budget: other steps (and warmup, which follows them)."""
    groups: dict[frozenset[tuple[str, str]], list[Judgement]] = {}
    for j in judgements:
        if "steps" in j.where:
            rest = {name: value for name, value in j.where.items() if name not in ("steps", "warmup")}
            groups.setdefault(frozenset(rest.items()), []).append(j)
    marked = {id(j) for group in groups.values() for j in group if any(_depends(j, other) for other in group)}
    return [replace(j, budget_dependent=id(j) in marked) for j in judgements]


def _depends(one: Judgement, other: Judgement) -> bool:
    fewer, more = sorted([one.left["steps"], other.left["steps"]])
    return bool(more == 4 * fewer and one.verdict != other.verdict and "undecided" not in (one.verdict, other.verdict))
