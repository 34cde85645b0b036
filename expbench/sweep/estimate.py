"""Time estimate of a sweep, from a few timed steps of each distinct shape, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from expbench.results.identity import identity
from expbench.sweep.progress import work
from expbench.training.family import Stack, family_of
from expbench.training.stacking import NUMBERS

_LIMIT_SECONDS = 20.0


class Estimate(NamedTuple):
    """Estimated time. seconds: total over all jobs. measured: number of shapes timed. shapes: number of distinct shapes."""

    seconds: float
    measured: int
    shapes: int


def estimate(stacks: Sequence[Stack], device: str, limit: float = _LIMIT_SECONDS) -> Estimate:
    """Time a short run of each distinct shape; extrapolate to shapes not reached within `limit` seconds by their work."""
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
            seconds += family_of(group[0].jobs[0].task).seconds(group[0], device) * len(group)
        except (Exception, SystemExit):  # this run will fail or diverge, after an unknown time
            continue
        timed_work += whole
        measured += 1
    scale = seconds / timed_work if timed_work else 0.0
    return Estimate(seconds + scale * left, measured, len(by_shape))


def _shape(stack: Stack) -> tuple[object, ...]:
    return len(stack.jobs), identity(stack.jobs[0].run, {*NUMBERS, "version", "instance"})
