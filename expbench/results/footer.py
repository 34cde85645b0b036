"""Footer: what a file states near its end beside its columns: the kind and status of each key, and a copy of its rows.

`expbench run` asks which runs a folder already has, of thousands of files. The answer stands in the metadata of each, with
a checksum of its own, so that no column needs to be decoded and the rest of the footer is not parsed.

Parquet takes about ten microseconds to open a column, however short, so a file of one run takes a millisecond. A short file
has its rows once more, as JSON before its footer, where a column is the list of its different values. A checksum of the
whole file, columns included, stands with this copy: a file of which any byte was changed, or that another program has
written, is read from its columns. Readers of Parquet do not see the copy, since the footer says where the columns are.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from expbench.results import digest, row_sets
from expbench.results.digest import VERSION_KEY
from expbench.results.schema import DIGESTS_IN, READ, SCHEMA, VERSION

STATUSES_KEY = b"expbench_statuses"
TAIL = 1 << 13  # bytes at the end of a file of one run that include the statement
_MAGIC = b"PAR1"
_VALUE_FOLLOWS = 0x18  # in the compact protocol of Thrift: the second field of a pair, a text
MOST_ROWS = 1_000  # of a table with a copy: beyond, the rows take longer to read than the columns to open
_MOST_BYTES = 1 << 17
_NAME = b"expbench_copy  1"  # follows the copy, its length in 4 bytes and the checksum; the footer follows
_CHECKSUM, _LENGTH = 32, 4
_NUMBER = {name: i for i, name in enumerate(SCHEMA.names)}


class Ending(NamedTuple):
    """How the rows of a key ended in a file. kind: `run`, `tuning`, or that of a control."""

    kind: str
    status: str


Endings = dict[str, Ending]


def endings_of(table: pa.Table) -> Endings:
    """Return the kind and status of each key of a table; of a key with several row sets, a result before a failure."""
    names = ["key", "kind", "status"]
    stated = pa.table([table[name].cast(pa.string()) for name in names], names)
    found: Endings = {}
    for key, kind, status in sorted(row_sets.distinct(stated), key=str):
        if key not in found or found[key].status == "failed":
            found[key] = Ending(kind, status)
    return found


def statement(endings: Endings) -> dict[bytes, bytes]:
    """Return the metadata that state these endings, with their checksum."""
    content = json.dumps(endings, separators=(",", ":")).encode()
    return {STATUSES_KEY: b"%s %s" % (_checksum(content), content)}


def stated(tail: bytes) -> Endings | None:
    """Return the endings that a file states in its last `TAIL` bytes; None if it must be read as a table to know."""
    footer = len(tail) - 8 - int.from_bytes(tail[-8:-4], "little")
    at = tail.rfind(STATUSES_KEY, max(0, footer))
    if tail[-4:] != _MAGIC or at < 0:
        return None
    version = _value_after(tail, tail.rfind(VERSION_KEY, max(0, footer)) + len(VERSION_KEY))
    value = _value_after(tail, at + len(STATUSES_KEY))
    if version is None or value is None or not version.isdigit() or int(version) not in READ or int(version) < DIGESTS_IN:
        return None
    checksum, _, content = value.partition(b" ")
    if checksum != _checksum(content):
        return None
    try:
        return {str(key): Ending(str(kind), str(status)) for key, (kind, status) in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _value_after(data: bytes, at: int) -> bytes | None:
    """Return the value of a pair of the footer whose name ends at `at`; None if none follows or it is cut off."""
    if at >= len(data) or data[at] != _VALUE_FOLLOWS:
        return None
    length = 0
    for i, byte in enumerate(data[at + 1 : at + 6]):  # seven bits a byte, the lowest first
        length |= (byte & 127) << 7 * i
        if byte < 128:
            value = data[at + 2 + i : at + 2 + i + length]
            return value if len(value) == length else None
    return None


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode()


class Copy(NamedTuple):
    """Rows of a file. values: the different values of each column of the schema; one if all rows are the same.

    Several reals are stated by their bits, in base64, which is exact and read at once. places: of a column with several
    values, by name, which of them each row has, as whole numbers of two bytes in base64; without it, each row its own.
    """

    rows: int
    values: list[list[Any] | str]
    places: dict[str, str]


def _text(numbers: NDArray[Any]) -> str:
    return b64encode(numbers.tobytes()).decode()


def with_copy(data: bytes, table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file with a copy of its table, of the schema; as they are for a long table."""
    content = _content(table) if 0 < len(table) <= MOST_ROWS else None
    if content is None:
        return data
    end = _footer(data)
    head = data[:end] + content + len(content).to_bytes(_LENGTH, "little")
    tail = _NAME + data[end:]
    return head + hashlib.sha256(head + tail).digest() + tail


def _content(table: pa.Table) -> bytes | None:
    """Return the copy of a table; None if it would be long, or not the same in every bit."""
    values: list[list[Any] | str] = []
    places = {}
    for name in SCHEMA.names:
        column = _plain(table[name])
        found = column.dictionary_encode(null_encoding="encode")
        if 1 < len(found.dictionary) <= len(column) // 2:
            places[name] = _text(found.indices.to_numpy().astype("<u2"))
            column = found.dictionary
        elif len(found.dictionary) == 1:
            column = found.dictionary
        real = SCHEMA.field(name).type == pa.float64()
        bits = column.to_numpy().astype("<i8") if real and not column.null_count else None
        if bits is not None and (len(bits) > 1 or np.isnan(bits.view("<f8")[0])):
            values.append(_text(bits))
        else:
            values.append((column.view(pa.float64()) if real else column).to_pylist())
    content = json.dumps([VERSION, len(table), values, places], separators=(",", ":")).encode()
    if len(content) > _MOST_BYTES:
        return None
    again = joined([Copy(*json.loads(content)[1:])], SCHEMA.names)
    same = digest.of_table(again, {}) == digest.of_table(table.select(SCHEMA.names), {})
    return content if same else None  # JSON has no signs of NaN


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column with texts as they are, and reals and times as whole numbers of the same bits."""
    column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.view(pa.int64()) if column.type == pa.float64() or pa.types.is_timestamp(column.type) else column


def of_file(data: bytes) -> Copy | None:
    """Return the copy in the bytes of a whole file; None if it has none, of this schema, that matches."""
    name = _footer(data) - len(_NAME)
    checksum = name - _CHECKSUM
    length = checksum - _LENGTH
    if length < 0 or data[name : name + len(_NAME)] != _NAME:
        return None
    whole = hashlib.sha256(memoryview(data)[:checksum])
    whole.update(memoryview(data)[name:])
    start = length - int.from_bytes(data[length:checksum], "little")
    if start < 0 or whole.digest() != data[checksum:name]:
        return None
    try:
        version, *copy = json.loads(data[start:length])
        known = version == VERSION and len(copy[1]) == len(_NUMBER) and 0 < copy[0] <= MOST_ROWS
        return Copy(*copy) if known else None
    except (ValueError, TypeError, IndexError, RecursionError):
        return None


def _footer(data: bytes) -> int:
    """Return where the footer of a Parquet file begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def joined(copies: Sequence[Copy], columns: Sequence[str]) -> pa.Table:
    """Return these columns of copies, one after the other, with texts as dictionaries.

    Raise ValueError, TypeError, IndexError or an error of Arrow for copies that `with_copy` has not made.
    """
    rows = np.array([copy.rows for copy in copies], np.int64)
    same = np.repeat(np.arange(len(copies)), rows)
    found = {}
    for name in columns:
        kind, stated = SCHEMA.field(name).type, [copy.values[_NUMBER[name]] for copy in copies]
        lists = [np.frombuffer(b64decode(each), "<f8") if isinstance(each, str) else each for each in stated]
        constant = set(map(len, lists)) == {1}
        places = same if constant else np.concatenate(list(_places(name, copies, list(map(len, lists)))))
        if all(isinstance(each, str) for each in stated):
            found[name] = _column(kind, np.concatenate(lists), places)
        else:
            found[name] = _column(kind, list(chain.from_iterable(lists)), places)
    return pa.table(found)


def _places(name: str, copies: Sequence[Copy], counts: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Yield which of the joined values the rows of each copy have."""
    first = 0
    for copy, count in zip(copies, counts, strict=True):
        places = copy.places.get(name)
        if places is not None:
            found = np.frombuffer(b64decode(places), "<u2")
            if len(found) != copy.rows or found.max() >= count:
                raise ValueError(f"places of {name}")
            yield found.astype(np.int64) + first
        elif count in (1, copy.rows):
            yield np.arange(first, first + copy.rows) if count > 1 else np.full(copy.rows, first)
        else:
            raise ValueError(f"values of {name}")
        first += count


def _column(kind: pa.DataType, values: list[Any] | NDArray[Any], places: NDArray[np.int64]) -> pa.Array:
    stored = pa.int64() if pa.types.is_timestamp(kind) else kind
    column = pa.array(values, stored)
    if kind != pa.string():
        return column.take(pa.array(places)).cast(kind)
    encoded = column.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.take(pa.array(places)), encoded.dictionary)
