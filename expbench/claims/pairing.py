"""Matched pairs: pairs of configurations on which a claim can be tested.

Both sides of a matched pair share all settings except the model, its settings and version, the learning rate (tuned for each
side) and the settings that the claim fixes. Settings that both models have must also agree, unless the claim fixes them. In
which of these the sides do differ, and in the number of tuning runs, is a property of the pair: a claim about the model says
nothing about it where the sides also differ in positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.parsing import Side, plain
from expbench.errors import unknown
from expbench.results import identity
from expbench.results.configurations import Configuration
from expbench.results.reported import choosing

_AROUND = identity.columns({"model", "model_version", "rate", "seed", "instance"})
_KNOWN_OTHERWISE = ("task", "context")  # the claim fixes the task; the context repeats the task settings as text
_BASE = "position_base"  # compared where both sides have the same code; codes without a base have a neutral one
_FOLLOWS = {_BASE: "positions", "warmup": "steps"}  # a difference in the first only follows from one in the second
_SAME_SIZE = 1.1  # largest ratio of sizes that count as equal: both within 5 % of the size that --match asks for


@dataclass(frozen=True, eq=False)
class Candidate:
    """Candidate of a comparison: a configuration with its settings as `plain` texts.

    validation: the reported primary metric of each run on the validation split.
    """

    configuration: Configuration
    validation: list[float]

    @cached_property
    def task(self) -> dict[str, str]:
        """Settings of the task except the instance."""
        return {name: value for name, value in self._settings("task_settings").items() if name != "instance"}

    @cached_property
    def around(self) -> dict[str, str]:
        """Values of the columns that do not depend on the model."""
        return {name: plain(self.configuration.stated(name)) for name in _AROUND if name not in _KNOWN_OTHERWISE}

    @cached_property
    def own(self) -> dict[str, str]:
        """Settings and version of the model."""
        return self._settings("model_settings") | {"model_version": str(self.configuration["model_version"])}

    @cached_property
    def results(self) -> pd.DataFrame:
        """Finished and diverged runs on well-posed labels: one row, the latest, for each instance and seed."""
        runs = self.configuration.runs[["instance", "seed", "value", "created", "status"]]
        runs = runs[runs["status"].isin(["ok", "diverged"]) & ~self._ill_posed].sort_values("created", kind="stable")
        return runs.drop_duplicates(["instance", "seed"], keep="last")

    @property
    def excluded(self) -> int:
        """Number of ill-posed instances."""
        return int(self.configuration.runs.loc[self._ill_posed, "instance"].nunique())

    @property
    def _ill_posed(self) -> pd.Series[bool]:
        return self.configuration.runs["well_posed"].isin([False])  # an unknown value does not count as ill-posed

    @property
    def lr(self) -> dict[str, str]:
        """Learning rate; both sides and filters may refer to it."""
        return {"lr": plain(self.configuration["lr"])}

    def fits(self, side: Side) -> bool:
        """Return whether the configuration belongs to a side of a claim."""
        known = self.own | self.around | self.lr
        return self.configuration["model"] == side.name and all(
            known.get(name) == value for name, value in side.settings.items()
        )

    def admitted(self, claim: Claim) -> bool:
        """Return whether the configuration satisfies the task and the restrictions of a claim."""
        known = self.task | self.around | self.lr
        where = all(known.get(name) in list(values) for name, values in claim.where.items())
        return bool(self.configuration["task"] == claim.task and where)

    def shared(self, fixed: Iterable[str]) -> dict[str, str]:
        """Return the settings in which the other side must agree."""
        return self.task | {name: value for name, value in self.around.items() if name not in fixed}

    def _settings(self, column: str) -> dict[str, str]:
        return {name: plain(value) for name, value in json.loads(self.configuration.each(column)[0]).items()}


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """Matched pair of candidates.

    where: settings that identify the pair, as texts. rates: number of learning rates that each side was chosen from.
    differences: what the sides differ in, with both values as texts: the model, settings and the number of tuning runs.
    confounders: those of them that the claim is not about.
    """

    left: Candidate
    right: Candidate
    where: dict[str, str]
    rates: tuple[int, int]
    differences: dict[str, tuple[str, str]]
    confounders: dict[str, tuple[str, str]]


class _Tuned(NamedTuple):
    """A candidate with its rate chosen. rates: number of rates it was chosen from. runs: number of tuning runs."""

    candidate: Candidate
    rates: int
    runs: int


def candidates(frame: pd.DataFrame, configurations: Iterable[Configuration]) -> list[Candidate]:
    """Return the configurations of a results table as candidates, with their validation metrics from its rows."""
    rows = frame.loc[choosing(frame) & (frame["status"] == "ok"), ["key", "value"]]
    known = dict(zip(rows["key"], rows["value"], strict=True))
    return [Candidate(c, [known.get(key, math.nan) for key in c.each("key")]) for c in configurations]


def matched_pairs(claim: Claim, among: Sequence[Candidate]) -> list[MatchedPair]:
    """Return all matched pairs of a claim in the order of the left side's configurations."""
    fixed = {*claim.left.settings, *claim.right.settings}
    loose = {_BASE} - fixed if "positions" in fixed else set()
    admitted = [s for s in among if s.admitted(claim)]
    lefts, rights = (_tuned([s for s in admitted if s.fits(side)]) for side in (claim.left, claim.right))
    by_shared: dict[frozenset[tuple[str, str]], list[_Tuned]] = {}
    for right in rights:
        by_shared.setdefault(frozenset(right.candidate.shared(fixed | loose).items()), []).append(right)
    one_model = claim.left.name == claim.right.name
    found = []
    for left in lefts:
        for right in by_shared.get(frozenset(left.candidate.shared(fixed | loose).items()), []):
            one, other = left.candidate, right.candidate
            shared = one.shared(fixed | (loose if one.around["positions"] != other.around["positions"] else set()))
            both = {name for name in one.own.keys() & other.own.keys() if name not in fixed}
            if not one_model:
                both.discard("model_version")
            if one is other or any(one.own[name] != other.own[name] for name in both):
                continue
            if any(other.around.get(name, value) != value for name, value in shared.items()):
                continue
            where = shared | {name: value for name, value in one.own.items() if name in both}
            for side, candidate in ((claim.left, one), (claim.right, other)):
                named = side if one_model else side.name
                free = {n: v for n, v in (candidate.own | candidate.around).items() if n not in {*where, *side.settings}}
                where |= {f"{named} {name}": value for name, value in free.items()}
            differences = _differences(left, right)
            confounders = {name: values for name, values in differences.items() if name not in claim.subjects}
            found.append(MatchedPair(one, other, where, (left.rates, right.rates), differences, confounders))
    return found


def _differences(left: _Tuned, right: _Tuned) -> dict[str, tuple[str, str]]:
    """Return what two sides differ in, with both values as texts.

    Left out are settings that only one of the models has, versions of different models, learning rates, settings that follow
    from another difference, and the width of sides of the same size.
    """
    one, other = left.candidate, right.candidate
    names = str(one.configuration["model"]), str(other.configuration["model"])
    known = [candidate.own | candidate.around for candidate in (one, other)]
    found = {"model": names} if names[0] != names[1] else {}
    for name in known[0].keys() & known[1].keys():
        if known[0][name] != known[1][name] and not (name == "model_version" and "model" in found):
            found[name] = known[0][name], known[1][name]
    for name, cause in _FOLLOWS.items():
        if cause in found:
            found.pop(name, None)
    if _same_size(one.configuration, other.configuration):
        found.pop("D", None)
    for name, counts in (("tuning runs", (left.runs, right.runs)), ("learning rates", (left.rates, right.rates))):
        if counts[0] != counts[1] and "tuning runs" not in found:
            found[name] = str(counts[0]), str(counts[1])
    first = ("model", *_AROUND)
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in first, name))}


def _same_size(one: Configuration, other: Configuration) -> bool:
    """Return whether two networks have the same number of parameters or of states, within the tolerance of --match."""
    for name in ("parameters", "state_size"):
        sizes = [size for size in (one[name], other[name]) if size is not None]
        if len(sizes) == 2 and max(sizes) <= _SAME_SIZE * min(sizes):
            return True
    return False


def _tuned(among: Sequence[Candidate]) -> list[_Tuned]:
    """Select one of the candidates that differ only in the learning rate.

    If tuning chose a rate, use that one. Otherwise consider only the rates with the most runs (rates that were only tried in
    the search have fewer), and choose the best mean on the validation split, never on the test split. A run without a result
    counts as the worst run of all.
    """
    groups: dict[frozenset[tuple[str, str]], list[Candidate]] = {}
    for candidate in among:
        groups.setdefault(frozenset((candidate.task | candidate.own | candidate.around).items()), []).append(candidate)
    chosen = []
    for group in groups.values():
        tunings = [(s, s.configuration.tuning) for s in group if s.configuration.tuning and s.configuration.tuned]
        if tunings:
            tuned, tuning = max(tunings, key=lambda each: each[1].rule)  # each rule may have chosen a rate of its own
            chosen.append(_Tuned(tuned, len(tuning.rates), tuning.runs))
            continue
        most = max(s.configuration.trials for s in group)
        full = [s for s in group if s.configuration.trials == most]
        sign = -1 if full[0].configuration.higher_is_better else 1
        losses = [[sign * value for value in s.validation] for s in full]
        worst = max((loss for own in losses for loss in own if not math.isnan(loss)), default=0.0)
        means = [sum(worst if math.isnan(loss) else loss for loss in own) / len(own) for own in losses]
        _, best = min(zip(means, full, strict=True), key=lambda rated: (rated[0], rated[1].configuration["lr"]))
        chosen.append(_Tuned(best, len(group), 0))
    return chosen


def unmatched_reason(claim: Claim, among: Sequence[Candidate]) -> str:
    """Return the reason why a claim has no matched pair, in one line that names the closest match."""
    if not among:
        return "there are no runs"
    of_task = [s for s in among if s.configuration["task"] == claim.task]
    if not of_task:
        return str(unknown("task among the runs:", claim.task, {s.configuration["task"] for s in among}))
    for name, values in claim.where.items():
        unavailable_reason = _absent(
            "setting or column", name, list(map(str, values)), [s.task | s.around | s.lr for s in of_task]
        )
        if unavailable_reason:
            return unavailable_reason
    for side in (claim.left, claim.right):
        own = [s.own | s.around | s.lr for s in of_task if s.configuration["model"] == side.name]
        if not own:
            return str(
                unknown(f"model among the runs on {claim.task}:", side.name, {s.configuration["model"] for s in of_task})
            )
        for name, value in side.settings.items():
            if name in of_task[0].task and not any(name in known for known in own):
                return f"{name} belongs to the task, not to {side}; use --where instead"
            unavailable_reason = _absent(f"setting of {side.name}", name, [value], own)
            if unavailable_reason:
                return unavailable_reason
    return _apart(claim, [s for s in of_task if s.admitted(claim)])


def _absent(kind: str, name: str, values: Sequence[str], known: Sequence[Mapping[str, str]]) -> str:
    """Return a message if no run has a setting, or none has it at one of these values; otherwise an empty text."""
    seen = {settings[name] for settings in known if name in settings}
    if not seen:
        return str(unknown(f"{kind} among the runs:", name, {name for settings in known for name in settings}))
    if not seen & set(values):
        return str(unknown(f"value of {name} among the runs:", " or ".join(values), seen))
    return ""


def _apart(claim: Claim, admitted: Sequence[Candidate]) -> str:
    """Return the setting in which the runs of the two sides never agree, as a message."""
    fixed = {*claim.left.settings, *claim.right.settings}
    fixed |= {_BASE} if "positions" in fixed else set()
    sides = [(side, [s for s in admitted if s.fits(side)]) for side in (claim.left, claim.right)]
    for side, fitting in sides:
        if not fitting:
            return f"no run of {side} satisfies the conditions of the claim"
    lefts, rights = ([s.own | s.shared(fixed) for s in fitting] for _, fitting in sides)
    for name in [name for name in lefts[0] if name not in fixed and name != "model_version"]:
        left, right = (sorted({known[name] for known in side if name in known}) for side in (lefts, rights))
        if left and right and not set(left) & set(right):
            one, other = (
                Side(side.model, side.settings | {name: values[0]})
                for side, values in ((claim.left, left), (claim.right, right))
            )
            has = f"{', '.join(left)} and {', '.join(right)}"
            about = f" --about model,{name}" if claim.left.name != claim.right.name else ""
            return (
                f"the sides have no {name} in common ({has}); train both with the same {name}, or claim the two together: "
                f"'{one} {claim.relation} {other}'{about}"
            )
    return "no run of the left side agrees with a run of the right side in all other settings"
