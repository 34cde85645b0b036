"""Hangs and dead ends: files named by another key, without rows, that are no files, or that are too large."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from expbench.results import reading, store
from expbench.results.schema import SCHEMA
from tests.cases.poison import KEY, WHOLE, commands, healthy, nulls, often, rows, unsealed
from tests.conftest import TINY, CommandLine

RUN = ["run", "--task", "polyreg", "--models", "ssm", *TINY, "--device", "cpu"]


def runs_in(folder: Path) -> list[Path]:
    """The files that hold runs, not controls."""
    return [Path(path) for path, own in store.endings_by_file(folder)[0].items() if "run" in {e.kind for e in own.values()}]


def test_c1_a_file_named_by_the_key_of_another_run_does_not_stand_for_it(expbench: CommandLine) -> None:
    folder = Path("results")
    assert "ran 2 (2 ok)" in expbench(*RUN).err
    first, second = runs_in(folder)
    shutil.copy(first, second)
    assert store.finished(folder, first.stem)
    assert not store.finished(folder, second.stem)
    again = expbench(*RUN)
    assert "2 runs: 1 done, 1 to run" in again.err
    assert "ran 1 (1 ok)" in again.err
    assert "ran 0" in expbench(*RUN).err
    assert set(store.statuses(folder)[0]) >= {first.stem, second.stem}


def test_c1_a_renamed_file_counts_for_its_rows_and_is_never_replaced_by_others(expbench: CommandLine) -> None:
    folder = Path("results")
    assert "ran 2 (2 ok)" in expbench(*RUN).err
    kept, lost = runs_in(folder)
    lost.unlink()
    kept.rename(lost)  # the only file with the rows of `kept`
    assert "2 runs: 1 done, 1 to run" in expbench(*RUN).err
    assert "ran 0" in expbench(*RUN).err
    assert {kept.stem, lost.stem} <= set(store.read(folder).frame["key"])


def test_c1_a_file_without_rows_holds_no_result(expbench: CommandLine) -> None:
    folder = Path("results")
    assert "ran 2 (2 ok)" in expbench(*RUN).err
    run = runs_in(folder)[0]
    for empty in (lambda: store.write(folder, run.stem, []), lambda: unsealed(run, SCHEMA.empty_table())):
        run.unlink()
        empty()
        assert not store.finished(folder, run.stem)
        assert "ran 1 (1 ok)" in expbench(*RUN).err
        assert "ran 0" in expbench(*RUN).err


def irregular(folder: Path) -> None:
    os.mkfifo(folder / "pipe.parquet")
    (folder / "folder.parquet").mkdir()
    (folder / "device.parquet").symlink_to("/dev/zero")
    (folder / "nothing.parquet").symlink_to(folder / "no.parquet")
    (folder / "self.parquet").symlink_to(folder / "self.parquet")
    (folder / "outside.parquet").symlink_to(folder.parent / "elsewhere.parquet")


def test_c3_only_regular_files_inside_the_folder_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    healthy(folder)
    shutil.copy(folder / f"{WHOLE[0]}.parquet", tmp_path / "elsewhere.parquet")
    (folder / f"{WHOLE[0]}.parquet").rename(folder / "kept.data")
    (folder / "inside.parquet").symlink_to(folder / "kept.data")
    irregular(folder)
    frame, problems = store.read(folder)
    assert set(frame["key"]) == {*WHOLE, "c" * 16}, "a link inside the folder is followed"
    names = ["device", "folder", "nothing", "outside", "pipe", "self"]
    assert [Path(line.partition(": ")[0]).stem for line in sorted(problems)] == names
    assert [Path(line.partition(": ")[0]).stem for line in sorted(store.statuses(folder)[1])] == names
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert len(store.read(linked).frame) == len(frame), "the folder itself may be a link"


def test_c3_no_command_waits_for_a_pipe(expbench: CommandLine) -> None:
    Path("good").mkdir()
    Path("results").mkdir()
    for folder in ("good", "results"):
        healthy(Path(folder))
    os.mkfifo("results/x.parquet")
    for words in [*commands(Path("results").absolute())[2:], RUN]:
        answer = expbench(*words)
        assert answer.code == 2, answer
        assert "x.parquet: not a regular file" in answer.err


def test_c3_a_file_with_more_rows_than_memory_is_named_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy(tmp_path)
    nulls(tmp_path / "nulls.parquet", 2_000_000)
    began = time.process_time()
    monkeypatch.setattr(reading, "MOST_ROWS", 1_500_000)
    frame, (problem,) = store.read(tmp_path)
    assert "nulls.parquet: too large (2,000,000 rows" in problem
    monkeypatch.setattr(reading, "MOST_ROWS", 10_000_000)
    monkeypatch.setattr(reading, "_free_memory", lambda: 2**30)
    assert "too large (2,000,000 rows" in str(reading.read_file(tmp_path / "nulls.parquet", SCHEMA.names))
    assert set(frame["key"]) == {*WHOLE, "c" * 16}
    assert time.process_time() - began < 5


def test_c3_a_short_file_may_repeat_a_long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.Table.from_pylist(rows(KEY, "s6"), schema=SCHEMA)
    unsealed(tmp_path / "often.parquet", often(table, "x" * 500_000, 2_000))  # 1 GB of text
    assert (tmp_path / "often.parquet").stat().st_size < 100_000
    monkeypatch.setattr(reading, "MOST_TEXT", 1 << 29)
    with peak_below(1 << 29):
        assert "its texts have 1 GiB" in str(reading.read_file(tmp_path / "often.parquet", SCHEMA.names))


def test_c1_no_rows_need_no_memory(tmp_path: Path) -> None:
    with peak_below(1 << 26):  # pyarrow 16 allocates 2 GiB to group no rows
        store.write(tmp_path, KEY, [])
        assert store.read(tmp_path).frame.empty
        unsealed(tmp_path / f"{KEY}.parquet", SCHEMA.empty_table())
        assert store.statuses(tmp_path) == ({}, [])


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """Assert that pyarrow takes less memory than this inside the block, unless it took more in an earlier test."""
    pool = pa.default_memory_pool()
    most = max(pool.max_memory(), pool.bytes_allocated() + limit)
    yield
    assert pool.max_memory() <= most
