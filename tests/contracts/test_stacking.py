"""Runs trained together are the runs trained one by one."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expbench import plugins
from expbench.nn.network import Network
from expbench.results import store
from expbench.run import Score
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training import stacking
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.family import Diverged, DivergedError, Scored
from expbench.training.job import Job
from expbench.training.loop import build, train, train_together
from expbench.training.schedule import Rates, learning_rate_factor
from expbench.training.stacking import by_signature
from tests.conftest import CommandLine

MODELS = sorted(plugins.discover("model"))
TASKS = {
    "count-in-row": {"L": "9", "task_settings": ("classes=6", "test_size=300")},
    "polyreg": {"L": "6", "task_settings": ("family=sparse", "degree=3", "test_size=300"), "instances": "0:2"},
}


def jobs(task: str, model: str, **more: object) -> list[Job]:
    fields: dict[str, object] = {"D": "4", "seeds": "0:2", "steps": "100", "warmup": "50", "batch_size": "8"}
    fields |= {"dtype": "float64", "lr": "0.003,0.02"}
    return expand(SweepSpec(task=task, models=model, **(fields | TASKS[task] | more)), "cpu")  # type: ignore[arg-type]


def together(stack: Sequence[Job], until: int = 10**9) -> list[Scored | Diverged]:
    networks = [build(job.run, job.task, job.model, "cpu") for job in stack]
    events = train_together([job.run for job in stack], [job.task for job in stack], Ensemble(networks), "cpu")
    found = (event for event in events if isinstance(event, Scored | Diverged))
    return list(itertools.takewhile(lambda event: isinstance(event, Diverged) or event.score.step <= until, found))


def check_scores(stack: Sequence[Job], members: Iterable[int], until: int = 10**9) -> None:
    items = together(stack, until)
    for i in members:
        one = stack[i]
        scores = train(one.run, one.task, build(one.run, one.task, one.model, "cpu"), "cpu")
        alone = list(itertools.takewhile(lambda score: score.step <= until, scores))
        mine = [event.score for event in items if isinstance(event, Scored) and event.member == i]
        assert len(mine) == len(alone) > 0
        for a, b in zip(mine, alone, strict=True):
            assert (a.split, a.step, a.metric, a.slice, a.primary) == (b.split, b.step, b.metric, b.slice, b.primary)
            assert a.value == pytest.approx(b.value, rel=1e-9, abs=1e-12), (a.metric, a.slice)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_every_built_in_trains_as_it_does_alone(task: str, model: str) -> None:
    """float64, the first 100 steps of a warm-up of 200: losses, metrics and statistics at every point of the curve."""
    stack = jobs(task, model, steps="200", warmup="200")
    check_scores(stack, (0, len(stack) - 1), until=100)


@pytest.mark.parametrize("positions", ["sin", "learned", "onehot", "index", "rotary", "alibi"])
def test_every_position_code_trains_as_it_does_alone(positions: str) -> None:
    stack = jobs("polyreg", "attn", positions=positions, steps="30", warmup="10", model_settings=("attn:heads=2",))
    assert len(by_signature(stack)) == 1
    check_scores(stack, (0, len(stack) - 1))


@pytest.mark.parametrize("task", TASKS)
def test_whole_runs_with_other_rates_warm_ups_clips_and_decays(task: str) -> None:
    """To the end, the test split and the share of it that training has seen among what is compared."""
    stack = jobs(task, "s6", steps="40", warmup="0,20", clip="0.1,1", weight_decay="0,0.1", seeds="0")
    check_scores(stack, range(0, len(stack), 3))


def test_tasks_with_test_splits_of_other_sizes_are_trained_together() -> None:
    """Sizes follow the labels: 600 and 2048 sequences here, so that a part of the stack is evaluated without the others."""
    stack = [
        job
        for settings in (("degree=2", "test_size=600"), ("degree=6", "inputs=signs"))
        for job in jobs("polyreg", "attn", task_settings=settings, instances="0", lr="0.003", steps="25")
    ]
    assert len({job.task.test_size for job in stack}) == 2
    assert len(by_signature(stack)) == 1
    check_scores(stack, range(len(stack)))


def test_rates_in_tensors_are_the_schedule() -> None:
    stack = jobs("polyreg", "linattn", warmup="0,7,100", steps="100")
    rates = Rates([job.run for job in stack], "cpu")
    for step in (0, 6, 7, 8, 50, 99):
        expected = [job.run.lr * learning_rate_factor(job.run, step) for job in stack]
        assert rates.at(torch.tensor(step)).tolist() == pytest.approx(expected, rel=1e-13, abs=1e-18)


STRANGERS = """
import random
import torch
from torch import nn

class Gru(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cell = nn.GRU(width, width, batch_first=True)
    def forward(self, x):
        return self.cell(x)[0]

class Conv(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=2)
    def forward(self, x):
        return torch.tanh(self.conv(x.mT)[..., :-2].mT)

class OwnS6(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.delta, self.bc = nn.Linear(width, width), nn.Linear(width, 8)
        self.A = nn.Parameter(-torch.rand(width, 4))
    def forward(self, x):
        delta = nn.functional.softplus(self.delta(x))
        B, C = self.bc(x).chunk(2, -1)
        h, ys = torch.zeros(*x[:, 0].shape, 4, dtype=x.dtype), []
        for t in range(x.shape[1]):  # a Python loop over time
            h = torch.exp(delta[:, t, :, None] * self.A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
            ys.append((h * C[:, t, None]).sum(-1))
        return torch.stack(ys, 1)

class Sorts(nn.Module):
    '''Looks at values: no rule of vmap's can.'''
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Linear(width, width)
    def forward(self, x):
        return self.scale(x) if x.sum().item() > 0 else -self.scale(x)

class Drops(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.5))
    def forward(self, x):
        return self.inner(x)

class Lucky(nn.Module):
    '''Holds a number of its own that is no parameter.'''
    def __init__(self, width):
        super().__init__()
        self.scale, self.luck = nn.Linear(width, width), float(torch.rand(()))
    def forward(self, x):
        return self.luck * self.scale(x)
"""
SMALL = (
    "--task",
    "polyreg",
    "--L",
    "4",
    "--D",
    "3",
    "--seeds",
    "0:3",
    "--steps",
    "3",
    "--batch-size",
    "4",
    "-t",
    "test_size=64",
)


@pytest.fixture
def strangers() -> None:
    Path("strangers.py").write_text(STRANGERS)


def column(model: str, name: str) -> set[object]:
    frame = store.read(Path("results")).frame
    return set(frame.loc[(frame["kind"] == "run") & frame["model"].str.endswith(model), name].dropna())


@pytest.mark.parametrize("model", ["Gru", "Conv", "OwnS6"])
def test_a_strangers_module_is_stacked_as_it_is(expbench: CommandLine, strangers: None, model: str) -> None:
    answer = expbench("run", "--models", f"strangers.py:{model}", *SMALL, "--seeds", "0:3")
    assert answer.code == 0, answer.err
    assert column(model, "stack_size") == {3}
    assert column(model, "not_stacked_reason") == set()


@pytest.mark.parametrize(
    ("model", "reason"),
    [("Sorts", "vmap fails"), ("Drops", "vmap fails"), ("Lucky", "vmap changes its loss or gradient")],
)
def test_what_cannot_be_stacked_runs_one_by_one_and_says_why(
    expbench: CommandLine, strangers: None, model: str, reason: str
) -> None:
    before = expbench("run", "--models", f"strangers.py:{model}", *SMALL, "--seeds", "0:3", "--dry-run")
    assert f"3 runs of strangers.py:{model} are not stacked: " in before.out
    assert reason in before.out
    answer = expbench("run", "--models", f"strangers.py:{model}", *SMALL, "--seeds", "0:3")
    assert answer.code == 0, answer.err
    assert column(model, "stack_size") == {1}
    assert all(reason in str(why) for why in column(model, "not_stacked_reason"))


def test_a_run_that_diverges_in_a_stack_ends_as_it_does_alone() -> None:
    """One learning rate of three explodes: it ends at the same step as alone, and the others do not notice."""
    stack = jobs("polyreg", "s6-poly", lr="0.001,1e6,0.002", seeds="0", steps="60", warmup="0", instances="0")
    items = together(stack)
    for i, one in enumerate(stack):
        mine = [event for event in items if event.member == i]
        alone: list[Score] = []
        reason = ""
        try:
            for score in train(one.run, one.task, build(one.run, one.task, one.model, "cpu"), "cpu"):
                alone.append(score)
        except DivergedError as diverged:
            reason = str(diverged)
        last = mine[-1]
        assert (last.reason if isinstance(last, Diverged) else "") == reason
        assert bool(reason) is (one.run.lr == 1e6)
        values = [event.score.value for event in mine if isinstance(event, Scored)]
        assert values == pytest.approx([s.value for s in alone][: len(values)], rel=1e-9, nan_ok=True)


def test_float32_agrees_from_identical_parameters() -> None:
    """Losses and gradients at steps 0, 50 and 100 of a single run, stacked with others and alone: to 1e-5.

    Beyond a step float32 trajectories part, for rounding errors grow as fast as training is chaotic.
    """
    stack = jobs("count-in-row", "s6", dtype="float32", seeds="0:4", lr="0.01")
    one = stack[1]
    network = build(one.run, one.task, one.model, "cpu")
    for step in (0, 50, 100):
        if step:
            run = replace(one.run, steps=step)
            network = build(run, one.task, one.model, "cpu")
            list(train(run, one.task, network, "cpu"))
        others = [build(job.run, job.task, job.model, "cpu") for job in stack]
        others[1] = network
        for networks, i in ((others, 1), ([network], 0)):
            members = stack if len(networks) > 1 else [one]
            ensemble = Ensemble(networks)
            stream = TaskBatches([job.run for job in members], [job.task for job in members], "cpu")
            losses = ensemble.losses(one.task, stream.train(step + 1))
            grads = ensemble.stacked(torch.autograd.grad(losses.sum(), ensemble.leaves))
            if len(networks) > 1:
                mine = [losses[i].detach(), *(g[i] for g in grads)]
        for a, b in zip(mine, [losses[0].detach(), *(g[0] for g in grads)], strict=True):
            assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-12


@pytest.mark.parametrize(("rounding", "by", "size"), [(True, 3e-4, 2), (False, 3e-4, 1), (True, 0.05, 1)])
def test_rounding_alone_keeps_no_runs_apart(monkeypatch: pytest.MonkeyPatch, rounding: bool, by: float, size: int) -> None:
    """Where float32 differs by more than its tolerance, and not by much, float64 tells rounding from another gradient."""
    both = jobs("polyreg", "attn", dtype="float32", seeds="0:2", instances="0", lr="0.01")
    trial = stacking._trial

    def rough(tried: Sequence[Job], device: str) -> stacking._Trial:
        found = trial(tried, device)
        assert found.difference < 1e-5
        return found if rounding and tried[0].run.dtype == "float64" else found._replace(difference=by)

    monkeypatch.setattr(stacking, "_trial", rough)
    together, reason = stacking.together(both, "cpu")
    assert (min(together, 2), reason is None) == (size, size == 2)


def test_too_little_memory_halves_a_stack(monkeypatch: pytest.MonkeyPatch, expbench: CommandLine) -> None:
    def hungry(self: Ensemble, networks: Sequence[Network]) -> None:
        if len(networks) > 2:
            raise torch.OutOfMemoryError("out of memory")
        original(self, networks)

    original = Ensemble.__init__
    monkeypatch.setattr(Ensemble, "__init__", hungry)
    answer = expbench("run", "--models", "linattn", *SMALL, "--seeds", "0:5")
    assert answer.code == 0, answer.err
    assert "out of memory with 5 stacked runs, retrying with 2" in answer.err
    assert column("linattn", "stack_size") == {1, 2}
    assert len(column("linattn", "key")) == 5
