"""Harm and mess: rows that no run can have, folders of many files, and merging beside other processes."""

import runpy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expbench import files
from expbench.errors import BadInput
from expbench.results import compact as merging
from expbench.results import reading, reported, store, together
from expbench.results.compact import compact
from expbench.results.configurations import gather, with_context
from expbench.results.schema import SCHEMA
from tests.cases.poison import KEY, WHOLE, Poison, faults, healthy, poisons, rows
from tests.conftest import TINY, CommandLine, is_bad_input

POISONS = list(poisons())
SAMPLE = ["task = '../../x'", "model is null", "lr = nan", "model = '$\\\\frac{'", "task_settings = '[]'"]


def test_d4_there_are_200_poisons() -> None:
    assert len({poison.name for poison in POISONS}) >= 200
    assert set(SAMPLE) <= {poison.name for poison in POISONS}


@pytest.mark.parametrize("poison", [p for p in POISONS if p.name in SAMPLE], ids=lambda poison: poison.name)
def test_d4_a_poisoned_table_ends_no_command_with_a_traceback(poison: Poison, tmp_path: Path) -> None:
    """All of them: python -m tests.cases.poison."""
    assert faults(poison, tmp_path) == []


@pytest.mark.parametrize("poison", POISONS[::7], ids=lambda poison: poison.name[:40])
def test_d4_a_poisoned_file_is_named_or_its_rows_can_be_used(poison: Poison, tmp_path: Path) -> None:
    if "million" in poison.name:
        return
    healthy(tmp_path)
    poison.spoil(tmp_path)
    frame, problems = store.read(tmp_path)
    assert {*WHOLE, "c" * 16} <= set(frame["key"]) or problems
    assert all(len(line.splitlines()) == 1 and line.isprintable() for line in problems)
    assert gather(with_context(frame))
    assert bool(problems) or KEY in set(frame["key"]) or poison.name in ("no rows",)


def test_d4_what_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    for column, value in {"lr": float("nan"), "task": "a/b", "model": None, "task_settings": "[]"}.items():
        with pytest.raises(ValueError, match=column):
            store.write(tmp_path, KEY, [*rows(KEY, "s6"), rows(KEY, "s6")[0] | {column: value}])
    assert not list(tmp_path.iterdir())


def test_d6_statuses_decode_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy(tmp_path)
    store.write(tmp_path, KEY, rows(KEY, "s6", status="failed"))
    expected = store.statuses(tmp_path)
    store._ended.clear()
    monkeypatch.setattr(reading.pq, "ParquetFile", lambda *_, **__: pytest.fail("a column was read"))
    assert store.statuses(tmp_path) == expected == ({WHOLE[0]: "ok", WHOLE[1]: "ok", "c" * 16: "ok", KEY: "failed"}, [])
    assert [store.finished(tmp_path, key) for key in (WHOLE[0], KEY, "f" * 16)] == [True, False, False]


def test_d6_trace_opens_the_files_of_its_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy(tmp_path)
    store.write(tmp_path, "table", rows(KEY, "s6"))
    opened = []
    read = together.read_copy
    monkeypatch.setattr(together, "read_encoded", lambda *_: pytest.fail("files of this schema have a copy"))
    monkeypatch.setattr(together, "read_copy", lambda path, *more: opened.append(path.stem) or read(path, *more))
    assert len(store.read_run(tmp_path, WHOLE[1][:4]).frame) == len(rows(KEY, "s6"))
    assert opened == [WHOLE[1]]
    assert len(store.read_run(tmp_path, KEY).frame) == len(rows(KEY, "s6"))
    assert opened == [WHOLE[1], "table"]
    with pytest.raises(BadInput, match=f"unknown run 'd'.*{WHOLE[0]}"):
        store.read_run(tmp_path, "d")


def test_d6_a_report_of_the_rows_that_it_shows_is_the_report_of_all(expbench: CommandLine) -> None:
    run = [
        "run",
        "--task",
        "polyreg,count-in-row",
        "--models",
        "ssm,s6",
        *TINY,
        "-t",
        "count-in-row:classes=4",
        "--device",
        "cpu",
    ]
    assert expbench(*run).code == 0
    from expbench.report.build import write_report

    pages = []
    for columns, chosen in ((SCHEMA.names, None), (reported.SHOWN_COLUMNS, reported.shown_rows)):
        frame = store.read(Path("results"), columns, chosen).frame
        pages.append((len(frame), write_report(frame, Path("results")).read_text()))
    assert pages[0][1] == pages[1][1]
    assert pages[1][0] < 0.7 * pages[0][0]


def test_d6_a_large_folder_is_merged_at_the_end_of_a_run_that_trained(
    expbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", "--task", "polyreg", "--models", "ssm", *TINY, "--device", "cpu"]
    monkeypatch.setattr(merging, "MANY", 3)
    assert "merging" not in expbench(*run).err, "2 runs and their controls"
    more = expbench(*run, "--seeds", "0:3")
    assert "merging 4 files of results into table.parquet" in more.err
    assert [path.name for path in Path("results").glob("*.parquet")] == ["table.parquet"]
    again = expbench(*run, "--seeds", "0:3")
    assert "ran 0" in again.err
    assert "merging" not in again.err


def test_d6_the_script_that_times_many_runs_makes_files_of_its_command(expbench: CommandLine) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "many_runs.py"))
    script["make"](Path("many"), 20)
    answer = expbench("run", *script["arguments"](20), "--device", "cpu", "--results", "many")
    assert "20 runs: 20 done, 0 to run" in answer.err
    assert "ran 0" in answer.err


def failed_and_fixed(folder: Path) -> Callable[[], None]:
    """A folder with a failed run, and what another process does: it finishes the run."""
    store.write(folder, WHOLE[0], rows(WHOLE[0], "s6", status="failed", created=1))
    store.write(folder, WHOLE[1], rows(WHOLE[1], "s6", created=1))
    return lambda: store.write(folder, WHOLE[0], rows(WHOLE[0], "s6", created=2, run_seconds=77.0))


@pytest.mark.parametrize("moment", ["after reading", "before the removal", "during the removal"])
def test_d7_a_result_that_another_process_writes_meanwhile_is_never_dropped(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, done = failed_and_fixed(tmp_path), []

    def once() -> None:
        if not done:
            done.append(finish())

    write_table, remove, rename = merging.write_table, merging._remove, Path.rename
    if moment == "after reading":
        monkeypatch.setattr(merging, "write_table", lambda *args: (once(), write_table(*args))[1])
    elif moment == "before the removal":
        monkeypatch.setattr(merging, "_remove", lambda *args: (once(), remove(*args))[1])
    else:
        monkeypatch.setattr(
            Path, "rename", lambda self, target: (once() if WHOLE[0] in self.name else None, rename(self, target))[1]
        )
    compact(tmp_path)
    monkeypatch.undo()
    assert done
    frame = store.read(tmp_path).frame
    assert set(frame.loc[frame["key"] == WHOLE[0], "status"]) == {"ok"}
    assert set(frame.loc[frame["key"] == WHOLE[0], "run_seconds"]) == {77.0}
    assert store.finished(tmp_path, WHOLE[0])
    assert WHOLE[1] in set(frame["key"])


class Killed(BaseException):
    """The end of a process at a system call."""


def killed_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    """End the process, as it were, at each call that changes a folder after this many: what it would tidy up stays."""
    left = [calls]

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*args, **named)

        return wrapped

    for name in ("rename", "replace", "unlink", "hardlink_to"):
        patch.setattr(Path, name, counted(getattr(Path, name)))


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["key", "split", "step", "metric"], ignore_index=True)


def test_d7_a_process_killed_anywhere_in_a_merger_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    for calls in range(30):
        folder = tmp_path / str(calls)
        folder.mkdir()
        healthy(folder)
        store.write(folder, "table", rows(KEY, "s6"))
        expected = store.read(folder).frame
        with monkeypatch.context() as patch:
            killed_after(calls, patch)
            with suppress(Killed):
                compact(folder)
                ended.append(calls)
        found = store.read(folder)
        assert found.problems == []
        pd.testing.assert_frame_equal(ordered(found.frame), ordered(expected))
        assert set(store.statuses(folder)[0]) == set(expected["key"])
        if ended:
            break
    assert ended[0] > 3


def test_d7_two_mergers_and_readers_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy(tmp_path)
    before = store.read(tmp_path).frame
    with files.locked(tmp_path / merging._LOCK) as alone:
        assert alone
        with pytest.raises(BadInput, match="another process is merging"):
            compact(tmp_path)
    real, done = store.listed, []

    def listed(folder: Path) -> dict[str, reading.Stamp]:
        found = real(folder)
        if not done:  # the files disappear after they were listed
            done.append(None)
            compact(folder)
        return found

    monkeypatch.setattr(store, "listed", listed)
    frame, problems = store.read(tmp_path)
    assert (len(frame), problems) == (len(before), [])
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["table.parquet"]


def test_d7_a_table_that_is_not_ours_is_left_as_it_is(expbench: CommandLine) -> None:
    folder = Path("results")
    folder.mkdir()
    healthy(folder)
    pq.write_table(pa.table({"x": [1]}), folder / "table.parquet")
    before = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    is_bad_input(expbench("compact"), "table.parquet", "not an expbench results table")
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == before
    (folder / "table.parquet").unlink()
    assert expbench("compact").code == 0
