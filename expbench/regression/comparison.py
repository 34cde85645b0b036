"""Comparison: what has become worse or better from one results table to another, cell by cell, at a stated confidence.

regressed, improved  Holm's p over all cells is at most 1 - confidence, and the difference at least the margin; and runs that
                     solve or fail by lot would all do the one on one side and the other on the other as seldom: at .95 that
                     takes 3 runs a side, or 2 against 4
unchanged            the same numbers, to rounding; or the interval of the difference lies within the margin
undecided            anything else: fewer than two runs a side, say, or labels that are ill-posed
missing, new         in BASE alone, in NEW alone; what NEW judges by another metric or has no result of is missing too
failed               a run of NEW failed

On which scale, and what the margin is: `outcomes`; how differences are tested: `differences`; what is matched:
`matching`. What has the same numbers on both sides is not tested, and does not weigh upon the rest. Of a cell with runs
that diverged the difference is shown of the others, and tested with all.

How often that errs was measured by `benchmarks/comparing.py`, on 20 cells at .95. Where nothing has changed at most .02 of
comparisons call anything regressed from 5 runs a side on, whatever the distribution, and .04 of 20 runs against 3. So it is
of 3 or 4 a side, unless runs solve or fail by lot: where chances are even 1 in 64 or 256 of such cells is called regressed,
which nothing can tell from a change. A doubled error is found in .6, 1 and 1 of comparisons with 3, 5 and 8 a side if seeds
differ by a tenth, and in .03, .3 and .6 (.99 with 16) if by a third.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expbench.console.formatting import number
from expbench.regression.matching import VERSIONS, match
from expbench.regression.outcomes import on_metric, outcomes, summarised
from expbench.run import Run
from expbench.stats.differences import estimated
from expbench.stats.intervals import CONFIDENCE, holm

Verdict = Literal["regressed", "failed", "missing", "undecided", "improved", "new", "unchanged"]
VERDICTS: tuple[str, ...] = get_args(Verdict)  # the worst first
SLOWER = "slower"  # no verdict, but beside one: that a cell's runs took longer, by so many times:
TIMES = 1.5
_LEAST_SPREAD = 0.05  # of the margin
_SHOWN = ["difference", "low", "high"]


class Side(NamedTuple):
    """Where one of two tables comes from, and what its runs state of themselves."""

    source: str
    runs: int
    expbench: list[str]
    torch: list[str]
    commits: list[str]
    devices: list[str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two tables compared. cells: a row a cell, the worst first. confidence: of all verdicts together.

    Columns of cells: those of `matching.IDENTITY` and of `outcomes.summarised`; verdict, because; difference, low, high
    (new over base where `ratio`, else new less base); p, holm, design (NaN and empty where not tested); slower. runs: a row
    a run of either table, as `outcomes.outcomes` gives them.
    """

    base: Side
    new: Side
    cells: pd.DataFrame
    runs: pd.DataFrame
    confidence: float

    @property
    def counts(self) -> dict[str, int]:
        """How many cells have each verdict, the worst first; without those of no cell."""
        found = self.cells["verdict"].value_counts()
        return {verdict: int(found[verdict]) for verdict in VERDICTS if verdict in found}

    @property
    def tests(self) -> int:
        """For how many cells p was corrected."""
        return int(self.cells["holm"].notna().sum())

    def failing(self, names: Sequence[str]) -> dict[str, int]:
        """How many cells have each of these verdicts, or are slower; without those of no cell."""
        counts = self.counts | {SLOWER: int(self.cells[SLOWER].sum())}
        return {name: count for name, count in counts.items() if name in names and count}

    def command(self, cell: int) -> str:
        """The command that does a run of a cell again: of NEW where it has one."""
        runs = self.runs[self.runs["cell"] == cell].sort_values("side", ascending=False, kind="stable")
        row = {str(name): value for name, value in runs.iloc[0].items()}
        model, task = (row[name] if isinstance(row[name], str) else "" for name in ("model_origin", "task_origin"))
        return Run.from_row(row).command(model, task)


def compare(
    base: pd.DataFrame,
    new: pd.DataFrame,
    names: tuple[str, str] = ("BASE", "NEW"),
    confidence: float = CONFIDENCE,
    times: float = TIMES,
) -> Comparison:
    """Compare the rows of two results tables, of at least a run each. names: where they come from. times: the seconds of
    BASE that make a cell of NEW slower.

    Raises `BadInput` if no cell is in both.
    """
    cells, runs = match(base, new)
    runs = outcomes(runs)
    cells = cells.join(summarised(runs))
    open_ = (cells["trials0"] > 0) & (cells["trials1"] > 0) & (cells["failed1"] == 0) & ~cells["same"] & ~cells["unlike"]
    spread = cells.loc[open_, "margin"] * _LEAST_SPREAD
    trials = runs[runs["trials"] & runs["posed"] & runs["cell"].isin(spread.index)]
    cells = cells.join(estimated(trials, spread, confidence)).fillna({"design": ""})
    cells["holm"] = corrected(cells)
    cells["verdict"] = _verdicts(cells, 1 - confidence)
    cells["because"] = [_because(cell, 1 - confidence) for cell in cells.astype(object).to_dict("records")]
    broken = spread[spread.index.isin(trials.loc[trials["diverged"], "cell"])]
    if len(broken):
        cells.loc[broken.index, _SHOWN] = estimated(trials[trials["ended"]], broken, confidence)[_SHOWN]
    falls = cells["higher"] & ~cells["ratio"]  # a loss that rises is then a metric that falls
    cells.loc[falls, ["low", "high"]] = cells.loc[falls, ["high", "low"]].to_numpy()
    cells[_SHOWN] = cells[_SHOWN].apply(on_metric, cells=cells)
    cells[SLOWER] = cells["seconds"] >= times
    order = pd.DataFrame({"verdict": cells["verdict"].map(VERDICTS.index), "p": cells["p"]})
    cells = cells.loc[order.sort_values(["verdict", "p"], kind="stable").index]
    base_side, new_side = (_side(name, runs[runs["side"] == i]) for i, name in enumerate(names))
    return Comparison(base_side, new_side, cells, runs, confidence)


def _side(name: str, runs: pd.DataFrame) -> Side:
    stated = (sorted(runs[c].dropna().astype(str).unique()) for c in ("expbench", "torch", "git_commit", "device_name"))
    return Side(name, len(runs), *stated)


def corrected(cells: pd.DataFrame) -> pd.Series[float]:
    """Holm's p of cells that are compared together, but no less than what runs that solve a task by lot can do by chance."""
    known = cells["p"].dropna()
    adjusted = pd.Series(holm(list(known)), known.index, dtype="float64").reindex(cells.index)
    return adjusted.clip(lower=_by_lot(cells["trials0"], cells["trials1"]))


def _by_lot(base: Any, new: Any) -> Any:
    """The largest chance that runs which succeed or not by lot do all so on one side and none on the other."""
    return 2 * (base / (base + new)) ** base * (new / (base + new)) ** new


def _verdicts(cells: pd.DataFrame, error: float) -> NDArray[np.str_]:
    """By the first of these that holds."""
    none0, none1 = cells["trials0"] == 0, cells["trials1"] == 0
    called = (cells["holm"] <= error) & (cells["difference"].abs() >= cells["margin"])
    within = (cells["low"] >= -cells["margin"]) & (cells["high"] <= cells["margin"])
    known: list[tuple[pd.Series[bool], Verdict]] = [
        (cells["failed1"] > 0, "failed"),
        (none0 & none1 & (cells["runs0"] > 0) & (cells["runs1"] > 0), "unchanged"),
        (cells["unlike"] | none1, "missing"),
        (none0, "new"),
        (cells["same"], "unchanged"),
        (called & (cells["difference"] > 0), "regressed"),
        (called, "improved"),
        (within, "unchanged"),
    ]
    return np.select([holds for holds, _ in known], [verdict for _, verdict in known], "undecided")


def _because(cell: dict[Hashable, Any], error: float) -> str:
    """Why it is so, as far as the numbers do not say it; and what else has changed."""
    said = [_reason(cell, error)]
    if cell["diverged0"] or cell["diverged1"]:
        said.append("diverged: " + " against ".join(f"{cell[f'diverged{i}']} of {cell[f'trials{i}']}" for i in (0, 1)))
    if cell["runs0"] and cell["runs1"]:
        changed = {"lr": "rate"} | {name: name.replace("_", " ") for name in VERSIONS}
        pairs = [(name, cell[f"{column}0"], cell[f"{column}1"]) for column, name in changed.items()]
        said += [f"{name} {_plain(a)} -> {_plain(b)}" for name, a, b in pairs if a != b]
    return "; ".join(part for part in said if part)


def _reason(cell: dict[Hashable, Any], error: float) -> str:
    verdict = cell["verdict"]
    if verdict == "failed":
        return f"{cell['failed1']} of {cell['runs1']} runs: {cell['error1']}"
    if verdict == "missing":
        if cell["unlike"]:
            return f"judged by {cell['metric1']} in the place of {cell['metric0']}"
        return _without_result(cell, 1) if cell["runs1"] else "not in NEW"
    if verdict == "new":
        return _without_result(cell, 0) if cell["runs0"] else "not in BASE"
    if verdict == "unchanged":
        return "the same numbers" if cell["same"] else "" if cell["design"] else "no result on either side"
    if verdict != "undecided":
        return ""
    if not cell["posed"]:
        return "the labels are ill-posed"
    if not cell["design"]:
        return f"too few runs alike: {cell['trials0']} against {cell['trials1']}"
    if cell["holm"] <= error:
        return "a difference, but below the margin"
    if _by_lot(cell["trials0"], cell["trials1"]) > error:
        return f"{cell['trials0']} against {cell['trials1']} runs cannot tell a change from luck"
    return f"Holm's p is {number(cell['holm'])}"


def _without_result(cell: dict[Hashable, Any], side: int) -> str:
    return f"no result in {('BASE', 'NEW')[side]}: {cell[f'status{side}']}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
