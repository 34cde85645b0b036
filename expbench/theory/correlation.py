"""Rank correlation of the largest |Abar| with the loss over training: do large transitions coincide with bad fits?

The error bound of Theorem 3 (arXiv 2502.02209) has a factor that diverges as the largest |Abar| approaches 1. This module
correlates that number with the primary metric and the training loss, measured at the same steps. It computes Spearman's
coefficient within each run, over the points of its curve. The independent units of the interval are runs, not points. A
correlation over training does not show a cause: both series may depend only on the step. Needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expbench.console.formatting import aligned, number
from expbench.results.configurations import Configuration, gather, varying, with_context
from expbench.run import FIELDS
from expbench.stats.intervals import CONFIDENCE, Interval, share_interval
from expbench.stats.resampling import LEAST_UNITS, bootstrap_interval

FEWEST_POINTS = 3
# The settings that may tell two configurations apart in the table.
_NAMED = ["L", "degree", "test_size", *(n for n, f in FIELDS.items() if f.role in ("size", "protocol", "training", "rate"))]


class Correlation(NamedTuple):
    """Correlation in one configuration with one series.

    against: ``training loss``, or the name and split of the primary metric. higher_is_better: direction of that series,
    which gives the sign its meaning. coefficients: Spearman's coefficient of each run that has at least 3 points and no
    constant series. interval: mean coefficient with its percentile-bootstrap interval over runs; the ends are NaN for fewer
    than 10 runs. below_one: share of the runs that log |Abar| with K_hat < 1 throughout, on the probe and on the inspected
    training batches, with Wilson's interval.
    """

    configuration: Configuration
    statistic: str
    against: str
    higher_is_better: bool
    coefficients: tuple[float, ...]
    interval: Interval
    below_one: Interval

    @property
    def too_few(self) -> bool:
        """True if there are too few runs for an interval."""
        return len(self.coefficients) < LEAST_UNITS


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties; NaN for a constant series or fewer than 3 points."""
    if len(x) != len(y):
        raise ValueError(f"cannot pair {len(x)} points with {len(y)}")
    ranks = [pd.Series(list(values), dtype="float64").rank().to_numpy() for values in (x, y)]
    if len(x) < FEWEST_POINTS or any(not np.ptp(rank) > 0 for rank in ranks):  # not scipy.stats: slow import
        return math.nan
    a, b = (rank - rank.mean() for rank in ranks)
    return float(np.clip((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()), -1, 1))


def correlations(frame: pd.DataFrame, statistic: str = "k_hat") -> list[Correlation]:
    """Compute two correlations per configuration whose runs log `statistic`: with the primary metric and the training loss.

    frame: a results table from `expbench.results.store.read`. statistic: ``k_hat``, or a statistic logged per layer
    (``abar_max``, ``frac_abs_gt_1``), reduced to its maximum over layers. For runs without ``k_hat``, ``abar_max`` replaces
    it. Diverged runs contribute the points before they diverged.
    """
    if frame.empty:
        return []
    rows = frame[(frame["kind"] == "run") & np.isfinite(frame["value"].astype(float))]
    at_rest = rows[rows["split"] == "validation"]
    by_run = _largest(at_rest, statistic)
    if statistic == "k_hat":
        older = _largest(at_rest, "abar_max")
        by_run = {**older, **by_run}
    curves = at_rest[at_rest["primary"].eq(True) & (at_rest["slice"].fillna("") == "")]
    losses = rows[(rows["split"] == "train") & (rows["metric"] == "loss")]
    series = [("", _by_step(curves)), ("training loss", _by_step(losses))]
    above = _reaches_one(frame)
    found = []
    for configuration in gather(with_context(frame)):
        keys = [key for key in configuration.each("key") if key in by_run]
        if not keys:
            continue
        below_one = share_interval(sum(key not in above for key in keys), len(keys))
        for name, values in series:
            each = [_paired(by_run[key], values.get(key, {})) for key in keys]
            known = tuple(rho for rho in each if not math.isnan(rho))
            primary = f"{configuration.metric or 'primary metric'} (validation)"
            against, better = (name, False) if name else (primary, configuration.higher_is_better)
            found.append(Correlation(configuration, statistic, against, better, known, _interval(known), below_one))
    return found


def _interval(coefficients: Sequence[float]) -> Interval:
    """Return the mean over runs with its bootstrap interval; the ends are NaN for fewer runs than an interval needs."""
    found = bootstrap_interval([coefficients])
    return found if len(coefficients) >= LEAST_UNITS else Interval(found.center, math.nan, math.nan)


def _by_step(rows: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Return the largest value at each step, for each run."""
    found: dict[str, dict[int, float]] = {}
    largest = rows.groupby(["key", "step"], as_index=False)["value"].max()
    for key, step, value in zip(largest["key"], largest["step"], largest["value"], strict=True):
        found.setdefault(str(key), {})[int(step)] = float(value)
    return found


def _largest(rows: pd.DataFrame, metric: str) -> dict[str, dict[int, float]]:
    return _by_step(rows[rows["metric"] == metric])


def _reaches_one(frame: pd.DataFrame) -> set[Any]:
    """Return the runs whose largest |Abar| is not below 1 at some point; NaN and infinity also count as not below 1."""
    logged = frame[frame["metric"].isin(["k_hat", "abar_max", "abar_max_running"])]
    return set(logged[~(logged["value"] < 1)]["key"])


def _paired(x: dict[int, float], y: dict[int, float]) -> float:
    steps = sorted(x.keys() & y.keys())
    return spearman([x[step] for step in steps], [y[step] for step in steps])


def text(found: Sequence[Correlation]) -> str:
    """Return an aligned table with one line per correlation, or a message that there is none."""
    if not found:
        return "no run logs its transitions, so there is nothing to correlate"
    configurations = [one.configuration for one in found]
    named = varying(configurations, _NAMED)
    settings = _differing([(c["task"], c["context"].split(", ")) for c in configurations])
    options = _differing([(c["model"], _settings(c["model_settings"])) for c in configurations])
    header = ["task", "model", "settings", *named, "with", "better is", "runs", "mean rho"]
    lines = [[*header, f"{CONFIDENCE:.0%} interval", "K_hat < 1 throughout"]]
    for one, *own in zip(found, settings, options, strict=True):
        mean, low, high = one.interval
        share, least, most = one.below_one
        few = f"too few runs ({len(one.coefficients)} of {LEAST_UNITS})"
        lines.append(
            [
                *(one.configuration["task"], one.configuration["model"], ", ".join(filter(None, own)) or "-"),
                *("-" if one.configuration[column] is None else str(one.configuration.stated(column)) for column in named),
                one.against,
                "higher" if one.higher_is_better else "lower",
                str(len(one.coefficients)),
                f"{mean:+.2f}" if math.isfinite(mean) else "-",
                few if one.too_few else f"{low:+.2f} to {high:+.2f}",
                f"{share:.0%} ({number(least)} to {number(most)})",
            ]
        )
    statistics = ", ".join(sorted({one.statistic for one in found}))
    return f"Spearman's rank correlation of {statistics} with each series, over the points of a run:\n{aligned(lines)}"


def _settings(written: str | None) -> list[str]:
    return [f"{name}={value}" for name, value in json.loads(written or "{}").items()]


def _differing(named: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Return for each list, as text, the entries that are not common to all lists of the same name."""
    return [", ".join(e for e in own if any(e not in other for n, other in named if n == name)) for name, own in named]
