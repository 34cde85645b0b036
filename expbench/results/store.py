"""The results table: one versioned Parquet schema, one row per score, one file per finished unit of work.

A file is replaced, never appended to. Processes may share a folder and may even finish the same run twice: a reader keeps
one set of rows per key, within a file and across files. docs/reference/results-schema.md explains the columns.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expbench import files
from expbench.errors import BadInput, unknown
from expbench.results import digest, footer, row_sets, together, validity
from expbench.results.reading import (
    NoResults,
    Stamp,
    plain,
    read_endings,
    shown,
    stamp,
)
from expbench.results.schema import NAMED, SCHEMA, VERSION
from expbench.results.together import Part, Rows

if TYPE_CHECKING:
    import pandas as pd

TABLE = "table"  # the stem of the file that `compact` writes
_FEW_ROWS = 10_000  # a table up to this size is compressed by what opens fastest, a larger one by what is smallest
_ROW_GROUP = 1 << 17
_AT_ONCE = 250  # files that are read into one table
_TIMES = 8  # a folder is listed again if files disappear, because `compact` merges them


class Results(NamedTuple):
    """Rows of a folder, one set per key, and one line for each unreadable file."""

    frame: pd.DataFrame
    problems: list[str]


class Contents(NamedTuple):
    """Rows of a folder, one set per key, with texts as dictionaries, and the stamp of each file read."""

    table: pa.Table
    problems: list[str]
    stamps: dict[Path, Stamp]


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as ``folder/name.parquet``, replacing the file atomically; absent columns are null.

    If that file holds rows of other keys, it is renamed instead of replaced, so that they are not lost. Raise ValueError
    for rows that no reader would take.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    reason = validity.reason(table)
    if reason is not None:
        raise ValueError(f"not a row of results: {reason}")
    return write_table(folder, name, table)


def write_table(folder: Path, name: str, table: pa.Table) -> Path:
    """Write a table of the schema as `write` does, with its digest; rows that stand twice in it are written once.

    Its texts may be dictionaries.
    """
    table = row_sets.unique(table.replace_schema_metadata(None))
    endings = footer.endings_of(table)
    small = len(table) <= _FEW_ROWS
    schema = SCHEMA.with_metadata(digest.seal(table, VERSION, footer.statement(endings)))
    target = folder / f"{name}.parquet"
    if NAMED.fullmatch(name):
        _spare_others(target, endings)
    options = {"compression": "snappy", "write_statistics": False} if small else {"compression": "zstd"}
    with files.replacing(target) as aside, aside.open("wb") as file:  # closed before it is renamed
        sink = io.BytesIO() if small else file
        with pq.ParquetWriter(sink, schema, **options) as writer:
            for start in range(0, len(table), _ROW_GROUP):
                writer.write_table(plain(table.slice(start, _ROW_GROUP)).cast(schema))
        if isinstance(sink, io.BytesIO):
            file.write(footer.with_copy(sink.getvalue(), table))
        file.flush()
        os.fsync(file.fileno())
    return target


def _spare_others(target: Path, endings: footer.Endings) -> None:
    """Rename a file that holds rows of other keys than these."""
    with suppress(OSError, NoResults):
        if read_endings(target).keys() - endings.keys():
            target.rename(target.with_name(f"{target.stem}-{uuid.uuid4().hex[:8]}.parquet"))


def read(source: Path, columns: Sequence[str] = SCHEMA.names, rows: Rows | None = None) -> Results:
    """Return the rows of every results file in a folder, or of one file; report other and corrupt files as problems.

    If a key has several sets of rows, the latest one that is not a failure is kept, or the latest failure. columns: the
    columns to read, including key, status and created. rows: selects the rows that are needed, file by file, so that a
    large folder fits into memory.
    """
    contents = read_tables(source, columns, rows)
    return Results(to_frame(contents.table), contents.problems)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a DataFrame. Whole numbers that may exceed 2^53 are objects: beside nulls they would be floats."""
    import pandas as pd

    columns = {}
    for name in table.column_names:  # one at a time: all texts, each as often as it is repeated, would stand in memory twice
        wide = name in validity.UNBOUNDED
        columns[name] = _objects(table[name]) if wide else plain(table.select([name]))[name].to_pandas()
    return pd.DataFrame(columns, copy=False)


def _objects(column: pa.ChunkedArray) -> Any:
    import pandas as pd

    return pd.array(column.to_pylist(), dtype=object)


def read_tables(source: Path, columns: Sequence[str], rows: Rows | None = None) -> Contents:
    """Return rows as `read` does, as Arrow tables."""
    folder = None if source.is_file() else source
    for _ in range(_TIMES):
        paths = [source] if folder is None else map(Path, listed(folder))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(
                pool.map(lambda group: together.read(group, folder, columns, rows), _groups(list(enumerate(paths))))
            )
        if folder is None or not any(part.missing for part in parts):
            break
    return _joined(parts, columns)


def _joined(parts: Sequence[Part], columns: Sequence[str]) -> Contents:
    """Return the contents of files, one set of rows per key."""
    left_out = row_sets.superseded(each for part in parts for each in part.sets)
    tables = [pa.table({name: pa.array([], SCHEMA.field(name).type) for name in columns})]
    for part in parts:
        if len(part.table):
            tables.append(row_sets.without(part.table, left_out.intersection(part.sets)).drop_columns(row_sets.FILE))
    problems = [line for part in parts for line in [*part.problems, *(f"{shown(p)}: disappeared" for p in part.missing)]]
    stamps = {path: own for part in parts for path, own in part.stamps.items()}
    tables[0] = row_sets.encoded(tables[0])
    return Contents(pa.concat_tables(tables).unify_dictionaries(), problems, stamps)


def read_keys(folder: Path, keys: Set[str], columns: Sequence[str] = SCHEMA.names) -> Contents:
    """Return the rows of these keys; only the files that hold them are read. columns: as in `read`, with kind."""
    return _read_keys(folder, keys, columns, *endings_by_file(folder))


def _read_keys(
    folder: Path, keys: Set[str], columns: Sequence[str], found: Mapping[str, footer.Endings], problems: list[str]
) -> Contents:
    """Return the rows of these keys, given what the files of the folder hold."""
    numbered = [(i, Path(path)) for i, (path, own) in enumerate(found.items()) if not keys.isdisjoint(own)]
    parts = [together.read(group, folder, columns, partial(row_sets.of_keys, keys=keys)) for group in _groups(numbered)]
    contents = _joined(parts, columns)
    return contents._replace(problems=problems + contents.problems)


def read_run(folder: Path, key: str) -> Results:
    """Return the rows of the one run whose key begins with `key`; read its files only; raise `BadInput` as `rows_of_run`."""
    found, unread = endings_by_file(folder)
    runs = {k for own in found.values() for k, ending in own.items() if ending.kind == "run"}
    keys = {k for k in runs if key and k.startswith(key)}
    if len(keys) != 1:
        raise _no_single_run(key, keys, runs)
    table, problems, _ = _read_keys(folder, keys, SCHEMA.names, found, unread)
    if not len(table):  # its file is damaged
        raise BadInput(problems[0]) if problems else _no_single_run(key, set(), runs - keys)
    return Results(to_frame(table), problems)


def rows_of_run(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the rows of the one run whose key begins with `key`; raise `BadInput` for none or several."""
    runs = frame[frame["kind"] == "run"]
    known = list(runs["key"].unique())
    keys = {k for k in known if key and k.startswith(key)}
    if len(keys) != 1:
        raise _no_single_run(key, keys, known)
    rows: pd.DataFrame = runs[runs["key"].isin(keys)]
    return rows


def _no_single_run(key: str, keys: Iterable[str], known: Iterable[str]) -> Exception:
    several = sorted(keys)
    return unknown("single run (several begin like this)" if several else "run", key, several[:20] or sorted(known)[:20])


_ended: dict[str, tuple[Stamp, footer.Endings]] = {}  # endings by file, valid while it is unchanged


def statuses(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the status of each key in the folder and one line for each unreadable file. Does not import pandas.

    A file is read again only after it was replaced, because processes that share a folder call this often.
    """
    found, problems = endings_by_file(folder)
    status: dict[str, str] = {}
    for own in found.values():
        for key, ending in own.items():
            if status.get(key, "failed") == "failed":
                status[key] = ending.status
    return status, problems


def endings_by_file(folder: Path) -> tuple[dict[str, footer.Endings], list[str]]:
    """Return the kind and status of each key by file, as their footers state them, and one line per unreadable file.

    Files are in order of their paths, which are texts: with thousands of files, most of the time would go into `Path`.
    """
    for _ in range(_TIMES):
        stamps, problems, missing = listed(folder), [], False
        for path, own in stamps.items():
            if path in _ended and _ended[path][0] == own:
                continue
            _ended.pop(path, None)
            try:
                _ended[path] = own, read_endings(path, folder)
            except FileNotFoundError:
                missing = True
            except NoResults as reason:
                problems.append(str(reason))
        if not missing:
            break
    return {path: _ended[path][1] for path in stamps if path in _ended}, problems


def listed(folder: Path) -> dict[str, Stamp]:
    """Return the files of a folder that may hold results, in order, with their stamps; zeros for a link to nothing."""
    stamps = {}
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.endswith(".parquet") and not entry.name.startswith(".")]
    for entry in sorted(found, key=lambda entry: entry.name):
        try:
            stamps[entry.path] = stamp(entry.stat())
        except OSError:  # removed in the meantime by `compact`, if it is no link
            if entry.is_symlink():
                stamps[entry.path] = (0, 0, 0)
    return stamps


def finished(folder: Path, key: str) -> bool:
    """Return whether its own file, or the table of the folder, holds a result of this key that is not a failure."""
    for name in (key, TABLE):
        path = str(folder / f"{name}.parquet")
        with suppress(OSError, NoResults):
            own = stamp(Path(path).stat())
            if path not in _ended or _ended[path][0] != own:
                _ended[path] = own, read_endings(path, folder)
            if key in _ended[path][1] and _ended[path][1][key].status != "failed":
                return True
    return False


def _groups(numbered: Sequence[tuple[int, Path]]) -> list[Sequence[tuple[int, Path]]]:
    return [numbered[i : i + _AT_ONCE] for i in range(0, len(numbered), _AT_ONCE)]
