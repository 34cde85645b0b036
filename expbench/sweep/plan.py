"""Plan: the finished and missing runs of a sweep in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from expbench.errors import BadInput
from expbench.results import store
from expbench.results.learning_rates import RESERVED
from expbench.sweep import rows
from expbench.training.job import Job


class Plan(NamedTuple):
    """All jobs of a sweep, the missing jobs, how many of these failed before, and one job per missing set of controls."""

    jobs: list[Job]
    missing: list[Job]
    failed_before: int
    controls: list[Job]


def statuses(folder: Path) -> dict[str, str]:
    """Return the status of each key in a folder.

    Raise `BadInput` if the folder contains a file that is not a results table, since it may hold a result.
    """
    if not folder.is_dir():
        return {}
    status, problems = store.statuses(folder)
    if problems:
        raise BadInput(problems[0])
    return status


def plan(jobs: Sequence[Job], folder: Path, again: Set[str] | None = None, status: Mapping[str, str] | None = None) -> Plan:
    """Return the plan for `jobs`. Missing jobs have no result, or failed and are in `again` (None: all failed jobs).

    status: the `statuses` of the folder, if they were just read. Raise `BadInput` as `statuses` does.
    """
    jobs, status = list(jobs), statuses(folder) if status is None else status

    def lacks(key: str) -> bool:
        return key not in status or (status[key] == "failed" and (again is None or key in again))

    missing = [job for job in jobs if lacks(job.run.key)]
    tasks = {job.task: job for job in jobs if job.run.seed < RESERVED}  # controls belong to reported runs
    return Plan(
        jobs,
        missing,
        sum(job.run.key in status for job in missing),
        [job for job in tasks.values() if lacks(rows.controls_key(job))],
    )
