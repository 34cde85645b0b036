"""Execution: train the jobs of a stack and write one file per job, including failed and diverged ones."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from expbench import supervision
from expbench.files import NotWritten
from expbench.global_state import preserved
from expbench.ops import backends
from expbench.results import store
from expbench.results.reported import chosen_step
from expbench.run import Score, Status
from expbench.sweep import rows
from expbench.sweep.estimate import fitting
from expbench.sweep.expand import contract_of
from expbench.sweep.progress import Progress
from expbench.sweep.tuning import configuration_of
from expbench.training import weights
from expbench.training.distributed import announce
from expbench.training.epochs.checkpoint import FOLDER, CheckpointError, delete_checkpoints
from expbench.training.family import (
    Context,
    Diverged,
    Event,
    NoCudaGraph,
    Paused,
    Reached,
    Scored,
    Stack,
    Trained,
    family_of,
)
from expbench.training.job import Job
from expbench.training.stacking import by_signature


class Outcome(NamedTuple):
    """Outcome of a run. value: its primary metric on the test split, None if there is none."""

    status: Status
    error: str | None = None
    trace: str | None = None
    value: float | None = None

    @classmethod
    def of_failure(cls, failure: BaseException) -> Outcome:
        """Return the outcome for the exception currently being handled."""
        return cls("failed", _one_line(failure), traceback.format_exc())

    def columns(self) -> rows.Row:
        """Return the outcome as columns of the results table."""
        return {"status": self.status, "error": self.error, "traceback": self.trace}


def stacks(jobs: Sequence[Job], device: str, largest: int | None) -> list[Stack]:
    """Divide jobs with one signature into stacks. A job that ended a process is alone, and all are if their trial did."""
    alone = [job for job in jobs if supervision.deaths(job.run.key) or refusal(job)]
    found = [Stack([job], supervision.manner(job.run.key) or None) for job in alone]
    for signature, together in by_signature([job for job in jobs if job not in alone]).items():
        trial = f"stack {signature}"
        if supervision.deaths(trial):
            found += [Stack([job], supervision.manner(trial)) for job in together]
        else:
            fits = fitting(together[0]) if device == "cpu" else None
            most = min((limit for limit in (largest, fits) if limit is not None), default=None)
            with supervision.attempting(f"trying whether runs of {together[0].run.model} can be stacked", trial):
                found = [*family_of(together[0].task).group(together, device, most), *found]
    return found


def refusal(job: Job, attempt: str = "") -> str | None:
    """Return why a job is not trained, if it or its like ended their processes. attempt: its name, if not its key."""
    run = job.run
    return supervision.refusal(contract_of(job), run.model) or supervision.refusal(attempt or run.key, configuration_of(run))


def _attempt(job: Job, folder: Path) -> str:
    """Return the name of the attempt to train a job, another one after each checkpoint: what makes progress may go on."""
    checkpoints = sorted((folder / FOLDER / job.run.key).glob("step-*"))
    return f"{job.run.key} {checkpoints[-1].stem}" if checkpoints else job.run.key


def execute(stack: Stack, context: Context, progress: Progress) -> Iterator[tuple[Job, Outcome] | Paused]:
    """Train a stack and write a file for each of its jobs once all have ended; yield `Paused` if training ran out of time.

    Jobs with a `refusal` are written as failed.

    If a stack fails, its jobs are trained again one by one, and an exception of a single job becomes its outcome. If the
    device runs out of memory, the two halves of the stack are trained in sequence. Interrupts propagate, and so does
    `CheckpointError` and `NotWritten`, which the user must resolve.
    """
    jobs = stack.jobs
    if jobs and jobs[0].refusal is not None:
        record = _Record(jobs)
        outcome = Outcome("failed", *jobs[0].refusal)
        yield from ((job, record.write_outcome(i, context, outcome, {})) for i, job in enumerate(jobs))
        return
    if len(jobs) == 1:
        yield _alone(stack, context, progress)
    if len(jobs) <= 1:
        return
    record, parts = _together(stack, context, progress)
    for i in range(len(record.jobs)):
        yield record.write(i, context)
    for part in parts:
        yield from execute(part, context, progress)


def _together(stack: Stack, context: Context, progress: Progress) -> tuple[_Record, list[Stack]]:
    """Train jobs as one stack; if that fails, return no results and the smaller stacks to train instead.

    The caller trains the smaller stacks, so that the traceback of the failure no longer holds memory.
    """
    jobs, record = stack.jobs, _Record(stack.jobs)
    try:
        record.train(stack, context, progress)
    except torch.OutOfMemoryError:
        half, reason = len(jobs) // 2, "out of memory with two stacked runs" if len(jobs) == 2 else None
        progress.note(f"out of memory with {len(jobs)} stacked runs, retrying with {half}")
        return _Record([]), [Stack(jobs[:half], reason), Stack(jobs[half:], reason)]
    except (Exception, SystemExit) as failure:
        reason = f"the stack failed: {_one_line(failure)}"
        progress.note(f"{jobs[0].run.task} {jobs[0].run.model}: {reason}; training its runs one by one")
        return _Record([]), [Stack([job], reason) for job in jobs]
    return record, []


def _alone(stack: Stack, context: Context, progress: Progress) -> tuple[Job, Outcome] | Paused:
    """Train one job, if its model is supported, and write its file whatever the outcome."""
    job, record, began = stack.jobs[0], _Record(stack.jobs), time.perf_counter()
    refused = refusal(job, _attempt(job, context.folder))
    if refused is not None:
        return job, record.write_outcome(0, context, Outcome("failed", refused), {})
    reason = job.unsupported(context.device)
    try:
        if reason is None:
            paused = record.train(stack, context, progress)
            if paused is not None:
                return paused
            record.known[0]["not_stacked_reason"] = stack.not_stacked_reason
            ended = record.write(0, context)
            delete_checkpoints(context.folder, job.run.key)  # only after its results are on disk
            return ended
        record.known[0] |= rows.of_facts(job.task)
        outcome = Outcome("unsupported", reason)
    except (CheckpointError, NotWritten):
        raise
    except (Exception, SystemExit) as failure:  # an exception of a plugin ends its run, not the sweep
        outcome = Outcome.of_failure(failure)
    record.seconds = time.perf_counter() - began
    return job, record.write_outcome(0, context, outcome, {})


class _Record:
    """Results of jobs trained together: for each its scores or divergence, known facts and weights."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.scores: list[list[Score]] = [[] for _ in jobs]
        self.diverged: dict[int, str] = {}
        self.known: list[rows.Row] = [{} for _ in jobs]
        self.weights: dict[int, Trained] = {}
        self.seconds = 0.0

    def train(self, stack: Stack, context: Context, progress: Progress) -> Paused | None:
        """Train the jobs. After an exception, the facts and scores collected so far remain available."""
        first, several = stack.jobs[0].run, len(stack.jobs) > 1
        what = f"training {len(stack.jobs)} stacked runs of {first.model}" if several else f"training {first.title()}"
        row = f"training {len(stack.jobs)} stacked runs" if several else "training this run"
        attempts = [_attempt(job, context.folder) for job in stack.jobs]
        with (
            supervision.attempting(what, *attempts, group=configuration_of(first), row=row),
            preserved(f"{first.task} with {first.model}"),
        ):
            return self._train(stack, context, progress)

    def _train(self, stack: Stack, context: Context, progress: Progress) -> Paused | None:
        jobs, began, family = stack.jobs, time.perf_counter(), family_of(stack.jobs[0].task)
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_facts(job.task)
        facts = family.describe(jobs[0])  # valid for all jobs, which differ only in numeric settings
        for job, known in zip(jobs, self.known, strict=True):
            known |= (
                rows.of_network(facts) | rows.of_floor(job.task, facts) | {"stack_size": len(jobs), "causal": job.causal}
            )
        announce(jobs[0].run, context.device)
        with backends.using(None) as used:
            for event in family.train(stack, context):
                if isinstance(event, Paused):
                    return event
                self._take(event, used, progress)
        last = max((score.seconds for scores in self.scores for score in scores), default=0.0)
        self.seconds = max(last, time.perf_counter() - began)  # a resumed run counts from its first start
        return None

    def _take(self, event: Event, used: backends.Used, progress: Progress) -> None:
        """Record one training event."""
        match event:
            case Scored(member, score):
                self.scores[member].append(score)
                self.known[member]["backend"] = "+".join(used.names) or "torch"
            case Diverged(member, reason):
                self.diverged[member] = reason
            case NoCudaGraph(reason):
                for known in self.known:
                    known["no_cuda_graph_reason"] = reason
            case Reached(step):
                progress.step(self.jobs, step)
            case Trained():
                self.weights[event.member] = event

    def write(self, i: int, context: Context) -> tuple[Job, Outcome]:
        """Write the file of job i after training."""
        job, more = self.jobs[i], {}
        if i in self.diverged:
            outcome = Outcome("diverged", self.diverged[i])
        else:
            outcome = Outcome("ok", value=_reported(self.scores[i], job.task.higher_is_better))
            if i in self.weights:
                more["weights"] = weights.save(self.weights[i].weights, context.folder, job.run.key)
        return job, self.write_outcome(i, context, outcome, more)

    def write_outcome(self, i: int, context: Context, outcome: Outcome, more: rows.Row) -> Outcome:
        """Write the outcome of job i, with its known facts and scores."""
        job, device, ending = self.jobs[i], context.device, outcome.columns() | {"run_seconds": self.seconds} | more
        try:
            found = rows.of_run(job, device, self.known[i], self.scores[i], ending)
            store.write(context.folder, job.run.key, found)
        except (
            pa.ArrowException,
            TypeError,
            ValueError,
            OverflowError,
        ) as failure:  # a plugin's value fits no column
            outcome = Outcome.of_failure(failure)
            store.write(context.folder, job.run.key, rows.of_run(job, device, {}, [], ending | outcome.columns()))
        return outcome


def _reported(scores: Sequence[Score], higher_is_better: bool) -> float:
    """Return the reported value of a run: its primary metric on the test split."""
    primary = [(s.split, s.step, s.value) for s in scores if s.primary]
    test = {step: value for split, step, value in primary if split == "test"}
    validation = {step: value for split, step, value in primary if split == "validation" and step in test}
    return test[chosen_step(validation, higher_is_better)] if validation else list(test.values())[-1]


def _one_line(failure: BaseException) -> str:
    where = traceback.extract_tb(failure.__traceback__)[-1]
    text = " ".join(str(failure).split())[:300]
    return f"{type(failure).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
