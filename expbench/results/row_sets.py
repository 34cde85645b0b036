"""Row sets: the rows that one execution wrote for one key. Of several sets of a key, one is kept.

A key has several sets if processes finished it twice, if it failed before it succeeded, or if tables were joined by hand. A
set is told apart by its file, the time at which it was written and its status.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FILE = "file"  # the column with the number of a row's file, while tables are read
_OF_SET = (FILE, "key", "created", "status")
_OF_ROW = ("kind", "model", "split", "slice", "step", "metric", "value")  # of a row that does not repeat another


class RowSet(NamedTuple):
    """A set of rows of one key. created: milliseconds since 1970, -1 if unknown."""

    file: int
    key: str
    created: int
    status: str

    @property
    def name(self) -> str:
        """Its fields as one text."""
        return f"{self.file}|{self.key}|{self.created}|{self.status}"


def sets_of(table: pa.Table) -> list[RowSet]:
    """Return the sets of a table with the column `FILE`."""
    return [RowSet(*values) for values in distinct(_comparable(table, _OF_SET))]


def distinct(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return the different rows of a table."""
    if not len(table):
        return []  # pyarrow 16 allocates 2 GiB to group no rows
    names = table.column_names
    found = table.group_by(names, use_threads=False).aggregate([])
    return list(zip(*(found[name].to_pylist() for name in names), strict=True))


def superseded(sets: Iterable[RowSet]) -> set[RowSet]:
    """Return the sets that are not kept: of each key all but the latest that is not a failure, or the latest failure."""
    kept: dict[str, RowSet] = {}
    left_out = set()
    for each in sets:
        other = kept.get(each.key)
        if other is None or _rank(each) > _rank(other):
            kept[each.key] = each
            if other is not None:
                left_out.add(other)
        else:
            left_out.add(each)
    return left_out


def _rank(each: RowSet) -> tuple[bool, int, int]:
    return each.status != "failed", each.created, each.file


def without(table: pa.Table, left_out: Collection[RowSet]) -> pa.Table:
    """Return the rows of a table with the column `FILE` that belong to none of these sets."""
    if not left_out:
        return table
    stated = _comparable(table, _OF_SET)
    names = pc.binary_join_element_wise(*(stated[name].cast(pa.string()) for name in _OF_SET), "|")
    return table.filter(pc.invert(pc.is_in(names, pa.array([each.name for each in left_out], pa.string()))))


def once(table: pa.Table) -> pa.Table:
    """Return a table with the column `FILE` without the rows that repeat an earlier row of their set."""
    names = [*_OF_SET, *_OF_ROW]
    if not len(table) or not set(names) <= set(table.column_names):
        return table
    numbered = _comparable(table, names).append_column("row", pa.array(range(len(table)), pa.int64()))
    first = numbered.group_by(names, use_threads=False).aggregate([("row", "min")])["row_min"]
    return table if len(first) == len(table) else table.take(first.combine_chunks().sort())


def unique(table: pa.Table) -> pa.Table:
    """Return a table with one set per key, and each row of it once."""
    numbered = with_file(table, [0], [len(table)])
    return once(without(numbered, superseded(sets_of(numbered)))).drop_columns(FILE)


def of_keys(table: pa.Table, keys: Collection[str]) -> pa.Table:
    """Return the rows of these keys."""
    return table.filter(pc.is_in(table["key"].cast(pa.string()), pa.array(sorted(keys), pa.string())))


def with_file(table: pa.Table, numbers: Sequence[int], lengths: Sequence[int]) -> pa.Table:
    """Return a joined table with the number of the file of each row."""
    of_row = np.repeat(np.array(numbers, np.int64), lengths)
    return table.append_column(FILE, pa.array(of_row))  # in one chunk: other columns would be cut at its chunks


def encoded(table: pa.Table) -> pa.Table:
    """Return a table with its texts as dictionaries, since most columns have few different ones."""
    columns = [c.combine_chunks().dictionary_encode() if c.type == pa.string() else c for c in table.columns]
    return pa.table(columns, table.column_names)


def _comparable(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return columns whose values can be grouped: plain texts, and no missing time."""
    columns = []
    for name in names:
        column = table[name]
        if name == "created":
            column = pc.fill_null(column.cast(pa.int64()), -1)
        columns.append(column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column)
    return pa.table(columns, list(names))
