"""Runs trained together are the runs trained one by one."""

from collections.abc import Sequence

import pytest

from expbench import plugins
from expbench.ensemble import Ensemble
from expbench.grid import Job, Request, expand
from expbench.run import Score
from expbench.training import Item, build, train, train_together

MODELS = sorted(plugins.discover("model"))
TASKS = {
    "count-in-row": {"L": "9", "task_settings": ("classes=6", "test_size=300")},
    "polyreg": {"L": "6", "task_settings": ("family=sparse", "degree=3", "test_size=300"), "instances": "0:2"},
}


def jobs(task: str, model: str, **more: object) -> list[Job]:
    fields: dict[str, object] = {"D": "4", "seeds": "0:2", "steps": "100", "warmup": "50", "batch_size": "8"}
    fields |= {"dtype": "float64", "lr": "0.003,0.02"}
    return expand(Request(task=task, models=model, **(fields | TASKS[task] | more)), "cpu")  # type: ignore[arg-type]


def together(stack: Sequence[Job]) -> list[Item]:
    networks = [build(job.run, job.task, job.model, "cpu") for job in stack]
    return list(train_together([job.run for job in stack], [job.task for job in stack], Ensemble(networks), "cpu"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_every_built_in_gives_the_scores_of_single_runs(task: str, model: str) -> None:
    """In float64, over 100 steps of which 50 are warm-up: every number of every run, to 1e-9."""
    stack = jobs(task, model, steps="100")
    items = together(stack)
    for i in range(0, len(stack), 3):
        one = stack[i]
        alone = list(train(one.run, one.task, build(one.run, one.task, one.model, "cpu"), "cpu"))
        mine = [item.what for item in items if item.member == i]
        assert len(mine) == len(alone)
        for a, b in zip(mine, alone, strict=True):
            assert isinstance(a, Score)
            assert (a.split, a.step, a.metric, a.slice, a.headline) == (b.split, b.step, b.metric, b.slice, b.headline)
            assert a.value == pytest.approx(b.value, rel=1e-9, abs=1e-12), (a.metric, a.slice)
