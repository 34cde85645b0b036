"""Verdicts: test claims on the runs of a results table, for each matched pair, and report the evidence for each verdict.

A verdict speaks of distributions: the null hypothesis is that both sides have the same distribution, and a small p-value
rejects this, not that the means are equal. Beside it stand a verdict on the share solved and, where the data allow it, one
on the means. `claims/words.py` defines the words, `claims/comparison.py` the tests and their units.

supported, contradicted  the corrected p is at most .05 and the interval of the difference excludes 0
below the margin         as supported, but the difference is smaller than the margin
not supported            the interval is within the margin, or the difference is below it and opposite to the claim
ceiling                  nearly all runs of both sides solve the task, or both means are within the margin of the best value
undecided                all other cases, and fewer than 10 independent units; instances with ill-posed labels are excluded
confounded               decided, but the sides also differ in something that the claim is not about (`claims/pairing.py`)

The family of a claim is the set of its matched pairs. `stats/families.py` explains the correction: a gatekeeper over the
claims, and Holm's correction within each claim. The three kinds of verdicts are corrected separately, behind the same
gatekeeper. Confounded pairs decide no claim; they are corrected separately, so that they do not weaken the others. If runs
diverged, there are two tests of the distributions; p is the larger, and the claim is undecided if their verdicts differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.comparison import Comparison, compared
from expbench.claims.judgement import ClaimResult, Judgement, Tested, rests_on
from expbench.claims.pairing import candidates, matched_pairs, unmatched_reason
from expbench.claims.words import OPEN, Verdict
from expbench.console.formatting import number
from expbench.results.configurations import Configuration, divergence, gather, with_context
from expbench.stats.families import SIGNIFICANCE, Gate, gates
from expbench.stats.intervals import Interval, best_of
from expbench.stats.resampling import LEAST_UNITS


def judge(
    claims: Sequence[Claim], frame: pd.DataFrame, configurations: Sequence[Configuration] | None = None
) -> list[ClaimResult]:
    """Return a finding for each claim, in order, from a results table. configurations: those of the frame, if known."""
    among = candidates(frame, gather(with_context(frame)) if configurations is None else configurations)
    comparisons = [[compared(claim, pair) for pair in matched_pairs(claim, among)] for claim in claims]
    judged: dict[int, Judgement] = {}
    for confounded in (False, True):
        families = [_Family([c for c in own if bool(c.pair.confounders) == confounded]) for own in comparisons]
        judged |= _judged(families)
    findings = []
    for claim, own in zip(claims, comparisons, strict=True):
        judgements = _with_budgets([judged[id(c)] for c in own])
        findings.append(ClaimResult(claim, judgements, "" if judgements else unmatched_reason(claim, among)))
    return findings


@dataclass(frozen=True, eq=False)
class _Family:
    """Comparisons of a claim, tested as one family."""

    comparisons: list[Comparison]

    @cached_property
    def p_values(self) -> list[float]:
        """P-values for the gatekeeper, of the pairs that can be tested."""
        return [c.gate_p for c in self.comparisons if not math.isnan(c.gate_p)]


def _judged(families: Sequence[_Family]) -> dict[int, Judgement]:
    """Return the judgements of families that are corrected together, by the id of the comparison."""
    tested = [family for family in families if family.p_values]
    gated = dict(zip(map(id, tested), gates([family.p_values for family in tested]), strict=True))
    return {
        id(c): judgement
        for family in families
        for c, judgement in zip(
            family.comparisons, _judgements(family, gated.get(id(family), Gate(1.0, 1.0)), len(tested)), strict=True
        )
    }


def _judgements(family: _Family, gate: Gate, families: int) -> Iterator[Judgement]:
    """Yield the judgements of a family, given its gate and the number of families."""
    ours = family.comparisons
    adjusted, shares, means = (_within(gate, [c.p_values[kind] for c in ours]) for kind in range(3))
    rest = max(1, sum(p > SIGNIFICANCE for p in adjusted))
    opening = SIGNIFICANCE / max(1, families) / max(1, len(family.p_values))
    level = SIGNIFICANCE * gate.share / rest if gate.opened else opening
    for c, p, share, mean in zip(ours, adjusted, shares, means, strict=True):
        yield _judgement(c, p, _on_share(c, share), _on_means(c, mean), level)


def judged_alone(c: Comparison) -> tuple[Verdict, Verdict, Verdict]:
    """Return the verdicts on the distributions, the share solved and the means of a pair that is judged without others."""
    (gate,) = gates([[c.gate_p]])
    adjusted, share, mean = (_within(gate, [p])[0] for p in c.p_values)
    return _verdict(c, adjusted)[0], _on_share(c, share).verdict, _on_means(c, mean).verdict


def _within(gate: Gate, p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p-values of a family; NaN for a test that was not made."""
    known = iter(gate.within([p for p in p_values if not math.isnan(p)]))
    return [math.nan if math.isnan(p) else next(known) for p in p_values]


def _on_share(c: Comparison, adjusted: float) -> Tested:
    """Return the verdict on the share solved; a lower error or a higher accuracy means that more runs solve the task."""
    p, higher = c.shares.p, c.configurations[0].higher_is_better
    if not c.posed:
        return Tested(Verdict.UNDECIDED, "the labels are ill-posed", p, adjusted)
    if math.isnan(p):
        return Tested(Verdict.UNDECIDED, f"{c.shares.units} of {LEAST_UNITS} units", p, adjusted)
    if c.shares.ceiling:
        return Tested(Verdict.CEILING, "nearly all runs of both sides solve the task", p, adjusted)
    if adjusted > SIGNIFICANCE:
        return Tested(Verdict.UNDECIDED, f"Holm's p is {number(adjusted)}", p, adjusted)
    claimed = (c.claim.relation == "<") != higher
    verdict = Verdict.SUPPORTED if (c.shares.excess > 0) == claimed else Verdict.CONTRADICTED
    return Tested(verdict, f"Holm's p is {number(adjusted)}", p, adjusted)


def _on_means(c: Comparison, adjusted: float) -> Tested:
    """Return the verdict on the means."""
    p, reason = c.means
    if math.isnan(adjusted) or adjusted > SIGNIFICANCE:
        said = reason or (f"Holm's p is {number(adjusted)}" if not math.isnan(adjusted) else "the pair cannot be tested")
        return Tested(Verdict.UNDECIDED_ON_MEANS, said, p, adjusted)
    below = c.tests[0].difference.center < 0
    verdict = Verdict.SUPPORTED if below == (c.claim.relation == "<") else Verdict.CONTRADICTED
    return Tested(verdict, f"Holm's p is {number(adjusted)}", p, adjusted)


def _judgement(c: Comparison, adjusted: float, share: Tested, means: Tested, level: float) -> Judgement:
    measured, reason = _verdict(c, adjusted)
    left, right = c.configurations
    k = min(len(left.values), len(right.values))
    test = c.tests[0]
    return Judgement(
        claim=c.claim,
        left=left,
        right=right,
        where=c.pair.where,
        rates=c.pair.rates,
        measured=measured,
        reason=reason,
        difference=test.difference,
        p=c.p,
        holm=adjusted,
        share=share,
        means=means,
        pairs=test.pairs,
        units=test.units,
        margin=c.margin,
        k=k,
        best=(_best(left, k), _best(right, k)),
        is_post_hoc=c.is_post_hoc,
        differences=c.differences,
        level=level,
        excluded=c.excluded,
        confounders=c.pair.confounders,
    )


def _best(configuration: Configuration, k: int) -> float:
    return best_of(configuration.values, k, higher_is_better=configuration.higher_is_better)


def _verdict(c: Comparison, adjusted: float) -> tuple[Verdict, str]:
    """Return the verdict on the distributions and its reason, worded to follow "because"."""
    if not c.posed:
        return Verdict.UNDECIDED, "the labels are ill-posed"
    if not c.decidable:
        return Verdict.UNDECIDED, f"a verdict needs {LEAST_UNITS} units but has {rests_on(c.tests[0])}{_diverged(c)}"
    if c.ceiling:
        both = "nearly all runs of both sides solve the task"
        near = f"both means are within the margin of {number(c.margin)} of the best value"
        return Verdict.CEILING, both if c.shares.ceiling else near
    verdict, *others = [_decided(c, test.difference, adjusted) for test in c.tests]
    if any(other != verdict for other in others):
        return Verdict.UNDECIDED, f"the verdict depends on the value assigned to diverged runs{_diverged(c)}"
    return verdict, _reason(c, verdict, adjusted)


def _decided(c: Comparison, interval: Interval, adjusted: float) -> Verdict:
    within = -c.margin <= interval.low and interval.high <= c.margin
    if not (adjusted <= SIGNIFICANCE and not interval.low <= 0 <= interval.high):
        return Verdict.NOT_SUPPORTED if within else Verdict.UNDECIDED
    claimed = (interval.high < 0) == (c.claim.relation == "<")
    if abs(interval.center) < c.margin:
        return Verdict.BELOW_MARGIN if claimed else Verdict.NOT_SUPPORTED
    return Verdict.SUPPORTED if claimed else Verdict.CONTRADICTED


def _reason(c: Comparison, verdict: Verdict, adjusted: float) -> str:
    interval, margin = c.tests[0].difference, f"the margin of {number(c.margin)}"
    found = f"the interval is {'below' if interval.high < 0 else 'above'} 0 and Holm's p is {number(adjusted)}"
    if verdict == Verdict.NOT_SUPPORTED:
        within = -c.margin <= interval.low and interval.high <= c.margin
        return (
            f"the interval is within {margin}" if within else f"the difference is opposite to the claim, and below {margin}"
        )
    if verdict == Verdict.BELOW_MARGIN:
        return f"{found}, but the difference is smaller than {margin}"
    if verdict != Verdict.UNDECIDED:
        return found
    if interval.low <= 0 <= interval.high:
        return f"the interval contains 0 and exceeds {margin}"
    counted = f" with diverged runs counted as the worst{_diverged(c)}" if c.p > c.tests[0].p else ""
    return f"Holm's p is {number(adjusted)}{counted}"


def _diverged(c: Comparison) -> str:
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
    return bool(more == 4 * fewer and one.measured != other.measured and not {one.measured, other.measured} & OPEN)
