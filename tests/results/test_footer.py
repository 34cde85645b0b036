"""The copy of the rows of a short file: the same rows as its columns, and never those of a file that has changed."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expbench.results import digest, footer, reading, reported, store, together
from expbench.results.schema import SCHEMA, VERSION
from tests.results.rows import control, trained

SPECIAL = np.array([math.nan, -math.nan, 0.0, -0.0, math.inf, 1e-310, 0.1], np.float64)


def keys(count: int) -> list[str]:
    return [f"{number:016x}" for number in range(count)]


def folder_of(folder: Path) -> list[Path]:
    """Write files whose columns are constant, repeat values, and have a value a row."""
    found = []
    unmeasured = [trained(key=keys(4)[0], metric=None, network_degree=2**62 + 1)]
    for number, key in enumerate(keys(4)):
        rows = [
            trained(key=key, split=split, slice="", step=step, metric="nmse", value=SPECIAL[step - 4 + number], primary=last)
            for split, last in (("train", False), ("validation", True), ("test", True))
            for step in range(4 + (number == 1))
        ]
        found.append(store.write(folder, key, rows + unmeasured[number:]))
    found.append(store.write(folder, "f" * 16, [control(key="f" * 16, value=-math.nan, metric="nmse")]))
    return found


def tables(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: store.Rows | None) -> list[pa.Table]:
    """Return the rows of a folder from copies, and from columns."""
    found = []
    for name, instead in (("read_encoded", lambda *_: pytest.fail("columns were read")), ("read_copy", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(together, name, instead)
            found.append(store.read_tables(folder, SCHEMA.names, rows))
    assert found[0].problems == found[1].problems == []
    assert found[0].stamps == found[1].stamps
    return [reading.plain(each.table) for each in found]


@pytest.mark.parametrize("rows", [None, reported.shown_rows])
@pytest.mark.parametrize("together_at_once", [250, 1])
def test_the_rows_of_copies_are_those_of_the_columns_in_every_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: store.Rows | None, together_at_once: int
) -> None:
    folder_of(tmp_path)
    monkeypatch.setattr(store, "_AT_ONCE", together_at_once)
    copied, read = tables(tmp_path, monkeypatch, rows)
    assert len(copied) > 5
    assert digest.of_table(copied, {}) == digest.of_table(read, {})


def test_a_file_of_which_a_byte_was_changed_is_read_from_its_columns(tmp_path: Path) -> None:
    path = folder_of(tmp_path)[0]
    data = path.read_bytes()
    assert footer.of_file(data) is not None
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert footer.of_file(changed) is None
    for end in (0, 1, 7, 8, 50, len(data) - 1):
        assert footer.of_file(data[:end]) is None


def test_a_file_that_another_program_has_written_again_has_no_copy(tmp_path: Path) -> None:
    path = folder_of(tmp_path)[0]
    pq.write_table(pq.read_table(path).slice(1), path)
    assert footer.of_file(path.read_bytes()) is None
    contents = store.read_tables(path, SCHEMA.names)
    assert len(contents.table) == 0
    assert "do not match its digest" in contents.problems[0]


def test_a_long_table_has_no_copy(tmp_path: Path) -> None:
    score = {"key": "a" * 16, "split": "test", "slice": "", "metric": "nmse", "primary": True, "value": 1.0}
    rows = [trained(**score, step=step) for step in range(footer.MOST_ROWS + 1)]
    data = store.write(tmp_path, "a" * 16, rows).read_bytes()
    assert footer.of_file(data) is None
    assert len(store.read(tmp_path).frame) == len(rows)


@pytest.mark.parametrize(
    "change",
    [
        lambda copy: copy[1].__setitem__(0, ["../b"]),
        lambda copy: copy[1].__setitem__(0, []),
        lambda copy: copy[1].__setitem__(0, 1),
        lambda copy: copy[1].__setitem__(SCHEMA.names.index("step"), ["x"]),
        lambda copy: copy[2].__setitem__("split", "AAAA"),
        lambda copy: copy[2].__setitem__("split", "////" * 9),
        lambda copy: copy.__setitem__(2, []),
        lambda copy: copy.__setitem__(0, 10**9),
        lambda copy: copy.__setitem__(1, []),
    ],
)
def test_a_copy_that_cannot_be_one_is_left_for_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object
) -> None:
    expected = [len(pq.read_table(path)) for path in folder_of(tmp_path)]
    path = tmp_path / f"{keys(4)[0]}.parquet"
    data = path.read_bytes()
    found = footer.of_file(data)
    assert found is not None
    copy = [found.rows, found.values, found.places]
    change(copy)  # type: ignore[operator]
    monkeypatch.setattr(footer, "_content", lambda _: json.dumps([VERSION, *copy]).encode())
    content = data.index(b"[%d," % VERSION)
    path.write_bytes(footer.with_copy(data[:content] + data[footer._footer(data) :], pq.read_table(path)))
    contents = store.read_tables(tmp_path, SCHEMA.names)
    assert contents.problems == []
    assert len(contents.table) == sum(expected)


def test_a_table_that_json_cannot_hold_has_no_copy(tmp_path: Path) -> None:
    rows = [control(key="a" * 16, metric="nmse", value=value) for value in (float(SPECIAL[1]), None, 1.0)]
    path = store.write(tmp_path, "a" * 16, rows)
    assert footer.of_file(path.read_bytes()) is None, "the sign of NaN beside a null"
    contents = store.read_tables(tmp_path, SCHEMA.names)
    assert contents.problems == []
    assert digest.of_table(contents.table, {}) == digest.of_table(pq.read_table(path).replace_schema_metadata(None), {})
