"""The results table: one versioned Parquet schema, one row per score, one file per finished unit of work.

A file is replaced, never appended to. Processes may share a folder and may even finish the same run twice: a reader keeps
one set of rows per key, within a file and across files. docs/reference/results-schema.md explains the columns.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expbench import files
from expbench.errors import BadInput, unknown
from expbench.results import digest, footer, row_sets, validity
from expbench.results.reading import (
    NoResults,
    Stamp,
    checked,
    damaged,
    plain,
    read_encoded,
    read_endings,
    shown,
    stamp,
)
from expbench.results.row_sets import RowSet
from expbench.results.schema import NAMED, SCHEMA, VERSION

if TYPE_CHECKING:
    import pandas as pd

TABLE = "table"  # the stem of the file that `compact` writes
_FEW_ROWS = 10_000  # a table up to this size is compressed by what opens fastest, a larger one by what is smallest
_ROW_GROUP = 1 << 17
_SHORT = 1 << 26  # bound on the bytes of texts of a file that is verified together with others
_AT_ONCE = 64  # files that are read into one table
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


Rows = Callable[[pa.Table], pa.Table]  # the rows of some files that a reader needs, of each run at least one


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
    schema = SCHEMA.with_metadata(digest.seal(table, VERSION, footer.statement(endings)))
    target = folder / f"{name}.parquet"
    if NAMED.fullmatch(name):
        _spare_others(target, endings)
    small = len(table) <= _FEW_ROWS
    options = {"compression": "snappy", "write_statistics": False} if small else {"compression": "zstd"}
    with files.replacing(target) as aside, aside.open("wb") as file:  # closed before it is renamed
        with pq.ParquetWriter(file, schema, **options) as writer:
            for start in range(0, len(table), _ROW_GROUP):
                writer.write_table(plain(table.slice(start, _ROW_GROUP)).cast(schema))
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
    wide = [name for name in validity.UNBOUNDED if name in table.column_names]
    frame: pd.DataFrame = plain(table.replace_schema_metadata(None)).drop_columns(wide).to_pandas()
    for name in wide:
        frame[name] = _objects(table[name])
    ordered: pd.DataFrame = frame[table.column_names]
    return ordered


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
                pool.map(lambda group: _read_together(group, folder, columns, rows), _groups(list(enumerate(paths))))
            )
        if folder is None or not any(part.missing for part in parts):
            break
    return _joined(parts, columns)


def _joined(parts: Sequence[_Part], columns: Sequence[str]) -> Contents:
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
    parts = [_read_together(group, folder, columns, partial(row_sets.of_keys, keys=keys)) for group in _groups(numbered)]
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


class _Part(NamedTuple):
    """Files that were read together. table: their rows, with the column `row_sets.FILE`. missing: what has disappeared."""

    table: pa.Table
    sets: list[RowSet]
    problems: list[str]
    stamps: dict[Path, Stamp]
    missing: list[Path]


def _groups(numbered: Sequence[tuple[int, Path]]) -> list[Sequence[tuple[int, Path]]]:
    return [numbered[i : i + _AT_ONCE] for i in range(0, len(numbered), _AT_ONCE)]


def _read_together(
    numbered: Sequence[tuple[int, Path]], folder: Path | None, columns: Sequence[str], rows: Rows | None
) -> _Part:
    """Read files into one table: a check of many short files at once takes hardly longer than that of one."""
    part = _Part(pa.table({}), [], [], {}, [])
    short: list[_Short] = []
    tables = []
    for number, path in numbered:
        try:
            found = read_encoded(path, columns, folder, _SHORT)
            part.stamps[path] = found.stamp
            if found.metadata is not None:
                short.append(_Short(number, path, found.table, found.metadata))
                continue
            table = row_sets.with_file(checked(path, found.table), [number], [len(found.table)])
            table = table if found.sealed else row_sets.once(table)
            part.sets.extend(row_sets.sets_of(table))
            tables.append(row_sets.encoded(table if rows is None else rows(table)))
        except FileNotFoundError:
            part.missing.append(path)
        except NoResults as reason:
            part.problems.append(str(reason))
    table = _verified(short, columns, part.problems)
    if len(table):
        part.sets.extend(row_sets.sets_of(table))
        tables.append(row_sets.encoded(table if rows is None else rows(table)))
    part.problems.sort()
    return part._replace(table=pa.concat_tables(tables) if tables else part.table)


class _Short(NamedTuple):
    """A short file whose digest was not verified yet, with all its columns."""

    number: int
    path: Path
    table: pa.Table
    metadata: Mapping[bytes, bytes]


def _verified(short: Sequence[_Short], columns: Sequence[str], problems: list[str]) -> pa.Table:
    """Return the columns of those files whose digests match and whose rows are valid, joined; name the others."""
    if not short:
        return pa.table({})
    joined = pa.concat_tables([each.table for each in short]).combine_chunks()
    digests = digest.of_files(joined, [len(each.table) for each in short], [each.metadata for each in short])
    match = [each.metadata.get(digest.DIGEST_KEY) == own for each, own in zip(short, digests, strict=True)]
    whole = list(compress(short, match))
    if len(whole) < len(short):
        problems += [damaged(each.path) for each, good in zip(short, match, strict=True) if not good]
        joined = pa.concat_tables([each.table for each in whole]) if whole else joined.slice(0, 0)
    joined = joined.select(list(columns))
    if validity.reason(joined) is not None:
        whole = [each for each in whole if _is_valid(each, columns, problems)]
        joined = pa.concat_tables([each.table.select(list(columns)) for each in whole]) if whole else joined.slice(0, 0)
    return row_sets.with_file(joined, [each.number for each in whole], [len(each.table) for each in whole])


def _is_valid(file: _Short, columns: Sequence[str], problems: list[str]) -> bool:
    try:
        checked(file.path, file.table.select(list(columns)))
    except NoResults as reason:
        problems.append(str(reason))
        return False
    return True
