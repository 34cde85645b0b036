"""Formatting of verdicts for the terminal and as Markdown: a sentence per claim and a table of its matched pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expbench.claims.claim import Claim
from expbench.claims.judgement import ClaimResult, Judgement, rests_on
from expbench.claims.words import Verdict
from expbench.console.formatting import aligned, escaped, markdown_table, number, visible
from expbench.stats.intervals import Interval
from expbench.stats.means import LEAST_UNITS_FOR_MEANS
from expbench.stats.power import LEAST_OBSERVED, POWER, SIZES
from expbench.stats.resampling import LEAST_UNITS

PREFACE = f"""\
A claim is tested wherever both sides have runs with equal settings. Only the learning rate may differ: each side uses its
best rate on the validation split. Differences are left minus right, paired by instance and seed, with 95 % intervals of a
nested bootstrap. The null is that both sides have the same distribution, and p comes from a sign-flip permutation test.
`supported` and `contradicted` therefore say that the distributions differ, and in which direction; they do not say that the
means differ. The share solved has a verdict of its own, by McNemar's exact test. A verdict on the means needs
{LEAST_UNITS_FOR_MEANS} units and sides that are not bimodal, and a test that holds for unlike shapes; otherwise the claim is
`undecided on means`. Each claim is a family: a gatekeeper tests over all claims of this report whether any of its pairs
differs, and Holm's p is corrected within the claim. `ceiling`: both sides are near the best possible value. `not supported`:
no difference beyond the margin. `below the margin`: as supported, but the difference is smaller than the margin.
`undecided`: the runs are inconclusive, or there are fewer than {LEAST_UNITS} independent units. `post hoc`: a run is older
than the claim. `budget-dependent`: the verdict differs at four times or a quarter of the steps. `best of k`: the expected
best of k runs, with the same k on both sides. Numbers of units that a verdict needs have 80 % power if the differences are
distributed as those observed. `confounded`: the runs decide, but the sides also differ in something that the claim is not
about, such as positions, width or the number of tuning runs; the sentence says in what. Such a pair is no evidence for the
claim or against it."""
MOST_SENTENCES = 6  # with more matched pairs, the table of the claim is easier to read
_HEADER = (
    *(
        "verdict",
        "difference",
        "95 % interval",
        "rests on",
        "p",
        "Holm's p",
        "solved",
        "on the share solved",
        "on the means",
    ),
    *("best of k", "lr", "because"),
)


def sentence(judgement: Judgement, columns: Sequence[str] = ()) -> str:
    """Return a sentence with the conclusion of a judgement and its evidence. columns: settings that the sentence names."""
    j = judgement
    left, right = j.claim.left, j.claim.right
    metric = j.left.metric or j.right.metric or "result"
    place = ", ".join(f"{name}={j.where[name]}" for name in columns)
    at = f" at {place}" if place else ""
    names, of = f"{left} and {right}", f"in {metric}{at}"
    if j.measured == Verdict.CEILING:
        said = f"{names} are both near the best possible value {of}"
    elif j.measured == Verdict.NOT_SUPPORTED:
        said = f"{names} do not differ by more than {number(j.margin)} {of}"
    else:
        below = (j.claim.relation == "<") != (j.measured == Verdict.CONTRADICTED)
        said = f"{left} is {'below' if below else 'above'} {right} {of}"
    if j.measured == Verdict.UNDECIDED:
        said = f"it is open whether {said}, because {_because(j)}"
    elif j.measured in (Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.BELOW_MARGIN):
        small = f" by less than the margin of {number(j.margin)}" if j.measured == Verdict.BELOW_MARGIN else ""
        said += f" (the distributions differ, in this direction{small})"
    return "; ".join([f"{said}: {_evidence(j)}", *_apart(j), *_beside(j), *_marks(j)])


def _apart(j: Judgement) -> list[str]:
    """Return what the sides differ in, although the claim is not about it, in words."""
    named = " and ".join(f"{name} ({one} against {other})" for name, (one, other) in j.confounders.items())
    return [f"the sides also differ in {named}"] if named else []


def _because(j: Judgement) -> str:
    """Return the reason of a verdict; of an undecided one with the number of units that would decide it."""
    known = j.measured == Verdict.UNDECIDED and len(j.differences) >= LEAST_OBSERVED
    return f"{j.reason}; {power(j)}" if known else j.reason


def power(j: Judgement) -> str:
    """Return in words how many units a verdict needs."""
    unit = "instances" if j.pairs != j.units or j.left.runs["instance"].nunique() > 1 else "pairs"
    count = f"about {j.needed}" if j.needed is not None else f"more than {SIZES[-1]}"
    return f"a verdict needs {count} {unit} for {POWER:.0%} power".replace("%", " %")


def _beside(j: Judgement) -> list[str]:
    """Return the verdicts on the share solved and on the means, in words."""
    if not j.pairs:
        return []
    (solved, n), (others, m) = ((c.solved, c.trials) for c in (j.left, j.right))
    share_said = str(j.share.verdict)
    if j.share.verdict in (Verdict.SUPPORTED, Verdict.CONTRADICTED):
        better = (j.claim.relation == "<") != j.left.higher_is_better
        share_said = f"{j.claim.left} solves {'more' if (j.share.verdict == Verdict.SUPPORTED) == better else 'fewer'}"
    p = f", Holm p = {number(j.share.holm)}" if not math.isnan(j.share.holm) else ""
    said = [f"share solved: {share_said} ({solved}/{n} against {others}/{m}{p})"]
    if j.means.verdict == Verdict.UNDECIDED_ON_MEANS:
        return [*said, f"{j.means.verdict} ({j.means.reason})"]
    word = "lower" if j.difference.center < 0 else "higher"
    return [*said, f"its mean is {word} (Holm p = {number(j.means.holm)})"]


def is_undecided(finding: ClaimResult) -> bool:
    """Return whether all verdicts of a claim are undecided."""
    return {j.verdict for j in finding.judgements} == {Verdict.UNDECIDED}


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
    tested = [number(j.difference.center), _ends(j.difference), rests_on(j), number(j.p), number(j.holm)]
    beside = [f"{t.verdict} ({t.reason})" for t in (j.share, j.means)]
    because = "; ".join([*_apart(j), _because(j)])
    return [verdict, *tested, " against ".join(solved), *beside, best, " against ".join(rates), because]


def _ends(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{number(interval.low)} to {number(interval.high)}"
