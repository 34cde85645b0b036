"""Configurations: the runs that differ only in seed and instance, with their results; the rows of tables and figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from expbench.results import identity
from expbench.results.certificates.witness import Witness, is_construction, representable
from expbench.results.identity import SIZES as SIZES
from expbench.results.learning_rates import Criterion, Tuning, tuning
from expbench.results.reported import AT_START, choosing, ending, reported
from expbench.results.schema import COLUMNS
from expbench.run import AXES, NO_BASE, command_of, stated_base
from expbench.settings import Role, as_list
from expbench.stats.intervals import Interval, nested_interval, share_interval
from expbench.stats.sampling import is_well_posed

UNFINISHED = (AT_START, "diverged", "failed", "unsupported")  # endings without a result, in the order of reports
_OF_SEVERAL = {"seed", "instance"}  # the runs of a configuration differ in these only
PROTOCOL = identity.fields(set(get_args(Role)) - {"protocol"})  # norm, positions and their base, residual
TRAINING = identity.fields({"task", "model", "version", "warmup", *_OF_SEVERAL})
IDENTITY = identity.columns(_OF_SEVERAL)
# A class of networks on a task, independent of training: if one run represents a function, the whole class can.
_CLASS = identity.columns({"training", "rate", *SIZES, *_OF_SEVERAL})
_BUT_RATE = identity.columns({"rate", *_OF_SEVERAL})
# Ranges of known metrics, since a Student interval can exceed them; the range of a third-party metric is unknown.
_RANGES = {"nmse": (0.0, math.inf), "accuracy": (0.0, 1.0), "balanced_accuracy": (0.0, 1.0), "perplexity": (1.0, math.inf)}
_NEAR = 1.1  # times a floor: a mean whose interval ends below this is at the floor
_OF_ROWS = ["key", "status", "split", "step", "metric", "value", "primary", "higher_is_better"]  # differ within a run
_STATED = [
    *("parameters", "state_size", "flops_per_token", "network_polynomial", "network_degree", "network_order"),
    *("label_kurtosis", "label_interaction_order", "effective_sample_size", "well_posed"),
]


@dataclass(frozen=True)
class Configuration:
    """A configuration: all settings except seed and instance.

    facts: its columns by name. runs: one row per run, with `value`. tuning: by the latest rule under which its runs were
    made; None without tuning runs. solved_elsewhere: whether a run of the same class of networks solves one of its
    instances, in this or another configuration. witnesses: of its class of networks.
    """

    facts: dict[str, Any]
    runs: pd.DataFrame
    metric: str
    higher_is_better: bool
    success_threshold: float
    solved_elsewhere: bool = False
    witnesses: frozenset[Witness] = frozenset()
    tuning: Tuning | None = None

    def __getitem__(self, column: str) -> Any:
        return self.facts[column]

    def each(self, column: str) -> list[Any]:
        """Return a column of the runs; None or NaN where it is unknown."""
        if column not in self._columns:
            self._columns[column] = self.runs[column].tolist()  # access to a small frame is slow
        return self._columns[column]

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return {}

    @property
    def base(self) -> str:
        """Base of the position code: ``auto`` if it is the one matched to L, or if the code has none; otherwise a number."""
        stated = self.facts.get("position_base")
        return stated_base(self["positions"], stated if pd.notna(stated) else NO_BASE, self["L"])

    def stated(self, column: str) -> Any:
        """Return a column as reports state it: a base that is matched to L is the same at every L."""
        return self.base if column == "position_base" else self[column]

    @property
    def tuned(self) -> bool:
        """True if its learning rate is the one that tuning chose, by the rule of its latest runs."""
        return self.tuning is not None and self.tuning.best == self["lr"]

    @cached_property
    def values(self) -> list[float]:
        """Primary metric on the test split of each run that ended well."""
        return _known(self.each("value"))

    @cached_property
    def interval(self) -> Interval:
        """Mean over instances and seeds of the runs that ended well, with its interval clipped to the metric's range."""
        groups: dict[Any, list[float]] = {}
        for instance, value in zip(self.each("instance"), self.each("value"), strict=True):
            groups.setdefault(instance, []).append(value)
        found = nested_interval([_known(group) for group in groups.values()])
        least, most = _RANGES.get(self.metric, (-math.inf, math.inf))
        return found._replace(low=float(np.clip(found.low, least, most)), high=float(np.clip(found.high, least, most)))

    @property
    def best(self) -> float | None:
        """Value of the best run; None if no run ended well."""
        if not self.values:
            return None
        return max(self.values) if self.higher_is_better else min(self.values)

    @cached_property
    def floor(self) -> float | None:
        """Lowest error that any network of this class can have, averaged over instances; None if it is unknown."""
        pairs = zip(self.each("instance"), self.each("floor"), strict=True)
        of_instances = _known({instance: floor for instance, floor in pairs if pd.notna(floor)}.values())
        return sum(of_instances) / len(of_instances) if of_instances else None

    @property
    def floor_of(self) -> str:
        """Bounds from which the floors of its instances come."""
        names = ("floor", "floor_of", "floor_degree", "floor_structure")
        found = {_bound(*each) for each in zip(*map(self.each, names), strict=True)} - {None}
        return " or ".join(sorted(map(str, found)))

    @property
    def reading(self) -> str:
        """Conclusion about the class of networks, from a proof if there is one, or else from its runs.

        `not representable` needs a proved floor above the success threshold, and names the bound. `representable` needs a
        witness. Both name norm and precision. A run that solves the task and kept no weights is an observation: other
        configurations of the class read `solved in another configuration`. A mean is at its floor if the upper end of its
        interval lies within 10 % of the floor, above it if the mean does not, and perhaps at it otherwise, since a wide
        interval or a single run cannot tell. A floor below the success threshold rules nothing out and proves nothing. If no
        run solves the task, some network might still do so: `unknown`.
        """
        if not self.trials:
            return "-"
        if self.floor is not None and not self.higher_is_better and self.floor > self.success_threshold:
            mean, _, high = self.interval
            if high < 0.99 * self.floor or self.solved:
                return "BELOW its floor"
            near = _NEAR * self.floor  # comparisons with it are false if all runs diverged, or if there is no interval
            where = "at" if high <= near else "perhaps at" if mean <= near else "above"
            return f"not representable ({where} its floor; {self.floor_of}, exact arithmetic, norm {self['norm']})"
        if self.solved:
            return "solved" if self.solved == self.trials else "solved by some"
        found = representable(self.witnesses, self.each("instance"), self["norm"])
        return found or ("solved in another configuration" if self.solved_elsewhere else "unknown")

    @property
    def trials(self) -> int:
        """Number of runs in the share solved: those that ended well or diverged."""
        return self.count("ok") + self.count("diverged")

    @property
    def solved(self) -> int:
        """Number of runs whose primary metric reaches the success threshold of the task."""
        return self.criterion.solved(self.values)

    def solves(self, value: float) -> bool:
        """Return whether a value of the primary metric reaches the success threshold; NaN does not."""
        return bool(self.criterion.solves(value))

    @property
    def criterion(self) -> Criterion:
        """Criterion by which its runs solve the task."""
        return Criterion(self.higher_is_better, self.success_threshold)

    @property
    def solved_share(self) -> Interval:
        """Share of runs that solve the task, with Wilson's interval."""
        return share_interval(self.solved, self.trials)

    def count(self, status: str) -> int:
        """Count the runs that ended with `status`."""
        return self.each("status").count(status)

    @cached_property
    def endings(self) -> list[str]:
        """Ending of each run: its status, or diverged at the start."""
        return list(map(ending, self.each("status"), self.each("error")))

    @cached_property
    def unfinished(self) -> Counter[str]:
        """Number of runs without a result by how they ended: diverged at the start, diverged later, failed, unsupported."""
        found = Counter(self.endings)
        return Counter({how: found[how] for how in UNFINISHED if found[how]})

    @property
    def commands(self) -> list[str]:
        """Command lines that repeat exactly its runs: a single one if every instance has the same seeds."""
        columns = ("task_settings", "seed", "model_origin", "task_origin", "local_settings")
        row = self.facts | {column: self.each(column)[0] for column in columns}
        seeds: dict[int, list[int]] = {}
        for instance, seed in sorted(zip(self.each("instance"), self.each("seed"), strict=True)):
            seeds.setdefault(instance, []).append(seed)
        if len(seeds) > 1 and all(own == [instance] for instance, own in seeds.items()):
            return [command_of(row, seeds=as_list(seeds), instances=None)]
        by_seeds: dict[str, list[int]] = {}
        for instance, own in seeds.items():
            by_seeds.setdefault(as_list(own), []).append(instance)
        return [command_of(row, seeds=own, instances=as_list(instances)) for own, instances in by_seeds.items()]


def divergence(configurations: Iterable[Configuration]) -> str:
    """Return how many runs of each configuration diverged, at the start and later; empty if none did."""
    among, said = list(configurations), []
    for how in (AT_START, "diverged"):
        shares = [f"{c.unfinished[how]} of {c.trials} of {c['model']}" for c in among if c.unfinished[how]]
        said += [f"{', '.join(shares)} {how}"] if shares else []
    return ", ".join(said)


def with_context(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with columns for the split sizes and a `context`, the remaining settings of the task as a text."""
    codes, texts = pd.factorize(frame["task_settings"])
    known = [json.loads(text) for text in texts]

    def column(values: list[Any]) -> pd.Series[Any]:
        return pd.Series(values, dtype=None if values else float).reindex(codes).set_axis(frame.index)

    sizes = {size: column([settings.get(size) for settings in known]) for size in SIZES}
    posed = _well_posed(frame, sizes["test_size"])
    return frame.assign(context=column([_context(settings) for settings in known]), **sizes, well_posed=posed)


def well_posed(frame: pd.DataFrame) -> pd.Series[Any]:
    """Return whether verdicts may rest on each row: by the rule of `stats/sampling.py`, otherwise as the row states.

    The rule applies to rows with a stated kurtosis, effective sample size and test size. Rows from before it was introduced
    state the result of a fixed limit on the kurtosis, and are read by the present rule.
    """
    codes, texts = pd.factorize(frame["task_settings"])
    return _well_posed(frame, pd.Series([json.loads(text).get("test_size") for text in texts], dtype=float).reindex(codes))


def _well_posed(frame: pd.DataFrame, sizes: pd.Series[Any]) -> pd.Series[Any]:
    facts = [each.to_numpy(np.float64) for each in (frame["label_kurtosis"], frame["effective_sample_size"], sizes)]
    stated = frame["well_posed"].astype(object)
    decidable = stated.notna() & ~np.isnan(np.stack(facts)).any(axis=0)
    return stated.mask(decidable, pd.Series(is_well_posed(*facts), frame.index))


def _context(settings: dict[str, Any]) -> str:
    settings = {k: v for k, v in settings.items() if k not in (*AXES, *SIZES) and v is not None}
    return ", ".join(f"{name}={_plain(value)}" for name, value in settings.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def gather(frame: pd.DataFrame) -> list[Configuration]:
    """Return the configurations of the runs in a frame with a `context`, ordered by task, context and axes."""
    is_run = frame["kind"] == "run"
    runs = frame.loc[is_run, _OF_ROWS]  # a copy of every column would need most of the memory
    if runs.empty:
        return []
    final = runs[reported(runs) & (runs["split"] == "test")]
    first = is_run.copy()
    first[is_run] = ~runs["key"].duplicated().to_numpy()
    per_run = frame[first].drop(columns=["value", "metric"])
    per_run = per_run.astype({"seed": "int64", "instance": "int64"})  # rows of controls have no seed: the column is float
    tunings = _TuningRuns(frame)
    # only a run that ended well has a result: a run that diverged late may have scores from earlier steps
    values = final[final["status"] == "ok"][["key", "value", "metric"]]
    per_run = per_run.merge(values, on="key", how="left")
    ordered, bounds = _grouped(per_run, IDENTITY)
    columns = {
        name: ordered[name].tolist() for name in [*IDENTITY, *_STATED, "metric", "higher_is_better", "success_threshold"]
    }
    rules = _rules(ordered)
    configurations = []
    for start, end in bounds:
        facts = {name: _typed(name, columns[name][start]) for name in IDENTITY}
        facts |= {name: _typed(name, next(iter(_known(columns[name][start:end])), None)) for name in _STATED}
        posed = _known(columns["well_posed"][start:end])
        facts["well_posed"] = all(posed) if posed else None
        configurations.append(
            Configuration(
                facts,
                ordered.iloc[start:end],
                next(iter(_known(columns["metric"][start:end])), ""),
                bool(columns["higher_is_better"][start]),
                float(columns["success_threshold"][start]),
                tuning=tunings.of(facts, rule=max(rules[start:end])),
            )
        )
    solved: dict[tuple[Any, ...], set[int]] = {}
    witnesses: dict[tuple[Any, ...], set[Witness]] = {}
    for c in configurations:
        own = {i for i, value in zip(c.each("instance"), c.each("value"), strict=True) if c.solves(value)}
        solved.setdefault(network_class(c), set()).update(own)
        if is_construction(c["init"], c["init_noise"]):
            found = {Witness(instance, "construction", c["dtype"]) for instance in own}
            witnesses.setdefault(network_class(c), set()).update(found)
    return [
        replace(
            c,
            solved_elsewhere=not solved[network_class(c)].isdisjoint(c.each("instance")),
            witnesses=frozenset(witnesses.get(network_class(c), ())),
        )
        for c in configurations
    ]


def _grouped(per_run: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    """Sort the rows by groups that agree in `columns`, then instance and seed; return them with each group's bounds."""
    number = per_run.groupby(columns, dropna=False, sort=True).ngroup()
    ordered = per_run.assign(number=number).sort_values(["number", "instance", "seed"])
    ends = (np.flatnonzero(np.diff(ordered.pop("number"), append=-1)) + 1).tolist()
    return ordered, list(zip([0, *ends], ends, strict=False))


class _TuningRuns:
    """The tuning runs of each configuration, by its identity without the rate: (rate, validation result, rule)."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._rows: dict[tuple[str, ...], list[tuple[float, float | None, int]]] = {}
        self._criteria: dict[tuple[str, ...], Criterion] = {}
        rows = frame[frame["kind"] == "tuning"]
        if rows.empty:
            return
        chosen_by = rows[choosing(rows) & (rows["status"] == "ok")]
        values = dict(zip(chosen_by["key"], chosen_by["value"], strict=True))
        ordered, bounds = _grouped(rows.drop_duplicates("key"), _BUT_RATE)
        columns = {name: ordered[name].tolist() for name in [*IDENTITY, "key", "higher_is_better", "success_threshold"]}
        found = list(zip(map(float, columns["lr"]), map(values.get, columns["key"]), _rules(ordered), strict=True))
        for start, end in bounds:
            key = _but_rate({name: _typed(name, columns[name][start]) for name in IDENTITY})
            self._rows[key] = found[start:end]
            self._criteria[key] = Criterion(
                bool(columns["higher_is_better"][start]), float(columns["success_threshold"][start])
            )

    def of(self, facts: Mapping[str, Any], rule: int) -> Tuning | None:
        """Return the tuning of a configuration by a rule; None without tuning runs."""
        key = _but_rate(facts)
        return tuning(self._rows[key], self._criteria[key], rule) if key in self._rows else None


def _rules(rows: pd.DataFrame) -> list[int]:
    """Return the rule under which each run was made: 1 for rows that state none, as before schema 8."""
    return rows["tuning_rule"].fillna(1).astype(int).tolist() if "tuning_rule" in rows else [1] * len(rows)


def _but_rate(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(facts[name]) for name in _BUT_RATE)


def network_class(configuration: Configuration) -> tuple[Any, ...]:
    """Return the class of networks and the task of a configuration: its identity without training, rate and sizes."""
    return tuple(configuration[column] for column in _CLASS)


def _bound(floor: float | None, stated: str | None, degree: float | None, structure: float | None) -> str | None:
    """Return the bound from which a floor comes; rows from before schema 8 do not state it."""
    if isinstance(stated, str) or pd.isna(floor) or not floor:
        return stated if isinstance(stated, str) else None
    if pd.isna(degree) and pd.isna(structure):
        return "any predictor"
    return "degree" if degree == floor else "structure" if structure == floor else "degree and structure"


def _typed(name: str, value: Any) -> Any:
    """Convert a column's value to its type in the schema: None if it is missing, integers as int."""
    if value is None or pd.isna(value):
        return None
    return int(value) if name in SIZES or COLUMNS.get(name) == pa.int64() else value


def _known(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if pd.notna(value)]


def varying(configurations: list[Configuration], columns: list[str]) -> list[str]:
    """Return those of `columns` in which the configurations differ."""
    return [column for column in columns if len({str(c.stated(column)) for c in configurations}) > 1]
