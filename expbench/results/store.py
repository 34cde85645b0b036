"""The results table: one versioned Parquet schema, one row per score, one file per finished unit of work.

A file is replaced, never appended to. Processes may share a folder and may even finish the same run twice: a reader keeps
one set of rows per key. docs/reference/results-schema.md explains the columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expbench import files
from expbench.errors import unknown
from expbench.results.schema import FORMER_COLUMNS, FORMER_VALUES, READ, RENAMED_IN, SCHEMA, VERSION
from expbench.run import FORMER_SETTINGS, LATER, canonical

if TYPE_CHECKING:
    import pandas as pd


_PRESENT = {former: name for name, former in FORMER_SETTINGS.items()}


class Results(NamedTuple):
    """Rows of a folder, one set per key, and one line for each unreadable file."""

    frame: pd.DataFrame
    problems: list[str]


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as ``folder/name.parquet``, replacing the file atomically; absent columns are null."""
    return write_table(folder, name, pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA))


def write_table(folder: Path, name: str, table: pa.Table) -> Path:
    target = folder / f"{name}.parquet"
    with files.replacing(target) as aside, aside.open("wb") as file:  # closed before it is renamed
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    return target


def read(source: Path, columns: Sequence[str] = SCHEMA.names) -> Results:
    """Return the rows of every results file in a folder, or of one file; report other and corrupt files as problems.

    If a key has several sets of rows, the latest one that is not a failure is kept, or the latest failure. columns: the
    columns to read, including key, status and created.
    """
    tables, problems = _read_files(source, list(columns))
    sets = [t.append_column("file", pa.repeat(pa.scalar(i, pa.int64()), len(t))) for i, t in enumerate(tables)]
    empty = SCHEMA.empty_table().select(list(columns)).append_column("file", pa.array([], pa.int64()))
    frame = pa.concat_tables([empty, *sets]).to_pandas()
    kept = frame[["key", "file", "status", "created"]].drop_duplicates(["key", "file"])
    kept = kept.assign(finished=kept["status"] != "failed").sort_values(["finished", "created", "file"])
    kept = kept.drop_duplicates("key", keep="last")[["key", "file"]]
    return Results(frame.merge(kept, on=["key", "file"], how="inner").drop(columns="file"), problems)


def rows_of_run(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the rows of the one run whose key begins with `key`; raise `BadInput` for none or several."""
    runs = frame[frame["kind"] == "run"]
    keys = sorted(k for k in runs["key"].unique() if k.startswith(key)) if key else []
    if len(keys) != 1:
        raise unknown(
            "run" if not keys else "single run (several begin like this)", key, keys or list(runs["key"].unique())[:20]
        )
    rows: pd.DataFrame = runs[runs["key"] == keys[0]]
    return rows


_ended: dict[Path, tuple[tuple[int, int, int], dict[str, str]]] = {}  # statuses by file, valid while it is unchanged


def statuses(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the status of each key in the folder and one line for each unreadable file. Does not import pandas.

    A file is read again only after it was replaced, because processes that share a folder call this often.
    """
    stamps = {}
    for entry in os.scandir(folder):
        if entry.name.endswith(".parquet"):
            with suppress(FileNotFoundError):  # removed in the meantime by `compact`
                about = entry.stat()
                stamps[folder / entry.name] = (about.st_mtime_ns, about.st_size, about.st_ino)
    changed = sorted(path for path, stamp in stamps.items() if path not in _ended or _ended[path][0] != stamp)
    problems = []
    for path, found in zip(changed, _map_files(changed, ["key", "status"]), strict=True):
        _ended.pop(path, None)
        if isinstance(found, str):
            problems.append(found)
        else:
            ended = set(zip(found["key"].to_pylist(), found["status"].to_pylist(), strict=True))
            _ended[path] = stamps[path], dict(sorted(ended, key=lambda e: e[1] != "failed"))
    status: dict[str, str] = {}
    for path in sorted(stamps):
        for key, how in _ended.get(path, (None, {}))[1].items():
            if status.get(key, "failed") == "failed":
                status[key] = how
    return status, problems


def _map_files(paths: Sequence[Path], columns: list[str]) -> list[pa.Table | str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: read_file(path, columns), paths))


def _read_files(source: Path, columns: list[str]) -> tuple[list[pa.Table], list[str]]:
    answers = _map_files([source] if source.is_file() else sorted(source.glob("*.parquet")), columns)
    return [a for a in answers if isinstance(a, pa.Table)], [a for a in answers if isinstance(a, str)]


def read_file(path: Path, columns: list[str]) -> pa.Table | str:
    try:
        file = pq.ParquetFile(path)
        stored = file.schema_arrow  # read once: the property rebuilds the schema at each access
        version = (stored.metadata or {}).get(b"expbench_schema")
        if version is None:
            return f"{path}: not an expbench results table; file not changed, move it to another folder"
        if int(version) not in READ:
            return f"{path}: schema {int(version)}, but this expbench reads up to schema {VERSION}; file not changed"
        present = set(stored.names)
        if int(version) < RENAMED_IN:
            found = _with_present_names(file, columns, present)
            present = set(found.column_names)
        else:
            found = file.read([name for name in columns if name in present], use_threads=False)  # files: side by side
        for name in columns:
            if name not in present and int(version) < VERSION:
                meant = pa.scalar(LATER.get(name), SCHEMA.field(name).type)
                found = found.append_column(name, pa.repeat(meant, len(found)))
        found, wanted = found.select(columns), _schema(tuple(columns))
        return found if found.schema.equals(wanted) else found.cast(wanted)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0][:120]
        return f"{path}: corrupt ({reason}); file not changed, move it to another folder"


def _with_present_names(file: pq.ParquetFile, columns: list[str], present: set[str]) -> pa.Table:
    """Return those of the columns that a file of schema 1 to 5 holds, by the names that they and their values have now."""
    former = [FORMER_COLUMNS.get(name, name) for name in columns]
    found = file.read([name for name in former if name in present], use_threads=False)
    columns_now = {former: name for name, former in FORMER_COLUMNS.items()}
    found = found.rename_columns([columns_now.get(name, name) for name in found.column_names])
    for column, names in FORMER_VALUES.items():
        found = _with_values(found, column, partial(_present_name, names))
    return _with_values(found, "task_settings", _present_settings)


def _with_values(table: pa.Table, column: str, change: Callable[[str], str]) -> pa.Table:
    """Return the table with each text of one column changed: each different text once, as there are few."""
    if column not in table.column_names:
        return table
    texts = table[column].combine_chunks().dictionary_encode()
    changed = pa.array([change(text) for text in texts.dictionary.to_pylist()], pa.string()).take(texts.indices)
    return table.set_column(table.column_names.index(column), column, changed)


def _present_name(names: Mapping[str, str], text: str) -> str:
    return names.get(text, text)


def _present_settings(text: str) -> str:
    """Return the settings of a task, as JSON, by their present names."""
    return canonical({_PRESENT.get(name, name): value for name, value in json.loads(text).items()})


@lru_cache(maxsize=8)
def _schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns])


def finished(folder: Path, key: str) -> bool:
    """Return whether the key has its own file with a result other than a failure, written by any process."""
    path = folder / f"{key}.parquet"
    if not path.exists():
        return False
    answer = read_file(path, ["key", "status"])
    return isinstance(answer, pa.Table) and "failed" not in answer["status"].to_pylist()
