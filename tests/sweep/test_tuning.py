"""Learning rates: how one is chosen, how the grid grows, and that what chooses is never what is reported."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from expbench.results import store
from expbench.results.configurations import gather, with_context
from expbench.results.learning_rates import (
    BIMODAL_RUNS,
    INITIAL_GRID,
    RATE_GRID,
    RESERVED,
    RULE,
    TUNING_RUNS,
    Criterion,
    choose,
    middle,
)
from expbench.sweep import sharding, tuning
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.processes import command

REQUEST = ["--task", "polyreg", "--models", "s6-poly,ssm", *TINY, "--batch-size", "8"]


def test_a_campaign_chooses_on_reserved_seeds_and_reports_others(expbench: CommandLine) -> None:
    answer = expbench("run", *REQUEST, "--lr", "auto")
    assert answer.code == 0, answer
    frame, problems = store.read(Path("results"))
    assert not problems
    kinds = frame.drop_duplicates("key").groupby("kind")["seed"].agg(["min", "max", "count"])
    assert kinds.loc["run", "max"] < RESERVED <= kinds.loc["tuning", "min"]
    configurations = gather(with_context(frame))
    assert len(configurations) == 2, "a cell a model: tuning runs are in none"
    rates = {configuration.tuning.rates for configuration in configurations if configuration.tuning}
    assert len(rates) == 1, "models that are compared have the same grid"
    (grid_,) = rates
    for configuration in configurations:
        assert configuration.tuned
        assert configuration.tuning is not None
        assert configuration.tuning.runs == len(grid_) * TUNING_RUNS
        assert min(grid_) < configuration["lr"] < max(grid_) or configuration["lr"] in (RATE_GRID[0], RATE_GRID[-1])
        tried = frame[
            (frame["kind"] == "tuning") & (frame["model"] == configuration["model"]) & (frame["split"] == "validation")
        ]
        last = tried[tried["primary"].fillna(False).astype(bool) & (tried["step"] == tried["steps"])]
        values = {float(lr): own["value"].tolist() for lr, own in last.groupby("lr")}
        threshold = configuration.success_threshold
        assert configuration["lr"] == choose(values, Criterion(False, threshold)), "chosen on the validation split"
        assert configuration["lr"] == last.groupby("lr")["value"].mean().idxmin(), "no run of so few steps solves it"
        assert set(frame.loc[frame["model"] == configuration["model"], "tuning_rule"]) == {RULE}
    again = expbench("run", *REQUEST, "--lr", "auto")
    assert "ran 0 (none)" in again.err
    given = expbench("run", *REQUEST, "--lr", "0.02")
    assert given.code == 0
    tuned = {
        configuration["lr"]: configuration.tuned for configuration in gather(with_context(store.read(Path("results")).frame))
    }
    assert tuned.pop(0.02) is False
    assert all(tuned.values())


def test_instances_that_choose_rates_are_reserved_too() -> None:
    request = SweepSpec(
        task="polyreg", models="ssm", L="4", lr="auto", seeds="0:3", paired=True, task_settings=("family=random",)
    )
    jobs = expand(request, "cpu")
    assert [(job.run.seed, job.task.instance) for job in jobs] == [(0, 0), (1, 1), (2, 2)]
    chooses = tuning.tuning_jobs(jobs, [0.01])
    assert [(job.run.seed, job.task.instance) for job in chooses] == [
        (RESERVED + k, RESERVED + k) for k in range(TUNING_RUNS)
    ]
    assert all(job.run.task_settings["instance"] == job.task.instance for job in chooses)
    assert tuning.configuration_of(chooses[0].run) == tuning.configuration_of(jobs[2].run)


Outcome = Callable[[float, int], float]


class Outcomes:
    """A search whose runs end as a table says, without a training: `solved[model](rate, k)` of run k at a rate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, models: str, runs: int = TUNING_RUNS, **solved: Outcome) -> None:
        request = SweepSpec(task="count-in-row", models=models, L="4", lr="auto", seeds="0:2", task_settings=("classes=3",))
        self.jobs, self.solved, self.runs = expand(request, "cpu"), solved, runs
        self.ended: dict[str, float] = {}
        monkeypatch.setattr(tuning.store, "statuses", lambda folder: (dict.fromkeys(self.ended, "ok"), []))
        monkeypatch.setattr(tuning.reported, "selected", lambda folder, keys: {key: self.ended[key] for key in keys})

    def search(self) -> tuple[list[Counter[tuple[str, float]]], dict[str, float], list[str]]:
        """Return the tuning runs of each stage by model and rate, the chosen rates, and what was said."""
        said: list[str] = []
        stages, rates = [], {}
        for what, jobs in tuning.RateSearch(self.jobs, Path(), self.runs).stages(said.append):
            if what:
                stages.append(Counter((job.run.model, job.run.lr) for job in jobs))
                assert len({job.run.key for job in jobs}) == len(jobs)
            else:
                rates = {job.run.model: job.run.lr for job in jobs}
            for job in jobs if what else ():
                self.ended[job.run.key] = self.solved[job.run.model](job.run.lr, job.run.seed - RESERVED)
        return stages, rates, said


def test_where_outcomes_are_bimodal_all_compared_models_get_ten_runs_and_the_share_solved_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # of 5 runs, 2 solve the task at 0.01 and 1 at 0.03, whose mean is better; of 10, 3 and 6
    solves = {0.01: (0, 1, 5), 0.03: (0, 5, 6, 7, 8, 9)}
    made = Outcomes(
        monkeypatch,
        "attn,ssm",
        attn=lambda rate, k: 1.0 if k in solves.get(rate, ()) else 0.2 + rate,
        ssm=lambda rate, k: 0.5 - abs(rate - 0.01) - k / 1000,
    )
    stages, rates, said = made.search()
    assert [set(stage.values()) for stage in stages] == [{TUNING_RUNS}, {BIMODAL_RUNS}]
    assert all({rate for model, rate in stage if model == name} == set(INITIAL_GRID) for stage in stages for name in rates)
    assert rates == {"attn": 0.03, "ssm": 0.01}
    picked = "0.01 (1 configuration), 0.03 (1 configuration)"
    assert said == [f"learning rates from 4 x 10 tuning runs per configuration: {picked}"]
    assert made.search() == (stages, rates, said), "a repeated call takes the same path, without other runs"


def test_a_grid_that_grows_after_the_further_runs_has_ten_at_each_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    solves = {0.03: (0, 1), 0.1: (0, 5, 6, 7, 8, 9)}
    made = Outcomes(monkeypatch, "attn", attn=lambda rate, k: float(k in solves.get(rate, ())))
    stages, rates, _ = made.search()
    assert [set(stage.values()) for stage in stages] == [{TUNING_RUNS}, {BIMODAL_RUNS}, {BIMODAL_RUNS}]
    assert {rate for _, rate in stages[-1]} == {*INITIAL_GRID, 0.3}
    assert rates == {"attn": 0.1}


def test_outcomes_that_agree_or_are_single_need_no_further_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = Outcomes(monkeypatch, "attn", attn=lambda rate, k: float(rate in (0.01, 0.03)))
    stages, rates, _ = agreed.search()
    assert (len(stages), rates) == (1, {"attn": 0.01}), "of the two rates that solve it always, the lower middle"
    single = Outcomes(monkeypatch, "attn", runs=1, attn=lambda rate, k: float(rate == 0.03))
    assert set(single.search()[0][-1].values()) == {1}


def test_a_share_keeps_together_what_is_trained_together_or_has_one_grid() -> None:
    request = SweepSpec(task="polyreg", models="ssm,s6-poly", L="4,5", D="2,3", seeds="0:4", norm="none,layer")
    jobs = expand(request, "cpu")
    for whole, of in ((False, tuning.configuration_of), (True, lambda run: (run.L, run.norm))):
        parts = [sharding.share(jobs, (i, 4), whole_pairs=whole) for i in (1, 2, 3, 4)]
        assert sorted(job.run.key for part in parts for job in part) == sorted(job.run.key for job in jobs)
        groups = [{of(job.run) for job in part} for part in parts]
        assert sum(map(len, groups)) == len(set().union(*groups)), "a group is in one part alone"
    few = [sharding.share(jobs[:4], (i, 2), whole_pairs=False) for i in (1, 2)]
    assert [len(part) for part in few] == [2, 2], "a single group is dealt out by runs"


def test_killed_while_choosing_and_continued(tmp_path: Path) -> None:
    words = [*REQUEST, "--steps", "40", "--lr", "auto", "--device", "cpu"]
    killed = command("run", *words, "--results", str(tmp_path / "killed"))
    while len(list((tmp_path / "killed").glob("*.parquet"))) < 12 and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for folder in ("killed", "whole"):
        ended = command("run", *words, "--results", str(tmp_path / folder))
        assert ended.wait() == 0, ended.err
    found = []
    for folder in ("killed", "whole"):
        frame = store.read(tmp_path / folder).frame
        reported = frame[(frame["kind"] == "run") & (frame["split"] == "test")]
        found.append(reported.sort_values(["key", "metric", "slice"])[["key", "metric", "value"]].reset_index(drop=True))
    assert found[0].equals(found[1])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--lr", "automatic"], "--lr"),
        (["--lr", "auto,0.01"], "--lr"),
        (["--seeds", str(RESERVED)], "999999"),
        (["--instances", str(RESERVED)], "999999"),
        (["--time-limit", "0"], "--time-limit"),
        (["--time-limit", "nan"], "--time-limit"),
    ],
)
def test_bad_input(expbench: CommandLine, words: list[str], line: str) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "ssm", *words), line)
    assert not Path("results").exists()


def test_a_time_limit_ends_between_stacks_and_the_same_command_goes_on(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "ssm", "--L", "4,5,6", "--steps", "20", "--seeds", "0:2"]
    stopped = expbench(*words, "--time-limit", "0.00001")
    assert stopped.code == 0
    assert "stopped at the time limit" in stopped.err

    assert "6 to run" in stopped.err
    assert "ran 6 (6 ok)" in expbench(*words).err


BROKEN = """
import torch
from torch import nn


class Explodes(nn.Module):
    devices = None

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.weight * float({factor})


class Fails(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)

    def forward(self, x):
        if x.shape[0] > 2:
            raise RuntimeError("no")
        return super().forward(x)


class Elsewhere(nn.Identity):
    devices = ("cuda",)

    def __init__(self, width):
        super().__init__()
"""


def test_a_model_that_always_diverges_has_lower_rates_tried_and_one_that_fails_or_is_not_supported_has_not(
    expbench: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN.format(factor="'1e38'"))
    words = ["run", "--task", "polyreg", *TINY, "--steps", "3", "--seeds", "0", "--lr", "auto", "--device", "cpu"]
    rates = {}
    for name in ("Explodes", "Fails", "Elsewhere"):
        answer = expbench(*words, "--models", f"broken.py:{name}", "--results", name)
        assert answer.code == (1 if name == "Fails" else 0), answer
        frame = store.read(Path(name)).frame
        rates[name] = set(frame.loc[frame["kind"] == "tuning", "lr"])
        assert (frame["kind"] == "run").any(), "it is reported all the same"
    assert min(rates["Explodes"]) == RATE_GRID[0]
    assert rates["Fails"] == rates["Elsewhere"] == set(INITIAL_GRID)
    for name, grid in rates.items():
        (reported,) = gather(with_context(store.read(Path(name)).frame))
        assert reported["lr"] == middle(grid), "the middle of equal rates, never the lowest"
        assert reported.tuned
