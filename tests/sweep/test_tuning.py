"""Learning rates: how one is chosen, how the grid grows, and that what chooses is never what is reported."""

import math
import signal
import time
from pathlib import Path

import pytest

from expbench.results import store
from expbench.results.configurations import gather, with_context
from expbench.results.learning_rates import INITIAL_GRID, RATE_GRID, RESERVED, TUNING_RUNS, choose, extended
from expbench.sweep import sharding, tuning
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.processes import command


def test_the_rate_with_the_best_mean_is_chosen() -> None:
    tried = {0.01: [0.2, 0.4], 0.03: [0.1, 0.3], 0.1: [0.25, 0.25]}
    assert choose(tried, higher_is_better=False) == 0.03
    assert choose(tried, higher_is_better=True) == 0.01
    assert choose({0.03: [0.5], 0.01: [0.5]}, higher_is_better=True) == 0.01, "of equals the lowest"


def test_a_rate_at_which_runs_break_down_comes_last() -> None:
    assert choose({0.01: [0.9, 0.9], 0.1: [0.1, None]}, higher_is_better=False) == 0.01
    assert choose({0.01: [0.9, math.nan], 0.1: [0.1, None]}, higher_is_better=False) == 0.1
    assert choose({0.01: [None, None], 0.1: [None, 5.0]}, higher_is_better=False) == 0.1


def test_the_grid_grows_at_the_end_where_a_rate_was_chosen_until_the_ladder_ends() -> None:
    assert extended(INITIAL_GRID, [0.01, 0.03]) == INITIAL_GRID
    assert extended(INITIAL_GRID, [0.01, 0.1]) == (*INITIAL_GRID, 0.3)
    assert extended(INITIAL_GRID, [0.003, 0.1]) == (0.001, *INITIAL_GRID, 0.3)
    assert extended(RATE_GRID, [RATE_GRID[0], RATE_GRID[-1]]) == RATE_GRID


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
        assert configuration["lr"] == last.groupby("lr")["value"].mean().idxmin(), "chosen on the validation split"
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
