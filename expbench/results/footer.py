"""Footer: the kind and status of each key of a file, stated in its metadata.

`expbench run` asks which runs a folder already has, of thousands of files. Their answer stands near the end of each, with a
checksum of its own, so that no column needs to be decoded and the rest of the footer is not parsed.
"""

from __future__ import annotations

import hashlib
import json
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from expbench.results.digest import VERSION_KEY
from expbench.results.schema import DIGESTS_IN, READ

STATUSES_KEY = b"expbench_statuses"
_TAIL = 1 << 14  # bytes at the end of a file of one run that include the statement
_MAGIC = b"PAR1"
_VALUE_FOLLOWS = 0x18  # in the compact protocol of Thrift: the second field of a pair, a text


class Ending(NamedTuple):
    """How the rows of a key ended in a file. kind: `run`, `tuning`, or that of a control."""

    kind: str
    status: str


Endings = dict[str, Ending]


def endings_of(table: pa.Table) -> Endings:
    """Return the kind and status of each key of a table; of a key with several row sets, a result before a failure."""
    names = ["key", "kind", "status"]
    stated = pa.table([table[name].cast(pa.string()) for name in names], names)
    stated = stated.group_by(names, use_threads=False).aggregate([])
    found: Endings = {}
    columns = (stated[name].to_pylist() for name in names)
    for key, kind, status in sorted(zip(*columns, strict=True), key=str):
        if key not in found or found[key].status == "failed":
            found[key] = Ending(kind, status)
    return found


def statement(endings: Endings) -> dict[bytes, bytes]:
    """Return the metadata that state these endings, with their checksum."""
    content = json.dumps(endings, separators=(",", ":")).encode()
    return {STATUSES_KEY: b"%s %s" % (_checksum(content), content)}


def read_stated(file: BinaryIO, size: int) -> Endings | None:
    """Return the endings that an open file of `size` bytes states; None if it must be read as a table to know."""
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    footer = len(tail) - 8 - int.from_bytes(tail[-8:-4], "little")
    at = tail.rfind(STATUSES_KEY, max(0, footer))
    if tail[-4:] != _MAGIC or at < 0:
        return None
    version = _value_after(tail, tail.rfind(VERSION_KEY, max(0, footer)) + len(VERSION_KEY))
    stated = _value_after(tail, at + len(STATUSES_KEY))
    if version is None or stated is None or not version.isdigit() or int(version) not in READ or int(version) < DIGESTS_IN:
        return None
    checksum, _, content = stated.partition(b" ")
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
