"""A plugin that ends its process ends one run; requests beyond all bounds are refused in a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from expbench import supervision
from expbench.results import store
from expbench.sweep import locks
from tests.conftest import TINY, CommandLine
from tests.processes import Child

CRASHES = """
import ctypes, os, signal, torch
from torch import nn

class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.crashes = True
    def forward(self, x):
        if len(x) > 2 and self.crashes:  # so it passes the check of its contract, on two sequences
            self.crash()
        return x * self.scale
    def crash(self): ...

class Segfaults(Scale):
    def crash(self): ctypes.string_at(0)

class Exits(Scale):
    def crash(self): os._exit(0)

class Killed(Scale):  # as the kernel does when memory runs out
    def crash(self): os.kill(os.getpid(), signal.SIGKILL)

class OneSeed(Scale):
    def __init__(self, width: int):
        super().__init__(width)
        self.crashes, self.calls = torch.initial_seed() == 1, 0
    def crash(self):
        self.calls += 1
        if self.calls > 8: os.abort()  # after the trial, which is itself a death

class AtOnce(Scale):
    def forward(self, x): os.abort()
"""


def _supervised(*words: str) -> None:
    """Run the command line as in a process of its own; children are forked after torch is imported, to save seconds."""
    from expbench.cli import main

    supervision._possible = lambda: True
    with supervision.command(of_this_process=True):
        main._main(list(words))


def supervised(*words: str) -> Child:
    return Child(_supervised, *words)


def sweep(tmp_path: Path, models: str, *words: str) -> tuple[int, str, pd.DataFrame]:
    """Run a small sweep under supervision; return its exit code, what it printed, and one row of each run."""
    (tmp_path / "crash.py").write_text(CRASHES)
    models = ",".join(f"{tmp_path / 'crash.py'}:{model}" if model[0].isupper() else model for model in models.split(","))
    child = supervised("run", "--task", "polyreg", "--models", models, *TINY, "--results", str(tmp_path / "results"), *words)
    code = child.wait()
    frame, problems = store.read(tmp_path / "results")
    assert problems == []
    return (
        code,
        child.err,
        frame[frame["kind"] == "run"].drop_duplicates("key").assign(model=lambda f: f["model"].str.split(":").str[-1]),
    )


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("Segfaults", "signal 11, SIGSEGV"),
        ("Exits", "exit code 0 before its end"),
        ("Killed", "signal 9, SIGKILL, perhaps for lack of memory"),
    ],
)
def test_c2_a_model_that_ends_its_process_fails_and_the_others_finish(model: str, how: str, tmp_path: Path) -> None:
    code, err, runs = sweep(tmp_path, f"{model},linattn")
    assert code == 1
    assert "ran 4 (2 failed, 2 ok)" in err
    assert dict(runs.groupby("model")["status"].agg(set)) == {model: {"failed"}, "linattn": {"ok"}}
    error = runs[runs["model"] == model]["error"].iloc[0]
    assert error == f"twice the process died while training this run ({how})"


def test_c2_the_stack_mates_of_a_run_that_ends_its_process_are_trained(tmp_path: Path) -> None:
    code, err, runs = sweep(tmp_path, "OneSeed", "--seeds", "0:4", "--steps", "40")
    assert code == 1
    assert dict(zip(runs["seed"], runs["status"], strict=True)) == {0: "ok", 1: "failed", 2: "ok", 3: "ok"}
    print(err)


def test_c2_a_model_that_ends_its_process_in_the_check_of_its_contract(tmp_path: Path) -> None:
    code, err, runs = sweep(tmp_path, "linattn,AtOnce")
    assert code == 1
    assert err.count("the process died") == 2 + 2, "the check twice, then two rows"
    assert dict(runs.groupby("model")["status"].agg(set)) == {"AtOnce": {"failed"}, "linattn": {"ok"}}
