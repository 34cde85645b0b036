"""The sweep: what is done already, what is missing, and running it.

Each run is a unit of its own, written as one file, though runs that are alike are trained together. A run that fails is a
row with its error and is tried again by the next sweep; one that diverges, or that its model does not support, is a finding
and is done. Controls are units too, one for each setting of a task.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from expbench.language.family import OutOfTime
from expbench.results import store
from expbench.sweep import rows
from expbench.sweep.controls import measure_controls
from expbench.sweep.execution import execute
from expbench.sweep.locks import reserved
from expbench.sweep.plan import Plan
from expbench.sweep.progress import Progress, work
from expbench.training import weights
from expbench.training.job import Job
from expbench.training.stacking import by_likeness, stacked


class Options(NamedTuple):
    """save_weights: of three seeds of each cell. fail_fast: stop at a failure. largest: most runs that are trained together.
    ends: by `time.monotonic`, when no further stack is begun."""

    save_weights: bool = False
    fail_fast: bool = False
    largest: int | None = None
    ends: float = math.inf


class Swept(NamedTuple):
    """How runs ended; the keys of what was tried, controls among them; what was left to another process, which is at it;
    whether it was stopped before all began."""

    ended: Counter[str]
    tried: set[str]
    held: list[Job]
    stopped: bool


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
        if store.finished(folder, job.run.key):
            ended["elsewhere"] += 1
            progress.skip(job)
        else:
            left.append(job)
    for stack in stacked(left, device, options.largest):
        if time.monotonic() > options.ends:
            return False
        for job in stack.jobs:
            own = controls.pop(rows.controls_key(job), None)
            if own is not None and not store.finished(folder, rows.controls_key(own)):
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
