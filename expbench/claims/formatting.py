"""Formatting of verdicts for the terminal and as Markdown: a sentence per claim and a table of its matched pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expbench.claims.claim import Claim
from expbench.claims.verdicts import ClaimResult, Judgement, rests_on
from expbench.console.formatting import aligned, escaped, markdown_table, number, visible
from expbench.stats.intervals import Interval
from expbench.stats.resampling import LEAST_UNITS

PREFACE = f"""\
A claim is tested wherever both sides have runs with equal settings. Only the learning rate may differ: each side uses its
best rate on the validation split. Differences are left minus right, paired by instance and seed, with 95 % intervals of a
nested bootstrap. p comes from a sign-flip permutation test, and Holm's p is corrected for all tests in this report. The null
is that both sides have the same distribution. A small p can also come from distributions with equal means and different
shapes, for example if the runs of one side are bimodal. `not supported`: no relevant difference; this includes cases where
both sides are near the best possible value. `undecided`: the runs are inconclusive, or there are fewer than {LEAST_UNITS}
independent units. `post hoc`: a run is older than the claim. `budget-dependent`: the verdict differs at four times or a
quarter of the steps. `best of k`: the expected best of k runs, with the same k on both sides. `confounded`: the runs decide,
but the sides also differ in something that the claim is not about, such as positions, width or the number of tuning runs;
the sentence says in what. Such a pair is no evidence for the claim or against it."""
MOST_SENTENCES = 6  # with more matched pairs, the table of the claim is easier to read
_HEADER = ("verdict", "difference", "95 % interval", "rests on", "p", "Holm's p", "solved", "best of k", "lr", "because")


def sentence(judgement: Judgement, columns: Sequence[str] = ()) -> str:
    """Return a sentence with the conclusion of a judgement and its evidence. columns: settings that the sentence names."""
    j = judgement
    left, right = j.claim.left, j.claim.right
    metric = j.left.metric or j.right.metric or "result"
    place = ", ".join(f"{name}={j.where[name]}" for name in columns)
    at = f" at {place}" if place else ""
    if j.measured == "not supported":
        said = f"{left} and {right} do not differ in {metric} by more than {number(j.margin)}{at}"
    else:
        lower = (j.claim.relation == "<") != (j.measured == "contradicted")
        said = f"{left} has a {'lower' if lower else 'higher'} {metric} than {right}{at}"
    if j.measured == "undecided":
        said = f"it is open whether {said}, because {j.reason}"
    apart = [f"the sides also differ in {_listed(j)}"] if j.confounders else []
    return "; ".join([f"{said}: {_evidence(j)}", *apart, *_marks(j)])


def is_undecided(finding: ClaimResult) -> bool:
    """Return whether all verdicts of a claim are undecided."""
    return {j.verdict for j in finding.judgements} == {"undecided"}


def brief(finding: ClaimResult) -> str:
    """Return the result of a claim in a few words: the difference for one matched pair, otherwise the counts of verdicts."""
    if len(finding.judgements) != 1:
        return finding.summary if finding.judgements else str(finding.unmatched_reason)
    (j,) = finding.judgements
    return f"{number(j.difference.center)} ({_ends(j.difference)})" if j.pairs else "no pairs"


def withdrawn(claims: Sequence[Claim]) -> str:
    """Return withdrawn claims as Markdown, with the reasons."""
    return "\n".join(f"- ~~{escaped(claim.title)}~~ Withdrawn: {escaped(claim.withdrawn or '')}" for claim in claims)


def text(findings: Sequence[ClaimResult]) -> str:
    """Return the claims for the terminal: a sentence each, and a table for claims with several matched pairs."""
    return "\n\n".join(
        "\n".join([_said(f, visible), *([aligned(table(f))] if len(f.judgements) > 1 else [])]) for f in findings
    )


def markdown(findings: Sequence[ClaimResult]) -> str:
    """Return the claims as Markdown: an explanation, then a sentence and a table for each claim, the undecided ones last."""
    parts = [PREFACE]
    for finding in sorted(findings, key=is_undecided):
        parts.append(_said(finding, escaped))
        if finding.judgements:
            header, *lines = table(finding)
            parts.append(markdown_table(header, lines))
    return "\n\n".join(parts)


def _said(finding: ClaimResult, shown: Callable[[str], str]) -> str:
    """Return a claim and its verdicts in sentences; shown: how a text appears where they are read."""
    title = finding.claim.title
    if not finding.judgements:
        return shown(f"{title} cannot be tested: {finding.unmatched_reason}.")
    if len(finding.judgements) > MOST_SENTENCES:
        return shown(f"{title} {finding.summary}.")
    if len(finding.judgements) > 1:
        said = (f"- {shown(f'{j.verdict}: {sentence(j, finding.columns)}.')}" for j in finding.judgements)
        return "\n".join([shown(f"{title} {finding.summary}:"), "", *said])
    (judgement,) = finding.judgements
    sizes = [name for name in ("L", "degree") if judgement.where.get(name, "none") != "none"]
    return shown(f"{title} is {judgement.verdict}: {sentence(judgement, sizes)}.")


def _listed(j: Judgement) -> str:
    return " and ".join(f"{name} ({one} against {other})" for name, (one, other) in j.confounders.items())


def _marks(j: Judgement) -> list[str]:
    return [*(["budget-dependent"] if j.budget_dependent else []), *(["post hoc"] if j.is_post_hoc else [])]


def _evidence(j: Judgement) -> str:
    if not j.pairs:
        return "no pairs"
    p = f"p = {number(j.p)}" if math.isnan(j.holm) else f"Holm p = {number(j.holm)}"
    ends = f"95 % {_ends(j.difference)}, " if _ends(j.difference) != "-" else ""
    return f"difference {number(j.difference.center)} ({ends}{rests_on(j)}, {p})"


def table(finding: ClaimResult) -> list[list[str]]:
    """Return the header and a line for each matched pair."""
    columns = finding.columns
    return [[*columns, *_HEADER], *([*(j.where.get(c, "-") for c in columns), *_line(j)] for j in finding.judgements)]


def _line(j: Judgement) -> list[str]:
    configurations = (j.left, j.right)
    verdict = f"{j.verdict} ({', '.join(_marks(j))})" if _marks(j) else j.verdict
    solved = [f"{c.solved}/{c.trials} ({_ends(c.solved_share)})" for c in configurations]
    best = f"{number(j.best[0])} against {number(j.best[1])} (k={j.k})" if j.k else "-"
    rates = [f"{number(c['lr'])}{f' of {n}' if n > 1 else ''}" for c, n in zip(configurations, j.rates, strict=True)]
    because = "; ".join([*([f"the sides also differ in {_listed(j)}"] if j.confounders else []), j.reason])
    tested = [number(j.difference.center), _ends(j.difference), rests_on(j), number(j.p), number(j.holm)]
    return [verdict, *tested, " against ".join(solved), best, " against ".join(rates), because]


def _ends(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{number(interval.low)} to {number(interval.high)}"
