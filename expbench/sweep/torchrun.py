"""The processes that torchrun has started on one campaign: the first runs it, the others take part in its trainings.

For a process by itself nothing here makes a difference.
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
    """Return the jobs of requests, which the first process expands before the others: a text is tokenised once.

    Raises `BadInput` as `sweep.expand.expand` does, and for several processes on tasks that they cannot share.
    """
    rank, size = processes()
    if size > 1 and rank > 0:
        joined(device).broadcast(None)
    jobs = [job for request in requests for job in expand_one(request, device)]
    for job in jobs:
        if size > 1 and not family_of(job.task).distributed:
            raise BadInput(
                f"torchrun: {size} processes train a language model together, and {job.run.task} is none; start expbench"
                " singly, several times if you like: on one folder they divide the work"
            )
    if size > 1 and rank == 0:
        joined(device).broadcast(None)
    return jobs


def takes_part() -> bool:
    """Return whether another process runs the campaign, and this one only takes part in its trainings."""
    return processes()[0] > 0


def worker_loop(jobs: Sequence[Job], how: How) -> None:
    """Take part in the trainings of these jobs, and of those that choose their rates, until the first process is done.

    The first process says which run begins (`distributed.announce`).
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
    """Return `campaign.preview`, which a process by itself can give; raises `BadInput` for several."""
    if processes()[1] > 1:
        raise BadInput("--dry-run: what torchrun would start is estimated without torchrun")
    return campaign.preview(jobs, how)


def run(jobs: Sequence[Job], how: How, say: Callable[[str], None]) -> Ended:
    """Do `campaign.run`; with others, the first run that fails is the last, as nobody knows where it has left them."""
    if processes()[1] == 1:
        return campaign.run(jobs, how, say)
    ended = campaign.run(jobs, how._replace(fail_fast=True), say)
    if not ended.counts["failed"]:
        group = joined(how.device)
        group.broadcast(None)
        group.leave()
    return ended
