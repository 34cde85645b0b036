"""Resuming, killing, sharing and sharding a sweep; what fails half-way."""

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from expbench_tasks.polyreg import PolyReg

from expbench.errors import BadInput
from expbench.results import schema, store
from expbench.run import Score, Split
from expbench.sweep import plan as sweep_plan
from expbench.sweep import worker
from expbench.sweep.execution import Outcome, _reported
from expbench.sweep.executor import ExecutionSettings
from expbench.sweep.executors import local
from expbench.sweep.expand import expand
from expbench.sweep.progress import Progress
from expbench.sweep.spec import SweepSpec
from expbench.training.family import Stack
from expbench.training.job import Job
from expbench.training.weights import load
from tests.conftest import TINY, CommandLine
from tests.processes import command

SWEEP = ["run", "--task", "count-in-row,polyreg", "--models", "s6,linattn", "-t", "count-in-row:classes=4", *TINY]


def result(folder: Path) -> pd.DataFrame:
    """The table without what may differ between two runs of the same sweep."""
    frame, problems = store.read(folder)
    assert problems == []
    frame = frame.drop(columns=schema.PROVENANCE)
    return frame.sort_values(["key", "kind", "model", "split", "slice", "step", "metric"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("undisturbed") / "results"
    assert command(*SWEEP, "--results", str(folder)).wait() == 0
    assert set(store.read(folder).frame["stack_size"].dropna()) == {2}  # what is killed below is a stack
    return result(folder)


def test_an_undisturbed_sweep(undisturbed: pd.DataFrame) -> None:
    runs = undisturbed[undisturbed["kind"] == "run"]
    assert runs["key"].nunique() == 8
    assert set(runs["status"]) == {"ok"}
    assert set(zip(runs["task"], runs["model"], strict=True)) == set(
        itertools.product(["count-in-row", "polyreg"], ["s6", "linattn"])
    )
    assert set(undisturbed["kind"]) == {"run", "baseline", "oracle", "positive", "chance"}


def test_killed_at_any_moment_and_continued(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    # Each time it is killed once one more run has ended, at another moment of the next.
    for kill, wait in enumerate([0.0, 0.05, 0.15], start=1):
        process = command(*SWEEP, "--results", str(folder))
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.parquet"))) < 2 * kill and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert command(*SWEEP, "--results", str(folder)).wait() == 0
    pd.testing.assert_frame_equal(result(folder), undisturbed)


def test_two_processes_on_one_folder(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    processes = [command(*SWEEP, "--results", str(folder)) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    pd.testing.assert_frame_equal(result(folder), undisturbed)


def test_the_same_command_again_runs_nothing_and_a_wider_one_only_what_is_missing(expbench: CommandLine) -> None:
    small = ["run", "--task", "polyreg", "--models", "linattn", *TINY]
    assert "ran 2 (2 ok)" in expbench(*small).err
    stamps = {path: path.stat().st_mtime_ns for path in Path("results").glob("*.parquet")}
    again = expbench(*small)
    assert again.code == 0
    assert "2 runs: 2 done, 0 to run" in again.err
    assert {path: path.stat().st_mtime_ns for path in Path("results").glob("*.parquet")} == stamps
    assert "4 runs: 2 done, 2 to run" in expbench(*small, "--lr", "0.01,0.02").err


def test_shards_part_the_work_without_overlap(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "linattn,ssm", *TINY]
    assert "2 runs: 0 done, 2 to run" in expbench(*words, "--shard", "1/2").err
    assert "2 runs: 0 done, 2 to run" in expbench(*words, "--shard", "2/2").err
    assert "4 runs: 4 done, 0 to run" in expbench(*words).err


FAILS_LATER = """
import torch
from torch import nn

class FailsLater(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
    def forward(self, x):
        if len(x) > 2:  # so it passes the check of its contract, on two sequences
            raise RuntimeError("the layer broke down")
        return x * self.scale
"""


def test_a_run_that_fails_is_a_row_and_the_sweep_goes_on(expbench: CommandLine) -> None:
    Path("fails.py").write_text(FAILS_LATER)
    words = ["run", "--task", "polyreg", "--models", "fails.py:FailsLater,linattn", *TINY]
    answer = expbench(*words)
    assert answer.code == 1
    assert "ran 4 (2 failed, 2 ok)" in answer.err
    assert "Traceback" not in answer.err
    frame, _ = store.read(Path("results"))
    failed = frame[frame["status"] == "failed"]
    assert failed["key"].nunique() == 2
    assert "RuntimeError: the layer broke down (fails.py:" in failed["error"].iloc[0]
    assert "Traceback" in failed["traceback"].iloc[0]
    assert "2 to run, 2 of them failed before" in expbench(*words).err, "they are tried again"
    report = expbench("report")
    assert report.code == 0
    assert "2 failed" in Path("results/report/report.md").read_text()


def test_fail_fast_stops_at_the_first_failure(expbench: CommandLine) -> None:
    Path("fails2.py").write_text(FAILS_LATER)
    answer = expbench("run", "--task", "polyreg", "--models", "fails2.py:FailsLater,linattn", "--fail-fast", *TINY)
    assert answer.code == 1
    assert "ran 1 (1 failed)" in answer.err
    assert "Traceback" in answer.err


@pytest.mark.parametrize("answers", [True, False])
def test_after_an_error_that_a_gpu_does_not_recover_from_no_run_is_tried(
    answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SweepSpec(task="polyreg", models="s6,attn", L="4", steps="2", seeds="0:2", task_settings=("test_size=64",))
    tried = []

    def execute(stack: Stack, *given: Any, **named: Any) -> Iterator[tuple[Job, Outcome]]:
        tried.extend(stack.jobs)
        yield stack.jobs[0], Outcome("failed", "AcceleratorError: CUDA error: unknown error")

    def synchronize() -> None:
        if not answers:
            raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(local, "execute", execute)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    plan = sweep_plan.plan(expand(request, "cpu"), tmp_path)
    settings = ExecutionSettings(tmp_path, "cuda", largest=1)
    swept = worker.run(plan, local.Local(), settings, Progress(plan.missing))
    assert len(tried) == swept.ended["failed"] == (4 if answers else 1)
    assert swept.stopped is not answers


def test_of_a_run_that_was_measured_after_epochs_the_one_reported_is_said() -> None:
    def scores(*values: tuple[float | None, float]) -> list[Score]:
        found = [Score("other", 0.0, "", "validation", 9)]
        for step, both in enumerate(values):
            named: Iterator[tuple[Split, float | None]] = zip(("validation", "test"), both, strict=True)
            found += [Score("m", v, "", split, step, primary=True) for split, v in named if v is not None]
        return found

    epochs = scores((9, 5), (7, 6), (7, 1), (8, 4))
    assert _reported(epochs, higher_is_better=False) == 6
    assert _reported(epochs, higher_is_better=True) == 5
    assert _reported(scores((None, 3), (None, 4)), higher_is_better=False) == 4


def test_divergence_is_a_finding_and_is_not_run_again(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "s6-poly", "--lr", "1e6", "--clip", "1e9", "--norm", "none", *TINY]
    answer = expbench(*words, "--warmup", "0")
    assert answer.code == 0, answer
    assert "ran 2 (2 diverged at the start)" in answer.err
    assert "2 runs diverged at the start, before step 20; if a lower --lr" in answer.err
    assert answer.err.count(": diverged at the start: the loss or its gradient is not finite at step ") == 2
    assert "0 to run" in expbench(*words, "--warmup", "0").err
    frame, _ = store.read(Path("results"))
    assert "is not finite at step" in frame.loc[frame["status"] == "diverged", "error"].iloc[0]
    assert expbench("report").code == 0
    text = Path("results/report/report.md").read_text()
    assert "2 diverged at the start" in text
    assert "0/2" in text
    key = frame.loc[frame["kind"] == "run", "key"].iloc[0]
    assert ["status", "diverged", "at", "the", "start"] in [line.split() for line in expbench("trace", key).out.splitlines()]


UNSUPPORTED = """
from torch import nn

class Narrow(nn.Identity):
    widths = (2, 4)
    dtypes = ("float32",)
    def __init__(self, width: int):
        super().__init__()
"""


def test_unsupported_configurations_are_rows_not_failures(expbench: CommandLine) -> None:
    Path("narrow.py").write_text(UNSUPPORTED)
    answer = expbench("run", "--task", "polyreg", "--models", "narrow.py:Narrow", "--D", "3,4", *TINY)
    assert answer.code == 0
    assert "ran 4 (2 ok, 2 unsupported)" in answer.err
    frame, _ = store.read(Path("results"))
    assert frame.loc[frame["D"] == 3, "error"].unique().tolist() == ["width 3 is not supported (supported: 2, 4)"]


def test_interrupted_and_continued(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    words = [*SWEEP, "--results", str(folder), "--steps", "400", "--stack", "1"]  # or it may end before it is interrupted
    for sent in (signal.SIGINT, signal.SIGTERM):
        process = command(*words)
        done = len(list(folder.glob("*.parquet")))
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.parquet"))) < done + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sent)
        assert process.wait() == 130
        assert "the same command resumes" in process.err
        assert "Traceback" not in process.err
    assert not [path for path in folder.glob(".*.tmp") if path.stat().st_size]


def test_weights_are_kept_on_request_and_load(expbench: CommandLine) -> None:
    from safetensors.torch import load_file

    expbench("run", "--task", "polyreg", "--models", "linattn", "--save-weights", *TINY)
    frame, _ = store.read(Path("results"))
    run = frame[frame["kind"] == "run"].iloc[0]
    weights = load_file(Path("results") / run["weights"])
    assert sum(tensor.numel() for tensor in weights.values()) == run["parameters"]
    assert str(run["weights"]) in expbench("trace", run["key"]).out


def test_the_best_median_and_worst_seed_keep_their_weights(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "linattn", "--save-weights", *TINY]
    expbench(*words, "--seeds", "0:5")
    frame, _ = store.read(Path("results"))
    at_end = frame[(frame["split"] == "validation") & (frame["metric"] == "nmse") & (frame["step"] == frame["steps"])]
    ordered = list(at_end.sort_values("value")["key"])
    kept = {path.stem for path in Path("results/weights").iterdir()}
    assert len(ordered) == 5
    assert kept == {ordered[0], ordered[2], ordered[4]}
    assert "not kept" in expbench("trace", ordered[1]).out
    network = load("results", ordered[2][:8])
    task = PolyReg(L=4, test_size=256)
    batch = next(task.split("test"))
    with torch.no_grad():
        error = float(((network(batch.inputs.float()) - batch.targets) ** 2).mean())
    found = frame[(frame["key"] == ordered[2]) & (frame["split"] == "test") & (frame["metric"] == "nmse")]["value"]
    assert error == pytest.approx(float(found.iloc[0]), rel=1e-4)
    with pytest.raises(BadInput, match="no weights are saved"):
        load("results", ordered[1])
    with pytest.raises(BadInput, match="unknown run"):
        load("results", "nothing")


def test_what_a_row_carries(expbench: CommandLine) -> None:
    expbench("run", "--task", "polyreg", "--models", "s6,linattn", "--norm", "none", *TINY)
    frame, _ = store.read(Path("results"))
    run = frame[(frame["model"] == "linattn")].iloc[0]
    assert (run["parameters"], run["state_size"], run["network_degree"], run["network_order"]) == (73, 16, 3, 2)
    task = PolyReg(L=4, test_size=256)
    assert run["label_kurtosis"] == pytest.approx(task.moments.kurtosis)
    assert run["label_interaction_order"] == pytest.approx(task.moments.interaction_order)
    assert run["effective_sample_size"] == pytest.approx(task.facts().effective_sample_size)
    assert run["well_posed"] == task.facts().well_posed
    assert (run["device"], run["L"], run["degree"], run["D"], run["norm"], run["positions"]) == (
        "cpu",
        4,
        4,
        4,
        "none",
        "sin",
    )
    s6 = frame[(frame["model"] == "s6")].iloc[0]
    assert pd.isna(s6["network_degree"])
    assert bool(s6["skip"])
    assert pd.isna(run["skip"])
    assert (frame.loc[frame["kind"] == "run", "precision"] == "float32, deterministic").all()


STATES_NONSENSE = """
from expbench.mixer import Mixer
from torch import nn

class Nonsense(Mixer):
    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Linear(width, width)
    def forward(self, x):
        return self.mix(x)
    def state_size(self, L):
        return WHAT
"""


@pytest.mark.parametrize(
    ("what", "error"), [("1 / 0", "ZeroDivisionError"), ("'many'", "TypeError"), ("10**30", "Overflow")]
)
def test_a_model_that_states_nonsense_fails_with_a_row(expbench: CommandLine, what: str, error: str) -> None:
    Path("nonsense.py").write_text(STATES_NONSENSE.replace("WHAT", what))
    answer = expbench("run", "--task", "polyreg", "--models", "nonsense.py:Nonsense,ssm", *TINY)
    assert answer.code == 1
    assert "ran 4 (2 failed, 2 ok)" in answer.err
    frame, _ = store.read(Path("results"))
    assert frame.loc[frame["status"] == "failed", "error"].str.contains(error).all()


def test_a_model_that_exits_ends_its_run_alone(expbench: CommandLine) -> None:
    Path("exits.py").write_text(FAILS_LATER.replace("RuntimeError", "SystemExit"))
    answer = expbench("run", "--task", "polyreg", "--models", "exits.py:FailsLater,ssm", *TINY)
    assert (answer.code, "ran 4 (2 failed, 2 ok)" in answer.err) == (1, True), answer


def test_a_preview_of_runs_that_will_fail(expbench: CommandLine) -> None:
    Path("fails3.py").write_text(FAILS_LATER)
    answer = expbench("run", "--task", "polyreg", "--models", "fails3.py:FailsLater,ssm", "--dry-run", *TINY)
    assert answer.code == 0
    assert "1 of 2 shapes" in answer.out
