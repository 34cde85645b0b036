"""Schema: the fixed, versioned columns of the results table, explained in docs/reference/results-schema.md."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from expbench.run import AXES, FIELDS, FORMER_SPLITS

RENAMED_IN = 6  # the schema that gave columns, splits and settings their present names
DIGESTS_IN = 7  # the schema whose files carry a digest of their contents
TUNING_RULE_IN = 8  # the schema that states by which rule learning rates are chosen
VERSION = max(RENAMED_IN, DIGESTS_IN, TUNING_RULE_IN, *(field.since for field in FIELDS.values()))
READ = tuple(range(1, VERSION + 1))  # columns that an older schema lacks are null, or have the value in `LATER`
_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _type(kind: Any) -> pa.DataType:
    """Return the column type of a field; settings are stored as JSON text."""
    return {int: _WHOLE, float: _REAL, bool: _FLAG}.get(kind, _TEXT)


# Settings with a column of their own, placed after the column of the given field of the run.
READ_OUT = {"task_settings": {name: _type(axis.kind) for name, axis in AXES.items()}, "residual": {"skip": _FLAG}}
_OF_RUN = {
    column: kind
    for name, field in FIELDS.items()
    for column, kind in {name: _type(field.kind), **READ_OUT.get(name, {})}.items()
}
COLUMNS: dict[str, pa.DataType] = {
    # the run; `kind` is run, tuning (chose a learning rate), or baseline, oracle, positive or chance for a control
    "key": _TEXT,
    "kind": _TEXT,
    "status": _TEXT,
    "error": _TEXT,
    "traceback": _TEXT,
    **_OF_RUN,
    # the score
    "split": _TEXT,
    "slice": _TEXT,
    "step": _WHOLE,
    "metric": _TEXT,
    "value": _REAL,
    "primary": _FLAG,
    "higher_is_better": _FLAG,
    "success_threshold": _REAL,
    "seconds": _REAL,
    # facts on the network and the labels
    "parameters": _WHOLE,
    "state_size": _WHOLE,
    "flops_per_token": _REAL,
    "network_polynomial": _FLAG,
    "network_degree": _WHOLE,
    "network_order": _WHOLE,
    "causal": _FLAG,
    "floor": _REAL,
    "floor_degree": _REAL,
    "floor_structure": _REAL,
    "label_kurtosis": _REAL,
    "label_interaction_order": _REAL,
    "effective_sample_size": _REAL,
    "well_posed": _FLAG,
    # provenance
    "run_seconds": _REAL,
    "created": pa.timestamp("ms", tz="UTC"),
    "device": _TEXT,
    "device_name": _TEXT,
    "precision": _TEXT,
    "backend": _TEXT,
    "stack_size": _WHOLE,
    "not_stacked_reason": _TEXT,
    "no_cuda_graph_reason": _TEXT,
    "expbench": _TEXT,
    "python": _TEXT,
    "torch": _TEXT,
    "git_commit": _TEXT,
    "tuning_rule": _WHOLE,
    "task_origin": _TEXT,
    "local_settings": _TEXT,
    "model_origin": _TEXT,
    "task_distribution": _TEXT,
    "model_distribution": _TEXT,
    "weights": _TEXT,
}
SCHEMA = pa.schema(list(COLUMNS.items()), metadata={"expbench_schema": str(VERSION)})
# Names until schema 5, by column: of the columns by their present names, and of values and settings to their present names.
FORMER_COLUMNS = {
    "primary": "headline",
    "success_threshold": "solved_at",
    "not_stacked_reason": "alone_because",
    "no_cuda_graph_reason": "eager_because",
}
FORMER_VALUES = {
    "split": {former: name for name, former in FORMER_SPLITS.items()},
    "metric": {
        "seen_in_training": "train_test_overlap",
        **{f"{name}_fingerprint": f"{name}_checksum" for name in ("inputs", "targets", "outputs")},
    },
}
PROVENANCE = [*list(COLUMNS)[list(COLUMNS).index("run_seconds") :], "seconds", "traceback"]  # not part of the result
TRAINED = ("run", "tuning")  # kinds of rows with a trained network; the other kinds are controls
NAMED = re.compile("[0-9a-f]{16}")  # the stem of a file of one run: its key
