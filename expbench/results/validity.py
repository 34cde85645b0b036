"""Validity: what a row of a results table may hold, checked whenever rows are read.

A results folder may come from elsewhere. Names end up in file names, commands and figures, settings are parsed, numbers are
drawn: what could not be the result of a run is refused here, so that every reader may rely on it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from expbench.results.schema import COLUMNS, TRAINED
from expbench.run import AXES, FIELDS, LATER, Status

KINDS = (*TRAINED, "baseline", "oracle", "positive", "chance")
UNBOUNDED = ("network_degree", "network_order")  # whole numbers that may exceed 2^53: no reader converts them to floats
_KEY = re.compile("[0-9A-Za-z_-]{1,64}")  # part of the names of files
_TEXTS = [name for name, kind in COLUMNS.items() if kind == pa.string()]
_LONG = {"error": 1_000_000, "traceback": 10_000_000}
_LONGEST_NAME, _LONGEST_SETTINGS = 1_000, 100_000
_FREE = ("error", "traceback", "not_stacked_reason", "no_cuda_graph_reason", "task_origin", "model_origin")  # any text
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # would change lines, or how they are read
_ALWAYS = ("key", "kind", "status", "task", "task_settings", "model")  # null in no row
# Null in no row of a network that was trained.
_OF_TRAINED = [*(name for name in FIELDS if LATER.get(name, "") is not None and name not in _ALWAYS), "L", "instance"]
_OF_SCORE = ("split", "slice", "step", "primary")
_WHOLE = [name for name, kind in COLUMNS.items() if kind == pa.int64() and name not in UNBOUNDED]
_REAL_FIELDS = [name for name, field in FIELDS.items() if field.kind is float]
_WHOLE_SETTINGS = {*AXES, "test_size", "validation_size", "selection_size"}
_EXACT = 2**53
_YEARS = (0, 253_402_300_799_999)  # 1970 to 9999, in milliseconds


def reason(table: pa.Table) -> str | None:
    """Return why some of these rows cannot be results, in a few words; None if all can. The table may lack columns."""
    try:
        return next(_reasons(table), None)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        return f"a text cannot be decoded: {' '.join(str(error).split())[:80]}"


def _reasons(table: pa.Table) -> Iterator[str]:
    present = set(table.column_names)
    table.validate(full=True)
    for name in _ALWAYS:
        if name in present and table[name].null_count:
            yield f"{name} is missing"
    trained = pc.is_in(_texts(table["kind"]), pa.array(TRAINED)) if "kind" in present else None
    scored = pc.and_(trained, pc.is_valid(table["metric"])) if {"kind", "metric"} <= present else None
    for rows, names, what in ((trained, _OF_TRAINED, "run"), (scored, _OF_SCORE, "score")):
        for name in names if rows is not None else ():
            if name in present and table[name].null_count and pc.any(pc.and_(pc.is_null(table[name]), rows)).as_py():
                yield f"{name} of a {what} is missing"
    for name in _TEXTS:
        if name in present:
            yield from _wrong(name, table[name], partial(_of_text, name))
    if trained is not None and "task_settings" in present:
        yield from _wrong("task_settings", table["task_settings"].filter(trained), _of_trained)
    for name in _WHOLE:
        if name in present:
            yield from _outside(name, table[name], 0, _EXACT - 1)
    for name in UNBOUNDED:
        if name in present:
            yield from _outside(name, table[name], 0, 2**63 - 1)
    for name in _REAL_FIELDS:
        if name in present and pc.all(pc.is_finite(table[name])).as_py() is False:
            yield f"{name} is not finite"
    if "created" in present:
        yield from _outside("created", table["created"].cast(pa.int64()), *_YEARS)


def _wrong(name: str, column: pa.ChunkedArray, why: Callable[[str], str | None]) -> Iterator[str]:
    """Yield what is wrong with the different texts of a column."""
    if column.null_count == len(column):
        return
    for text in _texts(column.unique()).to_pylist():
        said = None if text is None else why(text)
        if said is not None:
            yield f"{name} {_quoted(text)} {said}"


def _outside(name: str, column: pa.ChunkedArray, least: int, most: int) -> Iterator[str]:
    if column.null_count == len(column):
        return
    found = pc.min_max(column).as_py()
    if found["min"] is not None and not (least <= found["min"] <= found["max"] <= most):
        yield f"{name} is {found['min'] if found['min'] < least else found['max']}"


def _of_text(name: str, text: str) -> str | None:
    """Return what is wrong with a text of a column."""
    if len(text) > _LONG.get(name, _LONGEST_SETTINGS if name.endswith("_settings") else _LONGEST_NAME):
        return f"has {len(text):,} characters"
    if name.endswith("_settings"):
        return _of_settings(text, name)
    if name == "key":
        return None if _KEY.fullmatch(text) else "is not a key"
    if name == "kind":
        return None if text in KINDS else f"is none of {', '.join(KINDS)}"
    if name == "status":
        return None if text in get_args(Status) else f"is none of {', '.join(get_args(Status))}"
    if name == "weights" and not re.fullmatch(rf"weights/{_KEY.pattern}\.safetensors", text):
        return "is no file below weights"
    if name in _FREE:
        return None
    if _CONTROL.search(text):
        return "has control characters"
    if name in ("task", "model") and (not text.strip() or "/" in text or "\\" in text or text in (".", "..")):
        return "is not a name"
    return None


def _of_trained(settings: str) -> str | None:
    """Return what the settings of a task lack if a network was trained on it."""
    found = json.loads(settings)
    missing = [name for name in ("L", "instance") if not isinstance(found.get(name), int)]
    return f"has no whole number {missing[0]}" if missing else None


def _of_settings(text: str, name: str) -> str | None:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(found, dict):
        return "is no JSON object"
    for setting, value in found.items():
        if _CONTROL.search(setting) or not _plain_value(value):
            return f"has {_quoted(setting)}, which is no number, text, true, false or null"
        if (
            name == "task_settings"
            and setting in _WHOLE_SETTINGS
            and (isinstance(value, bool) or not isinstance(value, int | None))
        ):
            return f"has {_quoted(setting)}, which is no whole number"
    return None


def _plain_value(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _texts(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")
