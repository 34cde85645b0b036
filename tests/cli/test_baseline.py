"""Baselines: declared, measured, checked, replaced; and the invariants of runs."""

import csv
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from expbench.data.corpus import Choice, Source, markov, prepare
from expbench.regression import invariants
from expbench.regression.baseline import load
from expbench.results import store
from expbench.run import Shape
from expbench.sweep.expand import expand
from expbench.task import Batch
from expbench.training.batches import TaskBatches
from expbench.training.schedule import Rates
from tests.conftest import CommandLine, is_bad_input
from tests.test_imports import loaded

ROOT = Path(__file__).parents[2]
SIZES = '["test_size=2048", "validation_size=256"]'  # fewer would leave the labels ill-posed
CONFIGURATION = f'{{ task = "polyreg", models = "ssm", L = 4, steps = 100, lr = 0.05, task_settings = {SIZES} }}'
EVERY = '[every]\nseeds = "0:5"\n'


def declare(text: str, name: str = "tiny") -> Path:
    """A baseline in the folder where the command line is called."""
    folder = Path("results/baselines") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configurations.toml").write_text(text)
    return folder


_measured: list[bytes] = []  # the table of the tiny baseline, which is measured once


@pytest.fixture
def tiny(expbench: CommandLine) -> CommandLine:
    """The command line, where there is a baseline of one cell."""
    folder = declare(f"configurations = [\n{CONFIGURATION},\n]\n{EVERY}")
    if not _measured:
        answer = expbench("baseline", "update", "--baseline", "tiny", "--yes")
        assert answer.code == 0, answer
        _measured.append((folder / "table.parquet").read_bytes())
    (folder / "table.parquet").write_bytes(_measured[0])
    return expbench


def check(expbench: CommandLine, *words: str) -> tuple[int, str]:
    answer = expbench("baseline", "check", "--baseline", "tiny", *words)
    return answer.code, answer.out + answer.err


def test_what_has_not_changed_passes_and_is_written_for_a_pull_request(tiny: CommandLine) -> None:
    code, said = check(tiny, "--markdown", "page.md")
    assert code == 0, said
    assert "1 unchanged" in said
    assert "invariants hold: learning rates, clipped gradient norms and data checksums" in said
    page = Path("page.md").read_text()
    assert page.startswith("### expbench compare: passes")
    assert "invariants hold" in page
    assert check(tiny)[0] == 0, "what the last check left is not in the way"
    assert tiny("compare", "results/baselines/tiny", "results/regress/tiny").code == 0


def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TaskBatches.train_at
    monkeypatch.setattr(TaskBatches, "train_at", lambda s, n: Batch((b := whole(s, n)).inputs, b.targets.roll(1, 1)))
    monkeypatch.setattr(TaskBatches, "mapped", True)


def test_what_has_become_worse_gives_exit_code_1_and_so_does_what_rows_record(
    tiny: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted(monkeypatch)
    code, said = check(tiny)
    assert code == 1
    assert "FAILS: 1 regressed" in said, said
    assert "targets_checksum of 5 runs of ssm on polyreg" in said
    assert "inputs_checksum" not in said
    assert check(tiny, "--fail-on", "none", "--markdown", "page.md")[0] == 1, "what is recorded is no verdict"
    assert Path("page.md").read_text().startswith("### expbench baseline check: fails, invariants are violated")


@pytest.mark.parametrize(
    ("planted", "metric"),
    [
        ({"expbench.training.schedule.Rates.at": lambda self, step: self._peak.clone()}, "learning_rate"),
        ({"expbench.training.step.clipped": lambda grads, most: (grads * 100, grads.norm(dim=1))}, "gradient_norm"),
        ({"expbench.models.ssm.SSM.forward": lambda self, x: x * self.skip * 1.01}, "outputs_checksum"),
        ({"expbench.training.batches.TaskBatches._own": None}, "inputs_checksum"),
    ],
)
def test_what_a_metric_may_not_show_is_recorded(
    tiny: CommandLine, monkeypatch: pytest.MonkeyPatch, planted: dict[str, object], metric: str
) -> None:
    for name, stand_in in planted.items():
        if stand_in is None:  # batches of the step before
            monkeypatch.setattr(TaskBatches, "mapped", False)
            monkeypatch.setattr(name, lambda self, i, step, own=TaskBatches._own: own(self, i, max(1, step - 1)))
        else:
            monkeypatch.setattr(name, stand_in)
    code, said = check(tiny, "--fail-on", "none")
    assert code == 1, said
    assert f"- {metric} of 5 runs of ssm on polyreg: " in said


def test_a_missing_or_failed_configuration_fails(tiny: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    declare(f"configurations = [\n{CONFIGURATION},\n{CONFIGURATION.replace('ssm', 'linattn')},\n]\n{EVERY}")
    assert "1 new" in check(tiny)[1]
    assert tiny("baseline", "update", "--baseline", "tiny", "--yes", "--results", "results/regress/tiny").code == 0
    declare(f"configurations = [\n{CONFIGURATION},\n]\n{EVERY}")
    code, said = check(tiny)
    assert (code, "FAILS: 1 missing" in said) == (1, True)
    monkeypatch.setattr("expbench.training.stacked.train_together", broken)
    code, said = check(tiny)
    assert code == 1, said
    assert "FAILS: 1 failed, 1 missing" in said


def test_update_shows_the_change_and_replaces(tiny: CommandLine) -> None:
    before = Path("results/baselines/tiny/table.parquet").read_bytes()
    answer = tiny("baseline", "update", "--baseline", "tiny")
    is_bad_input(answer, "--yes")
    assert check(tiny)[0] == 0
    declare(f"configurations = [\n{CONFIGURATION},\n{CONFIGURATION.replace('ssm', 'linattn')},\n]\n{EVERY}")
    is_bad_input(
        tiny("baseline", "update", "--baseline", "tiny", "--yes", "--results", "results/regress/tiny"), "5 of the 10 runs"
    )
    assert Path("results/baselines/tiny/table.parquet").read_bytes() == before
    code, said = check(tiny, "--results", "elsewhere")
    assert code == 0, said
    answer = tiny("baseline", "update", "--baseline", "tiny", "--yes", "--results", "elsewhere")
    assert answer.code == 0, answer
    assert "1 unchanged" in answer.out
    assert "1 new" in answer.out
    assert "10 runs" in answer.out
    assert "2 unchanged" in check(tiny)[1]


def test_asked_on_a_terminal_no_leaves_it_as_it_is(tiny: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("results/baselines/tiny/table.parquet").read_bytes()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: False)
    answer = tiny("baseline", "update", "--baseline", "tiny")
    assert (answer.code, "the baseline is unchanged" in answer.err) == (0, True)
    assert Path("results/baselines/tiny/table.parquet").read_bytes() == before


def test_bad_input_is_one_line_that_names_what_is_near(expbench: CommandLine) -> None:
    declare(f"configurations = [{CONFIGURATION}]")
    is_bad_input(expbench("baseline", "check", "--baseline", "tinny"), "tinny", "'tiny'")
    is_bad_input(expbench("baseline", "check", "--baseline", "tiny"), "table.parquet", "expbench baseline update")
    is_bad_input(expbench("baseline", "check", "--baseline", "tiny", "--fail-on", "regresed"), "'regressed'")
    for text, words in {
        f"configurations = [{CONFIGURATION.replace('steps', 'step')}]": ("'step'", "'steps'"),
        f"configuration = [{CONFIGURATION}]": ("'configuration'", "'configurations'"),
        "configurations = [": ("configurations.toml", "cannot be read"),
        "configurations = []": ("no configurations",),
        'configurations = [{ task = "polyreg" }]': ("lacks models",),
        'configurations = [{ task = "polyreg", models = "s6", task_settings = "L=4" }]': ("task_settings", "list"),
        'configurations = [{ task = "polyreg", models = "s6", steps = [1] }]': ("steps", "number"),
        'device = "gpu"\nconfigurations = [{ task = "polyreg", models = "s6" }]': ("gpu", "cuda"),
        'configurations = [{ task = "polyrge", models = "s6" }]': ("polyrge", "'polyreg'"),
    }.items():
        declare(text)
        is_bad_input(expbench("baseline", "update", "--baseline", "tiny", "--yes"), *words)
    if not torch.cuda.is_available():
        declare(f'device = "cuda"\nconfigurations = [{CONFIGURATION}]')
        is_bad_input(expbench("baseline", "update", "--baseline", "tiny", "--yes"), "tiny needs a GPU", "expbench doctor")


def test_a_check_does_not_take_up_what_was_run_before(tiny: CommandLine) -> None:
    tiny("run", "--task", "polyreg", "--models", "ssm", "--L", "4", "--steps", "2", "--seeds", "0", "--results", "mine")
    is_bad_input(tiny("baseline", "check", "--baseline", "tiny", "--results", "mine"), "--results", "mine")
    other = Path("results/regress/tiny/table.parquet")
    other.parent.mkdir(parents=True)
    other.write_bytes(Path("results/baselines/tiny/table.parquet").read_bytes())
    is_bad_input(tiny("baseline", "check", "--baseline", "tiny"), "table.parquet")
    assert other.exists()
    other.unlink()
    checkpoint = Path("results/regress/tiny/checkpoints/0123456789abcdef/step-5.safetensors")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert check(tiny)[0] == 0
    assert not checkpoint.exists(), "a text's run would go on from there"


@pytest.mark.parametrize("shape", ["cosine", "constant", "linear"])
def test_the_schedule_of_the_check_is_that_of_training(shape: str) -> None:
    from expbench.sweep.expand import expand
    from expbench.sweep.spec import SweepSpec

    (job,) = expand(
        SweepSpec(task="polyreg", models="ssm", steps="40", warmup="7", seeds="0", lr="0.5", schedule=shape), "cpu"
    )
    rates = Rates([job.run], "cpu")
    rows = [
        {
            "key": "0",
            "kind": "run",
            "status": "ok",
            "task": "t",
            "model": "m",
            "lr": 0.5,
            "steps": 40,
            "warmup": 7,
            "schedule": job.run.schedule,
            "clip": 1.0,
        }
        | {"split": "train", "step": step, "metric": "learning_rate", "value": float(rates.at(torch.tensor(step - 1)))}
        for step in range(1, 41)
    ]
    assert invariants.broken(pd.DataFrame(rows)) == []
    rows[7]["value"] *= 1.001
    (found,) = invariants.broken(pd.DataFrame(rows))
    assert (found.metric, found.runs) == ("learning_rate", 1)
    assert "at step 8" in str(found)


@pytest.mark.parametrize("name", ["cpu", "h200"])
def test_the_committed_baseline_holds_what_is_declared(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path))
    baseline = load(name)
    frame, problems = store.read(baseline.table)
    assert problems == []
    runs = frame[frame["kind"] == "run"].drop_duplicates("key")
    assert set(runs["status"]) == {"ok"}
    assert not runs["git_commit"].str.contains("changes").any(), "measured by what is committed"

    def told(row: pd.Series) -> tuple[object, ...]:
        return row["task"], row["model"], row["L"], row["positions"], row["steps"], row["seed"]

    jobs = [job for request in baseline.requests for job in expand(request, "cpu")]
    declared = {(r.task, r.model, r.L, r.positions, r.steps, r.seed) for r in (job.run for job in jobs)}
    assert {told(row) for _, row in runs.iterrows()} == declared
    assert set(runs["device"]) == {baseline.device}
    seeds = runs.groupby(["task", "model", "positions", "task_settings"])["seed"].nunique()
    assert seeds.min() >= 5
    texts = frame[(frame["task"] == "wikitext") & (frame["split"] == "test") & (frame["metric"] == "perplexity")]
    assert texts["value"].min() > markov.floor()
    assert pq.ParquetFile(baseline.table).metadata.num_rows == len(frame)


def test_the_made_text_is_always_the_same_and_its_floor_is_its_entropy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path))
    lines = list(markov.lines("train"))
    assert lines == list(markov.lines("train"))
    assert lines[0] == "t0 w31 w17 w28 w22 w16 w1 w22 w16 w1 w18 w27 w26 w7 w8 w28", "on every machine"
    assert not {*lines} & {*markov.lines("test")}
    tables = markov.successors()
    assert all(len({*words}) == 4 for topic in tables for words in topic)
    nats = []
    for line in lines:
        topic, *words = line.split()
        numbers = [int(word[1:]) for word in words]
        cost = np.log(markov.TOPICS * markov.WORDS)
        for one, other in pairwise(numbers):
            rank = tables[int(topic[1:])][one].index(other)
            cost -= np.log((0.5, 0.25, 0.125, 0.125)[rank])
        nats.append(cost / (len(words) + 2))
    assert np.exp(np.mean(nats)) == pytest.approx(markov.floor(), rel=0.01)
    corpus = prepare(Source("markov"), Choice("word"))
    assert f"perplexity is {markov.floor():.2f}" in (ROOT / "docs/guides/language-models.md").read_text()
    assert corpus.vocabulary == markov.TOPICS + markov.WORDS + 2


def test_help_of_the_commands_imports_nothing_heavy() -> None:
    for words in (["baseline", "--help"], ["baseline", "check", "--help"], ["baseline", "update", "--help"]):
        assert not loaded(*words) & {"torch", "pandas", "numpy", "pyarrow", "scipy"}


@pytest.mark.parametrize("name", ["old", "results/baselines/old"])
def test_a_baseline_by_its_former_name_is_refused_with_the_new_one(name: str, expbench: CommandLine) -> None:
    folder = Path("results/baselines/old")
    folder.mkdir(parents=True)
    (folder / "cells.toml").write_text(f"cells = [{CONFIGURATION}]")
    is_bad_input(expbench("baseline", "check", "--baseline", name), "cells.toml", "configurations.toml")


def test_the_rates_of_every_schedule_are_checked() -> None:
    assert set(invariants.SCHEDULES) == set(get_args(Shape))


def test_the_committed_page_of_the_gate_is_of_its_table_and_every_defect_is_in_it() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "gate_power.py"))
    with (ROOT / "results" / "gate" / "power.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    caught = {row["name"]: row["caught_by"] for row in rows}
    assert set(script["DEFECTS"]) <= set(caught)
    assert all(caught[name] != "nothing" for name in script["DEFECTS"])
    honest = [name for name in caught if name not in script["DEFECTS"]]
    assert sum(caught[name] != "nothing" for name in honest) <= 1
    assert script["page"](rows) == (ROOT / "results" / "gate" / "power.md").read_text()


def test_the_script_that_plants_defects_says_what_there_is() -> None:
    answer = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gate_power.py"), "--only", "nothing"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert answer.returncode == 2
    assert "causal mask off by one" in answer.stderr
