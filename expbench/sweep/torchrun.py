"""Processes started by torchrun on one sweep: the first runs the sweep, the others are workers in its trainings.

With a single process these functions reduce to their plain counterparts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expbench.errors import BadInput
from expbench.sweep import campaign
from expbench.sweep.campaign import Ended, How
from expbench.sweep.expand import expand as expand_one
from expbench.sweep.request import Request
from expbench.sweep.tuning import cell_of
from expbench.training.distributed import joined, processes
from expbench.training.family import Context, Stack, family_of
from expbench.training.job import Job


def expand(requests: Sequence[Request], device: str) -> list[Job]:
    """Return the jobs of requests. The first process expands them before the others, so that a text is tokenised once.

    Raise `BadInput` as `sweep.expand.expand` does, and for several processes on a task without distributed training.
    """
    rank, size = processes()
    if size > 1 and rank > 0:
        joined(device).broadcast(None)
    jobs = [job for request in requests for job in expand_one(request, device)]
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


def worker_loop(jobs: Sequence[Job], how: How) -> None:
    """Join the trainings of these jobs and of their tuning runs until the first process has finished.

    The first process announces each run (`distributed.announce`).
    """
    group = joined(how.device)
    cells = {cell_of(job.run): job for job in jobs}
    context = Context(how.device, how.folder, math.inf)
    while (run := group.broadcast(None)) is not None:
        job = cells[cell_of(run)]._replace(run=run)
        for _ in family_of(job.task).train(Stack([job]), context):
            pass
    group.leave()


def preview(jobs: Sequence[Job], how: How) -> str:
    """Return `campaign.preview`; raise `BadInput` for several processes."""
    if processes()[1] > 1:
        raise BadInput("--dry-run: run it without torchrun")
    return campaign.preview(jobs, how)


def run(jobs: Sequence[Job], how: How, say: Callable[[str], None]) -> Ended:
    """Run `campaign.run`; with several processes, stop at the first failed run, which leaves them in an unknown state."""
    if processes()[1] == 1:
        return campaign.run(jobs, how, say)
    ended = campaign.run(jobs, how._replace(fail_fast=True), say)
    if not ended.counts["failed"]:
        group = joined(how.device)
        group.broadcast(None)
        group.leave()
    return ended
