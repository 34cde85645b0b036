"""Reading of one results file, of any schema: opened as a regular file, bounded, verified, and under its present names.

A file is data from anywhere. What is not a results table, is damaged or does not fit into memory is named in one line and
left as it is.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expbench.results import digest, footer, validity
from expbench.results.schema import (
    DIGESTS_IN,
    FORMER_COLUMNS,
    FORMER_VALUES,
    READ,
    RENAMED_IN,
    SCHEMA,
    VERSION,
)
from expbench.run import FORMER_SETTINGS, LATER, canonical

Stamp = tuple[int, int, int]  # time of change, size and inode: a file that is replaced has another one
MOST_ROWS = 50_000_000  # of a file; `expbench run` writes some hundred a run
MOST_TEXT = 1 << 36  # bytes of all texts of a file, each as often as it is repeated
_PLAIN_TEXT = 1 << 28  # up to here texts are read as they are, beyond as dictionaries: a short file may repeat a long text
_MANY_ROWS = 1_000_000  # from here on the free memory is compared
_UNFOLLOWED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would wait for ever
_IN_MEMORY = 1 << 23  # a file up to this size is read at once
_WITH_COPY = 1 << 20  # a file up to this size may have a copy of its rows
_PRESENT = {former: name for name, former in FORMER_SETTINGS.items()}
_MOVE = "file not changed, move it to another folder"


class Encoded(NamedTuple):
    """Columns of a file. sealed: whether it carries a digest, so that it was written by `store.write_table`.

    metadata: of a file whose digest was not verified, which has all columns then; otherwise None.
    """

    table: pa.Table
    stamp: Stamp
    sealed: bool
    metadata: Mapping[bytes, bytes] | None = None


class NoResults(Exception):
    """A file that is not read, with the reason in one line."""


def read_file(path: Path, columns: Sequence[str], folder: Path | None = None) -> pa.Table | str:
    """Return these columns of a results file, or one line that states why it is not read.

    folder: the results folder if the file is one of its files; a link is then followed only if it stays inside.
    """
    try:
        table = checked(path, read_encoded(path, columns, folder).table)
    except FileNotFoundError:
        return f"{shown(path)}: there is no such file"
    except NoResults as reason:
        return str(reason)
    return plain(table)


def plain(table: pa.Table) -> pa.Table:
    """Return a table with its texts as texts instead of dictionaries."""
    wanted = _schema(tuple(table.column_names))
    return table if table.schema.equals(wanted) else table.cast(wanted)


def read_endings(path: Path | str, folder: Path | None = None) -> footer.Endings:
    """Return the kind and status of each key of a file, from its footer if that states them; raise as `read_encoded`."""
    stated = _stated(path)
    if stated is not None:
        return stated
    path = Path(path)
    return footer.endings_of(plain(checked(path, read_encoded(path, ["key", "kind", "status"], folder).table)))


def _stated(path: Path | str) -> footer.Endings | None:
    """Return what the footer of a regular file, not of a link, states; None if the file must be read as a table to know.

    A folder may have thousands of files: `_opened`, which says what is wrong with a file, takes several times as long.
    """
    with suppress(OSError):
        descriptor = os.open(path, _UNFOLLOWED)
        try:
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode):
                return footer.stated(os.pread(descriptor, footer.TAIL, max(0, about.st_size - footer.TAIL)))
        finally:
            os.close(descriptor)
    return None


def read_encoded(path: Path, columns: Sequence[str], folder: Path | None = None, short: int = 0) -> Encoded:
    """Return columns of a file, of a large one with texts as dictionaries. Rows are not `checked`.

    short: up to which bound on the bytes of its texts the caller verifies the digest, of many files together.

    Raise FileNotFoundError, or `NoResults` for a file that is not regular, whole, ours, or small enough.
    """
    with _errors_named(path), _opened(path, folder) as (file, about):
        source = pa.BufferReader(file.read()) if about.st_size <= _IN_MEMORY else file
        table, sealed, metadata = _read(path, source, list(columns), short)
        return Encoded(table, stamp(about), sealed, metadata)


def read_copy(path: Path, folder: Path | None = None) -> tuple[footer.Copy, Stamp] | None:
    """Return the copy of the rows of a short file, if it has one that matches; None also if the file cannot be read."""
    with suppress(NoResults, OSError), _opened(path, folder) as (file, about):
        copy = footer.of_file(file.read()) if about.st_size <= _WITH_COPY else None
        return None if copy is None else (copy, stamp(about))
    return None


def damaged(path: Path) -> str:
    """Return the line for a file that does not match its digest."""
    return f"{shown(path)}: corrupt ({digest.MISMATCH}); {_MOVE}"


def checked(path: Path, table: pa.Table) -> pa.Table:
    """Return the rows of a file; raise `NoResults` if some of them are no results."""
    reason = validity.reason(table)
    if reason is not None:
        raise NoResults(f"{shown(path)}: not valid ({reason}); {_MOVE}")
    return table


def stamp(about: os.stat_result) -> Stamp:
    return about.st_mtime_ns, about.st_size, about.st_ino


def shown(path: Path | str) -> str:
    """Return a path for a message: as it is, or quoted if it has characters that a line cannot show."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def _errors_named(path: Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).partition("\n")[0].split())[:120]
        raise NoResults(f"{shown(path)}: corrupt ({reason}); {_MOVE}") from error


@contextmanager
def _opened(path: Path | str, folder: Path | None) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file; a pipe would wait for ever, and a link may lead to files of others."""
    kind = os.lstat(path).st_mode
    if stat.S_ISLNK(kind):
        target = Path(os.path.realpath(path))
        if folder is not None and not target.is_relative_to(os.path.realpath(folder)):
            raise NoResults(f"{shown(path)}: a link to a file outside the folder; replace it by a copy")
        if not target.exists():
            raise NoResults(f"{shown(path)}: a link to nothing; remove it")
        kind = target.stat().st_mode
    if not stat.S_ISREG(kind):
        raise NoResults(f"{shown(path)}: not a regular file; move it to another folder")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise NoResults(f"{shown(path)}: not a regular file; move it to another folder")
        yield file, about


def _read(path: Path, source: Any, columns: list[str], short: int) -> tuple[pa.Table, bool, Mapping[bytes, bytes] | None]:
    """Return columns of an open file, whether it has a digest, and its metadata if that was not verified."""
    file = pq.ParquetFile(source)
    metadata = file.metadata.metadata or {}
    if digest.VERSION_KEY not in metadata:
        raise NoResults(f"{shown(path)}: not an expbench results table; {_MOVE}")
    version = int(metadata[digest.VERSION_KEY])
    if version not in READ:
        raise NoResults(f"{shown(path)}: schema {version}, but this expbench reads up to schema {VERSION}; file not changed")
    bound = _bounded(path, file.metadata, columns)
    if bound > _PLAIN_TEXT:
        source.seek(0)
        file = pq.ParquetFile(source, read_dictionary=[name for name in file.schema_arrow.names if _is_text(name)])
    sealed = version >= DIGESTS_IN or digest.DIGEST_KEY in metadata
    now = {former: name for name, former in FORMER_COLUMNS.items()} if version < RENAMED_IN else {}
    stored = file.schema_arrow  # read once: the property rebuilds the schema at each access
    wanted = None if sealed else {now.get(name, name): name for name in stored.names if now.get(name, name) in columns}
    if not stored.equals(SCHEMA):
        _check_types(stored, now, exactly=sealed)
    # a digest is one of all columns
    found = file.read(None if wanted is None else [*wanted.values()], use_threads=False)  # files: side by side
    _check_size(found, file.metadata.num_rows, dictionaries=bound > _PLAIN_TEXT)
    if sealed and bound <= short and stored.equals(SCHEMA):
        return found, True, metadata
    if sealed:
        digest.verify(found, metadata)
    if version < RENAMED_IN:
        found = _with_present_names(found, now)
    if version < VERSION:
        for name in columns:
            if name not in found.column_names:
                meant = pa.scalar(LATER.get(name), SCHEMA.field(name).type)
                found = found.append_column(name, pa.repeat(meant, len(found)))
    found = found.select(columns)
    return found if sealed else _as_typed(found), sealed, None


def _is_text(name: str) -> bool:
    return SCHEMA.field(name).type == pa.string() if name in SCHEMA.names else name in FORMER_COLUMNS.values()


def _bounded(path: Path, about: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Return a bound on the bytes of its texts; raise `NoResults` if its rows do not fit into memory."""
    rows = about.num_rows
    free = _free_memory() if rows > _MANY_ROWS else 1 << 40
    if rows > MOST_ROWS or 8 * rows * len(columns) > free // 2:
        raise NoResults(
            f"{shown(path)}: too large ({rows:,} rows of {len(columns)} columns; at most {MOST_ROWS:,} rows are read, and "
            f"half of the free memory, {free / 2**31:.1f} GiB); {_MOVE}"
        )
    return int(rows * sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups)))


def _free_memory() -> int:
    """Return the bytes of memory that programs may still take; where the system does not say, a large number."""
    stated = Path("/proc/meminfo")
    lines = stated.read_text(encoding="ascii").splitlines() if stated.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 1 << 40)


def _check_types(stored: pa.Schema, now: Mapping[str, str], *, exactly: bool) -> None:
    """Raise ValueError for a column that has neither its type nor, without a digest, one that can become it."""
    known = set(SCHEMA.names)
    for field in stored:
        name, kind = now.get(field.name, field.name), digest.value_type(field.type)
        if name in known and kind != SCHEMA.field(name).type and (exactly or pa.types.is_nested(kind)):
            raise ValueError(f"column {field.name} is {kind}, not {SCHEMA.field(name).type}")


def _check_size(table: pa.Table, rows: int, *, dictionaries: bool) -> None:
    """Raise ValueError if a table has not these rows, or the texts that its dictionaries stand for are too large."""
    if len(table) != rows:
        raise ValueError("its columns have other numbers of rows than it states")
    total = 0
    for column in table.columns if dictionaries else ():
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            chunk.validate(full=True)
            total += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
    if total > MOST_TEXT:
        raise ValueError(f"its texts have {total / 2**30:.0f} GiB")


def _with_present_names(table: pa.Table, now: Mapping[str, str]) -> pa.Table:
    """Return columns of a file of schema 1 to 5 by the names that they and their values have now."""
    table = table.rename_columns([now.get(name, name) for name in table.column_names])
    for column, names in FORMER_VALUES.items():
        table = _with_values(table, column, partial(_present_name, names))
    return _with_values(table, "task_settings", _present_settings)


def _with_values(table: pa.Table, column: str, change: Callable[[str], str]) -> pa.Table:
    """Return the table with each text of one column changed: each different text once, as there are few."""
    if column not in table.column_names:
        return table
    texts = plain(table.select([column]))[column].combine_chunks().dictionary_encode()
    changed = pa.array([None if text is None else change(text) for text in texts.dictionary.to_pylist()], pa.string())
    return table.set_column(table.column_names.index(column), column, changed.take(texts.indices))


def _present_name(names: Mapping[str, str], text: str) -> str:
    return names.get(text, text)


def _present_settings(text: str) -> str:
    """Return the settings of a task, as JSON, by their present names; what is no JSON object as it is."""
    settings = json.loads(text)
    if not isinstance(settings, dict):
        return text
    return canonical({_PRESENT.get(str(name), str(name)): value for name, value in settings.items()})


def _as_typed(table: pa.Table) -> pa.Table:
    """Return the table with the types of the schema; dictionaries of texts stay."""
    fields = []
    for field in table.schema:
        wanted = SCHEMA.field(field.name).type
        kept = pa.types.is_dictionary(field.type) and field.type.value_type == wanted
        fields.append(pa.field(field.name, field.type if kept else wanted))
    schema = pa.schema(fields)
    return table.replace_schema_metadata(None) if table.schema.equals(schema) else table.cast(schema)


@lru_cache(maxsize=32)
def _schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns])
