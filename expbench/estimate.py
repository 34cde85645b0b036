"""How long a sweep will take: a few steps of each distinct shape are timed, until a limit of time is spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from expbench.grid import Job
from expbench.mixer import unsupported
from expbench.network import Network
from expbench.progress import work
from expbench.run import Run
from expbench.training import build, curve_steps, evaluate, train

_STEPS = 3
_LIMIT_SECONDS = 20.0


class Estimate(NamedTuple):
    """seconds: of all jobs together. measured, shapes: how many distinct shapes were timed, and how many there are."""

    seconds: float
    measured: int
    shapes: int


def network_of(job: Job) -> Network:
    """The network of a job, on the CPU."""
    return build(job.run, job.task, job.model, "cpu")


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
        seconds += _seconds(group[0], device) * len(group)
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
    from dataclasses import replace

    network = build(job.run, job.task, job.model, device)
    short = replace(job.run, steps=_STEPS, warmup=0)
    selection = replace(job.task, test_size=256, selection_size=256)
    times = []
    for score in train(short, selection, network, device):
        times.append(score.seconds)
        if score.step == _STEPS:
            break
    step = times[0] / _STEPS
    began = time.perf_counter()
    evaluate(job.run, selection, network, device, "selection")
    chunk = (time.perf_counter() - began) / 256
    points = len(curve_steps(job.run.steps))
    sequences = points * job.task.selection_size + (job.task.test_size or 0)
    return step * job.run.steps + chunk * sequences
