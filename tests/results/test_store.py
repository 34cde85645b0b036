import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expbench.errors import BadInput
from expbench.results import folders, schema, store
from expbench.results.compact import collect, compact
from expbench.results.reported import choosing, reported, selected
from tests.conftest import CommandLine
from tests.results.rows import control, trained

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def row(key: str, value: float, status: str = "ok", minutes: int = 0) -> dict[str, Any]:
    return control(key=key, status=status, value=value, metric="m", created=NOW + timedelta(minutes=minutes))


def test_the_schema_is_fixed_and_every_reader_takes_it(tmp_path: Path) -> None:
    path = store.write(tmp_path, "a", [row("a", 1.5), row("a", 2.5)])
    assert pq.read_schema(path).equals(schema.SCHEMA, check_metadata=False)
    assert pq.read_metadata(path).metadata[b"expbench_schema"] == str(schema.VERSION).encode()
    assert pd.read_parquet(path)["value"].tolist() == [1.5, 2.5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet"], "nothing is left aside"


def test_duckdb_reads_a_table(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = store.write(tmp_path, "a", [row("a", 1.5), row("a", 2.5)])
    assert duckdb.sql(f"select sum(value), count(created) from '{path}'").fetchall() == [(4.0, 2)]


def test_runs_are_collected_into_one_file(tmp_path: Path) -> None:
    runs, folder = tmp_path / "runs", tmp_path / "new" / "folder"
    runs.mkdir()
    store.write(runs, "1", [row("a", 1), row("b", 2)])
    store.write(runs, "2", [row("a", 3, minutes=1)])
    frame = collect(runs, folder, "table")
    assert sorted(frame["value"]) == [2, 3]
    assert store.read(folder).frame["value"].tolist() == frame["value"].tolist()
    (runs / "3.parquet").write_text("no table")
    with pytest.raises(BadInput, match="corrupt"):
        collect(runs, folder, "table")


def test_one_row_set_a_key_the_good_one_before_the_failed_then_the_latest(tmp_path: Path) -> None:
    store.write(tmp_path, "1", [row("a", 1), row("b", 2)])
    store.write(tmp_path, "2", [row("a", 3, minutes=1), row("a", 4, minutes=1)])
    store.write(tmp_path, "3", [row("a", 5, "failed", minutes=2), row("c", 6, "failed")])
    frame, problems = store.read(tmp_path)
    assert problems == []
    assert sorted(zip(frame["key"], frame["value"], strict=True)) == [("a", 3), ("a", 4), ("b", 2), ("c", 6)]
    assert store.statuses(tmp_path) == ({"a": "ok", "b": "ok", "c": "failed"}, [])


def test_an_empty_folder_is_an_empty_table(tmp_path: Path) -> None:
    frame, problems = store.read(tmp_path)
    assert list(frame.columns) == list(schema.COLUMNS)
    assert (len(frame), problems) == (0, [])


def broken_files(folder: Path) -> list[Path]:
    """A truncated, an empty, a foreign file and one of another schema version."""
    whole = store.write(folder, "whole", [row("w", 1)])
    (folder / "truncated.parquet").write_bytes(whole.read_bytes()[:-20])
    (folder / "empty.parquet").touch()
    pq.write_table(pa.table({"x": [1]}), folder / "foreign.parquet")
    newer = schema.SCHEMA.empty_table().replace_schema_metadata({"expbench_schema": "99"})
    pq.write_table(newer, folder / "newer.parquet")
    return [folder / f"{name}.parquet" for name in ("empty", "foreign", "newer", "truncated")]


def test_files_that_are_not_ours_or_not_whole_are_named_and_left_alone(tmp_path: Path) -> None:
    broken = broken_files(tmp_path)
    before = [path.read_bytes() for path in broken]
    frame, problems = store.read(tmp_path)
    assert frame["key"].tolist() == ["w"]
    assert [line.partition(": ")[0] for line in problems] == [str(path) for path in broken]
    assert [path.read_bytes() for path in broken] == before
    assert store.statuses(tmp_path)[0] == {"w": "ok"}


def test_a_table_of_an_older_schema_says_what_its_rows_meant(tmp_path: Path) -> None:
    later = ["init", "init_noise", "schedule"]
    older = schema.SCHEMA.empty_table().drop_columns(later).schema.with_metadata({"expbench_schema": "3"})
    pq.write_table(pa.Table.from_pylist([row("a", 1)], schema=older), tmp_path / "a.parquet")
    store.write(tmp_path, "b", [row("b", 2) | {"init": "construct:lemma2", "init_noise": 0.5, "schedule": "linear"}])
    frame, problems = store.read(tmp_path)
    assert problems == []
    assert frame.set_index("key").loc[["a", "b"], later].to_numpy().tolist() == [
        ["default", 0.0, "cosine"],
        ["construct:lemma2", 0.5, "linear"],
    ]


OLD = {1: "7d40d2758af9fbe0", 2: "45b7fad5357e233a"} | dict.fromkeys((3, 4, 5, 6, 7), "5e4ba6b304d8a706")


@pytest.mark.parametrize("version", OLD)
def test_a_file_that_an_older_expbench_wrote_is_read_and_compacted_into_todays_schema(
    expbench: CommandLine, version: int
) -> None:
    """tests/results/schemas/ holds a run of linattn (polyreg, L=4, 10 steps) as the code of each schema wrote it."""
    folder = Path("old")
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "schemas" / f"schema-{version}.parquet", folder / f"{OLD[version]}.parquet")
    assert pq.read_schema(folder / f"{OLD[version]}.parquet").metadata[b"expbench_schema"] == str(version).encode()
    before, problems = store.read(folder)
    assert problems == []
    assert set(before["key"]) == {OLD[version]}
    assert set(before["split"]) == {"train", "validation", "test"}
    assert not before["metric"].str.contains("fingerprint").any()
    assert {json.loads(text)["validation_size"] for text in before["task_settings"]} == {64}
    assert set(zip(before["init"], before["init_noise"], before["schedule"], strict=True)) == {("default", 0.0, "cosine")}
    assert set(before["position_base"]) == {10000.0}
    report = Path(expbench("report", "--results", "old").out.strip()).with_suffix(".md").read_text()
    (error,) = before.loc[before["primary"].fillna(False) & (before["split"] == "test"), "value"]
    assert f"| linattn | {error:.3g} (ill-posed) |" in report
    assert OLD[version] in expbench("trace", OLD[version][:6], "--results", "old").out
    assert expbench("compact", "--results", "old").code == 0
    assert [path.name for path in folder.glob("*.parquet")] == ["table.parquet"]
    assert pq.read_schema(folder / "table.parquet").metadata[b"expbench_schema"] == str(schema.VERSION).encode()
    after = store.read(folder).frame
    order = ["split", "step", "metric", "slice"]
    before = before.round({"seconds": 3, "run_seconds": 3})
    pd.testing.assert_frame_equal(*(f.sort_values(order).reset_index(drop=True) for f in (before, after)))


def in_epochs(key: str, values: list[tuple[float, float]], kind: str, higher: bool) -> list[dict[str, Any]]:
    """A run that was measured on both splits after each of its epochs."""
    rows = []
    for step, both in enumerate(values, start=1):
        at = trained() | {
            "kind": kind,
            "step": step,
            "steps": len(values),
            "slice": "",
            "higher_is_better": higher,
            "primary": False,
        }
        rows.append(row(key, step) | at | {"split": "train", "metric": "epoch"})
        rows += [
            row(key, value) | at | {"metric": "m", "split": split, "primary": True}
            for split, value in zip(("validation", "test"), both, strict=True)
        ]
    return rows


@pytest.mark.parametrize(("higher", "step"), [(False, 2), (True, 1)])
def test_of_epochs_the_one_that_selection_finds_best_is_reported(higher: bool, step: int, tmp_path: Path) -> None:
    values = [(9.0, 5.0), (7.0, 6.0), (7.0, 1.0), (8.0, 4.0)]
    store.write(tmp_path, "a", in_epochs("a", values, "run", higher))
    store.write(tmp_path, "b", in_epochs("b", values, "tuning", higher))
    store.write(tmp_path, "c", [line for line in in_epochs("c", values, "run", higher) if line["metric"] != "epoch"])
    frame = store.read(tmp_path).frame
    found = frame[reported(frame)].set_index(["key", "split"])["value"].to_dict()
    validation, test = values[step - 1]
    assert found == {
        ("a", "validation"): validation, ("a", "test"): test, ("b", "validation"): validation, ("b", "test"): test,
        ("c", "validation"): 8, ("c", "test"): 4,
    }, "the first of equals; of what was not trained in epochs the last"  # fmt: skip
    chosen_by = frame[choosing(frame)].set_index("key")["value"].to_dict()
    assert chosen_by == {"a": validation, "b": validation, "c": 8}
    assert selected(tmp_path, {"a", "b", "c"}) == chosen_by
    compact(tmp_path, curves=False)
    kept = store.read(tmp_path).frame
    assert kept[choosing(kept)].set_index("key")["value"].to_dict() == chosen_by, "of tuning only that is kept"
    assert selected(tmp_path, {"a", "b", "c"}) == chosen_by


def test_finished(tmp_path: Path) -> None:
    store.write(tmp_path, "a", [row("a", 1)])
    store.write(tmp_path, "b", [row("b", 1, "failed")])
    (tmp_path / "c.parquet").touch()
    assert [store.finished(tmp_path, key) for key in ("a", "b", "c", "d")] == [True, False, False, False]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="cannot be written"):
            folders.open_folder(str(path))
    assert folders.open_folder(str(tmp_path / "new" / "deep")).is_dir()


def test_a_missing_folder_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(BadInput, match=r"did you mean .*results'"):
        folders.existing_folder(str(tmp_path / "reslts"))


def test_what_a_killed_process_left_aside_is_swept_away_later(tmp_path: Path) -> None:
    import os

    old, new = tmp_path / ".old.01234567.tmp", tmp_path / ".new.89abcdef.tmp"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    folders.open_folder(str(tmp_path))
    assert (old.exists(), new.exists()) == (False, True)
