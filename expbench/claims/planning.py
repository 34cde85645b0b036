"""Planning of the next experiment: how many units the undecided pairs of claims need, in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from expbench.claims.formatting import power
from expbench.claims.judgement import ClaimResult, Judgement
from expbench.claims.words import Verdict
from expbench.console.formatting import aligned, number, visible
from expbench.stats.power import LEAST_OBSERVED, POWER, SIZES

_STEPS = (20, 60, SIZES[-1])


def undecided(finding: ClaimResult) -> list[Judgement]:
    """Return the undecided pairs of a claim that have differences to plan from."""
    return [j for j in finding.judgements if j.verdict == Verdict.UNDECIDED and j.differences]


def summary(findings: Sequence[ClaimResult]) -> str:
    """Return a sentence on how many units the undecided pairs need; an empty text if none is undecided."""
    every = [j for finding in findings for j in undecided(finding)]
    needed = [j.needed for j in every if len(j.differences) >= LEAST_OBSERVED]
    if not every:
        return ""
    parts, before = [], 0
    for size in _STEPS:
        count = sum(n is not None and before < n <= size for n in needed)
        parts += [f"{count} up to {size} units"] if count else []
        before = size
    more = sum(n is None for n in needed)
    parts += [f"{more} more than {SIZES[-1]}"] if more else []
    few = len(every) - len(needed)
    parts += [f"{few} unknown from fewer than {LEAST_OBSERVED}"] if few else []
    pairs = f"{len(every)} pair{'s are' if len(every) > 1 else ' is'} undecided"
    return f"{pairs}. For {100 * POWER:.0f} % power, with differences distributed as those observed: {', '.join(parts)}."


def text(findings: Sequence[ClaimResult]) -> str:
    """Return the undecided pairs of claims for the terminal, with intervals and the number of units that a verdict needs."""
    parts = []
    for finding in findings:
        own = undecided(finding)
        if own:
            columns = finding.columns
            header = [*columns, "difference", "95 % interval", "units", "margin", "p needed", "for a verdict"]
            lines = [[*(j.where.get(name, "-") for name in columns), *_line(j)] for j in own]
            parts.append(f"{visible(finding.claim.title)} {visible(finding.summary)}.\n{aligned([header, *lines])}")
        else:
            why = f"{finding.summary}; no pair is undecided" if finding.judgements else finding.unmatched_reason
            parts.append(visible(f"{finding.claim.title}: {why}."))
    return "\n\n".join([*parts, *([said] if (said := summary(findings)) else [])])


def _line(j: Judgement) -> list[str]:
    low, high = j.difference.low, j.difference.high
    ends = "-" if math.isnan(low) else f"{number(low)} to {number(high)}"
    return [
        number(j.difference.center),
        ends,
        str(j.units),
        number(j.margin),
        number(j.level),
        power(j).partition(" needs ")[2] if len(j.differences) >= LEAST_OBSERVED else "unknown",
    ]
