"""Reading of several results files into one table: a check of many short files at once takes hardly longer than of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from expbench.results import digest, footer, row_sets, validity
from expbench.results.reading import NoResults, Stamp, checked, damaged, read_copy, read_encoded
from expbench.results.row_sets import RowSet

_SHORT = 1 << 26  # bound on the bytes of texts of a file that is verified together with others

Rows = Callable[[pa.Table], pa.Table]  # the rows of some files that a reader needs, of each run at least one


class Part(NamedTuple):
    """Files that were read together. table: their rows, with the column `row_sets.FILE`. missing: what has disappeared."""

    table: pa.Table
    sets: list[RowSet]
    problems: list[str]
    stamps: dict[Path, Stamp]
    missing: list[Path]


def read(numbered: Sequence[tuple[int, Path]], folder: Path | None, columns: Sequence[str], rows: Rows | None) -> Part:
    """Read files into one table, from their copies where they have one that matches."""
    part = Part(pa.table({}), [], [], {}, [])
    short: list[_Short] = []
    tables = []
    copied, stamps = _copied(numbered, folder, columns)
    part.stamps.update(stamps)
    for number, path in numbered:
        if path in stamps:
            continue
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
    for table in (copied, _verified(short, columns, part.problems)):
        if len(table):
            part.sets.extend(row_sets.sets_of(table))
            tables.append(row_sets.encoded(table if rows is None else rows(table)))
    part.problems.sort()
    return part._replace(table=pa.concat_tables(tables) if tables else part.table)


def _copied(
    numbered: Sequence[tuple[int, Path]], folder: Path | None, columns: Sequence[str]
) -> tuple[pa.Table, dict[Path, Stamp]]:
    """Return the rows of the files with a copy, and their stamps; nothing if some of them cannot be results."""
    found = [(number, path, *own) for number, path in numbered if (own := read_copy(path, folder)) is not None]
    with suppress(pa.ArrowException, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        table = footer.joined([each[2] for each in found], columns) if found else pa.table({})
        if not found or validity.reason(table) is None:
            table = row_sets.with_file(table, [each[0] for each in found], [each[2].rows for each in found])
            return table, {path: stamp for _, path, _, stamp in found}
    return pa.table({}), {}


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
