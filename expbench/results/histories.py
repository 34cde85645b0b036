"""Epochs: the measurements after each epoch of a training, and the chosen epoch.

A run is reported at the epoch with the lowest validation perplexity. The test split is evaluated as often, but it is never
used for the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from expbench.results.configurations import Configuration
from expbench.results.reported import reported

_MEASURED = {
    ("train", "epoch"): "epoch",
    ("train", "loss"): "loss",
    ("validation", "perplexity"): "validation",
    ("test", "perplexity"): "test",
    ("validation", "k_hat"): "abar",
    ("train", "tokens_per_second"): "speed",
}
_OF_TEXT = ("data", "tokenizer", "pieces", "text")  # settings of a task that change the text or its tokens


class Epoch(NamedTuple):
    """Measurements after an epoch. number: passes over the training split so far. loss: mean training loss of that epoch, in
    nats per token. validation, test: perplexities. abar: the largest |Abar| over all layers."""

    number: float
    loss: float
    validation: float
    test: float
    abar: float

    @property
    def gap(self) -> float:
        """Test loss minus mean training loss of the epoch, in nats per token; the model changes during the epoch."""
        return math.log(self.test) - self.loss


@dataclass(frozen=True, eq=False)
class History:
    """A run. table: one row per epoch, indexed by its last step, with the columns of `Epoch` and speed; it may be empty.
    step: the step at which the run is reported; None if it was never evaluated."""

    key: str
    seed: int
    status: str
    table: pd.DataFrame
    step: int | None

    @cached_property
    def chosen(self) -> Epoch | None:
        """Epoch at which the run is reported; None for a run that did not end well."""
        return None if self.status != "ok" or self.step is None else self._epoch(self.step)

    @cached_property
    def last(self) -> Epoch | None:
        """Last epoch; None for a run that did not end well."""
        return None if self.status != "ok" or self.table.empty else self._epoch(self.table.index[-1])

    @property
    def ended(self) -> str:
        """Status of a run that did not end well, with the last epoch of one that diverged."""
        reached = f" after epoch {self.table['epoch'].iloc[-1]:.3g}" if len(self.table) else " in the first epoch"
        return self.status + (reached if self.status == "diverged" else "")

    def _epoch(self, step: int) -> Epoch:
        return Epoch(*(float(self.table[name][step]) for name in ("epoch", "loss", "validation", "test", "abar")))


@dataclass(frozen=True, eq=False)
class Trained:
    """A configuration trained in epochs, with the histories of its runs."""

    configuration: Configuration
    runs: list[History]

    def of_ended(self, what: str) -> dict[int, Epoch]:
        """Return the ``chosen`` or ``last`` epoch of each run that ended well, by seed."""
        found: Iterable[tuple[int, Epoch | None]] = ((run.seed, getattr(run, what)) for run in self.runs)
        return {seed: epoch for seed, epoch in found if epoch is not None}


def of_texts(frame: pd.DataFrame, configurations: Sequence[Configuration]) -> dict[tuple[str, ...], list[Trained]]:
    """Return the configurations trained in epochs, grouped by text and tokens; frame: the rows of these configurations."""
    whole = (frame["kind"] == "run") & (frame["slice"] == "")
    rows = frame[whole & frame["key"].isin(set(frame.loc[whole & (frame["metric"] == "epoch"), "key"]))]
    tasks = set(rows["task"])
    steps = rows[reported(rows)].drop_duplicates("key").set_index("key")["step"].to_dict()
    tables = {str(key): _table(own) for key, own in rows.groupby("key")}
    found: dict[tuple[str, ...], list[Trained]] = {}
    for configuration in configurations:
        if configuration["task"] not in tasks:
            continue
        settings = json.loads(configuration.each("task_settings")[0])
        histories = [
            History(str(key), int(seed), str(status), tables.get(str(key), _table(rows[:0])), steps.get(key))
            for key, seed, status in zip(*(configuration.each(column) for column in ("key", "seed", "status")), strict=True)
        ]
        found.setdefault((str(configuration["task"]), *_text(settings)), []).append(Trained(configuration, histories))
    return {
        text: sorted(own, key=lambda each: (each.configuration["model"], each.configuration["L"]))
        for text, own in found.items()
    }


def _text(settings: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{name}={settings[name]}" for name in _OF_TEXT if settings.get(name) is not None)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per evaluated step and one column per measurement; NaN where there is none."""
    names = [_MEASURED.get(pair, "") for pair in zip(rows["split"], rows["metric"], strict=True)]
    known = rows.assign(name=names).query("name != ''")
    wide = known.pivot_table(index="step", columns="name", values="value", aggfunc="last")
    return wide.reindex(columns=list(_MEASURED.values())).sort_index()
