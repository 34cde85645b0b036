"""What the tests share: the command line called in this process, and tiny sweeps."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import expbench_tasks
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on the CPU, in numpy

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell; the tests send interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)

import expbench.models as expbench_models
from expbench.cli.main import main

TINY = ["--steps", "20", "--seeds", "0:2", "--L", "4", "-t", "test_size=256", "-t", "validation_size=256"]


_MAY_REPEAT = {"--tasks-dir", "--models-dir", "--where"}


def latest(words: Sequence[str]) -> list[str]:
    """Return the words of a command without each `--option value` that a later one replaces, as tests add to `TINY`."""
    kept: list[str] = []
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        for at, option in ((i, word), (i - 1, before)):
            if option.startswith("--") and "=" not in option and option not in _MAY_REPEAT and option in words[at + 2 :]:
                break
        else:
            kept.append(word)
    return kept


class CommandResult(NamedTuple):
    """What a command printed and how it exited."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., CommandResult]


@pytest.fixture(autouse=True)
def _the_same_every_time() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tests' tensors are tiny, and so are CI's machines


@pytest.fixture
def expbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Call the command line with these words, in an empty folder; what it adds to the plugins is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for package in (expbench_models, expbench_tasks):
        monkeypatch.setattr(package, "__path__", list(package.__path__))
    for variable in ("EXPBENCH_TASKS_PATH", "EXPBENCH_MODELS_PATH"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))

    def call(*words: str) -> CommandResult:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(latest(words))
        return CommandResult(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return call


def is_bad_input(answer: CommandResult, *words: str) -> None:
    """Assert that a command was refused as bad input is: exit code 2 and one line, which holds all these words."""
    lines = answer.err.strip().splitlines()
    assert (answer.code, len(lines)) == (2, 1), answer
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
