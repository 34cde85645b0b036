"""Digest: a checksum of the contents of a results file, so that a damaged file is never read as other content.

Parquet has checksums of neither values nor names. The digest covers decoded contents, so it depends on no encoding, chunks
or version of a library: names and types of the columns, nulls and values, the number of rows and all metadata. It finds
accidents, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from expbench.results.schema import SCHEMA

VERSION_KEY, DIGEST_KEY = b"expbench_schema", b"expbench_digest"
_OF_LIBRARIES = (b"ARROW:schema", b"pandas")  # metadata that libraries add: they state again how columns are typed
_SLICE = 1 << 16  # rows of a dictionary of texts that are decoded at a time
_SMALL = 1 << 13  # rows of a table whose columns of one type are joined


def of_table(table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """Return the digest of a table with these metadata, as 64 hexadecimal digits; texts may be dictionaries.

    Columns have the types of the schema: texts, flags, and numbers of up to 8 bytes. Columns of one type are digested
    together, which is as fast for many columns as for one: their texts, and their numbers with a mark for each null.
    """
    schema = table.schema
    names, types, groups = _OF_SCHEMA if schema.equals(SCHEMA) else _layout(schema)
    found = hashlib.sha256(json.dumps([names, types, len(table)], separators=(",", ":")).encode())
    left_out = (DIGEST_KEY, *_OF_LIBRARIES)
    for key, value in sorted((key, value) for key, value in metadata.items() if key not in left_out):
        found.update(b"%d %s %d %s" % (len(key), key, len(value), value))
    small = 0 < len(table) <= _SMALL and schema.equals(SCHEMA)
    arrays = table.combine_chunks().to_batches()[0].columns if small else []
    for kind, members in groups:
        chunks = [pa.concat_arrays([arrays[i] for i in members])] if small else _parts(table.column(i) for i in members)
        found.update(_of_texts(chunks) if kind == "string" else _of_numbers(chunks))
    return found.hexdigest().encode()


def seal(table: pa.Table, version: int, more: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the metadata of a results file with this table: its schema version, `more`, and the digest."""
    metadata = {VERSION_KEY: b"%d" % version, **more}
    return {**metadata, DIGEST_KEY: of_table(table, metadata)}


def verify(table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    """Raise ValueError if all columns of a file do not match the digest in its metadata."""
    if metadata.get(DIGEST_KEY) != of_table(table, metadata):
        raise ValueError("its contents do not match its digest")


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which may be stored as a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _layout(schema: pa.Schema) -> tuple[list[str], list[str], list[tuple[str, list[int]]]]:
    """Return the names and types of the columns, and for each type the numbers of its columns."""
    types = [str(value_type(field.type)) for field in schema]
    groups = [(kind, [i for i, own in enumerate(types) if own == kind]) for kind in sorted(set(types))]
    return schema.names, types, groups


_OF_SCHEMA = _layout(SCHEMA)


def _of_texts(chunks: Iterable[pa.Array]) -> bytes:
    """Return the digest of texts: of their lengths in bytes, -1 for null, and of the texts one after the other."""
    lengths, bodies = hashlib.sha256(), hashlib.sha256()
    for part in chunks:
        offsets = np.frombuffer(part.buffers()[1], np.int32, len(part) + 1, 4 * part.offset)
        own, valid = np.diff(offsets), _valid(part)
        body = memoryview(part.buffers()[2] or b"")
        if valid is not None and own[~valid].any():  # some bytes belong to nulls
            return _of_texts([pa.array(part.to_pylist(), pa.string())])
        lengths.update(_little(own if valid is None else np.where(valid, own, -1)))
        bodies.update(body[offsets[0] : offsets[-1]])
    return lengths.digest() + bodies.digest()


def _of_numbers(chunks: Iterable[pa.Array]) -> bytes:
    """Return the digest of numbers: of a byte for each, 0 for null, and of the bytes of their values, 0 where null."""
    marks, numbers = hashlib.sha256(), hashlib.sha256()
    for part in chunks:
        values, valid = _values(part), _valid(part)
        marks.update(np.ones(len(part), np.uint8) if valid is None else valid.view(np.uint8))
        if valid is not None:
            values = np.where(valid, values, np.zeros(1, values.dtype))
        numbers.update(_little(values))
    return marks.digest() + numbers.digest()


def _values(part: pa.Array) -> NDArray[Any]:
    """Return numbers as whole numbers of the same width; below nulls they may be anything."""
    if pa.types.is_boolean(part.type):
        return _bits(part.buffers()[1], part.offset, len(part))
    width = part.type.bit_width // 8
    return np.frombuffer(part.buffers()[1], f"i{width}", len(part), width * part.offset)


def _parts(columns: Iterable[pa.ChunkedArray]) -> Iterator[pa.Array]:
    """Yield the rows of one column after the other, in parts whose dictionaries of texts are decoded."""
    for column in columns:
        for chunk in column.chunks:
            for start in range(0, len(chunk), _SLICE):
                part = chunk.slice(start, _SLICE)
                yield part.dictionary_decode() if pa.types.is_dictionary(part.type) else part


def _valid(part: pa.Array) -> NDArray[np.bool_] | None:
    """Return which values are not null; None if all are."""
    return _bits(part.buffers()[0], part.offset, len(part)).view(np.bool_) if part.null_count else None


def _bits(buffer: pa.Buffer, start: int, count: int) -> NDArray[np.uint8]:
    whole = np.frombuffer(buffer, np.uint8, (start + count + 7) // 8 - start // 8, start // 8)
    return np.unpackbits(whole, bitorder="little")[start % 8 : start % 8 + count]


def _little(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in little-endian order, as one block of memory."""
    return np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))
