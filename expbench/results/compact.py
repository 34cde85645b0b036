"""Compact: merge the files of a results folder into one.

At no moment are rows in no file: the merged file is complete before another is removed, and a file is removed only while it
is the one that was read. What another process writes meanwhile stays beside it. If this process is killed, some rows stand
in two files, which readers expect.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from expbench import files
from expbench.errors import BadInput
from expbench.results.reading import Stamp, stamp
from expbench.results.reported import ENDING_COLUMNS, endings
from expbench.results.schema import NAMED, SCHEMA
from expbench.results.store import TABLE, read_tables, to_frame, write_table

if TYPE_CHECKING:
    import pandas as pd

Keep = Callable[["pd.DataFrame"], "pd.Series[bool]"]  # marks rows, given their `ENDING_COLUMNS`

MANY = 5_000  # files of single runs from which on `expbench run` merges them
_LOCK = ".at-work/compact"
_ORDER = ("task", "kind", "key", "model", "split", "step", "metric", "slice")
_TIMES = ("seconds", "run_seconds")


def collect(runs: Path, folder: Path, name: str, keep: Keep | None = None) -> pd.DataFrame:
    """Write the rows of the folder `runs`, or those that `keep` marks, into one file ``folder/name.parquet``; return them.

    Times are rounded to milliseconds, since finer digits are noise. Raise `BadInput` for an unreadable file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return to_frame(_merge(runs, folder, name, keep)[0])


def compact(folder: Path, *, curves: bool = True) -> Path:
    """Merge a folder into ``table.parquet``, without curves only its `endings`; remove the merged files; return the path.

    Raise `BadInput` for an unreadable file, or if another process is merging this folder.
    """
    with files.locked(folder / _LOCK) as alone:
        if not alone:
            raise BadInput(f"another process is merging the files of {folder}; repeat the command when it has ended")
        _, read = _merge(folder, folder, TABLE, None if curves else endings)
        merged = folder / f"{TABLE}.parquet"
        for path, known in read.items():
            if path != merged:
                _remove(path, known)
        return merged


def compact_many(folder: Path, say: Callable[[str], None]) -> None:
    """Merge a folder with more than `MANY` files of single runs, and say so; leave it if some cannot be read."""
    count = sum(NAMED.fullmatch(name) is not None for name in _names(folder))
    if count <= MANY:
        return
    say(f"merging {count:,} files of {folder} into {TABLE}.parquet, as expbench compact does")
    with suppress(BadInput):
        compact(folder)


def _names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.parquet")]


def _merge(runs: Path, folder: Path, name: str, keep: Keep | None) -> tuple[pa.Table, Mapping[Path, Stamp]]:
    """Write the rows of a folder into one file; return them, and the stamps of the files that were read."""
    contents = read_tables(runs, SCHEMA.names)
    if contents.problems:
        raise BadInput(contents.problems[0])
    table = contents.table
    if keep is not None:
        marks = keep(to_frame(table.select(ENDING_COLUMNS)))
        table = table.filter(pa.array(marks.to_numpy(dtype=bool)))
    for column in _TIMES:
        table = table.set_column(table.column_names.index(column), column, pc.round(table[column], 3))
    table = table.take(pc.sort_indices(_sortable(table), [(column, "ascending") for column in _ORDER]))
    write_table(folder, name, table)
    return table, contents.stamps


def _sortable(table: pa.Table) -> pa.Table:
    """Return the columns to sort by: texts by their ranks among the different texts."""
    columns = [_ranks(table[name]) if pa.types.is_dictionary(table[name].type) else table[name] for name in _ORDER]
    return pa.table(columns, list(_ORDER))


def _ranks(column: pa.ChunkedArray) -> pa.Array:
    texts = column.combine_chunks()
    texts = texts.chunk(0) if isinstance(texts, pa.ChunkedArray) and texts.num_chunks == 1 else texts
    return pc.rank(texts.dictionary, sort_keys="ascending", tiebreaker="dense").take(texts.indices)


def _remove(path: Path, known: Stamp) -> None:
    """Remove a file if it is still the one with this stamp.

    It is renamed first, under a name that readers know too: between a look and a removal another process might replace it,
    and its result would be lost. What was replaced gets its name back, or keeps the other one if that is taken again.
    """
    aside = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}.parquet")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if stamp(aside.stat()) == known:
        aside.unlink()
        return
    with suppress(FileExistsError):
        path.hardlink_to(aside)
        aside.unlink()
