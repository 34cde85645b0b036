"""The campaign: all of what a command asks to be run, by one process or several that share a folder.

Where `--lr auto` asks for that, learning rates are chosen first (`tuning`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from expbench.results.learning_rates import START, TUNING_RUNS
from expbench.sweep import plan as sweep_plan
from expbench.sweep import worker
from expbench.sweep.dry_run import preview as what_runs
from expbench.sweep.executor import ExecutionSettings, Executor
from expbench.sweep.executors.local import Local
from expbench.sweep.plan import Plan
from expbench.sweep.progress import Progress
from expbench.sweep.sharding import share
from expbench.sweep.tuning import RateSearch, by_cell, tuning_jobs
from expbench.sweep.worker import Swept
from expbench.training.job import Job

_LOOKS_AGAIN = 2.0  # seconds, while others are at all that is left


class How(NamedTuple):
    """How jobs are run.

    tunes: their rates are chosen first, by so many `tuning_runs` at each. shard: (i, n), the part that is this process's.
    seconds: when they have passed, no further stack is begun. largest: most runs in a stack. executor: where they run.
    """

    folder: Path
    device: str
    tunes: bool = False
    shard: tuple[int, int] = (1, 1)
    seconds: float | None = None
    save_weights: bool = False
    fail_fast: bool = False
    largest: int | None = None
    tuning_runs: int = TUNING_RUNS
    executor: Executor = Local()


class Ended(NamedTuple):
    """How runs ended, tuning runs among them; and whether it was stopped before all were run."""

    counts: Counter[str]
    stopped: bool


def run(jobs: Sequence[Job], how: How, say: Callable[[str], None]) -> Ended:
    """Run what the folder lacks of `jobs`; an interrupt passes through, and the same call goes on from there.

    Processes that are called alike on one folder divide the work. Each goes on with what the others are not at, and waits
    for them only where there is nothing else to do.
    """
    ends = math.inf if how.seconds is None else time.monotonic() + how.seconds
    jobs = share(jobs, how.shard, whole_places=how.tunes)
    search = RateSearch(jobs, how.folder, how.tuning_runs) if how.tunes else None
    counts: Counter[str] = Counter()
    failed = sweep_plan.failed(how.folder)  # before: these are tried again, once
    lost: set[str] = set()  # the folder has nothing of them, and this call does not try them again
    said = waiting = False
    while True:
        ran = held = False
        for what, wanted in search.stages(say) if search else [("", jobs)]:
            plan = sweep_plan.plan([job for job in wanted if job.run.key not in lost], how.folder, failed)
            if not waiting and (plan.missing or not (what or said)):
                say(f"{what}{count(plan)} on {how.device}, into {how.folder}")
                said = said or not what
            swept = _sweep(plan, how, ends, keep=how.save_weights and not what)
            counts.update(swept.ended)
            if swept.stopped:
                return Ended(counts, stopped=True)
            failed -= swept.tried
            lost |= swept.lost
            ran, held = bool(swept.ended), held or bool(swept.held)
            if ran:
                break  # by now more may be known of what is wanted
        if not ran and not held:
            return Ended(counts, stopped=False)
        if not ran:
            if time.monotonic() > ends:
                return Ended(counts, stopped=True)
            if not waiting:
                say("other processes are at what is left; waiting for them")
            time.sleep(_LOOKS_AGAIN)
        waiting = not ran


def preview(jobs: Sequence[Job], how: How) -> str:
    """What `run` would do, with an estimate of the time."""
    jobs, notes = share(jobs, how.shard, whole_places=how.tunes), []
    if how.tunes:
        tuning = [job for cell in by_cell(jobs).values() for job in tuning_jobs(cell, START, how.tuning_runs)]
        jobs = [*tuning, *jobs]
        rates = ", ".join(f"{rate:g}" for rate in START)
        notes = [f"{len(tuning)} runs choose learning rates, from {rates}, and from more if the best is the first or last"]
    return "\n".join([what_runs(sweep_plan.plan(jobs, how.folder), how.device, how.largest), *notes])


def _sweep(plan: Plan, how: How, ends: float, *, keep: bool) -> Swept:
    """Run what is missing; keep: the weights of some."""
    progress = Progress(plan.missing)
    settings = ExecutionSettings(how.folder, how.device, save_weights=keep, largest=how.largest, ends=ends)
    try:
        return worker.run(plan, how.executor, settings, progress, fail_fast=how.fail_fast)
    finally:
        progress.close()


def count(plan: Plan) -> str:
    """How many runs there are, are done and are missing."""
    again = f", {plan.failed_before} of them failed before" if plan.failed_before else ""
    return f"{len(plan.jobs)} runs: {len(plan.jobs) - len(plan.missing)} done, {len(plan.missing)} to run{again}"
