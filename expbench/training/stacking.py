"""Stacking: the choice of jobs that are trained together, as one program.

Jobs have the same signature if they differ only in numbers: seed, learning rate, weight decay, clipping, warm-up, instance,
and task settings that affect no shape. Authors need not declare whether vmap supports their module and task. A trial decides
instead: it compares losses and gradients of a few jobs, stacked and alone, and looks for state that a forward pass changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from expbench.nn import forward_state
from expbench.results.identity import identity
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.family import Stack
from expbench.training.job import Job
from expbench.training.loop import build, surroundings
from expbench.training.optimizer import rows
from expbench.training.precision import TOLERANCE, precision_context

_LARGEST = {"cpu": 16, "cuda": 1024}  # maximum number of runs in a stack, if memory suffices
# Share of the free memory for a stack, as measured in its trial. The rest is a reserve: graph and eager steps have separate
# memory pools, and evaluations need memory too.
_SHARE_OF_MEMORY = 0.4
# Numbers in one layer of a run above which the run alone keeps a CPU busy. A token has D numbers, L attention scores, and a
# state of D^2 numbers if N is as large as D. The last two have smaller weights, because not every layer has them.
_WORTH_STACKING = 1 << 13
_ROUNDING = 1e-2  # relative: a float32 difference up to this may be rounding, if it vanishes in float64
NUMBERS = ("rate", "seed", "warmup", "weight_decay", "clip", "init", "init_noise")  # settings that may differ within a stack
_LAYERS_TRIED = 16  # as the trial of thousands takes minutes
_TRIED = 4  # number of further tasks in the trial, beside the first
_STEPS, _STEP = 3, 0.01  # steps in the trial of a third party's layer, and their length


def by_signature(jobs: Sequence[Job]) -> dict[tuple[object, ...], list[Job]]:
    """Group jobs by their signature."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(_signature(job), []).append(job)
    return groups


def stacked(group: Sequence[Job], device: str, largest: int | None = None) -> Iterator[Stack]:
    """Yield jobs with one signature as stacks of at most `largest` jobs, after one trial whether they can be stacked."""
    size, reason = 1, None
    if largest != 1 and len(group) > 1 and group[0].unsupported(device) is None and group[0].refusal is None:
        size, reason = together(group, device)
    if largest is not None:
        size = min(size, largest)
    for start in range(0, len(group), size):
        yield Stack(list(group[start : start + size]), reason)


def together(group: Sequence[Job], device: str) -> tuple[int, str | None]:
    """Return the best stack size for supported jobs with one signature, and the reason if it is 1."""
    first, run = group[0], group[0].run
    if device == "cpu" and run.batch_size * run.L * max(run.D, run.L // 16, run.D**2 // 8) > _WORTH_STACKING:
        return 1, "a single run keeps the CPU busy"
    others = {job.task: job for job in group[1:]} | {first.task: group[-1]}
    tried = [_shallow(job) for job in (first, *list(others.values())[:_TRIED])]
    try:
        difference, size, state = _trial(tried, device)
        if device == "cuda":
            size = max(1, size * tried[0].run.depth // run.depth)
        equal = difference <= TOLERANCE[run.dtype]
        if not equal and run.dtype == "float32" and difference <= _ROUNDING:
            equal = _trial([_in_float64(job) for job in tried], device).difference <= TOLERANCE["float64"]
    except (Exception, SystemExit) as error:  # third-party code raises many different exceptions under vmap
        return 1, f"vmap fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if state:
        return 1, forward_state.reason(state)
    if not equal:
        return 1, f"vmap changes its loss or gradient (by {difference:.1e})"
    if size == 1:
        return 1, "too little memory for two runs"
    return min(size, _LARGEST[device]), None


def _signature(job: Job) -> tuple[object, ...]:
    task = job.task
    shapes = (task.L, task.vocabulary, task.channels, task.outputs, task.readout, task.validation_size)
    marked = task.test_size if task.vocabulary is not None else None  # `TrainTestOverlap` stacks the test inputs
    return (identity(job.run, {*NUMBERS, "task_settings"}), type(task), job.model, *shapes, marked)


def _shallow(job: Job) -> Job:
    """Return a job with a few layers only: whether a layer can be stacked does not depend on their number."""
    return job._replace(run=replace(job.run, depth=min(job.run.depth, _LAYERS_TRIED)))


def _in_float64(job: Job) -> Job:
    return job._replace(run=replace(job.run, dtype="float64"))


class _Trial(NamedTuple):
    """Result of a trial.

    difference: the largest relative difference between jobs stacked and alone. size: the number of such jobs that fit into a
    GPU's memory, extrapolated from the memory of the trial. state: the names of the state that a forward pass changes.
    """

    difference: float
    size: int
    state: list[str]


def _trial(jobs: Sequence[Job], device: str) -> _Trial:
    """Compare losses and gradients of jobs stacked and alone, on their first batches.

    Layers of third parties take a few steps, since what a forward pass leaves behind may only matter in later ones.
    """
    run, size = jobs[0].run, _LARGEST[device]
    steps = _STEPS if "+" in run.model_version else 1
    with surroundings(run, device), precision_context(run.dtype, device):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        together = list(_losses_and_gradients(_ensemble(jobs, device), jobs, device, steps))
        if device == "cuda":
            each = (torch.cuda.max_memory_allocated() - before) / len(jobs)
            size = max(1, int(_SHARE_OF_MEMORY * (free - before) / max(1.0, each)))
        alone, state = [], dict[str, None]()
        for job in jobs:
            ensemble = _ensemble([job], device)
            state |= dict.fromkeys(_state_that_changes(ensemble, job, device))
            alone.append(list(_losses_and_gradients(_ensemble([job], device), [job], device, steps)))
    worst = 0.0
    for mine, *its in zip(together, *alone, strict=True):
        worst = max([worst, *(_apart(mine[i], own[0]) for i, own in enumerate(its))])
    return _Trial(worst, size, list(state))


def _apart(mine: Tensor, own: Tensor) -> float:
    """Return the largest difference relative to `own`; infinite where only one of the two is finite, 0 where neither is."""
    gap = torch.where(mine.isfinite() | own.isfinite(), (mine - own).abs(), 0.0)
    scale = torch.where(own.isfinite(), own.abs(), 0.0).max().clamp(min=1e-12)
    return float((gap / scale).nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _ensemble(jobs: Sequence[Job], device: str) -> Ensemble:
    return Ensemble([build(job.run, job.task, job.model, device) for job in jobs])


def _losses_and_gradients(ensemble: Ensemble, jobs: Sequence[Job], device: str, steps: int) -> Iterator[Tensor]:
    """Yield for each step the losses (S,) of the jobs' batches, then the gradient (S, ...) of each parameter.

    The steps between go along the gradients of each job, scaled to the same length.
    """
    batches = TaskBatches([job.run for job in jobs], [job.task for job in jobs], device)
    for step in range(1, steps + 1):
        losses = ensemble.losses(jobs[0].task, batches.train(step))
        raw = torch.autograd.grad(losses.sum(), ensemble.leaves, allow_unused=True, materialize_grads=True)
        grads = ensemble.stacked(raw)
        yield losses.detach()
        yield from grads
        norms = torch.linalg.vector_norm(rows(grads), dim=1).clamp(min=1e-30)
        for p, grad in zip(ensemble.stacked([p.detach() for p in ensemble.leaves]), grads, strict=True):
            p -= _STEP * grad / norms.view(-1, *[1] * (grad.ndim - 1))


def _state_that_changes(ensemble: Ensemble, job: Job, device: str) -> list[str]:
    """Return the names of the state of a single network that its forward pass changes, in training or in evaluation."""
    batch = TaskBatches([job.run], [job.task], device).train(1)
    before = forward_state.snapshot(ensemble.template)
    ensemble.losses(job.task, batch).sum().backward()
    ensemble.template.eval()
    with torch.no_grad():
        ensemble.outputs(batch.inputs, shared=False)
    ensemble.template.train()
    return forward_state.changes(before, ensemble.template)
