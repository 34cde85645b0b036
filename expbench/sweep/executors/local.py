"""The local executor: this process runs part after part; processes on one folder divide the parts by locks."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

import torch

from expbench.results import store
from expbench.supervision import attempting, deaths
from expbench.sweep import rows
from expbench.sweep.controls import measure_controls
from expbench.sweep.execution import execute, refusal, stacks
from expbench.sweep.executor import Ended, Events, ExecutionSettings, Held, Measured, Part
from expbench.sweep.locks import abandoned, lock
from expbench.sweep.progress import Progress, work
from expbench.training.epochs.checkpoint import FOLDER
from expbench.training.family import Context, Paused
from expbench.training.job import Job


class Local:
    """Executor that runs parts in this process."""

    def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
        """Run parts one after the other, except those that another process holds.

        A run that another process has finished since the parts were made has the status ``elsewhere``.
        """
        left, bare = [part for part in parts if part.jobs], [part for part in parts if not part.jobs]
        left.sort(key=lambda part: _suspected(part, settings))
        while left:
            part = left.pop(0)
            with lock(settings.folder, part.signature) as ours:
                if not ours:
                    yield Held(part)
                    left.sort(key=lambda each: -sum(map(work, each.jobs)))  # the longest first balances the processes
                    continue
                if not (yield from _run_part(part, settings, progress)):
                    return
        for part in bare:
            for job in part.controls:
                yield from _controls(job, settings, progress)


def _suspected(part: Part, settings: ExecutionSettings) -> bool:
    """Return whether a process died in this part without progress, so that all others come first."""
    if any(deaths(job.run.key) or refusal(job) for job in part.jobs):
        return True
    resumes = any((settings.folder / FOLDER / job.run.key).is_dir() for job in part.jobs)
    return abandoned(settings.folder, part.signature) and not resumes


def _run_part(part: Part, settings: ExecutionSettings, progress: Progress) -> Generator[Ended | Measured, None, bool]:
    """Run one part, the controls of each stack before it; return whether to continue with other parts.

    If a failure leaves the GPU unusable, return False, so that the other runs are not recorded as failed.
    """
    progress.begin()
    context = Context(settings.device, settings.folder, settings.ends, settings.save_weights)
    left = []
    for job in part.jobs:
        if store.finished(settings.folder, job.run.key):
            yield Ended(job, "elsewhere")
        else:
            left.append(job)
    controls = {rows.controls_key(job): job for job in part.controls}
    for stack in stacks(left, settings.device, settings.largest):
        if time.monotonic() > settings.ends:
            return False
        for key in dict.fromkeys(map(rows.controls_key, stack.jobs)):
            if key in controls:
                yield from _controls(controls.pop(key), settings, progress)
        for ended in execute(stack, context, progress):
            if isinstance(ended, Paused):
                (job,) = stack.jobs
                progress.note(f"{job.run.title()} paused at a checkpoint after {ended.step} of {ended.steps} steps")
                return False
            job, outcome = ended
            yield Ended(job, *outcome)
            if outcome.status == "failed" and not _answers(settings.device):
                progress.note("this error left the GPU unusable for this process; rerun the command for the remaining runs")
                return False
    return True


def _controls(job: Job, settings: ExecutionSettings, progress: Progress) -> Iterator[Measured]:
    """Measure the controls of a job's task, unless another process has."""
    key = rows.controls_key(job)
    if not store.finished(settings.folder, key):
        with attempting(f"measuring the controls of {job.run.task}", key):
            measure_controls(job, settings.folder, progress)
    yield Measured(job)


def _answers(device: str) -> bool:
    """Return whether a device still works; after some CUDA errors every later call of the process fails."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
