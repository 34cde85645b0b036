"""What rows record of a run beside its results, and whether it is what was due: for changes that a metric may not show.

learning_rate    train, at the points of the curve, of a text where it is evaluated: what the optimizer was given is the peak
                 by the schedule, whose definition stands here once more, so that an error in the loop's own shows
gradient_norm    likewise: no larger than the limit that it is clipped at
fingerprints     of the inputs and targets of these steps and of either split, and of the outputs of the untrained network.
                 Runs of one key have the same task, model and seed in the same versions: their data and their first outputs
                 are the same, or a version was not raised that should have been

Rows of tables from before this was recorded hold none of it, and nothing is said of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

RATE, NORM = "learning_rate", "gradient_norm"
FINGERPRINTS = ("inputs_fingerprint", "targets_fingerprint", "outputs_fingerprint")
COLUMNS = [
    *("key", "kind", "status", "task", "model", "lr", "steps", "warmup", "schedule", "clip"),
    *("split", "step", "metric", "value"),
]
_ROUNDING = 1e-3  # relative, and of float32: outputs differ by 1e-6 between machines, by more with other kernels
_LEAST = 1e-5  # absolute, as a fingerprint may be near 0
_PLACE = ["key", "split", "step", "metric"]


class Broken(NamedTuple):
    """What is not as it was due in some runs. example: of one of them, in words."""

    metric: str
    task: str
    model: str
    runs: int
    example: str

    def __str__(self) -> str:
        return f"{self.metric} of {self.runs} run{'s' * (self.runs != 1)} of {self.model} on {self.task}: {self.example}"


def broken(new: pd.DataFrame, base: pd.DataFrame | None = None) -> list[Broken]:
    """What of the rows of NEW is not as due, a line for each metric, task and model; fingerprints are those of BASE, if any.

    Both have the columns `COLUMNS` of the results table.
    """
    runs = new[new["kind"] == "run"]
    found = [_rates(runs), _norms(runs)]
    if base is not None:
        found.append(_fingerprints(base[base["kind"] == "run"], runs))
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
    shapes = {"constant": np.ones_like(share), "linear": 1 - share}
    cosine = 0.5 + 0.5 * np.cos(np.pi * share)
    falling = np.select([(rows["schedule"] == name).to_numpy() for name in shapes], list(shapes.values()), cosine)
    due = rows["lr"] * np.where(update <= warmup, rising, falling)
    off = (rows["value"] - due).abs() > 1e-6 * rows["lr"]
    return _said(rows.assign(due=due)[off], "{value:.6g} at step {step}, by the schedule {due:.6g}")


def _norms(runs: pd.DataFrame) -> pd.DataFrame:
    rows = runs[runs["metric"] == NORM]
    over = rows["value"] > rows["clip"] * (1 + _ROUNDING)
    return _said(rows[over], "{value:.6g} at step {step}, clipped at {clip:g}")


def _fingerprints(base: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    before = base.loc[base["metric"].isin(FINGERPRINTS), [*_PLACE, "value"]]
    ended = runs[runs["status"] == "ok"].drop_duplicates("key")[["key", "task", "model"]]
    due = before.merge(ended, on="key").rename(columns={"value": "due"})
    both = due.merge(runs[[*_PLACE, "value"]], on=_PLACE, how="left")
    room = _ROUNDING * both[["value", "due"]].abs().max(axis=1) + _LEAST
    other = ~((both["value"] - both["due"]).abs() <= room)  # not recorded is not the same either
    return _said(
        both[other], "{value:.6g} ({split}, step {step}), in BASE {due:.6g}, though nothing says that it is another run"
    )


def _said(rows: pd.DataFrame, words: str) -> pd.DataFrame:
    said = [words.format(**{str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]
    return rows[["key", "task", "model", "metric"]].assign(said=said)
