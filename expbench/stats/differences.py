"""Differences in loss between two sets of runs (base and new), for many configurations at once, with intervals and p-values.

Two designs are used, each where the data suffice. The paired design applies Student's t to the differences of runs with the
same instance and seed; if no seeds match but several instances do, it uses the differences of instance means. The unpaired
design applies Student's t with a pooled spread, because under the null both sides have the same spread. Instances are
blocks: both sides share them, and the test asks whether anything changed on these instances. The design with the narrower
interval is reported. If both designs are possible, its p-value and error level are corrected for two attempts.

Student's t assumes normal values, but the losses are bimodal if some seeds solve a task and others fail. Resampling
therefore has a veto: p is at least the share of random exchanges between the sides (or random sign flips of pairs) with an
equal or larger difference. With very few runs, the observed difference may be the largest possible one. Resampling then
gives no further information, and t decides alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from expbench.stats.resampling import DRAWS

_MOST_EXACT = 13_000  # limit of exact enumeration; enough for 8 runs against 8 (12,870 arrangements)
_MOST_RESAMPLED = 200  # runs per configuration; the mean of more runs is close enough to normal
_AT_ONCE = 1 << 21  # numbers per chunk, to bound memory
_TIE = 1e-9
_Reals = NDArray[np.float64]


def estimated(runs: pd.DataFrame, least_spread: pd.Series[float], confidence: float) -> pd.DataFrame:
    """Estimate by how much the `loss` of the new runs exceeds that of the base runs, per configuration in `least_spread`.

    runs: columns `cell`, `instance`, `side` (0 base, 1 new), `seed` and a finite `loss`. least_spread: by configuration, a
    lower limit above 0 for the standard deviation, because few runs may show too little spread. Return a row for each
    configuration with the columns difference, low, high, p (null: no difference) and design. Values are NaN and the design
    is empty if the data do not suffice, for example with fewer than two runs per side.
    """
    runs = runs.sort_values(["configuration", "instance", "side", "seed"], kind="stable")
    blocks = _blocks(runs)
    pairs = _pairs(runs, blocks)
    parts = {"paired": _paired(pairs, least_spread), "unpaired": _unpaired(blocks, least_spread)}
    tried = pd.concat(parts)["configuration"].value_counts()
    found = pd.concat([_judged(part, tried, confidence).assign(design=name) for name, part in parts.items()])
    best = found.sort_values("half", kind="stable").drop_duplicates("configuration").set_index("configuration")
    shared = runs.merge(blocks[["configuration", "instance"]], on=["configuration", "instance"])
    for design, values, sizes, resampled in (
        ("paired", pairs["difference"], pairs.groupby("configuration").size(), _flips),
        ("unpaired", shared["loss"], _sizes(blocks), _exchanges),
    ):
        doubtful = best.index[(best["design"] == design) & (best["p"] <= 1 - confidence)]
        of_configuration = (pairs if design == "paired" else shared)["configuration"]
        least = _veto(values.set_axis(of_configuration), sizes[sizes.index.isin(doubtful)], resampled)
        best["p"] = np.fmax(best["p"], (least * tried).reindex(best.index))
    best = best.assign(
        low=best["difference"] - best["half"], high=best["difference"] + best["half"], p=best["p"].clip(upper=1)
    )
    return best[["difference", "low", "high", "p", "design"]].reindex(least_spread.index).fillna({"design": ""})


def _blocks(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each instance shared by both sides: run counts n0 and n1, means, and sums of squared deviations."""
    by = runs.groupby(["configuration", "instance", "side"], as_index=False)["loss"].agg(
        n="size", mean="mean", variance="var"
    )
    by["squares"] = (by.pop("variance") * (by["n"] - 1)).fillna(0.0)
    sides = [by[by["side"] == side].drop(columns="side") for side in (0, 1)]
    both: pd.DataFrame = sides[0].merge(sides[1], on=["configuration", "instance"], suffixes=("0", "1"))
    return both


def _pairs(runs: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of runs with equal instance and seed; without such runs, the differences of instance means."""
    sides = [runs.loc[runs["side"] == side, ["configuration", "instance", "seed", "loss"]] for side in (0, 1)]
    both = sides[0].merge(sides[1], on=["configuration", "instance", "seed"], suffixes=("0", "1"))
    pairs = both.assign(difference=both["loss1"] - both["loss0"])
    means = blocks.assign(difference=blocks["mean1"] - blocks["mean0"])
    return pd.concat([pairs, means[~means["configuration"].isin(pairs["configuration"])]])[
        ["configuration", "difference"]
    ].sort_values("configuration", kind="stable")


def _paired(pairs: pd.DataFrame, least_spread: pd.Series[float]) -> pd.DataFrame:
    by = pairs.groupby("configuration")["difference"].agg(n="size", difference="mean", spread="std").reset_index()
    by = by[by["n"] >= 2]
    spread = np.maximum(by["spread"], by["configuration"].map(least_spread))
    return by[["configuration", "difference"]].assign(error=spread / np.sqrt(by["n"]), df=by["n"] - 1)


def _unpaired(blocks: pd.DataFrame, least_spread: pd.Series[float]) -> pd.DataFrame:
    terms = blocks.assign(
        difference=blocks["mean1"] - blocks["mean0"], of_error=1 / blocks["n0"] + 1 / blocks["n1"], blocks=1
    )
    terms["squares"] = terms["squares0"] + terms["squares1"]
    by = terms.groupby("configuration")[["difference", "of_error", "squares", "n0", "n1", "blocks"]].sum().reset_index()
    df = by["n0"] + by["n1"] - 2 * by["blocks"]
    by = by.assign(df=df)[(by["n0"] >= 2) & (by["n1"] >= 2) & (df >= 2)]
    spread = np.maximum(np.sqrt(by["squares"] / by["df"]), by["configuration"].map(least_spread))
    error = spread * np.sqrt(by["of_error"]) / by["blocks"]
    return by[["configuration", "df"]].assign(difference=by["difference"] / by["blocks"], error=error)


def _judged(part: pd.DataFrame, tried: pd.Series[int], confidence: float) -> pd.DataFrame:
    """Add the half-width of the interval and p, both corrected for the number of designs tried per configuration."""
    designs = part["configuration"].map(tried)
    half = stdtrit(part["df"], 1 - (1 - confidence) / 2 / designs) * part["error"]
    return part.assign(half=half, p=2 * designs * stdtr(part["df"], -part["difference"].abs() / part["error"]))


def _sizes(blocks: pd.DataFrame) -> pd.Series[Any]:
    """Return for each configuration the numbers of base and new runs per instance."""
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    for configuration, base, new in zip(*(blocks[name].tolist() for name in ("configuration", "n0", "n1")), strict=True):
        found[configuration] = (*found.get(configuration, ()), (base, new))
    return pd.Series(found, dtype=object)


def _veto(values: pd.Series[float], sizes: pd.Series[Any], resampled: Callable[[Any], _Resampling]) -> pd.Series[float]:
    """Return the lower limit of p for each configuration in `sizes`; 0 without a veto.

    The limit is the share of resamplings with an equal or larger difference. values: indexed by configuration, as many as
    its size states. Configurations of equal size share their resamplings.
    """
    found = []
    for size, configurations in sizes.groupby(sizes):
        signs, own, least = resampled(size)
        table = values[values.index.isin(configurations.index)].to_numpy().reshape(len(configurations), -1).T
        step = max(1, _AT_ONCE // len(signs))
        for start in range(0, len(configurations), step):
            part = table[:, start : start + step]
            seen = np.abs(own @ part) - _TIE * (np.abs(own) @ np.abs(part))
            p = (np.abs(signs @ part) >= seen).mean(axis=0)
            found.append(pd.Series(np.where(p > least * (1 + _TIE), p, 0.0), configurations.index[start : start + step]))
    return pd.concat(found) if found else pd.Series(dtype="float64")


class _Resampling(NamedTuple):
    """Resampling weights for one size.

    weights (resamplings, values): the product with the values gives the resampled differences. own (values,): weights of the
    observed difference. least: the smallest possible share, attained by the most extreme difference if all values differ.
    """

    weights: _Reals
    own: _Reals
    least: float


@lru_cache(maxsize=8)
def _flips(n: int) -> _Resampling:
    """Return sign flips of n pairs: all of them up to a global sign, or a random sample."""
    own = np.ones(n)
    if n > _MOST_RESAMPLED:
        return _Resampling(own[None], own, 1.0)
    if 2 ** (n - 1) <= _MOST_EXACT:
        signs = np.array(list(itertools.product([1.0], *[[1.0, -1.0]] * (n - 1))))
        return _Resampling(signs, own, 1 / len(signs))
    signs = 1.0 - 2 * np.random.default_rng(0).integers(2, size=(DRAWS, n))
    return _Resampling(np.vstack([own, signs]), own, 1 / (DRAWS + 1))


@lru_cache(maxsize=8)
def _exchanges(sizes: tuple[tuple[int, int], ...]) -> _Resampling:
    """Return exchanges of runs between the sides within each instance: all of them, or a random sample.

    sizes: for each instance, the numbers of base and new runs; the values have this order.
    """
    scale = [(-1 / base / len(sizes), 1 / new / len(sizes)) for base, new in sizes]
    own = np.concatenate([np.repeat(weights, runs) for weights, runs in zip(scale, sizes, strict=True)])
    if len(own) > _MOST_RESAMPLED:
        return _Resampling(own[None], own, 1.0)
    if math.prod(math.comb(base + new, new) for base, new in sizes) <= _MOST_EXACT:
        ways = np.zeros((1, 0))
        for (base, new), (low, high) in zip(sizes, scale, strict=True):
            chosen = np.array(list(itertools.combinations(range(base + new), new)))
            block = np.full((len(chosen), base + new), low)
            np.put_along_axis(block, chosen, high, axis=1)
            ways = np.hstack([np.repeat(ways, len(block), axis=0), np.tile(block, (len(ways), 1))])
        mirrored = all(base == new for base, new in sizes)
        return _Resampling(ways, own, (2 if mirrored else 1) / len(ways))
    source = np.random.default_rng(0)
    ends = np.cumsum([base + new for base, new in sizes])[:-1]
    drawn = [source.permuted(np.tile(part, (DRAWS, 1)), axis=1) for part in np.split(own, ends)]
    return _Resampling(np.vstack([own, np.hstack(drawn)]), own, 1 / (DRAWS + 1))
