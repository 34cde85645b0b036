"""Processes that share a folder divide the work: no run is done twice, none is left, and one that dies is replaced."""

import signal
import time
from pathlib import Path

import filelock
import pytest

from expbench.results import schema, store
from expbench.sweep import locks
from tests.processes import Child, command

REQUEST = ["--task", "polyreg", "--models", "ssm,linattn", "--L", "3,4,5", "--device", "cpu", "--batch-size", "8"]


def start(folder: Path, *words: str) -> Child:
    return command("run", *REQUEST, *words, "--results", str(folder))


def said(process: Child) -> str:
    assert process.wait() == 0, process.err
    return process.err


def ended_here(lines: str) -> int:
    """How many runs a process has trained itself, one line each."""
    return sum(line.startswith("[") for line in lines.splitlines())


def test_a_part_is_reserved_for_one(tmp_path: Path) -> None:
    with locks.lock(tmp_path, ("L", 4)) as first, locks.lock(tmp_path, ("L", 5)) as other:
        assert first
        assert other
        with locks.lock(tmp_path, ("L", 4)) as second:
            assert not second
    with locks.lock(tmp_path, ("L", 4)) as again:
        assert again
    assert not list(tmp_path.glob("*/*")), "no lock is left behind"


def test_a_folder_without_locks_is_worked_on_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with locks.lock(tmp_path, "a") as one, locks.lock(tmp_path, "a") as two:
        assert one
        assert two


def test_two_processes_divide_a_tuned_sweep(tmp_path: Path) -> None:
    words = ["--L", "3,4", "--lr", "auto", "--steps", "20", "--seeds", "0:2"]
    both = [start(tmp_path, *words) for _ in range(2)]
    lines = [said(process) for process in both]
    frame, problems = store.read(tmp_path)
    assert not problems
    trained = frame[frame["kind"].isin(schema.TRAINED)].drop_duplicates("key")
    assert sum(map(ended_here, lines)) == len(trained), "each run is done by one of them"
    reported = trained[trained["kind"] == "run"]
    assert len(reported) == 8
    again = said(start(tmp_path, *words))
    assert "8 runs: 8 done, 0 to run" in again, "they chose the rates that one alone would have chosen"
    assert "ran 0 (none)" in again


def test_what_a_killed_process_was_at_is_taken_up(tmp_path: Path) -> None:
    words = ["--L", "4", "--models", "ssm", "--steps", "1000", "--seeds", "0:2"]
    first = start(tmp_path, *words)
    while not list(tmp_path.glob(".at-work/*")):
        assert first.poll() is None
        time.sleep(0.02)
    second = start(tmp_path, *words)
    while "waiting for them" not in second.err:
        assert second.poll() is None, "it ended without waiting"
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert "ran 2 (2 ok)" in said(second)


def test_what_fails_is_tried_once_by_a_command(tmp_path: Path) -> None:
    plugin = tmp_path / "models"
    plugin.mkdir()
    (plugin / "broken.py").write_text(
        "import torch\n\nclass Broken(torch.nn.Linear):\n"
        "    def __init__(self, width):\n        super().__init__(width, width)\n\n"
        "    def forward(self, x):\n        if x.shape[0] > 2:\n            raise RuntimeError('broke')\n"
        "        return super().forward(x)\n"
    )
    words = ["--models", f"{plugin / 'broken.py'}:Broken", "--lr", "auto", "--steps", "3", "--seeds", "0", "--L", "4"]
    for _ in range(2):
        process = start(tmp_path / "results", *words)
        assert process.wait() == 1
        assert "ran 21 (21 failed)" in process.err, "20 that choose a rate, and one at the lowest of those tried"


def test_many_threads_that_come_and_go(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def use(i: int) -> int:
        taken = 0
        for _ in range(50):
            with locks.lock(tmp_path, i) as ours:
                taken += ours
        return taken

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [50] * 8, "no one else asks for a thread's part"
    assert not list(tmp_path.glob("*/*"))
