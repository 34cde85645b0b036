"""The sweep: what is done already, what is missing, and running it.

Each run is a unit of its own, written as one file, though runs that are alike are trained together. A run that fails is a
row with its error and is tried again by the next sweep; one that diverges, or that its model does not support, is a finding
and is done. Controls are units too, one for each setting of a task.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from expbench import rows, table, weights
from expbench.ensemble import Ensemble
from expbench.errors import BadInput
from expbench.grid import Job
from expbench.mixer import unsupported
from expbench.ops import backends
from expbench.progress import Progress
from expbench.run import Score, Status
from expbench.stacks import Stack, stacked
from expbench.task import Measured, Task, total
from expbench.training import Diverged, build, surroundings, train_together


class Plan(NamedTuple):
    """The jobs of a sweep; those missing; how many of these failed before; a job for each control set that is missing."""

    jobs: list[Job]
    missing: list[Job]
    failed_before: int
    controls: list[Job]


class Outcome(NamedTuple):
    """How a run ended. value: its headline metric on the test split, None without one."""

    status: Status
    error: str | None = None
    trace: str | None = None
    value: float | None = None

    @classmethod
    def of_failure(cls, failure: BaseException) -> Outcome:
        """The outcome of an exception that is being handled."""
        return cls("failed", _one_line(failure), traceback.format_exc())

    def columns(self) -> rows.Row:
        """How it ended, in the columns of the results table."""
        return {"status": self.status, "error": self.error, "traceback": self.trace}


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; raises `BadInput` for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch finds no CUDA device here; take --device cpu (expbench doctor says more)")
    return name


def plan(jobs: Sequence[Job], folder: Path, shard: tuple[int, int] = (1, 1)) -> Plan:
    """What of `jobs` the folder lacks; `shard` (i, n) keeps every n-th job, from the i-th on.

    Raises `BadInput` if the folder holds a file that is no results table: whether it holds a result is not ours to guess.
    """
    jobs = list(jobs)[shard[0] - 1 :: shard[1]]
    status: dict[str, str] = {}
    if folder.is_dir():
        status, problems = table.statuses(folder)
        if problems:
            raise BadInput(problems[0])
    missing = [job for job in jobs if status.get(job.run.key, "failed") == "failed"]
    cells = {rows.controls_key(job): job for job in jobs}
    return Plan(
        jobs,
        missing,
        sum(job.run.key in status for job in missing),
        [job for key, job in cells.items() if status.get(key, "failed") == "failed"],
    )


def run(
    plan: Plan,
    folder: Path,
    device: str,
    progress: Progress,
    *,
    save_weights: bool = False,
    fail_fast: bool = False,
    largest: int | None = None,
) -> Counter[str]:
    """Measure the missing controls, run the missing jobs, at most `largest` together, and count how they ended.

    A run that another process has finished meanwhile counts as `elsewhere`. After an interrupt the folder holds every run
    that had ended, and the same sweep goes on from there.
    """
    ended: Counter[str] = Counter()
    controls = {rows.controls_key(job): job for job in plan.controls}
    for stack in stacked(plan.missing, device, largest):
        left = []
        for job in stack.jobs:
            own = controls.pop(rows.controls_key(job), None)
            if own is not None:
                measure_controls(own, folder, progress)
            if table.finished(folder, job.run.key):
                ended["elsewhere"] += 1
                progress.skip(job)
            else:
                left.append(job)
        for job, outcome in execute(Stack(left, stack.alone_because), folder, device, progress, save_weights=save_weights):
            ended[outcome.status] += 1
            progress.end(job, outcome.status, outcome.error, outcome.value)
            if fail_fast and outcome.status == "failed":
                progress.note(outcome.trace or "")
                return ended
    for job in controls.values():
        measure_controls(job, folder, progress)
    if save_weights:
        weights.keep_three(plan.jobs, folder)
    return ended


def execute(
    stack: Stack, folder: Path, device: str, progress: Progress, *, save_weights: bool = False
) -> Iterator[tuple[Job, Outcome]]:
    """Train a stack and write a file for each of its jobs, when all have ended.

    An exception of one job's own becomes its outcome: where a stack breaks, its jobs are run again one by one. Where memory
    does not suffice, halves are trained one after the other. An interrupt passes through.
    """
    jobs = stack.jobs
    if len(jobs) > 1:
        trained = _Trained(jobs)
        try:
            trained.run(device, progress)
        except torch.OutOfMemoryError:
            half, reason = len(jobs) // 2, "memory did not suffice for two" if len(jobs) == 2 else None
            progress.note(f"memory does not suffice for {len(jobs)} runs at once, going on with {half}")
            for part in (jobs[:half], jobs[half:]):
                yield from execute(Stack(part, reason), folder, device, progress, save_weights=save_weights)
            return
        except (Exception, SystemExit) as failure:
            reason = f"a stack broke: {_one_line(failure)}"
            progress.note(f"{jobs[0].run.task} {jobs[0].run.model}: {reason}; its runs go on one by one")
            for job in jobs:
                yield from execute(Stack([job], reason), folder, device, progress, save_weights=save_weights)
            return
        for i, job in enumerate(jobs):
            yield job, _write(trained, i, folder, device, save_weights)
    elif jobs:
        yield jobs[0], _alone(stack, folder, device, progress, save_weights)


class _Trained:
    """What comes of jobs that are trained together: of each its scores, or how it diverged; and their networks."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.scores: list[list[Score]] = [[] for _ in jobs]
        self.diverged: dict[int, str] = {}
        self.known: list[rows.Row] = [{} for _ in jobs]
        self.seconds = 0.0
        self.ensemble: Ensemble | None = None

    def run(self, device: str, progress: Progress) -> None:
        """Train them. After an exception what was known and measured until then is still there."""
        jobs, began = self.jobs, time.perf_counter()
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_facts(job.task)
        networks = [build(job.run, job.task, job.model, device) for job in jobs]
        for known in self.known:
            known |= rows.of_network(networks[0]) | {"stack_size": len(jobs)}
        self.ensemble = Ensemble(networks)
        runs, tasks = [job.run for job in jobs], [job.task for job in jobs]
        with surroundings(runs[0], device, len(jobs)), backends.using(None) as used:
            for item in train_together(runs, tasks, self.ensemble, device):
                if isinstance(item.what, Diverged):
                    self.diverged[item.member] = str(item.what)
                else:
                    self.scores[item.member].append(item.what)
                    self.known[item.member]["backend"] = "+".join(used.names) or "torch"
                    progress.step(jobs, item.what.step)
        self.seconds = time.perf_counter() - began


def _alone(stack: Stack, folder: Path, device: str, progress: Progress, save_weights: bool) -> Outcome:
    """Train one job, if it is supported, and write its file, whatever becomes of it."""
    job, trained, began = stack.jobs[0], _Trained(stack.jobs), time.perf_counter()
    reason = unsupported(job.model, width=job.run.D, dtype=job.run.dtype, device=device)
    try:
        if reason is None:
            trained.run(device, progress)
            trained.known[0]["alone_because"] = stack.alone_because
            return _write(trained, 0, folder, device, save_weights)
        trained.known[0] |= rows.of_facts(job.task)
        outcome = Outcome("unsupported", reason)
    except (Exception, SystemExit) as failure:  # whatever a plugin raises ends its run, not the sweep
        outcome = Outcome.of_failure(failure)
    trained.seconds = time.perf_counter() - began
    return _write_outcome(trained, 0, folder, device, outcome, {})


def _write(trained: _Trained, i: int, folder: Path, device: str, save_weights: bool) -> Outcome:
    """Write the file of one of the jobs that have been trained together."""
    more: rows.Row = {}
    if i in trained.diverged:
        outcome = Outcome("diverged", trained.diverged[i])
    else:
        outcome = Outcome("ok", value=next(s.value for s in trained.scores[i] if s.headline and s.split == "test"))
        if save_weights and trained.ensemble is not None:
            more["weights"] = weights.save(trained.ensemble.state(i), folder, trained.jobs[i].run.key)
    return _write_outcome(trained, i, folder, device, outcome, more)


def _write_outcome(trained: _Trained, i: int, folder: Path, device: str, outcome: Outcome, more: rows.Row) -> Outcome:
    job, ending = trained.jobs[i], outcome.columns() | {"run_seconds": trained.seconds} | more
    try:
        table.write(folder, job.run.key, rows.of_run(job, device, trained.known[i], trained.scores[i], ending))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as failure:  # a plugin states what no column can hold
        outcome = Outcome.of_failure(failure)
        table.write(folder, job.run.key, rows.of_run(job, device, {}, [], ending | outcome.columns()))
    return outcome


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


def _one_line(failure: BaseException) -> str:
    where = traceback.extract_tb(failure.__traceback__)[-1]
    text = " ".join(str(failure).split())[:300]
    return f"{type(failure).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
