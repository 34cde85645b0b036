"""Plan: what of a sweep its folder holds already, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

from expbench.errors import BadInput
from expbench.results import store
from expbench.results.learning_rates import RESERVED
from expbench.sweep import rows
from expbench.training.job import Job


class Plan(NamedTuple):
    """The jobs of a sweep; those missing; how many of these failed before; a job for each control set that is missing."""

    jobs: list[Job]
    missing: list[Job]
    failed_before: int
    controls: list[Job]


def failed(folder: Path) -> set[str]:
    """The keys of what has failed in a folder; raises `BadInput` like `plan`."""
    return {key for key, status in _statuses(folder).items() if status == "failed"}


def _statuses(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    status, problems = store.statuses(folder)
    if problems:
        raise BadInput(problems[0])
    return status


def plan(jobs: Sequence[Job], folder: Path, again: Set[str] | None = None) -> Plan:
    """What of `jobs` the folder lacks; of runs that failed before those in `again`, or all.

    Raises `BadInput` if the folder holds a file that is no results table: whether it holds a result is not ours to guess.
    """
    jobs, status = list(jobs), _statuses(folder)

    def lacks(key: str) -> bool:
        return key not in status or (status[key] == "failed" and (again is None or key in again))

    missing = [job for job in jobs if lacks(job.run.key)]
    tasks = {job.task: job for job in jobs if job.run.seed < RESERVED}  # beside those that are reported
    return Plan(
        jobs,
        missing,
        sum(job.run.key in status for job in missing),
        [job for job in tasks.values() if lacks(rows.controls_key(job))],
    )
