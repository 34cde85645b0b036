"""How long a sweep will take: a few steps of each distinct shape are timed, until a limit of time is spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from expbench.grid import Job
from expbench.mixer import unsupported
from expbench.progress import work
from expbench.run import Run
from expbench.task import CHUNK
from expbench.training import CURVE_CHUNKS, build, curve_steps, evaluate, surroundings, train

_STEPS = 3
_LIMIT_SECONDS = 20.0


class Estimate(NamedTuple):
    """seconds: of all jobs together. measured, shapes: how many distinct shapes were timed, and how many there are."""

    seconds: float
    measured: int
    shapes: int


def estimate(jobs: Sequence[Job], device: str, limit: float = _LIMIT_SECONDS) -> Estimate:
    """Time a short run of each distinct shape; shapes left when `limit` seconds are spent are scaled by their work."""
    by_shape: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        if unsupported(job.model, width=job.run.D, dtype=job.run.dtype, device=device) is None:
            by_shape.setdefault(_shape(job.run), []).append(job)
    began = time.perf_counter()
    seconds = timed_work = 0.0
    measured = 0
    left = 0.0
    for group in by_shape.values():
        if time.perf_counter() - began > limit:
            left += sum(work(job) for job in group)
            continue
        try:
            with surroundings(group[0].run, device):
                seconds += _seconds(group[0], device) * len(group)
        except (Exception, SystemExit):  # this run will fail, or diverge: how long it takes to is not known
            continue
        timed_work += sum(work(job) for job in group)
        measured += 1
    scale = seconds / timed_work if timed_work else 0.0
    return Estimate(seconds + scale * left, measured, len(by_shape))


def _shape(run: Run) -> tuple[object, ...]:
    settings = tuple(sorted((k, str(v)) for k, v in run.model_settings.items()))
    task = tuple(sorted((k, str(v)) for k, v in run.task_settings.items() if k != "instance"))
    return run.task, task, run.model, settings, run.D, run.depth, run.steps, run.batch_size, run.dtype, run.norm


def _seconds(job: Job, device: str) -> float:
    """Seconds of one run: its steps, its evaluations on the curve, and the last ones."""
    network = build(job.run, job.task, job.model, device)
    short = replace(job.run, steps=_STEPS, warmup=0)
    small = replace(job.task, test_size=CHUNK, selection_size=CHUNK)
    times = []
    for score in train(short, small, network, device):
        times.append(score.seconds)
        if score.step == _STEPS:
            break
    step = times[0] / _STEPS
    began = time.perf_counter()
    evaluate(job.run, small, network, device, "selection")
    sequence = (time.perf_counter() - began) / CHUNK
    curve = CHUNK * CURVE_CHUNKS * len(curve_steps(job.run.steps))
    return step * job.run.steps + sequence * (curve + job.task.selection_size + (job.task.test_size or 0))
