"""Comparison of two results tables: a verdict for each configuration, at a stated joint confidence.

regressed, improved  Holm's p over all configurations is at most 1 - confidence, the difference is at least the margin, and
                     bimodal runs (solved or failed at random) would be split this way by side at most as often. At .95
                     this takes 3 runs per side, or 2 against 4
unchanged            the numbers are equal up to rounding, or the interval of the difference lies within the margin
undecided            anything else, e.g. fewer than two runs per side, or ill-posed labels
missing, new         only in BASE, only in NEW; missing also if NEW has another primary metric or no result
failed               a run of NEW failed

The scale and the margin are defined in `outcomes`, the tests in `differences`, the matching in `matching`. Configurations
with equal numbers on both sides are not tested, and do not enter the correction. If runs diverged, the test includes them,
but the difference shown excludes them.

`benchmarks/comparing.py` measured the error rates on 20 configurations at .95. If nothing has changed, at most .02 of the
comparisons report a regression from 5 runs per side on, for every distribution tried, and .04 with 20 runs against 3. The
same holds for 3 or 4 per side, unless runs are bimodal: at even odds, 1 in 64 or 256 such configurations is reported as
regressed, and no test can tell it from a change. If the log error has a standard deviation of a tenth over seeds, a doubled
error is found in .6, 1 and 1 of the comparisons with 3, 5 and 8 runs per side; if a third, in .03, .3 and .6 (.99 with 16).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expbench.console.formatting import number
from expbench.regression.losses import losses, on_metric, summarised
from expbench.regression.matching import VERSIONS, match
from expbench.run import command_of
from expbench.stats.differences import estimated
from expbench.stats.intervals import CONFIDENCE, holm

Verdict = Literal["regressed", "failed", "missing", "undecided", "improved", "new", "unchanged"]
VERDICTS: tuple[str, ...] = get_args(Verdict)  # worst first
SLOWER = "slower"  # reported beside a verdict if the runs took at least TIMES as long
TIMES = 1.5
_LEAST_SPREAD = 0.05  # of the margin
_SHOWN = ["difference", "low", "high"]


class Side(NamedTuple):
    """Source and provenance of one of the two tables."""

    source: str
    runs: int
    expbench: list[str]
    torch: list[str]
    commits: list[str]
    devices: list[str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two compared tables. configurations: one row each, worst first. confidence: joint confidence of all verdicts.

    Columns of configurations: those of `matching.IDENTITY` and of `losses.summarised`; verdict, because; difference, low,
    high (new / base where `ratio`, else new - base); p, holm, design (NaN and empty where not tested); slower. runs: one row
    per run of either table, as returned by `losses.losses`.
    """

    base: Side
    new: Side
    configurations: pd.DataFrame
    runs: pd.DataFrame
    confidence: float

    @property
    def counts(self) -> dict[str, int]:
        """Number of configurations with each verdict that occurs, worst first."""
        found = self.configurations["verdict"].value_counts()
        return {verdict: int(found[verdict]) for verdict in VERDICTS if verdict in found}

    @property
    def tests(self) -> int:
        """Number of configurations that were tested."""
        return int(self.configurations["holm"].notna().sum())

    def failing(self, names: Sequence[str]) -> dict[str, int]:
        """Return the number of configurations with each of these verdicts that occurs; slower counts as one."""
        counts = self.counts | {SLOWER: int(self.configurations[SLOWER].sum())}
        return {name: count for name, count in counts.items() if name in names and count}

    def command(self, configuration: int) -> str:
        """Return the command that reruns one run of a configuration, from NEW if it has one."""
        runs = self.runs[self.runs["configuration"] == configuration].sort_values("side", ascending=False, kind="stable")
        return command_of({str(name): value for name, value in runs.iloc[0].items()})


def compare(
    base: pd.DataFrame,
    new: pd.DataFrame,
    names: tuple[str, str] = ("BASE", "NEW"),
    confidence: float = CONFIDENCE,
    times: float = TIMES,
) -> Comparison:
    """Compare the rows of two results tables with at least one run each.

    names: sources of the tables. times: ratio of NEW to BASE seconds from which a configuration counts as slower. Raise
    `BadInput` if the tables have no configuration in common.
    """
    configurations, runs = match(base, new)
    runs = losses(runs)
    configurations = configurations.join(summarised(runs))
    open_ = (
        (configurations["trials0"] > 0)
        & (configurations["trials1"] > 0)
        & (configurations["failed1"] == 0)
        & ~configurations["same"]
        & ~configurations["unlike"]
    )
    spread = configurations.loc[open_, "margin"] * _LEAST_SPREAD
    trials = runs[runs["trials"] & runs["posed"] & runs["configuration"].isin(spread.index)]
    configurations = configurations.join(estimated(trials, spread, confidence)).fillna({"design": ""})
    configurations["holm"] = corrected(configurations)
    configurations["verdict"] = _verdicts(configurations, 1 - confidence)
    configurations["because"] = [_because(c, 1 - confidence) for c in configurations.astype(object).to_dict("records")]
    broken = spread[spread.index.isin(trials.loc[trials["diverged"], "configuration"])]
    if len(broken):
        configurations.loc[broken.index, _SHOWN] = estimated(trials[trials["ended"]], broken, confidence)[_SHOWN]
    falls = configurations["higher"] & ~configurations["ratio"]  # the loss is the negated metric there
    configurations.loc[falls, ["low", "high"]] = configurations.loc[falls, ["high", "low"]].to_numpy()
    configurations[_SHOWN] = configurations[_SHOWN].apply(on_metric, configurations=configurations)
    configurations[SLOWER] = configurations["seconds"] >= times
    order = pd.DataFrame({"verdict": configurations["verdict"].map(VERDICTS.index), "p": configurations["p"]})
    configurations = configurations.loc[order.sort_values(["verdict", "p"], kind="stable").index]
    base_side, new_side = (_side(name, runs[runs["side"] == i]) for i, name in enumerate(names))
    return Comparison(base_side, new_side, configurations, runs, confidence)


def _side(name: str, runs: pd.DataFrame) -> Side:
    stated = (sorted(runs[c].dropna().astype(str).unique()) for c in ("expbench", "torch", "git_commit", "device_name"))
    return Side(name, len(runs), *stated)


def corrected(configurations: pd.DataFrame) -> pd.Series[float]:
    """Return Holm's p of configurations compared together, bounded below by the chance of a split of bimodal runs."""
    known = configurations["p"].dropna()
    adjusted = pd.Series(holm(list(known)), known.index, dtype="float64").reindex(configurations.index)
    return adjusted.clip(lower=_chance_of_split(configurations["trials0"], configurations["trials1"]))


def _chance_of_split(base: Any, new: Any) -> Any:
    """Return the largest probability that bimodal runs all succeed on one side and all fail on the other."""
    return 2 * (base / (base + new)) ** base * (new / (base + new)) ** new


def _verdicts(configurations: pd.DataFrame, error: float) -> NDArray[np.str_]:
    """Return the verdict of the first condition that holds for each configuration."""
    none0, none1 = configurations["trials0"] == 0, configurations["trials1"] == 0
    called = (configurations["holm"] <= error) & (configurations["difference"].abs() >= configurations["margin"])
    within = (configurations["low"] >= -configurations["margin"]) & (configurations["high"] <= configurations["margin"])
    known: list[tuple[pd.Series[bool], Verdict]] = [
        (configurations["failed1"] > 0, "failed"),
        (none0 & none1 & (configurations["runs0"] > 0) & (configurations["runs1"] > 0), "unchanged"),
        (configurations["unlike"] | none1, "missing"),
        (none0, "new"),
        (configurations["same"], "unchanged"),
        (called & (configurations["difference"] > 0), "regressed"),
        (called, "improved"),
        (within, "unchanged"),
    ]
    return np.select([holds for holds, _ in known], [verdict for _, verdict in known], "undecided")


def _because(configuration: dict[Hashable, Any], error: float) -> str:
    """Return the reason for the verdict where the numbers do not show it, and other changes."""
    said = [_reason(configuration, error)]
    if configuration["diverged0"] or configuration["diverged1"]:
        said.append(
            "diverged: "
            + " against ".join(f"{configuration[f'diverged{i}']} of {configuration[f'trials{i}']}" for i in (0, 1))
        )
    if configuration["runs0"] and configuration["runs1"]:
        changed = {"lr": "rate"} | {name: name.replace("_", " ") for name in VERSIONS}
        pairs = [(name, configuration[f"{column}0"], configuration[f"{column}1"]) for column, name in changed.items()]
        said += [f"{name} {_plain(a)} -> {_plain(b)}" for name, a, b in pairs if a != b]
    return "; ".join(part for part in said if part)


def _reason(configuration: dict[Hashable, Any], error: float) -> str:
    verdict = configuration["verdict"]
    if verdict == "failed":
        return f"{configuration['failed1']} of {configuration['runs1']} runs: {configuration['error1']}"
    if verdict == "missing":
        if configuration["unlike"]:
            return f"judged by {configuration['metric1']} instead of {configuration['metric0']}"
        return _without_result(configuration, 1) if configuration["runs1"] else "not in NEW"
    if verdict == "new":
        return _without_result(configuration, 0) if configuration["runs0"] else "not in BASE"
    if verdict == "unchanged":
        return "the same numbers" if configuration["same"] else "" if configuration["design"] else "no result on either side"
    if verdict != "undecided":
        return ""
    if not configuration["posed"]:
        return "the labels are ill-posed"
    if not configuration["design"]:
        return f"too few comparable runs: {configuration['trials0']} against {configuration['trials1']}"
    if configuration["holm"] <= error:
        return "a difference, but below the margin"
    if _chance_of_split(configuration["trials0"], configuration["trials1"]) > error:
        return f"{configuration['trials0']} against {configuration['trials1']} runs cannot distinguish a change from chance"
    return f"Holm's p is {number(configuration['holm'])}"


def _without_result(configuration: dict[Hashable, Any], side: int) -> str:
    return f"no result in {('BASE', 'NEW')[side]}: {configuration[f'status{side}']}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
