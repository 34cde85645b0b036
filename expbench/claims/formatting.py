"""Verdicts for a person to read: a sentence a claim and a table of its places, for the terminal or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from expbench.claims.verdicts import Finding, Judgement, rests_on
from expbench.console.formatting import aligned, markdown_table, number
from expbench.stats.intervals import Interval
from expbench.stats.resampling import LEAST_UNITS

PREFACE = f"""\
A claim is judged wherever both sides have runs that agree in all but the learning rate, of which each has its own: the best
on the selection split. Differences are left less right, paired by instance and seed, with 95 % intervals of a nested
bootstrap. p is of a sign-flip permutation test, Holm's corrected for all that is judged here. Its null is that both sides
have the same distribution: a small p may also come from distributions with equal means and different shapes, as where one
side solves the task or fails. `not supported`: no difference that matters, which includes places where both sides are near
the best possible value; `undecided`: the runs do not say, or are of fewer than {LEAST_UNITS} independent units; `post hoc`:
a run is older than the claim; `budget-dependent`: decided otherwise at four times or a quarter of the steps. `best of k` is
what the best of k runs is expected to be, for one k on both sides. Where a claim names different `positions` for its sides,
it compares layer and positions together."""
MOST_SENTENCES = 6  # of one claim: in more places it is told by its table
_HEADER = ("verdict", "difference", "95 % interval", "rests on", "p", "Holm's p", "solved", "best of k", "lr", "because")


def sentence(judgement: Judgement, columns: Sequence[str] = ()) -> str:
    """What a judgement says and what it rests on. columns: what of its place is to be named."""
    j = judgement
    left, right = j.claim.left, j.claim.right
    metric = j.left.metric or j.right.metric or "result"
    place = ", ".join(f"{name}={j.where[name]}" for name in columns)
    at = f" at {place}" if place else ""
    if j.verdict == "not supported":
        said = f"{left} and {right} do not differ in {metric} by more than {number(j.margin)}{at}"
    else:
        lower = (j.claim.relation == "<") != (j.verdict == "contradicted")
        said = f"{left} has a {'lower' if lower else 'higher'} {metric} than {right}{at}"
    if j.verdict == "undecided":
        said = f"it is open whether {said}, as {j.reason}"
    return "; ".join([f"{said}: {_evidence(j)}", *_marks(j)])


def brief(finding: Finding) -> str:
    """What became of a claim in a few words: in one place the difference and its interval, else in how many it holds."""
    if len(finding.judgements) != 1:
        return finding.summary if finding.judgements else str(finding.nowhere)
    (j,) = finding.judgements
    return f"{number(j.difference.center)} ({_ends(j.difference)})" if j.pairs else "no pairs"


def text(findings: Sequence[Finding]) -> str:
    """Every claim in a sentence, and where it has several places a table of them, for the terminal."""
    return "\n\n".join("\n".join([_said(f), *([aligned(table(f))] if len(f.judgements) > 1 else [])]) for f in findings)


def markdown(findings: Sequence[Finding]) -> str:
    """The same in Markdown, each claim that has a place with its table, below how to read them."""
    parts = [PREFACE]
    for finding in findings:
        parts.append(_said(finding))
        if finding.judgements:
            header, *lines = table(finding)
            parts.append(markdown_table(header, lines))
    return "\n\n".join(parts)


def _said(finding: Finding) -> str:
    title = finding.claim.title
    if not finding.judgements:
        return f"{title} has no place to be judged: {finding.nowhere}."
    if len(finding.judgements) > MOST_SENTENCES:
        return f"{title} {finding.summary}."
    if len(finding.judgements) > 1:
        said = (f"- {j.verdict}: {sentence(j, finding.columns)}." for j in finding.judgements)
        return "\n".join([f"{title} {finding.summary}:", "", *said])
    (judgement,) = finding.judgements
    sizes = [name for name in ("L", "degree") if judgement.where.get(name, "none") != "none"]
    return f"{title} is {judgement.verdict}: {sentence(judgement, sizes)}."


def _marks(j: Judgement) -> list[str]:
    return [*(["budget-dependent"] if j.budget_dependent else []), *(["post hoc"] if j.after_the_fact else [])]


def _evidence(j: Judgement) -> str:
    if not j.pairs:
        return "no pairs"
    p = f"p = {number(j.p)}" if math.isnan(j.holm) else f"Holm p = {number(j.holm)}"
    ends = f"95 % {_ends(j.difference)}, " if _ends(j.difference) != "-" else ""
    return f"difference {number(j.difference.center)} ({ends}{rests_on(j)}, {p})"


def table(finding: Finding) -> list[list[str]]:
    """The header, and a line a place."""
    columns = finding.columns
    return [[*columns, *_HEADER], *([*(j.where.get(c, "-") for c in columns), *_line(j)] for j in finding.judgements)]


def _line(j: Judgement) -> list[str]:
    cells = (j.left, j.right)
    verdict = f"{j.verdict} ({', '.join(_marks(j))})" if _marks(j) else j.verdict
    solved = [f"{cell.solved}/{cell.trials} ({_ends(cell.solved_share)})" for cell in cells]
    best = f"{number(j.best[0])} against {number(j.best[1])} (k={j.k})" if j.k else "-"
    rates = [f"{number(cell['lr'])}{f' of {n}' if n > 1 else ''}" for cell, n in zip(cells, j.rates, strict=True)]
    tested = [number(j.difference.center), _ends(j.difference), rests_on(j), number(j.p), number(j.holm)]
    return [verdict, *tested, " against ".join(solved), best, " against ".join(rates), j.reason]


def _ends(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{number(interval.low)} to {number(interval.high)}"
