"""Wrong numbers, nothing said: results files that hold runs twice, large whole numbers, and flipped bits."""

import json
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expbench.results import digest, reading, row_sets, store
from expbench.results.compact import compact
from expbench.results.schema import COLUMNS, SCHEMA, VERSION
from expbench.results.validity import UNBOUNDED
from tests.cases.poison import KEY, WHOLE, healthy, rows, unsealed
from tests.conftest import CommandLine
from tests.results.rows import control, trained

outcomes = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "flip_bits.py"))["outcomes"]


def table_of(*parts: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([row for part in parts for row in part], schema=SCHEMA)


def test_a8_a_run_that_stands_twice_in_a_file_counts_once(expbench: CommandLine) -> None:
    folders = [Path("once"), Path("twice")]
    seeds = [rows(f"{seed:016x}", "s6", seed=seed) for seed in range(3)]
    for folder, parts in zip(folders, (seeds, [*seeds, *seeds]), strict=True):
        folder.mkdir()
        unsealed(folder / "runs.parquet", table_of(*parts))
    once, twice = (store.read(folder).frame for folder in folders)
    pd.testing.assert_frame_equal(once, twice)
    told = [expbench("trace", "0" * 15 + "1", "--results", str(folder)) for folder in folders]
    assert (told[0].code, told[0].out) == (0, told[1].out)
    pages = [Path(expbench("report", "--results", str(folder)).out.strip()).with_name("report.md") for folder in folders]
    texts = [page.read_text().replace(str(folder), "F") for page, folder in zip(pages, folders, strict=True)]
    assert "3 runs of 1 models" in texts[0]
    assert texts[0] == texts[1]


def test_a8_of_several_sets_of_a_key_in_a_file_the_latest_result_is_kept(tmp_path: Path) -> None:
    day = 86_400_000
    failed, early, late = (
        rows(KEY, "s6", status=status, created=time * day, run_seconds=float(time))
        for time, status in ((3, "failed"), (1, "ok"), (2, "ok"))
    )
    for name, parts in {"a": (failed, early, late), "b": (late, early, failed)}.items():
        unsealed(tmp_path / "runs.parquet", table_of(*parts))
        assert set(store.read(tmp_path).frame["run_seconds"]) == {2.0}, name
        assert set(store.read_run(tmp_path, KEY).frame["run_seconds"]) == {2.0}
        assert store.statuses(tmp_path)[0] == {KEY: "ok"}
    store.write_table(tmp_path, "runs", table_of(failed, early, late, late))
    assert pq.read_table(tmp_path / "runs.parquet")["run_seconds"].to_pylist() == [2.0] * len(late), "and in what is written"


def test_a8_report_and_trace_agree_if_a_run_stands_in_two_files(tmp_path: Path) -> None:
    store.write(tmp_path, KEY, rows(KEY, "s6", created=1, run_seconds=1.0))
    store.write(tmp_path, "other", rows(KEY, "s6", created=2, run_seconds=2.0))
    store.write(tmp_path, "third", rows(KEY, "s6", created=3, run_seconds=3.0, status="failed"))
    for frame in (store.read(tmp_path).frame, store.read_run(tmp_path, KEY[:5]).frame):
        assert set(frame["run_seconds"]) == {2.0}


def test_a10_whole_numbers_beside_nulls_stay_exact(expbench: CommandLine) -> None:
    folder, degree = Path("results"), 19_133_277_619_315_905  # the degree of s6-poly, L=64, without a norm, at depth 8
    folder.mkdir()
    whole = [name for name, kind in COLUMNS.items() if kind == pa.int64()]
    most = dict.fromkeys(whole, 2**53 - 1) | dict.fromkeys(UNBOUNDED, 2**63 - 1)
    store.write(folder, "a" * 16, rows("a" * 16, "s6", **most))
    store.write(folder, "b" * 16, rows("b" * 16, "s6-poly", network_degree=degree, network_order=degree))
    store.write(folder, "c" * 16, [control(key="c" * 16)])  # all of them are null
    compact(folder)
    after = pq.read_table(folder / "table.parquet")
    found = {row["key"][0]: row for row in after.to_pylist()}
    assert {name: found["a"][name] for name in whole} == most
    assert (found["b"]["network_degree"], found["b"]["network_order"]) == (degree, degree)
    assert {found["c"][name] for name in whole} == {None}
    frame = store.read(folder).frame
    assert set(frame.loc[frame["key"] == "b" * 16, "network_degree"]) == {degree}
    assert expbench("report").code == 0
    assert f"degree {degree}, order {degree}" in Path("results/report/report.md").read_text()


def test_a10_a_degree_beyond_the_largest_whole_number_is_shown_as_a_bound(expbench: CommandLine) -> None:
    """s6-poly at depth 16 and L=64: its degree has 33 digits."""
    deep = [
        "--task",
        "polyreg",
        "--models",
        "s6-poly",
        "--L",
        "64",
        "--norm",
        "none",
        "--depth",
        "16",
        "--steps",
        "1",
        "--seeds",
        "0",
    ]
    sizes = ["-t", "test_size=64", "-t", "validation_size=64", "--batch-size", "4", "--device", "cpu"]
    assert expbench("run", *deep, *sizes).code == 0
    assert expbench("compact").code == 0
    frame = store.read(Path("results")).frame
    assert set(frame.loc[frame["kind"] == "run", "network_degree"]) == {2**63 - 1}
    assert expbench("report").code == 0
    assert "degree at least 2^63 - 1, order 64" in Path("results/report/report.md").read_text()


def test_a10_no_reader_meets_a_whole_number_that_a_float_cannot_hold(tmp_path: Path) -> None:
    for name in ("seed", "parameters"):
        store.write_table(tmp_path, KEY, table_of(rows(KEY, "s6", **{name: 2**53})))
        found = store.read(tmp_path)
        assert (len(found.frame), len(found.problems)) == (0, 1)
        assert f"{name} is {2**53}" in found.problems[0]


def test_a11_no_flipped_bit_of_a_file_is_read_as_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("short", 10_000), ("long", 1)):  # a long file is compressed in another way, in blocks of rows
        monkeypatch.setattr(store, "_FEW_ROWS", small)
        monkeypatch.setattr(store, "_ROW_GROUP", small)
        path = store.write(tmp_path, name, [row for i in range(3) for row in rows(f"{i:016x}", "s6", error="none")])
        found = outcomes(path, 150)
        assert found["rows other"] + found["statuses other"] == 0
        assert found["rows refused"] > 50


def test_a11_a_damaged_file_is_named_by_every_reader(expbench: CommandLine) -> None:
    folder = Path("results")
    folder.mkdir()
    healthy(folder)
    good = pq.read_table(folder / f"{WHOLE[0]}.parquet")
    bad = good.set_column(good.column_names.index("value"), "value", pa.array([0.0] * len(good)))
    pq.write_table(bad, folder / f"{WHOLE[0]}.parquet")  # other values below the digest of the former
    for words in (["report"], ["trace", WHOLE[0]], ["compare", "results", "results"], ["compact"]):
        answer = expbench(*words)
        assert answer.code == 2
        assert f"{WHOLE[0]}.parquet: corrupt (its contents do not match its digest)" in answer.err
    assert WHOLE[0] not in Path("results/report/report.md").read_text()


def test_a11_the_digest_covers_each_column_and_all_metadata() -> None:
    table = table_of(rows(KEY, "s6", **dict.fromkeys(UNBOUNDED, 5)), [control(key=KEY)])
    known, metadata = set(), {b"expbench_schema": b"7", b"a": b"b"}
    others: dict[pa.DataType, Any] = {pa.string(): "other", pa.int64(): 77, pa.float64(): -0.0, pa.bool_(): False}
    for i, (name, kind) in enumerate(COLUMNS.items()):
        values = table[name].to_pylist()
        changed = [*values[:-1], others.get(kind, 12345)]
        known.add(digest.of_table(table.set_column(i, name, pa.array(changed, kind)), metadata))
        known.add(
            digest.of_table(table.rename_columns([*table.column_names[:i], "other", *table.column_names[i + 1 :]]), metadata)
        )
    known.add(digest.of_table(table.slice(1), metadata))
    for other in (
        {b"expbench_schema": b"7", b"a": b"c"},
        {b"expbench_schema": b"7"},
        metadata | {b"c": b""},
        {b"expbench_schema": b"6", b"a": b"b"},
    ):
        known.add(digest.of_table(table, other))
    assert len(known) == 2 * len(COLUMNS) + 5
    assert digest.of_table(table, metadata) not in known
    assert digest.of_table(table, metadata | {b"pandas": b"by another program", digest.DIGEST_KEY: b""}) not in known
    assert digest.of_table(table, metadata | {b"pandas": b"of another program"}) == digest.of_table(table, metadata)


def test_a11_the_digest_depends_on_values_only() -> None:
    """One digest, however a library stores the table: pinned, since files must be readable by every later version."""
    small = pa.Table.from_pylist(
        [{"x": "a\u00e4", "y": 1, "z": None, "w": True}, {"x": None, "y": None, "z": 0.5, "w": None}],
        schema=pa.schema({"x": pa.string(), "y": pa.int64(), "z": pa.float64(), "w": pa.bool_()}),
    )
    assert digest.of_table(small, {b"a": b"b"}) == b"c9fb966cace6c0a6ba137b0b9e1de7cdbe06415c3cf5c540abf66f5ef5042f50"
    table = table_of(
        *[rows(f"{i:016x}", "s6", network_degree=i if i % 3 else None, error=None if i % 2 else "e" * i) for i in range(40)]
    )
    expected = digest.of_table(table, {})
    cut = pa.concat_tables([table.slice(0, 3), table.slice(3, 11), table.slice(14)])
    assert cut["value"].num_chunks == 3
    encoded = row_sets.encoded(cut)
    garbage = pa.concat_tables([table_of([control(key="x")]), table]).slice(1)
    for other in (
        cut,
        encoded,
        pa.concat_tables([encoded.slice(0, 7), encoded.slice(7)]),
        garbage,
        table.take(list(range(len(table)))),
    ):
        assert digest.of_table(other, {}) == expected
    below = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer((1).to_bytes(8, "little") + b"\xff" * 8)]
    )
    assert below.to_pylist() == [1, None]
    assert digest.of_table(pa.table({"y": below}), {}) == digest.of_table(pa.table({"y": pa.array([1, None])}), {})


def test_a11_a_file_of_this_schema_has_a_digest_and_an_older_one_with_a_digest_is_verified(tmp_path: Path) -> None:
    table, path = table_of(rows(KEY, "s6")), tmp_path / f"{KEY}.parquet"
    unsealed(path, table, VERSION)
    assert "do not match its digest" in str(reading.read_file(path, SCHEMA.names))
    unsealed(path, table, 6)
    assert isinstance(reading.read_file(path, SCHEMA.names), pa.Table)
    stale = {"expbench_schema": "6", "expbench_digest": "0" * 64}
    pq.write_table(table.replace_schema_metadata(stale), path)
    assert "do not match its digest" in str(reading.read_file(path, ["key", "status"])), "whichever columns are read"


def test_a11_statuses_that_were_changed_are_not_believed(tmp_path: Path) -> None:
    path = store.write(tmp_path, KEY, [trained(key=KEY, status="failed")])
    data = path.read_bytes()
    assert json.dumps(["run", "failed"], separators=(",", ":")).encode() in data
    path.write_bytes(data.replace(b'["run","failed"]', b'["run","fai1ed"]', 1))
    assert "corrupt" in store.statuses(tmp_path)[1][0]
