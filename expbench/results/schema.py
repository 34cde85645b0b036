"""Schema: the fixed, versioned columns of the results table. results/README.md explains them."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from expbench.run import AXES, FIELDS

VERSION = max(field.since for field in FIELDS.values())
READ = tuple(range(1, VERSION + 1))  # of an older schema, columns that it lacks are null, or as `LATER` has them
_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _type(kind: Any) -> pa.DataType:
    """Return how a field of that type is stored: settings as JSON."""
    return {int: _WHOLE, float: _REAL, bool: _FLAG}.get(kind, _TEXT)


# Settings that have a column of their own, after that of a field of the run.
READ_OUT = {"task_settings": {name: _type(axis.kind) for name, axis in AXES.items()}, "residual": {"skip": _FLAG}}
_OF_RUN = {
    column: kind
    for name, field in FIELDS.items()
    for column, kind in {name: _type(field.kind), **READ_OUT.get(name, {})}.items()
}
COLUMNS: dict[str, pa.DataType] = {
    # what was run; `kind` is run, tuning (chose a learning rate), or baseline, oracle, positive or chance for a control
    "key": _TEXT,
    "kind": _TEXT,
    "status": _TEXT,
    "error": _TEXT,
    "traceback": _TEXT,
    **_OF_RUN,
    # what was measured
    "split": _TEXT,
    "slice": _TEXT,
    "step": _WHOLE,
    "metric": _TEXT,
    "value": _REAL,
    "headline": _FLAG,
    "higher_is_better": _FLAG,
    "solved_at": _REAL,
    "seconds": _REAL,
    # what is known of the network and of the labels
    "parameters": _WHOLE,
    "state_size": _WHOLE,
    "flops_per_token": _REAL,
    "network_degree": _WHOLE,
    "network_order": _WHOLE,
    "floor": _REAL,
    "floor_degree": _REAL,
    "floor_structure": _REAL,
    "label_kurtosis": _REAL,
    "label_interaction_order": _REAL,
    "effective_sample_size": _REAL,
    "well_posed": _FLAG,
    # where it comes from
    "run_seconds": _REAL,
    "created": pa.timestamp("ms", tz="UTC"),
    "device": _TEXT,
    "device_name": _TEXT,
    "precision": _TEXT,
    "backend": _TEXT,
    "stack_size": _WHOLE,
    "alone_because": _TEXT,
    "eager_because": _TEXT,
    "expbench": _TEXT,
    "python": _TEXT,
    "torch": _TEXT,
    "git_commit": _TEXT,
    "task_origin": _TEXT,
    "model_origin": _TEXT,
    "weights": _TEXT,
}
SCHEMA = pa.schema(list(COLUMNS.items()), metadata={"expbench_schema": str(VERSION)})
PROVENANCE = [*list(COLUMNS)[list(COLUMNS).index("run_seconds") :], "seconds", "traceback"]  # not part of the result
TRAINED = ("run", "tuning")  # kinds of rows that a network was trained for; the others are of controls
NAMED = re.compile("[0-9a-f]{16}")  # a file of one run, by its key
