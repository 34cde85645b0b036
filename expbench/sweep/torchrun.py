"""Processes started by torchrun on one sweep: the first runs the sweep, the others are workers in its trainings.

With a single process these functions reduce to their plain counterparts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expbench.errors import BadInput
from expbench.sweep import sweep
from expbench.sweep.expand import expand as expand_one
from expbench.sweep.spec import SweepSpec
from expbench.sweep.sweep import SweepOptions, SweepResult
from expbench.sweep.tuning import configuration_of
from expbench.training.distributed import joined, processes
from expbench.training.family import Context, Stack, family_of
from expbench.training.job import Job


def expand(requests: Sequence[SweepSpec], device: str) -> list[Job]:
    """Return the jobs of requests. The first process expands them before the others, so that a text is tokenised once.

    Raise `BadInput` as `sweep.expand.expand` does, and for several processes on a task without distributed training.
    """
    rank, size = processes()
    if size > 1 and rank > 0:
        joined(device).broadcast(None)
    jobs = [job for spec in requests for job in expand_one(spec, device)]
    for job in jobs:
        if size > 1 and not family_of(job.task).distributed:
            raise BadInput(
                f"torchrun: {size} processes can only train a language model together, and {job.run.task} is not one; start"
                " expbench without torchrun (several processes on one folder divide the work)"
            )
    if size > 1 and rank == 0:
        joined(device).broadcast(None)
    return jobs


def takes_part() -> bool:
    """Return whether this process is a worker, with the sweep run by another process."""
    return processes()[0] > 0


def worker_loop(jobs: Sequence[Job], options: SweepOptions) -> None:
    """Join the trainings of these jobs and of their tuning runs until the first process has finished.

    The first process announces each run (`distributed.announce`).
    """
    group = joined(options.device)
    configurations = {configuration_of(job.run): job for job in jobs}
    context = Context(options.device, options.folder, math.inf)
    while (run := group.broadcast(None)) is not None:
        job = configurations[configuration_of(run)]._replace(run=run)
        for _ in family_of(job.task).train(Stack([job]), context):
            pass
    group.leave()


def dry_run(jobs: Sequence[Job], options: SweepOptions) -> str:
    """Return `sweep.preview`; raise `BadInput` for several processes."""
    if processes()[1] > 1:
        raise BadInput("--dry-run: run it without torchrun")
    return sweep.dry_run(jobs, options)


def run(jobs: Sequence[Job], options: SweepOptions, say: Callable[[str], None]) -> SweepResult:
    """Run `sweep.run`; with several processes, stop at the first failed run, which leaves them in an unknown state."""
    if processes()[1] == 1:
        return sweep.run(jobs, options, say)
    ended = sweep.run(jobs, options._replace(fail_fast=True), say)
    if not ended.counts["failed"]:
        group = joined(options.device)
        group.broadcast(None)
        group.leave()
    return ended
