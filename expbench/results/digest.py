"""Digest: a checksum of the contents of a results file, so that a damaged file is never read as other content.

Parquet has checksums of neither values nor names. The digest covers decoded contents, so it depends on no encoding, chunks
or version of a library: names and types of the columns, nulls and values, the number of rows and all metadata. It finds
accidents, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

VERSION_KEY, DIGEST_KEY = b"expbench_schema", b"expbench_digest"
_OF_LIBRARIES = (b"ARROW:schema", b"pandas")  # metadata that libraries add: they state again how columns are typed
MISMATCH = "its contents do not match its digest"
_SLICE = 1 << 16  # rows of a dictionary of texts that are decoded at a time


def of_table(table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """Return the digest of a table with these metadata, as 64 hexadecimal digits; texts may be dictionaries.

    Columns have the types of the schema: texts, flags, and numbers of up to 8 bytes.
    """
    names, types, groups = _layout(table.schema)
    found = _of_metadata(names, types, len(table), metadata)
    for members in groups:
        parts = (part for i in members for part in _parts(table.column(i)))
        _update(found, ((part, 0, part.rows) for part in parts))
    return str(found.hexdigest()).encode()


def of_files(table: pa.Table, lengths: Sequence[int], metadata: Sequence[Mapping[bytes, bytes]]) -> list[bytes]:
    """Return the digest of each of several files whose rows, of these lengths, were joined to one table of plain texts.

    Columns are prepared for all files at once, which is several times as fast as one file after the other.
    """
    table = table.combine_chunks()
    if any(column.num_chunks > 1 for column in table.columns):  # of more text than one chunk can hold
        starts = np.cumsum([0, *lengths]).tolist()
        return [of_table(table.slice(i, n), own) for i, n, own in zip(starts, lengths, metadata, strict=False)]
    names, types, groups = _layout(table.schema)
    columns = [_part(column.chunk(0)) for column in table.columns] if len(table) else []
    found, start = [], 0
    for length, own in zip(lengths, metadata, strict=True):
        one = _of_metadata(names, types, length, own)
        for members in groups:
            _update(one, ((columns[i], start, start + length) for i in members if length))
        found.append(one.hexdigest().encode())
        start += length
    return found


def seal(table: pa.Table, version: int, more: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the metadata of a results file with this table: its schema version, `more`, and the digest."""
    metadata = {VERSION_KEY: b"%d" % version, **more}
    return {**metadata, DIGEST_KEY: of_table(table, metadata)}


def verify(table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    """Raise ValueError if all columns of a file do not match the digest in its metadata."""
    if metadata.get(DIGEST_KEY) != of_table(table, metadata):
        raise ValueError(MISMATCH)


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which may be stored as a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _layout(schema: pa.Schema) -> tuple[list[str], list[str], list[list[int]]]:
    """Return the names and types of the columns, and the numbers of the columns of each type."""
    types = [str(value_type(field.type)) for field in schema]
    groups = [[i for i, own in enumerate(types) if own == kind] for kind in sorted(set(types))]
    return schema.names, types, groups


class _Part(NamedTuple):
    """Rows of a column. marks: lengths of texts, -1 for null; or 0 for each number that is null, else 1.

    body: the bytes of all texts, or the numbers, 0 where null. ends: where the texts begin and end, None for numbers.
    """

    rows: int
    marks: NDArray[Any]
    body: Any
    ends: NDArray[Any] | None


def _of_metadata(names: Sequence[str], types: Sequence[str], rows: int, metadata: Mapping[bytes, bytes]) -> Any:
    """Return a hash of all but the rows."""
    found = hashlib.sha256(json.dumps([names, types, rows], separators=(",", ":")).encode())
    left_out = (DIGEST_KEY, *_OF_LIBRARIES)
    for key, value in sorted((key, value) for key, value in metadata.items() if key not in left_out):
        found.update(b"%d %s %d %s" % (len(key), key, len(value), value))
    return found


def _update(found: Any, parts: Iterable[tuple[_Part, int, int]]) -> None:
    """Add rows of columns of one type to a hash: the marks of all columns, and their values."""
    marks, bodies = hashlib.sha256(), hashlib.sha256()
    for part, start, stop in parts:
        marks.update(part.marks[start:stop].data)
        bodies.update(part.body[start:stop] if part.ends is None else part.body[part.ends[start] : part.ends[stop]])
    found.update(marks.digest() + bodies.digest())


def _parts(column: pa.ChunkedArray) -> Iterator[_Part]:
    """Yield the rows of a column in parts, with dictionaries of texts decoded."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), _SLICE):
            part = chunk.slice(start, _SLICE)
            yield _part(part.dictionary_decode() if pa.types.is_dictionary(part.type) else part)


def _part(rows: pa.Array) -> _Part:
    valid = _bits(rows.buffers()[0], rows.offset, len(rows)).view(np.bool_) if rows.null_count else None
    if not pa.types.is_string(rows.type):
        values = _values(rows)
        if valid is None:
            return _Part(len(rows), np.ones(len(rows), np.uint8), _little(values), None)
        return _Part(len(rows), valid.view(np.uint8), _little(np.where(valid, values, np.zeros(1, values.dtype))), None)
    ends = np.frombuffer(rows.buffers()[1], np.int32, len(rows) + 1, 4 * rows.offset)
    lengths = np.diff(ends)
    if valid is not None and lengths[~valid].any():  # some bytes belong to nulls
        return _part(pa.array(rows.to_pylist(), pa.string()))
    body = memoryview(rows.buffers()[2] or b"")
    return _Part(len(rows), _little(lengths if valid is None else np.where(valid, lengths, np.int32(-1))), body, ends)


def _values(part: pa.Array) -> NDArray[Any]:
    """Return numbers as whole numbers of the same width; below nulls they may be anything."""
    if pa.types.is_boolean(part.type):
        return _bits(part.buffers()[1], part.offset, len(part))
    width = part.type.bit_width // 8
    return np.frombuffer(part.buffers()[1], f"i{width}", len(part), width * part.offset)


def _bits(buffer: pa.Buffer, start: int, count: int) -> NDArray[np.uint8]:
    whole = np.frombuffer(buffer, np.uint8, (start + count + 7) // 8 - start // 8, start // 8)
    return np.unpackbits(whole, bitorder="little")[start % 8 : start % 8 + count]


def _little(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in little-endian order, as one block of memory."""
    return np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))
