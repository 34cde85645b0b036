"""Transformed losses of matched runs, on a scale on which both sides can be compared.

Errors span decades and are compared by their logarithms, so differences are ratios and means are geometric. Errors below a
thousandth of the success threshold are clamped to it. Metrics for which higher is better (accuracies), and errors that can
be negative, are compared without a logarithm. The margin, the smallest relevant difference, is a tenth of an error or .05
of an accuracy. A diverged run is worse than all others, by more than their range.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from expbench.regression.matching import VERSIONS
from expbench.results.configurations import well_posed
from expbench.stats.margins import ABSOLUTE_MARGIN, RELATIVE_MARGIN

_AS_GOOD = 1e-3  # of the success threshold
_LEAST_ERROR = 1e-12  # for tasks without a success threshold above 0
_ROUNDING = 1e-6  # relative
_COUNTED = ["runs", "trials", "solved", "diverged", "failed"]
_STATED = ["status", "error", "metric", "higher", "lr", *VERSIONS]


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of `matching.match` with their status and their `loss`; a higher loss is worse.

    Status columns: ended (with a finite result), diverged (or a non-finite result), trials (ended or diverged), solved,
    failed, posed (the labels are not ill-posed). Columns per configuration: higher (higher is better), ratio (differences
    are ratios), margin (on the scale of the loss). loss: NaN unless the run is a trial.
    """
    finite = np.isfinite(runs["value"])
    higher = runs["higher_is_better"].eq(True)
    reached = np.where(higher, runs["value"] >= runs["success_threshold"], runs["value"] <= runs["success_threshold"])
    runs = runs.assign(
        runs=True,
        higher=higher,
        ended=(runs["status"] == "ok") & finite,
        diverged=(runs["status"] == "diverged") | (runs["metric"].notna() & ~finite),
        failed=runs["status"] == "failed",
        posed=~well_posed(runs).isin([False]),
    )
    runs = runs.assign(trials=runs["ended"] | runs["diverged"], solved=runs["ended"] & reached)
    value = runs["value"].where(runs["ended"])
    least = value.groupby(runs["configuration"]).transform("min")
    size = value.abs().where(runs["side"] == 0).groupby(runs["configuration"]).transform("mean").fillna(0.0)
    ratio = ~higher & ~(least < 0)
    solves = runs["success_threshold"].where((runs["success_threshold"] > 0) & np.isfinite(runs["success_threshold"]))
    log = pd.Series(np.log(np.maximum(value, (_AS_GOOD * solves).fillna(_LEAST_ERROR))), value.index)
    loss = log.where(ratio, value.where(~higher, -value))
    margin = np.where(higher, ABSOLUTE_MARGIN, np.maximum(RELATIVE_MARGIN * size, _LEAST_ERROR))
    margin = np.where(ratio, math.log(1 + RELATIVE_MARGIN), margin)
    worst, best = (loss.groupby(runs["configuration"]).transform(name).fillna(0.0) for name in ("max", "min"))
    beyond = worst + np.maximum(10 * margin, 3 * (worst - best))
    return runs.assign(ratio=ratio, margin=margin, loss=loss.where(~runs["diverged"], beyond))


def summarised(runs: pd.DataFrame) -> pd.DataFrame:
    """Summarise each configuration: counts and metadata of each side (suffix 0 or 1), and joint columns.

    base, new: mean over instances of the mean over seeds of ended runs, on the scale of the metric. same: every run of NEW
    has an equal result in BASE, up to rounding. posed: some labels are well-posed. unlike: the sides have different primary
    metrics. seconds: ratio of run times, NaN if none are comparable.
    """
    configurations = runs.groupby("configuration")[["metric", "higher", "ratio", "margin"]].first()
    configurations["posed"] = runs.groupby("configuration")["posed"].any()
    for side in (0, 1):
        by = runs[runs["side"] == side].groupby("configuration")
        own = by[_COUNTED].sum().join(by[_STATED].first()).add_suffix(str(side))
        configurations = configurations.join(own)
        counts = [f"{name}{side}" for name in _COUNTED]
        configurations[counts] = configurations[counts].fillna(0).astype("int64")
    judged = configurations[["metric0", "metric1"]].notna().all(axis=1)
    configurations["unlike"] = judged & (
        (configurations["metric0"] != configurations["metric1"]) | (configurations["higher0"] != configurations["higher1"])
    )
    base, new = _means(runs, configurations, 0), _means(runs, configurations, 1)
    return configurations.assign(base=base, new=new, same=_same(runs), seconds=_seconds(runs))


def on_metric(difference: pd.Series[float], configurations: pd.DataFrame) -> pd.Series[float]:
    """Convert losses, or their differences, to the scale of the metric: new - base, or new / base."""
    plain = difference.where(~configurations["higher"], -difference)
    return plain.where(
        ~configurations["ratio"], pd.Series(np.exp(difference.where(configurations["ratio"])), difference.index)
    )


def _means(runs: pd.DataFrame, configurations: pd.DataFrame, side: int) -> pd.Series[float]:
    ended = runs[runs["ended"] & (runs["side"] == side)]
    means = ended.groupby(["configuration", "instance"])["loss"].mean().groupby(level="configuration").mean()
    return on_metric(means.reindex(configurations.index), configurations)


def _same(runs: pd.DataFrame) -> pd.Series[bool]:
    trials = runs.loc[runs["trials"], ["configuration", "side", "instance", "seed", "value", "diverged"]]
    base, new = (trials[trials["side"] == side].drop(columns="side") for side in (0, 1))
    both = new.merge(base, on=["configuration", "instance", "seed"], how="left", suffixes=("", "_base"))
    close = (both["value"] - both["value_base"]).abs() <= _ROUNDING * both[["value", "value_base"]].abs().max(axis=1)
    broken = both["diverged_base"].eq(True)
    alike = (broken & both["diverged"]) | (close & ~broken & ~both["diverged"])
    return alike.groupby(both["configuration"]).all().reindex(runs["configuration"].unique(), fill_value=False)


def _seconds(runs: pd.DataFrame) -> pd.Series[float]:
    """Return the ratio of run times, for runs on the same device with the same stack size: `run_seconds` is per stack."""
    ended = runs[runs["ended"] & (runs["run_seconds"] > 0)]
    alike = ["configuration", "device_name", "stack_size"]
    times = ended.groupby([*alike, "side"], dropna=False, as_index=False)["run_seconds"].median()
    base, new = (times[times["side"] == side] for side in (0, 1))
    both = base.merge(new, on=alike, suffixes=("0", "1"))
    logs = pd.Series(np.log(both["run_seconds1"] / both["run_seconds0"]), both.index).groupby(both["configuration"]).mean()
    return pd.Series(np.exp(logs), logs.index)
