"""Crew: the processes that torchrun has started on one campaign. The first runs it; the others take part in its trainings.

A process by itself is a crew of one, for which nothing here makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from expbench.errors import BadInput
from expbench.language import family as language
from expbench.language.task import TextTask
from expbench.run import Run
from expbench.sweep import campaign
from expbench.sweep import expand as sweep_expand
from expbench.sweep.campaign import Ended, How
from expbench.sweep.request import Request
from expbench.sweep.tuning import cell_of
from expbench.training.distributed import joined, processes
from expbench.training.job import Job


def expand(requests: Sequence[Request], device: str) -> list[Job]:
    """The jobs of requests, which the first process expands before the others: a text is tokenised once.

    Raises `BadInput` as `grid.expand` does, and for a crew on tasks that it cannot share.
    """
    rank, size = processes()
    if size > 1 and rank > 0:
        joined(device).told(None)
    jobs = [job for request in requests for job in sweep_expand.expand(request, device)]
    for job in jobs:
        if size > 1 and not isinstance(job.task, TextTask):
            raise BadInput(
                f"torchrun: {size} processes train a language model together, and {job.run.task} is none; start expbench"
                " singly, several times if you like: on one folder they divide the work"
            )
    if size > 1 and rank == 0:
        joined(device).told(None)
    return jobs


def follows() -> bool:
    """Whether another process runs the campaign."""
    return processes()[0] > 0


def follow(jobs: Sequence[Job], how: How) -> None:
    """Take part in the trainings of these jobs, and of those that choose their rates, until the first process is done."""
    cells = {cell_of(job.run): job for job in jobs}

    def find(run: Run) -> tuple[TextTask, type]:
        job = cells[cell_of(run)]
        assert isinstance(job.task, TextTask)
        return job.task, job.model

    language.follow(find, how.device, how.folder)


def preview(jobs: Sequence[Job], how: How) -> str:
    """`campaign.preview`, which a process by itself can give; raises `BadInput` for a crew."""
    if processes()[1] > 1:
        raise BadInput("--dry-run: what torchrun would start is estimated without torchrun")
    return campaign.preview(jobs, how)


def run(jobs: Sequence[Job], how: How, say: Callable[[str], None]) -> Ended:
    """`campaign.run`; with others, the first run that fails is the last, as nobody knows where it has left them."""
    size = processes()[1]
    if size == 1:
        return campaign.run(jobs, how, say)
    ended = campaign.run(jobs, how._replace(fail_fast=True), say)
    if not ended.counts["failed"]:
        language.dismiss(how.device)
    return ended
