"""Every built-in task that draws its own data keeps the contract of `expbench.task.Task`."""

import pytest
import torch

from expbench import contracts, plugins
from expbench.task import Task, total

BUILT = {name: contracts.load_task(plugin) for name, plugin in plugins.discover("task").items()}
DRAWN = sorted(name for name, cls in BUILT.items() if cls.fresh)
SMALL = {"test_size": "300", "validation_size": "200"}


def task(name: str) -> Task:
    return contracts.build_task(BUILT[name], SMALL, name)


def test_the_built_in_tasks_are_all_here() -> None:
    assert set(BUILT) >= {"polyreg", "count-in-row", "finite", "wikitext"}


@pytest.mark.parametrize("name", DRAWN)
def test_a_batch_follows_from_seed_and_step_alone(name: str) -> None:
    first, again = (task(name).train_batch(16, seed=1, step=2) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    for seed, step in ((1, 3), (2, 2)):
        assert not torch.equal(first.inputs, task(name).train_batch(16, seed=seed, step=step).inputs)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_is_always_the_same_and_no_other(name: str, split: str) -> None:
    one, again = (list(task(name).split(split)) for _ in range(2))  # type: ignore[arg-type]
    other = next(iter(task(name).split("test" if split == "validation" else "validation")))
    assert sum(len(batch.inputs) for batch in one) >= int(SMALL[f"{split}_size"])
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert not torch.equal(one[0].inputs[:100], other.inputs[:100])


@pytest.mark.parametrize("name", DRAWN)
def test_the_loss_has_a_finite_gradient_in_float32_and_float64(name: str) -> None:
    made = task(name)
    batch = made.train_batch(16, seed=0, step=0)
    last = (16,) if made.readout == "last" else (16, batch.inputs.shape[1])
    for dtype in (torch.float32, torch.float64):
        outputs = torch.randn(*last, made.outputs, dtype=dtype, requires_grad=True)
        targets = batch.targets.to(dtype) if batch.targets.is_floating_point() else batch.targets
        (gradient,) = torch.autograd.grad(made.loss(outputs, targets), outputs)
        assert gradient.dtype == dtype
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


@pytest.mark.parametrize("name", DRAWN)
def test_measures_of_parts_add_up_to_those_of_the_whole(name: str) -> None:
    made = task(name)
    batch = made.train_batch(64, seed=0, step=0)
    last = (64,) if made.readout == "last" else (64, batch.inputs.shape[1])
    outputs = torch.randn(*last, made.outputs, dtype=torch.float64)
    whole = made.summary(total([made.measure(outputs, batch.targets)]))
    halves = [made.measure(outputs[part], batch.targets[part]) for part in (slice(40), slice(40, None))]
    parts = made.summary(total(halves))
    assert made.primary_metric in {score.metric for score in whole}
    assert [(s.metric, s.slice) for s in parts] == [(s.metric, s.slice) for s in whole]
    assert [s.value for s in parts] == pytest.approx([s.value for s in whole], rel=1e-9, nan_ok=True)
