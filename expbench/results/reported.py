"""Reported rows: the rows of the results table that report a run, and the rows that choose its learning rate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from expbench.results import row_sets
from expbench.results.reading import plain
from expbench.results.schema import COLUMNS, TRAINED
from expbench.results.store import read_keys

if TYPE_CHECKING:
    import pandas as pd


FIRST_STEPS = 20  # a run that diverges before this step has learned nothing: its initial network is at fault
AT_START = "diverged at the start"
_STEP = re.compile(r" at step ([0-9]+) of [0-9]+$")


def not_finite(step: int, steps: int) -> str:
    """Return the error of a run whose loss or gradient is not finite at a step; `ending` reads the step from it."""
    return f"the loss or its gradient is not finite at step {step} of {steps}"


def ending(status: str, error: object) -> str:
    """Return how a run ended: its status, or `diverged at the start`, given its error."""
    found = _STEP.search(error) if status == "diverged" and isinstance(error, str) else None
    return AT_START if found and int(found[1]) < FIRST_STEPS else status


def reported(frame: pd.DataFrame) -> pd.Series[bool]:
    """Mark the reported rows: the primary metric on the validation and test splits at the last evaluated step.

    A run trained in epochs is reported at the epoch with the best validation value, the first if several are equal.
    """
    shown = frame["primary"].eq(True) & frame["split"].isin(["validation", "test"])
    rows = frame.loc[shown, ["key", "split", "step", "value", "higher_is_better"]]
    at = rows.groupby(["key", "split"])["step"].transform("max")
    epochs = rows[(rows["split"] == "validation") & rows["key"].isin(_in_epochs(frame)) & rows["value"].notna()]
    if len(epochs):
        loss = epochs["value"].where(~epochs["higher_is_better"].astype(bool), -epochs["value"])
        best = epochs.assign(loss=loss).sort_values(["loss", "step"], kind="stable").drop_duplicates("key")
        at = rows["key"].map(best.set_index("key")["step"]).fillna(at)
    shown[shown] = (rows["step"] == at).to_numpy()
    return shown


def chosen_step(validation: Mapping[int, float], higher_is_better: bool) -> int:
    """Return the step at which a run is reported: the one with the best validation value, the first if several are equal.

    `reported` applies the same rule to all runs of a frame at once. Raise ValueError if every value is NaN.
    """
    known = {step: value for step, value in validation.items() if not math.isnan(value)}
    return min(sorted(known), key=lambda step: -known[step] if higher_is_better else known[step])


def _in_epochs(frame: pd.DataFrame) -> pd.Series[str]:
    """Return the keys of the runs that were trained in epochs."""
    return frame.loc[frame["metric"] == "epoch", "key"]


def choosing(frame: pd.DataFrame) -> pd.Series[bool]:
    """Mark the rows that choose a learning rate: the reported rows on the validation split."""
    return reported(frame) & (frame["split"] == "validation")


# The columns that `endings` needs, and those that a report needs of its `shown_rows`.
ENDING_COLUMNS = [
    "key",
    "kind",
    "status",
    "split",
    "slice",
    "step",
    "steps",
    "metric",
    "primary",
    "higher_is_better",
    "value",
]
SHOWN_COLUMNS = [
    name for name in COLUMNS if name not in ("traceback", "not_stacked_reason", "no_cuda_graph_reason", "weights")
]


def endings(frame: pd.DataFrame) -> pd.Series[bool]:
    """Mark the rows that `compact` keeps without curves.

    These are the rows without a score, the controls on whole splits, and:

    - of a finished run, the whole validation and test splits after the last step;
    - of a run that ended early, the whole splits at its last evaluated step;
    - of a run trained in epochs, all rows except those of single layers, since one epoch is chosen when it is reported;
    - of a tuning run, the rows that choose the learning rate, and its epochs.
    """
    whole = frame["slice"] == ""
    unmeasured = frame["metric"].isna()
    broken_off = whole & (frame["status"] != "ok") & (frame["step"] == frame.groupby("key")["step"].transform("max"))
    last = whole & (frame["step"] == frame["steps"]) & frame["split"].isin(["validation", "test"])
    run = (frame["kind"] == "run") & last
    in_epochs = (frame["kind"] == "run") & frame["key"].isin(_in_epochs(frame))
    epochs = in_epochs & ~frame["slice"].fillna("").str.startswith("layer=")
    control = whole & ~frame["kind"].isin(TRAINED)
    tuning = (frame["kind"] == "tuning") & (choosing(frame) | (frame["metric"] == "epoch"))
    return unmeasured | broken_off | run | epochs | control | tuning


def shown_rows(table: pa.Table) -> pa.Table:
    """Return the rows that a report shows or counts, at least one of each key; the others are most rows of a large folder.

    These are the controls, the rows without a score, primary metrics, whole test splits, and all of a run in epochs.
    """
    rows = row_sets.encoded(table.select(["key", "kind", "split", "slice", "metric", "primary"]).combine_chunks())
    column = {name: _one_chunk(rows[name]) for name in rows.column_names}
    keys = column["key"].indices.to_numpy(zero_copy_only=False)
    chosen = pc.is_in(column["primary"], pa.array([True])).to_numpy(zero_copy_only=False)
    chosen |= ~_among(column["kind"], TRAINED) | ~column["metric"].is_valid().to_numpy(zero_copy_only=False)
    chosen |= _among(column["split"], ["test"]) & _among(column["slice"], ["", None])
    chosen[np.unique(keys, return_index=True)[1]] = True
    epochs = np.zeros(len(column["key"].dictionary), np.bool_)
    epochs[keys[_among(column["metric"], ["epoch"])]] = True
    return table.filter(pa.array(chosen | epochs[keys]))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    found = column.unify_dictionaries().combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def _among(column: pa.DictionaryArray, values: Sequence[str | None]) -> NDArray[np.bool_]:
    """Mark the rows of a column of texts with one of these values, or null."""
    marks = pc.is_in(column.dictionary, pa.array(values, pa.string()))
    found = pc.fill_null(marks.take(column.indices), fill_value=None in values)
    marked: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return marked


def selected(folder: Path, keys: Set[str]) -> dict[str, float]:
    """Return the primary metric of these runs on the validation split, as marked by `choosing`. Does not import pandas.

    A diverged run has NaN; failed and unsupported runs are omitted.
    """
    names = ["key", "kind", "status", "created", "split", "step", "steps", "metric", "primary", "higher_is_better", "value"]
    part = plain(read_keys(folder, keys, names).table)
    found = dict.fromkeys(part.filter(pc.equal(part["status"], "diverged"))["key"].to_pylist(), math.nan)
    in_epochs = pc.is_in(part["key"], pc.unique(part.filter(pc.equal(part["metric"], "epoch"))["key"]))
    last = pc.or_(in_epochs, pc.equal(part["step"], part["steps"]))
    ended = pc.and_(pc.equal(part["split"], "validation"), pc.equal(part["status"], "ok"))
    part = part.filter(pc.and_(pc.and_(last, part["primary"]), ended))
    by_run: dict[tuple[str, bool], dict[int, float]] = {}
    for key, higher, step, value in zip(
        *(part[n].to_pylist() for n in ("key", "higher_is_better", "step", "value")), strict=True
    ):
        by_run.setdefault((key, higher), {})[step] = value
    return found | {key: values[chosen_step(values, higher)] for (key, higher), values in by_run.items()}
