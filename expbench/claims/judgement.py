"""Judgements: the verdict on a claim at one matched pair with its evidence, and the result of a claim over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from expbench.claims.claim import Claim
from expbench.claims.words import OPEN, Verdict
from expbench.results.configurations import SIZES, Configuration
from expbench.stats.families import SIGNIFICANCE
from expbench.stats.intervals import Interval
from expbench.stats.power import units_needed
from expbench.stats.resampling import Paired

_LAST = ("task_version", *SIZES, "warmup", "model_version")  # identify matched pairs only if no other column does


class Tested(NamedTuple):
    """Verdict on the share solved or on the means. p, holm: before and after correction, NaN if not tested."""

    verdict: Verdict
    reason: str
    p: float
    holm: float


@dataclass(frozen=True, eq=False)
class Judgement:
    """Judgement of a claim on one matched pair.

    where: settings that identify the matched pair, as texts. difference: mean of the left side minus mean of the right side.
    p, holm: p-values of the null that both sides have the same distribution, before and after correction; NaN if not
    tested. share, means: verdicts on the share solved and on the means. units: number of independent units: instances if
    there are several, otherwise pairs. k, best: expected best of k runs for each side; k is the smaller number of runs.
    rates: numbers of learning rates that the sides were chosen from. is_post_hoc: a run is older than the claim. excluded:
    number of instances with ill-posed labels. differences: of each unit. level: p before correction that a verdict would
    need. budget_dependent: the verdict differs at four times or a quarter of the steps. measured: the verdict of the runs
    alone. confounders: see `pairing.MatchedPair`.
    """

    claim: Claim
    left: Configuration
    right: Configuration
    where: dict[str, str]
    rates: tuple[int, int]
    measured: Verdict
    reason: str
    difference: Interval
    p: float
    holm: float
    share: Tested
    means: Tested
    pairs: int
    units: int
    margin: float
    k: int
    best: tuple[float, float]
    is_post_hoc: bool
    differences: Sequence[float] = ()
    level: float = SIGNIFICANCE
    excluded: int = 0
    budget_dependent: bool = False
    confounders: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Verdict of the claim: a decided one is `confounded` if the sides also differ in what the claim is not about."""
        return Verdict.CONFOUNDED if self.confounders and self.measured not in OPEN else self.measured

    @property
    def failed(self) -> bool:
        """True if the verdict is against the claim."""
        return self.verdict in (Verdict.CONTRADICTED, Verdict.NOT_SUPPORTED)

    @cached_property
    def needed(self) -> int | None:
        """Number of units at which 80 % of samples like the observed one give a verdict; None if it is too large."""
        return units_needed(self.differences, self.level, self.margin)

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
        counts = {v: n for v in Verdict if (n := sum(j.verdict == v for j in self.judgements))}
        held = counts.pop(Verdict.SUPPORTED, 0)
        failed = [v for v in counts if v in (Verdict.CONTRADICTED, Verdict.NOT_SUPPORTED)]
        common = " and ".join(self._common()) if held and failed else ""
        if common and len(failed) == 1:
            rest = [f"{failed[0]} with {common}"]
        else:
            rest = [f"{v} in {counts[v]}" for v in failed] + ([f"all with {common}"] if common else [])
        rest += [f"{self._named(v)} in {n}" for v, n in counts.items() if v not in failed]
        parts = [f"holds in {held} of {total} protocol{'s' * (total != 1)}", *([", ".join(rest)] if rest else [])]
        budget, late = sum(j.budget_dependent for j in self.judgements), sum(j.is_post_hoc for j in self.judgements)
        parts += [f"depends on the budget in {budget}"] if budget else []
        parts += [f"post hoc in {late}" if late < total else "post hoc"] if late else []
        return "; ".join(parts)

    def _named(self, verdict: Verdict) -> str:
        """Return a verdict, with the confounders of its pairs."""
        names = dict.fromkeys(name for j in self.judgements if j.verdict == verdict for name in j.confounders)
        return f"{verdict} by {' and '.join(names)}" if verdict == Verdict.CONFOUNDED else verdict

    def _common(self) -> Iterator[str]:
        for name in self.columns:
            failing = {j.where.get(name) for j in self.judgements if j.failed}
            holding = {j.where.get(name) for j in self.judgements if j.verdict == Verdict.SUPPORTED}
            if len(failing) == 1 and not failing & holding:
                yield f"{name} {failing.pop()}"


def rests_on(tested: Paired | Judgement) -> str:
    """Return the number of pairs in words, with the number of instances if these are the units."""
    pairs = f"{tested.pairs} pair{'s' * (tested.pairs != 1)}"
    if tested.pairs != tested.units:
        pairs += f" of {tested.units} instance{'s' * (tested.units != 1)}"
    aside = tested.excluded if isinstance(tested, Judgement) else 0
    return f"{pairs}, {aside} ill-posed excluded" if aside else pairs


def _values(where: Mapping[str, str], columns: Iterable[str]) -> tuple[str | None, ...]:
    return tuple(where.get(name) for name in columns)
