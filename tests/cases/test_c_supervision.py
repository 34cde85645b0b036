"""A plugin that ends its process ends one run; requests beyond all bounds are refused in a second."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from expbench import supervision
from expbench.algebra import polynomial
from expbench.algebra.polynomial import Inputs, Suffix
from expbench.nn import memory
from expbench.results import store
from expbench.sweep import estimate, locks
from expbench.sweep.estimate import Need
from expbench.sweep.execution import stacks
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training import stacked
from expbench.training.family import family_of
from tests.conftest import TINY, CommandLine, is_bad_input, latest
from tests.processes import Child
from tests.small_language import write_text
from tests.test_imports import ROOT

CRASHES = """
import ctypes, os, signal, torch
from torch import nn

CALLS = []

class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.crashes = True
    def forward(self, x):
        if len(x) > 4 and self.crashes:  # so it passes the check of its contract, on up to four sequences
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
        self.crashes = torch.initial_seed() == 0
    def crash(self):
        CALLS.append(1)  # not in the layer, which would then be trained one by one
        if len(CALLS) > 20: os.abort()  # after the trial, in the stack, whose module is that of its first run

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
    given = ["run", "--task", "polyreg", "--models", models, *TINY, "--results", str(tmp_path / "results"), *words]
    child = supervised(*latest(given))
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
    assert error == f"the process died twice while training this run ({how})"


def test_c2_the_stack_mates_of_a_run_that_ends_its_process_are_trained(tmp_path: Path) -> None:
    code, err, runs = sweep(tmp_path, "OneSeed", "--seeds", "0:4", "--steps", "40")
    assert code == 1
    assert dict(zip(runs["seed"], runs["status"], strict=True)) == {0: "failed", 1: "ok", 2: "ok", 3: "ok"}
    assert "while training 4 stacked runs" in err
    assert set(runs["stack_size"].dropna()) == {1}
    assert set(runs["not_stacked_reason"].dropna()) == {"the process died while training 4 stacked runs (signal 6, SIGABRT)"}


def test_c2_a_model_that_ends_its_process_in_the_check_of_its_contract(tmp_path: Path) -> None:
    code, err, runs = sweep(tmp_path, "linattn,AtOnce")
    assert code == 1
    assert err.count("the process died") == 2 + 2, "the check twice, then two rows"
    assert dict(runs.groupby("model")["status"].agg(set)) == {"AtOnce": {"failed"}, "linattn": {"ok"}}


def test_c2_a_model_that_ends_its_process_when_loaded_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "loads.py").write_text("import os\nos._exit(0)\n")
    child = supervised("run", "--task", "polyreg", "--models", f"linattn,{tmp_path / 'loads.py'}:Loads", *TINY)
    assert child.wait() == 2
    assert child.err.splitlines()[-1].startswith("error: the process died while loading the model ")
    assert "(exit code 0 before its end)" in child.err


def test_c2_a_dry_run_of_a_model_that_ends_its_process(tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text(CRASHES)
    child = supervised("run", "--task", "polyreg", "--models", f"{tmp_path / 'crash.py'}:Exits,linattn", *TINY, "--dry-run")
    assert child.wait() == 0
    assert "4 runs: 0 done, 4 to run" in child.out
    assert "only 1 of 2 shapes were timed" in child.out


def test_c2_an_attempt_after_a_checkpoint_is_another(tmp_path: Path) -> None:
    from expbench.sweep.execution import _attempt

    (job,) = expand(SweepSpec(task="polyreg", models="ssm", L="4", seeds="0"), "cpu")
    names = {_attempt(job, tmp_path)}
    folder = tmp_path / "checkpoints" / job.run.key
    folder.mkdir(parents=True)
    for step in (1, 2):
        (folder / f"step-{step:09d}.safetensors").touch()
        names.add(_attempt(job, tmp_path))
    assert len(names) == 3


def test_c2_a_part_that_a_dead_process_left_comes_last(tmp_path: Path) -> None:
    assert not locks.abandoned(tmp_path, "part")
    with locks.lock(tmp_path, "part"):
        assert locks.abandoned(tmp_path, "part")
    assert not locks.abandoned(tmp_path, "part")


POLYREG = ("run", "--task", "polyreg", "--models", "s6,attn", "--seeds", "0:3")


def slow_torch(folder: Path, code: str = "time.sleep(60)") -> dict[str, str]:
    """Return an environment in which `import torch` runs this code instead."""
    (folder / "torch.py").write_text(f"import os, time\n{code}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def started(folder: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "expbench", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def child_of(process: subprocess.Popen[str]) -> int:
    path, deadline = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 10
    while not (found := path.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(found[0])


def is_gone(process: int, within: float = 5) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="supervision needs Linux")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130)], ids=str
)
def test_7_the_first_line_comes_before_torch_and_a_signal_ends_both_processes(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    began = time.monotonic()
    with started(tmp_path, slow_torch(tmp_path), *POLYREG) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == ("expbench run: polyreg with s6, attn, up to 6 runs, into results; loading torch and the plugins\n")
        assert time.monotonic() - began < 5
        child = child_of(process)
        process.send_signal(number)
        assert process.wait(10) == code
        assert is_gone(child), "the child does not outlive its parent"


@pytest.mark.parametrize("words", [["run", "--task", "polyrge", "--models", "s6"], ["reproduce", "table3"]])
def test_7_bad_input_that_needs_no_torch_is_one_line(words: list[str], tmp_path: Path) -> None:
    with started(tmp_path, slow_torch(tmp_path), *words) as process:
        assert process.wait(10) == 2
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
        assert line.startswith("error: unknown ")


def test_7_the_exit_code_is_that_of_the_child(tmp_path: Path) -> None:
    with started(tmp_path, slow_torch(tmp_path, "raise SystemExit(7)"), *POLYREG) as process:
        assert process.wait(10) == 7
    with started(tmp_path, slow_torch(tmp_path, "os._exit(0)"), *POLYREG) as process:
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert "error: the process died outside of any training (exit code 0 before its end)" in process.stderr.read()


def test_the_presets_that_the_command_names_are_those_there_are() -> None:
    from expbench.cli import reproduce
    from expbench.studies import synthetic

    assert set(reproduce.PRESETS) == set(synthetic.PRESETS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "0:100000", "--lr", "0.01,0.02,0.03", "--D", "1:331"], "99,000,000 runs are too many"),
        (["--instances", "0:100000", "--seeds", "0:990"], "shorten --instances, which has 100,000 values"),
        (["--seeds", "0:99999999"], "has more than 100000 members"),
    ],
)
def test_c4_too_many_runs_are_refused_before_any_is_formed(words: list[str], said: str, expbench: CommandLine) -> None:
    began = time.process_time()
    answer = expbench("run", "--task", "polyreg", "--models", "s6", *words, "--dry-run")
    assert answer.code == 2
    assert said in answer.err
    assert time.process_time() - began < 1


@pytest.mark.parametrize("inputs", [Inputs("unit", 0.5, 1.0), Inputs("signs", eps=0.1), Inputs("unit", -1.0, 0.5)], ids=str)
def test_c4_moments_of_long_suffixes_are_those_of_the_recurrence(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    stepwise = [Suffix(q, q).moments(inputs) for q in (1, 2, 7, 300)]
    monkeypatch.setattr(polynomial, "_STEPWISE", 0)
    assert [Suffix(q, q).moments(inputs) for q in (1, 2, 7, 300)] == stepwise


HUGE = ["run", "--task", "polyreg", "--models", "s6", "--L", "1048576", "--D", "1024", "--batch-size", "4096"]


def test_c4_the_memory_of_a_step_is_compared_with_what_there_is(expbench: CommandLine) -> None:
    began = time.process_time()
    answer = expbench(*HUGE, "--dry-run")
    assert answer.code == 0
    assert "memory of a step of polyreg s6 L=1048576" in answer.out
    assert "this machine has " in answer.out
    assert "estimated time on cpu: unknown" in answer.out
    assert "a step does not fit into memory" in answer.out
    refused = expbench(*HUGE)
    is_bad_input(refused, "memory of a step", "PiB", "make --L smaller")
    assert not Path("results").exists()
    assert time.process_time() - began < 10


def test_c4_thousands_of_layers_are_described_and_timed_by_a_few(expbench: CommandLine) -> None:
    began = time.process_time()
    answer = expbench("run", "--task", "polyreg", "--models", "linattn", "--depth", "4096", "--norm", "none", "--dry-run")
    assert answer.code == 0
    assert "degree 1.94e+1954, order 16" in answer.out, "3^4096"
    assert "245773" in answer.out, "60 parameters a layer, and 13 others"
    assert "unknown" not in answer.out
    assert time.process_time() - began < 15


@pytest.mark.parametrize("words", [["--D", "65536"], ["-m", "N=1000000000"]], ids=" ".join)
def test_c4_no_layer_is_built_that_does_not_fit(words: list[str], expbench: CommandLine) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--L", "4", *words), "memory of a step", "GiB")


@pytest.mark.parametrize(
    ("model", "D", "L", "depth"), [("s6", 3, 5, 66), ("attn", 4, 8, 65), ("ssm", 2, 4, 1), ("gru", 3, 5, 66)]
)
def test_c4_sizes_by_extrapolation_are_those_of_the_network(
    model: str, D: int, L: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = expand(
        SweepSpec(task="polyreg", models=model, L=str(L), D=str(D), depth=str(depth), norm="none", seeds="0"), "cpu"
    )
    family = family_of(job.task)
    sketched = family.describe(job)
    monkeypatch.setattr(stacked, "_DEEP", depth)
    assert family.describe(job) == sketched


def test_c4_memory_grows_with_the_sizes_as_a_step_does() -> None:
    def size(**sizes: str) -> int:
        (job,) = expand(SweepSpec(**{"task": "polyreg", "models": "attn", "L": "64", "seeds": "0", **sizes}), "cpu")
        found = family_of(job.task).memory(job)
        assert found is not None
        return found

    once = size()
    assert size(batch_size="128") == pytest.approx(2 * once, rel=0.05)
    assert size(depth="4") == pytest.approx(4 * once, rel=0.3)
    assert size(L="100000") > 1000 * once


def test_c4_a_stack_on_a_cpu_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    request = SweepSpec(task="polyreg", models="ssm", L="16", depth="400", seeds="0:4", batch_size="64")
    jobs = expand(request, "cpu")
    monkeypatch.setattr(estimate, "_LARGE", 1 << 18)
    size = family_of(jobs[0].task).memory(jobs[0])
    assert size is not None
    monkeypatch.setattr(estimate, "machine", lambda device: memory.Machine(9 * size, 4 * size + 1))
    assert [len(stack.jobs) for stack in stacks(jobs, "cpu", None)] == [2, 2]


def test_c4_a_layer_that_refuses_the_pass_is_not_estimated() -> None:
    def refuses(length: int, depth: int) -> Any:
        raise RuntimeError

    assert memory.step_bytes(refuses, torch.zeros, torch.sum, memory.Sizes(1, 4, 4, 1, 0)) is None
    assert "not estimated" in str(
        Need(expand(SweepSpec(task="polyreg", models="ssm", L="4"), "cpu")[0], None, memory.Machine(2, 1))
    )


def test_c4_the_memory_of_the_machine() -> None:
    there = memory.machine("cpu")
    assert 0 < there.free <= there.total
    assert memory.readable(1536 * 1024**2) == "1.5 GiB"


class Forked:
    """A command as `kill_loop` starts it, forked from a process that has imported torch."""

    def __init__(self, words: list[str]) -> None:
        self.child = supervised(*words)

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self.child.poll()

    def kill(self, *, group: bool) -> None:
        """Kill the parent; its child ends with it."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def loaded(self) -> bool:
        """Return whether the command has counted its runs."""
        return " to run" in self.child.err


def test_2_kills_lose_double_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "kill_loop.py"))
    text = write_text(tmp_path / "text")
    commands = {
        "synthetic": ["run", "--task", "polyreg", "--models", "linattn", *TINY],
        "text": ["run", "--task", "wikitext", "--models", "attn", "--L", "8", "--D", "8", "--batch-size", "8"],
        "compact": ["compact"],
    }
    commands["text"] += ["-t", f"path={text}", "-t", "tokenizer=word", "--steps", "20", "--seeds", "0"]
    longest = {"synthetic": 0.3, "text": 0.3, "compact": 0.1}
    said: list[str] = []
    killed, found = script["kill_loop"](Forked, commands, tmp_path, 4, random.Random(0), longest, said.append)
    assert killed.total() == 4
    assert tuple(found) == (0, 0, 0), said


def test_2_the_kill_loop_counts_what_is_lost_doubled_and_different(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "kill_loop.py"))
    right = pd.DataFrame([{**dict.fromkeys(script["ROW"], "a"), "step": step, "value": 1.0 * step} for step in range(4)])
    wrong = pd.concat([right.iloc[[0, 1, 1]], right.iloc[[2]].assign(value=9.0)])
    assert tuple(script["compare"](right, right)) == (0, 0, 0)
    assert tuple(script["compare"](wrong, right)) == (1, 1, 1)
