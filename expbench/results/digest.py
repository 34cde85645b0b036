"""Digest: a checksum of the contents of a results file, so that a damaged file is never read as other content.

Parquet has checksums of neither values nor names. The digest covers decoded contents, so it depends on no encoding,
chunks or version of a library: every column by its name, type, nulls and values, the number of rows and all metadata.
Columns have digests of their own, for a reader that takes only some of them. They find accidents, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

VERSION_KEY, COLUMNS_KEY, DIGEST_KEY = b"expbench_schema", b"expbench_columns", b"expbench_digest"
# What libraries add to the metadata of a file: they state again how its columns are typed.
_OF_LIBRARIES = (b"ARROW:schema", b"pandas")
_DIGITS = 16  # of the digest of a column
_SLICE = 1 << 16  # rows of a column that are decoded at a time where it has few different texts


def column_digest(column: pa.ChunkedArray) -> str:
    """Return 16 hexadecimal digits for the nulls and values of a column, however it is divided into chunks.

    Supported are texts, plain or as a dictionary, and types whose values have 1, 2, 4 or 8 bytes.
    """
    nulls, length = column.null_count, len(column)
    if nulls == length:  # the values below nulls may be anything
        return _of_nulls(length)
    found = hashlib.sha256(b"%d %d" % (length, nulls))
    bodies = hashlib.sha256()
    if nulls:
        valid = [np.asarray(chunk.is_valid().cast(pa.uint8())) for chunk in column.chunks]
        found.update(np.packbits(np.concatenate(valid)).tobytes())
    for chunk in _plain(column):
        if pa.types.is_string(chunk.type):
            lengths, body = _texts(chunk)
            found.update(lengths)
            bodies.update(body)
        else:
            found.update(_numbers(chunk))
    found.update(bodies.digest())
    return found.hexdigest()[:_DIGITS]


def seal(table: pa.Table, version: int, more: Mapping[bytes, bytes]) -> pa.Table:
    """Return the table with the metadata of a results file: its schema version, `more`, and the digests."""
    digests = "".join(column_digest(column) for column in table.columns).encode()
    metadata = {VERSION_KEY: b"%d" % version, COLUMNS_KEY: digests, **more}
    metadata[DIGEST_KEY] = _of_file(metadata, len(table), table.schema)
    # in this order: the metadata that `footer` looks for are near the end of a file
    return table.replace_schema_metadata({key: metadata[key] for key in (VERSION_KEY, COLUMNS_KEY, DIGEST_KEY, *more)})


def stated(metadata: Mapping[bytes, bytes], rows: int, schema: pa.Schema) -> dict[str, str]:
    """Return the digest of each column of a file, as stated; raise ValueError if its own digest does not match them."""
    digests = metadata.get(COLUMNS_KEY, b"").decode("ascii", "replace")
    if metadata.get(DIGEST_KEY) != _of_file(metadata, rows, schema) or len(digests) != _DIGITS * len(schema):
        raise ValueError("its metadata do not match its digest")
    return {name: digests[_DIGITS * i : _DIGITS * (i + 1)] for i, name in enumerate(schema.names)}


def verify(table: pa.Table, digests: Mapping[str, str]) -> None:
    """Raise ValueError that names a column of the table whose contents do not match its digest."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column_digest(column) != digests[name]:
            raise ValueError(f"column {name} does not match its digest")


@lru_cache(maxsize=1024)
def _of_nulls(length: int) -> str:
    return hashlib.sha256(b"%d %d" % (length, length)).hexdigest()[:_DIGITS]


def _of_file(metadata: Mapping[bytes, bytes], rows: int, schema: pa.Schema) -> bytes:
    left_out = (DIGEST_KEY, *_OF_LIBRARIES)
    texts = {key.hex(): value.hex() for key, value in metadata.items() if key not in left_out}
    columns = [[name, str(type_)] for name, type_ in zip(schema.names, schema.types, strict=True)]
    content = json.dumps({"columns": columns, "metadata": texts, "rows": rows}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest().encode()


def _plain(column: pa.ChunkedArray) -> Iterable[pa.Array]:
    if not pa.types.is_dictionary(column.type):
        yield from column.chunks
        return
    for chunk in column.chunks:
        for start in range(0, len(chunk), _SLICE):
            yield chunk.slice(start, _SLICE).dictionary_decode()


def _texts(chunk: pa.Array) -> tuple[bytes, memoryview]:
    """Return the lengths in bytes of the texts, as little-endian int32, and the texts; a null has no text."""
    if chunk.null_count:
        chunk = pc.fill_null(chunk, "")
    offsets = np.frombuffer(chunk.buffers()[1], np.int32, len(chunk) + 1, 4 * chunk.offset)
    body = chunk.buffers()[2]
    return _little(np.diff(offsets)), memoryview(body)[offsets[0] : offsets[-1]] if body is not None else memoryview(b"")


def _numbers(chunk: pa.Array) -> bytes:
    """Return the values as little-endian bytes; a null is 0."""
    if pa.types.is_boolean(chunk.type):
        chunk = chunk.cast(pa.uint8())
    if chunk.null_count:
        valid = np.asarray(chunk.is_valid().cast(pa.uint8()))
        return _little(np.where(valid.astype(bool), _values(chunk), 0))
    return _little(_values(chunk))


def _values(chunk: pa.Array) -> NDArray[np.int64]:
    """Return the values of a column, as whole numbers of the same width; what is below nulls may be anything."""
    width = chunk.type.bit_width // 8
    return np.frombuffer(chunk.buffers()[1], f"i{width}", len(chunk), width * chunk.offset)


def _little(numbers: NDArray[np.signedinteger]) -> bytes:
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()
