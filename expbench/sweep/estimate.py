"""Estimates of a sweep: the time, from a few timed steps of each distinct shape within a limit, and the memory of a step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from expbench import supervision
from expbench.errors import BadInput
from expbench.nn.memory import Machine, machine, readable
from expbench.results.identity import identity
from expbench.sweep.progress import work
from expbench.training.family import Stack, family_of
from expbench.training.job import Job
from expbench.training.stacking import NUMBERS

_LIMIT_SECONDS = 20.0
_LAYERS, _NUMBERS = 16, {"cpu": 1 << 26, "cuda": 1 << 34}  # of a timed step: of a larger one, a part is timed
_LARGE = 1 << 24  # numbers in a step from which its memory is estimated
_IMPOSSIBLE = 2  # times the memory of the machine, beyond which a step is refused: the estimate may be too high


class Estimate(NamedTuple):
    """Estimated time. seconds: total over all jobs, None if no shape was timed. measured: number of shapes timed.

    shapes: number of distinct shapes. failed: reasons why shapes could not be timed, with their numbers.
    """

    seconds: float | None
    measured: int
    shapes: int
    failed: Counter[str]


class Need(NamedTuple):
    """The memory that a step of a job needs in bytes, None if it cannot be estimated, and that of the machine."""

    job: Job
    size: int | None
    machine: Machine

    def __str__(self) -> str:
        run, there = self.job.run, f"this machine has {readable(self.machine.free)} free of {readable(self.machine.total)}"
        about = "not estimated" if self.size is None else f"about {readable(self.size)}"
        return f"memory of a step of {run.title()} batch_size={run.batch_size}: {about}; {there}"

    def exceeds(self, memory: int) -> bool:
        """Return whether the step needs more than this."""
        return self.size is not None and self.size > memory


def estimate(stacks: Sequence[Stack], device: str, limit: float = _LIMIT_SECONDS) -> Estimate:
    """Time a short run of each distinct shape; extrapolate to shapes not reached within `limit` seconds by their work."""
    by_shape: dict[tuple[object, ...], list[Stack]] = {}
    for stack in stacks:
        if stack.jobs[0].unsupported(device) is None:
            by_shape.setdefault(_shape(stack), []).append(stack)
    began, memory = time.perf_counter(), machine(device)
    seconds = timed_work = 0.0
    measured = 0
    left = 0.0
    failed: Counter[str] = Counter()
    for shape, group in by_shape.items():
        whole = sum(work(job) for stack in group for job in stack.jobs)
        if exceeds(group[0].jobs[0], memory.free, device):
            failed["a step does not fit into memory"] += 1
        elif time.perf_counter() - began > limit:
            left += whole
        else:
            try:
                seconds += _seconds(group[0], device, f"time {shape}") * len(group)
            except (Exception, SystemExit) as error:  # this run will fail or diverge, after an unknown time
                failed[str(error) if isinstance(error, supervision.ProcessDied) else type(error).__name__] += 1
                continue
            timed_work += whole
            measured += 1
    scale = seconds / timed_work if timed_work else 0.0
    return Estimate(seconds + scale * left if measured or not by_shape else None, measured, len(by_shape), failed)


def _seconds(stack: Stack, device: str, attempt: str) -> float:
    """Time a stack, or a part of its layers and sequences, to which the time is proportional."""
    run = stack.jobs[0].run
    depth = min(run.depth, _LAYERS)
    numbers = stack.jobs[0].sizes._replace(depth=depth).numbers() * len(stack.jobs)
    batch = max(1, min(run.batch_size, run.batch_size * _NUMBERS[device] // numbers))
    smaller = [job._replace(run=replace(job.run, depth=depth, batch_size=batch)) for job in stack.jobs]
    supervision.refuse(attempt)
    with supervision.attempting(f"timing {run.title()}", attempt):
        part = family_of(stack.jobs[0].task).seconds(stack._replace(jobs=smaller), device)
    return part * run.depth / depth * run.batch_size / batch


def _shape(stack: Stack) -> tuple[object, ...]:
    return len(stack.jobs), identity(stack.jobs[0].run, {*NUMBERS, "version", "instance"})


def exceeds(job: Job, memory: int, device: str) -> bool:
    """Return whether a step of a job needs more than this memory; small steps are assumed not to."""
    if job.sizes.numbers() < _LARGE or job.unsupported(device) is not None:
        return False
    size = _step(_sized(job))
    return size is not None and size > memory


def fitting(job: Job) -> int | None:
    """Return how many runs may be stacked on a CPU, where their steps should fit into half the free memory; None: any."""
    size = _step(_sized(job)) if job.sizes.numbers() >= _LARGE else None
    return max(1, machine("cpu").free // (2 * size)) if size else None


def largest_need(jobs: Iterable[Job], device: str) -> Need | None:
    """Return the memory of the largest step among the jobs; None without jobs. Estimates one step of each task and model."""
    largest: dict[tuple[str, str], Job] = {}
    for job in jobs:
        before = largest.get((job.run.task, job.run.model))
        if job.unsupported(device) is None and (before is None or job.sizes.numbers() > before.sizes.numbers()):
            largest[job.run.task, job.run.model] = job
    large = [job for job in largest.values() if job.sizes.numbers() >= _LARGE]
    small = sorted(largest.values(), key=lambda job: job.sizes.numbers())[-1:]
    needs = [Need(job, _step(_sized(job)), machine(device)) for job in large or small]
    return max(needs, key=lambda need: -1 if need.size is None else need.size, default=None)


def bound(jobs: Iterable[Job], device: str) -> str | None:
    """Return a warning if a step may not fit into memory, None if it does.

    Raise `BadInput` if that is clear: if it needs twice the memory of the machine.
    """
    need = largest_need((job for job in jobs if job.sizes.numbers() >= _LARGE), device)
    if need is None or not need.exceeds(need.machine.free):
        return None
    if need.exceeds(_IMPOSSIBLE * need.machine.total):
        raise BadInput(f"{need}; make {_remedy(need)}")
    return f"warning: {need}"


def _remedy(need: Need) -> str:
    """Return the option to change: the batch size if one sequence fits, otherwise the largest size."""
    sizes = need.job.sizes
    fitting = int(sizes.batch * need.machine.free / (need.size or 1))
    if fitting >= 1 and sizes.layer() * sizes.depth * 16 < need.machine.free:
        return f"--batch-size smaller, e.g. {1 << (fitting.bit_length() - 1)}"
    options = {"--L": sizes.length, "--D": sizes.width, "--depth": sizes.depth, "a setting of the model": sizes.setting}
    if fitting < 1 and sizes.length * sizes.batch > max(sizes.width, sizes.setting):
        return "--L smaller"
    del options["--L"]
    return f"{max(options, key=lambda name: options[name])} smaller"


class _Sized(NamedTuple):
    """A job, which counts as equal to others with a step of the same size."""

    shape: str
    job: Job

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sized) and self.shape == other.shape

    def __hash__(self) -> int:
        return hash(self.shape)


def _sized(job: Job) -> _Sized:
    return _Sized(identity(job.run, {*NUMBERS, "version", "instance"}), job)


@lru_cache(maxsize=4096)
def _step(sized: _Sized) -> int | None:
    attempt = f"memory {sized.shape}"
    if supervision.refusal(attempt) is not None:
        return None
    with supervision.attempting(f"estimating the memory of {sized.job.run.title()}", attempt):
        return family_of(sized.job.task).memory(sized.job)
