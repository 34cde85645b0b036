"""Matching of the configurations of two results tables by the settings of their runs.

Seed and instance are excluded, and so are the versions of task and model, since the comparison judges changed code. If one
table has several versions, the latest counts. A learning rate that was tuned on both sides is a result, not a setting. A
setting that only one side has, with a single value, was added or removed, and is ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from expbench.errors import BadInput
from expbench.results import folders, identity, store
from expbench.results.learning_rates import Criterion, tuning
from expbench.results.reported import reported
from expbench.run import FIELDS, canonical

VERSIONS = [name for name, field in FIELDS.items() if field.role == "version"]
_SETTINGS = {"task_settings": "task", "model_settings": "model"}  # with their owners
_ALIKE = [*identity.fields({"version", "rate", "seed", *_SETTINGS}), *(f"{s}_matched" for s in _SETTINGS)]
IDENTITY = [*_ALIKE, "rate"]  # rate: null where both sides tuned it
_MEASURED = ["split", "slice", "step", "metric", "value", "primary", "higher_is_better", "success_threshold"]
_OF_LABELS = ["label_kurtosis", "effective_sample_size", "well_posed"]
_ORIGIN = ["run_seconds", "created", "device_name", "stack_size", "expbench", "python", "torch", "git_commit", "tuning_rule"]
COLUMNS = [
    *("key", "kind", "status", "error", "instance", *FIELDS, *_MEASURED, *_OF_LABELS, *_ORIGIN),
    *("task_origin", "local_settings", "model_origin"),
]  # columns of the results table that a comparison reads


class Matched(NamedTuple):
    """Matched configurations and their runs.

    configurations: the columns of `IDENTITY`, by number. runs: one row per run of either table, with its
    `configuration` and `side` (0 BASE, 1 NEW); `value` is the primary metric on the test split, NaN if there is none.
    """

    configurations: pd.DataFrame
    runs: pd.DataFrame


def load(path: str) -> pd.DataFrame:
    """Read the `COLUMNS` of a results folder or file; raise `BadInput` if a file cannot be read or there are no runs."""
    source = folders.existing(path)
    frame, problems = store.read(source, COLUMNS)
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadInput(problems[0] + others)
    if not (frame["kind"] == "run").any():
        below = sorted({str(file.parent) for file in source.glob("*/*.parquet")})
        where = f"folders below it: {', '.join(below[:9])}" if below else "expbench run --results creates some"
        raise BadInput(f"{path} has no runs; {where}")
    return frame


def match(base: pd.DataFrame, new: pd.DataFrame) -> Matched:
    """Match the rows of two results tables.

    Raise `BadInput` that names the smallest difference if the tables have no configuration in common.
    """
    both = pd.concat([_runs(base).assign(side=0), _runs(new).assign(side=1)], ignore_index=True)
    for column, owner in _SETTINGS.items():
        both[f"{column}_matched"] = _matched_settings(both, column, owner)
    both["alike"] = both.groupby(_ALIKE, dropna=False, sort=False).ngroup()
    runs = _latest(both[both["kind"] == "run"])
    tuned = runs["lr"] == _chosen_rates(both[both["kind"] == "tuning"], runs)
    chosen = tuned & runs["alike"].isin(_on_both(runs[tuned], "alike"))
    runs = runs.assign(rate=runs["lr"].mask(chosen))
    runs["configuration"] = runs.groupby(["alike", "rate"], dropna=False, sort=False).ngroup()
    runs = runs.drop_duplicates(["configuration", "side", "instance", "seed"], keep="last")  # keep the latest run
    configurations = (
        runs.drop_duplicates("configuration")
        .set_index("configuration")[IDENTITY]
        .sort_values(IDENTITY, kind="stable", key=_sortable)
    )
    if runs["side"].nunique() == 2 and not _on_both(runs, "configuration"):
        raise BadInput(f"BASE and NEW have no configuration in common: {_apart(runs, configurations)}")
    return Matched(configurations, runs.sort_values(["configuration", "instance", "side", "seed"], ignore_index=True))


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run and tuning run, with its primary metric on the test or validation split, respectively."""
    ended = frame[reported(frame) & (frame["status"] == "ok")]
    final = ended[(ended["kind"] == "run") & (ended["split"] == "test")]
    chosen_by = ended[(ended["kind"] == "tuning") & (ended["split"] == "validation")]
    values = pd.concat([final, chosen_by]).drop_duplicates("key", keep="last")[["key", "metric", "value"]]
    runs = frame[frame["kind"].isin(["run", "tuning"])].drop_duplicates("key").drop(columns=["metric", "value"])
    return runs.merge(values, on="key", how="left").astype({"seed": "int64", "instance": "int64"})


def _matched_settings(both: pd.DataFrame, column: str, owner: str) -> pd.Series[str]:
    """Return settings as canonical JSON, without the instance and without settings that only one side has with one value."""
    texts = both[["side", owner, column]].drop_duplicates()
    known = {text: json.loads(text) for text in texts[column].unique()}
    seen: dict[str, tuple[dict[str, set[str]], dict[str, set[str]]]] = {}
    for side, name, text in texts.itertuples(index=False):
        for setting, value in known[text].items():
            seen.setdefault(name, ({}, {}))[side].setdefault(setting, set()).add(str(value))
    left_out = {name: {"instance", *_one_sided(*sides), *_one_sided(*sides[::-1])} for name, sides in seen.items()}
    kept = texts[[owner, column]].drop_duplicates()
    matched = [
        canonical({k: v for k, v in known[text].items() if k not in left_out.get(name, ())})
        for name, text in kept.itertuples(index=False)
    ]
    found: pd.Series[str] = both[[owner, column]].merge(kept.assign(matched=matched), how="left")["matched"]
    return found.set_axis(both.index)


def _one_sided(here: Mapping[str, set[str]], there: Mapping[str, set[str]]) -> list[str]:
    return [name for name, values in here.items() if there and name not in there and len(values) == 1]


def _latest(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the latest version of task and model on each side, oldest first."""
    runs = runs.sort_values("created", kind="stable", na_position="first")
    last = runs.drop_duplicates(["alike", "side"], keep="last")[["alike", "side", *VERSIONS]]
    return runs.merge(last, on=["alike", "side", *VERSIONS], how="inner")


def _chosen_rates(tunings: pd.DataFrame, runs: pd.DataFrame) -> pd.Series[float]:
    """Return the tuned learning rate for the configuration of each run, by the rule of the run; NaN without tuning."""
    where = ["side", "alike", *VERSIONS]
    tried: dict[tuple[Any, ...], list[tuple[float, float | None, int]]] = {}
    criteria: dict[tuple[Any, ...], Criterion] = {}
    columns = [*where, "lr", "value", "tuning_rule", "higher_is_better", "success_threshold"]
    for *configuration, lr, value, rule, better, threshold in _with_rule(tunings)[columns].itertuples(index=False):
        criteria[tuple(configuration)] = Criterion(better is True, threshold)
        tried.setdefault(tuple(configuration), []).append((lr, value, rule))
    needed = list(_with_rule(runs)[[*where, "tuning_rule"]].itertuples(index=False, name=None))
    chosen = {(*c, rule): tuning(tried[tuple(c)], criteria[tuple(c)], rule) for *c, rule in set(needed) if tuple(c) in tried}
    best = (chosen.get(configuration) for configuration in needed)
    return pd.Series([math.nan if each is None else each.best for each in best], runs.index, dtype="float64")


def _with_rule(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the rule under which each was made: 1 if it states none, as before schema 8."""
    return runs.assign(tuning_rule=runs["tuning_rule"].fillna(1).astype(int))


def _on_both(runs: pd.DataFrame, column: str) -> set[int]:
    sides = (set(runs.loc[runs["side"] == side, column]) for side in (0, 1))
    return set.intersection(*sides)


def _sortable(column: pd.Series[Any]) -> pd.Series[Any]:
    return column if column.dtype.kind in "biufM" else column.astype(str)


def _apart(runs: pd.DataFrame, configurations: pd.DataFrame) -> str:
    """Describe the difference between the most similar configurations of the two sides."""
    facts = configurations.assign(**{f"{s}_matched": configurations[f"{s}_matched"].map(json.loads) for s in _SETTINGS})
    sides = [
        facts.loc[sorted(set(runs.loc[runs["side"] == side, "configuration"]))[:60]].to_dict("records") for side in (0, 1)
    ]
    found = min(([_difference(a, b) for a in sides[0] for b in sides[1]]), key=len)
    return "the nearest differ in " + ", ".join(f"{name} ({a} in BASE, {b} in NEW)" for name, a, b in found)


def _difference(one: Mapping[Hashable, Any], other: Mapping[Hashable, Any]) -> list[tuple[Hashable, Any, Any]]:
    flat = [
        {name: value for name, value in c.items() if not isinstance(value, dict)}
        | {name: value for settings in c.values() if isinstance(settings, dict) for name, value in settings.items()}
        for c in (one, other)
    ]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    pairs = [("lr" if name == "rate" else name, flat[0].get(name), flat[1].get(name)) for name in names]
    return [(name, a, b) for name, a, b in pairs if str(a) != str(b)]
