"""Invariants: recorded quantities beside the results, checked to detect changes that a metric may not show.

learning_rate    recorded in training at each point of the curve (for a text, at each evaluation). It must equal the peak
                 scaled by the schedule, which is defined here a second time to detect an error in the training loop
gradient_norm    recorded at the same steps; it must not exceed the clipping threshold
checksums        of the inputs and targets of these steps and of the evaluation splits, and of the outputs of the untrained
                 network. Runs with the same key have the same task, model, seed and versions, so their data and first
                 outputs must be equal; otherwise a version was not raised

Rows of older tables lack these records, and are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RATE, NORM = "learning_rate", "gradient_norm"
CHECKSUMS = ("inputs_checksum", "targets_checksum", "outputs_checksum")
COLUMNS = [
    *("key", "kind", "status", "task", "model", "lr", "steps", "warmup", "schedule", "clip"),
    *("split", "step", "metric", "value"),
]
# Each schedule after the warm-up, as a function of the share of the remaining steps: a second definition, so that an error
# in `training/schedule.py` shows. The rates of an unknown schedule are not checked.
SCHEDULES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "cosine": lambda share: 0.5 + 0.5 * np.cos(np.pi * share),
    "constant": np.ones_like,
    "linear": lambda share: 1 - share,
}
_ROUNDING = 1e-3  # relative: float32 outputs differ by 1e-6 between machines, and by more between kernels
_LEAST = 1e-5  # absolute, since a checksum may be near 0
_PLACE = ["key", "split", "step", "metric"]


class Broken(NamedTuple):
    """An invariant that some runs violate. example: the violation in one of them, in words."""

    metric: str
    task: str
    model: str
    runs: int
    example: str

    def __str__(self) -> str:
        return f"{self.metric} of {self.runs} run{'s' * (self.runs != 1)} of {self.model} on {self.task}: {self.example}"


def broken(new: pd.DataFrame, base: pd.DataFrame | None = None) -> list[Broken]:
    """Return the invariants that rows of NEW violate, one for each metric, task and model.

    Checksums are compared with those in BASE, if given. Both tables have the columns `COLUMNS` of the results table.
    """
    runs = new[new["kind"] == "run"]
    found = [_rates(runs), _norms(runs)]
    if base is not None:
        found.append(_checksums(base[base["kind"] == "run"], runs))
    every = pd.concat(found, ignore_index=True)
    return [
        Broken(str(metric), str(task), str(model), int(part["key"].nunique()), str(part["said"].iloc[0]))
        for (metric, task, model), part in every.groupby(["metric", "task", "model"], sort=False)
    ]


def _rates(runs: pd.DataFrame) -> pd.DataFrame:
    rows = runs[runs["metric"] == RATE]
    update, warmup, steps = (rows[name].to_numpy(dtype="float64") for name in ("step", "warmup", "steps"))
    rising = update / np.maximum(warmup, 1)
    share = (update - 1 - warmup) / np.maximum(1, steps - warmup)
    decays = {name: decay(share) for name, decay in SCHEDULES.items()}
    falling = np.select([(rows["schedule"] == name).to_numpy() for name in decays], list(decays.values()), np.nan)
    due = rows["lr"] * np.where(update <= warmup, rising, falling)
    off = (rows["value"] - due).abs() > 1e-6 * rows["lr"]
    return _said(rows.assign(due=due)[off], "{value:.6g} at step {step}, but {due:.6g} by the schedule")


def _norms(runs: pd.DataFrame) -> pd.DataFrame:
    rows = runs[runs["metric"] == NORM]
    over = rows["value"] > rows["clip"] * (1 + _ROUNDING)
    return _said(rows[over], "{value:.6g} at step {step}, above the clipping threshold {clip:g}")


def _checksums(base: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    before = base.loc[base["metric"].isin(CHECKSUMS), [*_PLACE, "value"]]
    ended = runs[runs["status"] == "ok"].drop_duplicates("key")[["key", "task", "model"]]
    due = before.merge(ended, on="key").rename(columns={"value": "due"})
    both = due.merge(runs[[*_PLACE, "value"]], on=_PLACE, how="left")
    room = _ROUNDING * both[["value", "due"]].abs().max(axis=1) + _LEAST
    other = ~((both["value"] - both["due"]).abs() <= room)  # a missing record differs too
    return _said(both[other], "{value:.6g} ({split}, step {step}), but {due:.6g} in BASE for the same run")


def _said(rows: pd.DataFrame, words: str) -> pd.DataFrame:
    said = [words.format(**{str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]
    return rows[["key", "task", "model", "metric"]].assign(said=said)
