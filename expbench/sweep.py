"""The sweep: what is done already, what is missing, and running it.

Each run is a unit of its own, written as one file, though runs that are alike are trained together. A run that fails is a
row with its error and is tried again by the next sweep; one that diverges, or that its model does not support, is a finding
and is done. Controls are units too, one for each setting of a task.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from expbench import rows, table, weights
from expbench.errors import BadInput
from expbench.execute import Outcome, execute
from expbench.grid import Job
from expbench.progress import Progress
from expbench.rates import RESERVED
from expbench.run import Score
from expbench.stacks import Stack, stacked
from expbench.task import Measured, Task, total


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


def plan(jobs: Sequence[Job], folder: Path) -> Plan:
    """What of `jobs` the folder lacks.

    Raises `BadInput` if the folder holds a file that is no results table: whether it holds a result is not ours to guess.
    """
    jobs = list(jobs)
    status: dict[str, str] = {}
    if folder.is_dir():
        status, problems = table.statuses(folder)
        if problems:
            raise BadInput(problems[0])
    missing = [job for job in jobs if status.get(job.run.key, "failed") == "failed"]
    cells = {rows.controls_key(job): job for job in jobs if job.run.seed < RESERVED}  # beside those that are reported
    return Plan(
        jobs,
        missing,
        sum(job.run.key in status for job in missing),
        [job for key, job in cells.items() if status.get(key, "failed") == "failed"],
    )


def run(plan: Plan, folder: Path, device: str, progress: Progress, options: Options) -> Counter[str]:
    """Measure the missing controls, run the missing jobs, and count how they ended; fewer than are missing if stopped.

    A run that another process has finished meanwhile counts as `elsewhere`. After an interrupt the folder holds every run
    that had ended, and the same sweep goes on from there.
    """
    ended: Counter[str] = Counter()
    controls = {rows.controls_key(job): job for job in plan.controls}
    for stack in stacked(plan.missing, device, options.largest):
        left = []
        if time.monotonic() > options.ends:
            return ended
        for job in stack.jobs:
            own = controls.pop(rows.controls_key(job), None)
            if own is not None:
                measure_controls(own, folder, progress)
            if table.finished(folder, job.run.key):
                ended["elsewhere"] += 1
                progress.skip(job)
            else:
                left.append(job)
        part = Stack(left, stack.alone_because)
        for job, outcome in execute(part, folder, device, progress, save_weights=options.save_weights):
            ended[outcome.status] += 1
            progress.end(job, outcome.status, outcome.error, outcome.value)
            if options.fail_fast and outcome.status == "failed":
                progress.note(outcome.trace or "")
                return ended
    for job in controls.values():
        measure_controls(job, folder, progress)
    if options.save_weights:
        weights.keep_three(plan.jobs, folder)
    return ended


def measure_controls(job: Job, folder: Path, progress: Progress) -> None:
    """Measure and write the controls of a job's task; notes each positive control that does not solve it."""
    task, began = job.task, time.perf_counter()
    scores: list[tuple[str, str, Score]] = []
    ending: rows.Row = {"status": "ok"}
    warnings = []
    try:
        ending |= rows.of_facts(task)
        for name, kind, measured in _controls(task):
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


def _controls(task: Task) -> Iterator[tuple[str, str, list[Measured]]]:
    """(name, kind, metrics on the test split) of each control, and of chance where it has a closed form."""
    chance = task.chance()
    if chance is not None:
        yield "chance", "chance", [Measured(task.headline, chance)]
    for control in task.controls():
        parts = [task.measure(control.predict(batch.inputs), batch.targets) for batch in task.split("test")]
        yield control.name, control.kind, task.summary(total(parts))
