"""The sweep's worker: send the missing jobs in parts to an executor, then write, count and report their results.

Each run is written as one file, although runs with one signature are trained together. A failed run is a row with its
error, and the next sweep retries it. A run that diverges or that its model does not support is a finished result. Controls
are units too, one for each configuration of a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from expbench import files, supervision
from expbench.results.reported import ending
from expbench.sweep import rows
from expbench.sweep.executor import Ended, ExecutionSettings, Executor, Held, Lost, Measured, Part
from expbench.sweep.plan import Plan
from expbench.sweep.progress import Progress
from expbench.training import weights
from expbench.training.job import Job
from expbench.training.stacking import by_signature


class WorkerResult(NamedTuple):
    """Result of `run`. ended: number of runs by status. tried: keys of the runs and controls executed. lost: keys of the
    lost runs. held: jobs that another process holds. stopped: whether it stopped before all jobs had started."""

    ended: Counter[str]
    tried: set[str]
    lost: set[str]
    held: list[Job]
    stopped: bool


def run(
    plan: Plan, executor: Executor, settings: ExecutionSettings, progress: Progress, *, fail_fast: bool = False
) -> WorkerResult:
    """Measure the missing controls, run the missing jobs, and count their outcomes.

    After an interrupt the folder holds every finished run, and the same sweep resumes from there.
    """
    result, parts = WorkerResult(Counter(), set(), set(), [], stopped=False), divided(plan)
    jobs = {job.run.key for part in parts for job in part.jobs}
    stopped = False
    with closing(executor.run(parts, settings, progress)) as events:
        for event in events:
            match event:
                case Ended():
                    _end(event, settings.folder, result, progress)
                    if fail_fast and event.status == "failed":
                        progress.note(event.trace or "")
                        stopped = True
                        break
                case Measured(job, written):
                    _write(written, settings.folder)
                    result.tried.add(rows.controls_key(job))
                case Held(part):
                    result.held.extend(part.jobs)
                case Lost(lost, why):
                    result.ended["lost"] += len(lost)
                    result.lost.update(job.run.key for job in lost)
                    progress.note(f"{len(lost)} runs lost: {why}")
    done = result.tried | result.lost | {job.run.key for job in result.held}
    if stopped or not jobs <= done:
        return result._replace(stopped=True)
    if settings.save_weights:
        weights.prune(plan.jobs, settings.folder)
    return result


def divided(plan: Plan) -> list[Part]:
    """Return the missing jobs in parts; a set of controls joins the first jobs that need it, or forms its own part."""
    controls = {rows.controls_key(job): job for job in plan.controls}
    parts = []
    for signature, jobs in by_signature(plan.missing).items():
        wanted = dict.fromkeys(map(rows.controls_key, jobs))
        parts.append(Part(jobs, [controls.pop(key) for key in wanted if key in controls], signature))
    return [*parts, Part([], list(controls.values()))] if controls else parts


def _end(event: Ended, folder: Path, result: WorkerResult, progress: Progress) -> None:
    """Write, count and report a run that has ended."""
    _write(event.files, folder)
    how = ending(event.status, event.error)
    result.ended[how] += 1
    result.tried.add(event.job.run.key)
    supervision.ended(event.job.run.key, how)
    if event.status == "elsewhere":
        progress.skip(event.job)
    else:
        progress.end(event.job, how, event.error, event.value)


def _write(written: Mapping[str, bytes], folder: Path) -> None:
    """Write files returned by an executor, each atomically; raise ValueError for a name outside the folder."""
    for name, content in written.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"an executor returned a file outside the results folder: {name!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(target) as aside:
            aside.write_bytes(content)
