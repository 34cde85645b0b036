"""The sweep: what is done already, what is missing, and running it.

Each run is a unit of its own, written as one file, though runs that are alike are trained together. A run that fails is a
row with its error and is tried again by the next sweep; one that diverges, or that its model does not support, is a finding
and is done. Controls are units too, one for each setting of a task.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

import torch

from expbench import rows, table, weights
from expbench.errors import BadInput
from expbench.execute import Outcome, execute
from expbench.grid import Job
from expbench.language.job import OutOfTime
from expbench.progress import Progress, work
from expbench.rates import RESERVED
from expbench.run import Score
from expbench.sharing import reserved
from expbench.stacks import by_likeness, stacked


class Plan(NamedTuple):
    """The jobs of a sweep; those missing; how many of these failed before; a job for each control set that is missing."""

    jobs: list[Job]
    missing: list[Job]
    failed_before: int
    controls: list[Job]


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; raises `BadInput` for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch finds no CUDA device here; take --device cpu (expbench doctor says more)")
    return name


class Options(NamedTuple):
    """save_weights: of three seeds of each cell. fail_fast: stop at a failure. largest: most runs that are trained together.
    ends: by `time.monotonic`, when no further stack is begun."""

    save_weights: bool = False
    fail_fast: bool = False
    largest: int | None = None
    ends: float = math.inf


def failed(folder: Path) -> set[str]:
    """The keys of what has failed in a folder; raises `BadInput` like `plan`."""
    return {key for key, status in _statuses(folder).items() if status == "failed"}


def _statuses(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    status, problems = table.statuses(folder)
    if problems:
        raise BadInput(problems[0])
    return status


class Swept(NamedTuple):
    """How runs ended; the keys of what was tried, controls among them; what was left to another process, which is at it;
    whether it was stopped before all began."""

    ended: Counter[str]
    tried: set[str]
    held: list[Job]
    stopped: bool


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


def run(plan: Plan, folder: Path, device: str, progress: Progress, options: Options) -> Swept:
    """Measure the missing controls, run the missing jobs, and count how they ended.

    Jobs that are alike are one part of the work, which no other process takes up meanwhile; a run that one has finished
    since the plan was made counts as `elsewhere`. After an interrupt the folder holds every run that had ended, and the
    same sweep goes on from there.
    """
    swept = Swept(Counter(), set(), [], stopped=False)
    controls = {rows.controls_key(job): job for job in plan.controls}
    parts = list(by_likeness(plan.missing).items())
    while parts:
        likeness, part = parts.pop(0)
        with reserved(folder, likeness) as ours:
            if not ours:
                swept.held.extend(part)
                parts.sort(key=lambda each: -sum(map(work, each[1])))  # the longest first, so that all end at one time
                continue
            swept.tried.update(job.run.key for job in part)
            if not _run_part(part, folder, device, progress, options, controls, swept.ended):
                return swept._replace(stopped=True)
    theirs = {rows.controls_key(job) for job in swept.held}
    for key, job in controls.items():
        if key not in theirs:
            measure_controls(job, folder, progress)
    swept.tried.update({rows.controls_key(job) for job in plan.controls} - theirs)
    if options.save_weights:
        weights.keep_three(plan.jobs, folder)
    return swept


def _run_part(
    part: Sequence[Job],
    folder: Path,
    device: str,
    progress: Progress,
    options: Options,
    controls: dict[str, Job],
    ended: Counter[str],
) -> bool:
    """Run jobs that are alike, the controls that they want first; false if that was stopped, by time or by a failure.

    Where a failure leaves a GPU that answers no more, none of the others is tried and recorded as failed.
    """
    progress.begin()
    left = []
    for job in part:
        if table.finished(folder, job.run.key):
            ended["elsewhere"] += 1
            progress.skip(job)
        else:
            left.append(job)
    for stack in stacked(left, device, options.largest):
        if time.monotonic() > options.ends:
            return False
        for job in stack.jobs:
            own = controls.pop(rows.controls_key(job), None)
            if own is not None and not table.finished(folder, rows.controls_key(own)):
                measure_controls(own, folder, progress)
        try:
            ways = execute(stack, folder, device, progress, save_weights=options.save_weights, ends=options.ends)
            for job, outcome in ways:
                ended[outcome.status] += 1
                progress.end(job, outcome.status, outcome.error, outcome.value)
                if options.fail_fast and outcome.status == "failed":
                    progress.note(outcome.trace or "")
                    return False
                if outcome.status == "failed" and not _answers(device):
                    progress.note("after this error the GPU answers this process no more: what is left needs another")
                    return False
        except OutOfTime as stopped:
            progress.note(str(stopped))
            return False
    return True


def _answers(device: str) -> bool:
    """Whether a device still works: after some errors of CUDA whatever a process asks of it fails."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def measure_controls(job: Job, folder: Path, progress: Progress) -> None:
    """Measure and write the controls of a job's task; notes each positive control that does not solve it."""
    task, began = job.task, time.perf_counter()
    scores: list[tuple[str, str, Score]] = []
    ending: rows.Row = {"status": "ok"}
    warnings = []
    try:
        ending |= rows.of_facts(task)
        for name, kind, measured in task.measured_controls():
            for m in measured:
                headline = m.metric == task.headline and not m.slice
                seconds = time.perf_counter() - began
                scores.append((name, kind, Score("test", 0, m.metric, float(m.value), m.slice, seconds, headline)))
                if headline and kind == "positive" and not task.solved(m.value):
                    warnings.append(
                        f"the positive control {name} of {job.run.task} does not solve it: {m.metric} {m.value:.3g}"
                    )
    except (Exception, SystemExit) as failure:
        scores = []
        ending = Outcome.of_failure(failure).columns()
        warnings.append(f"the controls of {job.run.task} failed: {ending['error']}")
    ending["run_seconds"] = time.perf_counter() - began
    table.write(folder, rows.controls_key(job), rows.of_controls(job, scores, ending))
    for warning in warnings:
        progress.note(f"warning: {warning}")
