"""How long a sweep will take: a few steps of each distinct shape are timed, until a limit of time is spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from expbench.language import family as language
from expbench.language.task import TextTask
from expbench.sweep.progress import work
from expbench.task import CHUNK
from expbench.training.batches import Stream
from expbench.training.ensemble import Ensemble
from expbench.training.job import Job
from expbench.training.loop import CURVE_CHUNKS, Diverged, build, curve_steps, evaluate_together, surroundings
from expbench.training.stacking import Stack
from expbench.training.step import Steps

_STEPS, _BEFORE = {"cpu": 3, "cuda": 20}, {"cpu": 0, "cuda": 5}  # steps that are timed, and those before them (some eager)
_LIMIT_SECONDS = 20.0


class Estimate(NamedTuple):
    """seconds: of all jobs together. measured, shapes: how many distinct shapes were timed, and how many there are."""

    seconds: float
    measured: int
    shapes: int


def estimate(stacks: Sequence[Stack], device: str, limit: float = _LIMIT_SECONDS) -> Estimate:
    """Time a short run of each distinct shape; shapes left when `limit` seconds are spent are scaled by their work."""
    by_shape: dict[tuple[object, ...], list[Stack]] = {}
    for stack in stacks:
        if stack.jobs[0].unsupported(device) is None:
            by_shape.setdefault(_shape(stack), []).append(stack)
    began = time.perf_counter()
    seconds = timed_work = 0.0
    measured = 0
    left = 0.0
    for group in by_shape.values():
        whole = sum(work(job) for stack in group for job in stack.jobs)
        if time.perf_counter() - began > limit:
            left += whole
            continue
        try:
            seconds += _seconds(group[0].jobs, device) * len(group)
        except (Exception, SystemExit):  # this run will fail, or diverge: how long it takes to is not known
            continue
        timed_work += whole
        measured += 1
    scale = seconds / timed_work if timed_work else 0.0
    return Estimate(seconds + scale * left, measured, len(by_shape))


def _shape(stack: Stack) -> tuple[object, ...]:
    run = stack.jobs[0].run
    settings = tuple(sorted((k, str(v)) for k, v in run.model_settings.items()))
    task = tuple(sorted((k, str(v)) for k, v in run.task_settings.items() if k != "instance"))
    network = (run.model, settings, run.D, run.depth, run.norm, run.positions, run.residual)
    return (len(stack.jobs), run.task, task, *network, run.steps, run.batch_size, run.dtype)


def _seconds(jobs: Sequence[Job], device: str) -> float:
    """Seconds of jobs that are trained together: their steps, their evaluations on the curve, and the last ones."""
    run, task = jobs[0].run, jobs[0].task
    if isinstance(task, TextTask):
        return language.seconds(run, task, jobs[0].model, device)
    ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
    short = [replace(job.run, warmup=0) for job in jobs]
    small = [replace(job.task, test_size=CHUNK, selection_size=CHUNK) for job in jobs]
    with surroundings(run, device, len(jobs)):
        stream = Stream(short, small, device)
        steps = Steps(short, small, ensemble, stream, device)
        for taken in range(_BEFORE[device] + _STEPS[device]):
            if taken == _BEFORE[device]:
                began = time.perf_counter()
            steps.take()
        if not steps.fine():  # asks the device, which by then has taken them all
            raise Diverged("within a few steps")
        step = (time.perf_counter() - began) / _STEPS[device]
        began = time.perf_counter()
        evaluate_together(short, small, ensemble, stream, device, "selection", range(len(jobs)))
        sequence = (time.perf_counter() - began) / CHUNK
    curve = CHUNK * CURVE_CHUNKS * len(curve_steps(run.steps))
    return step * run.steps + sequence * (curve + task.selection_size + (task.test_size or 0))
