"""Execution: train the jobs of a stack and write a file for each, whatever becomes of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from expbench.ops import backends
from expbench.results import store
from expbench.results.reported import chosen_step
from expbench.run import Score, Status
from expbench.sweep import rows
from expbench.sweep.progress import Progress
from expbench.training import weights
from expbench.training.distributed import announce
from expbench.training.epochs.checkpoint import CheckpointError, delete_checkpoints
from expbench.training.family import Context, Diverged, Eager, Event, Paused, Reached, Scored, Stack, Trained, family_of
from expbench.training.job import Job


class Outcome(NamedTuple):
    """How a run ended. value: its headline metric on the test split, None without one."""

    status: Status
    error: str | None = None
    trace: str | None = None
    value: float | None = None

    @classmethod
    def of_failure(cls, failure: BaseException) -> Outcome:
        """Return the outcome of an exception that is being handled."""
        return cls("failed", _one_line(failure), traceback.format_exc())

    def columns(self) -> rows.Row:
        """Return how it ended, in the columns of the results table."""
        return {"status": self.status, "error": self.error, "traceback": self.trace}


def execute(stack: Stack, context: Context, progress: Progress) -> Iterator[tuple[Job, Outcome] | Paused]:
    """Train a stack and write a file for each of its jobs, when all have ended; `Paused` where a training ran out of time.

    An exception of one job's own becomes its outcome: where a stack breaks, its jobs are run again one by one. Where memory
    does not suffice, halves are trained one after the other. An interrupt passes through, and so does `CheckpointError`,
    which is for the user to put right.
    """
    jobs = stack.jobs
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
    """Train jobs as one program; where that breaks, nothing is trained, and what is left are smaller stacks.

    It returns before they are run, so that nothing of the failure keeps memory from them.
    """
    jobs, record = stack.jobs, _Record(stack.jobs)
    try:
        record.train(stack, context, progress)
    except torch.OutOfMemoryError:
        half, reason = len(jobs) // 2, "memory did not suffice for two" if len(jobs) == 2 else None
        progress.note(f"memory does not suffice for {len(jobs)} runs at once, going on with {half}")
        return _Record([]), [Stack(jobs[:half], reason), Stack(jobs[half:], reason)]
    except (Exception, SystemExit) as failure:
        reason = f"a stack broke: {_one_line(failure)}"
        progress.note(f"{jobs[0].run.task} {jobs[0].run.model}: {reason}; its runs go on one by one")
        return _Record([]), [Stack([job], reason) for job in jobs]
    return record, []


def _alone(stack: Stack, context: Context, progress: Progress) -> tuple[Job, Outcome] | Paused:
    """Train one job, if it is supported, and write its file, whatever becomes of it."""
    job, record, began = stack.jobs[0], _Record(stack.jobs), time.perf_counter()
    reason = job.unsupported(context.device)
    try:
        if reason is None:
            paused = record.train(stack, context, progress)
            if paused is not None:
                return paused
            record.known[0]["alone_because"] = stack.alone_because
            ended = record.write(0, context)
            delete_checkpoints(context.folder, job.run.key)  # by now its results are written
            return ended
        record.known[0] |= rows.of_facts(job.task)
        outcome = Outcome("unsupported", reason)
    except CheckpointError:
        raise
    except (Exception, SystemExit) as failure:  # whatever a plugin raises ends its run, not the sweep
        outcome = Outcome.of_failure(failure)
    record.seconds = time.perf_counter() - began
    return job, record.write_outcome(0, context, outcome, {})


class _Record:
    """What comes of jobs that are trained together: for each its scores, or how it diverged, what is known, its weights."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.scores: list[list[Score]] = [[] for _ in jobs]
        self.diverged: dict[int, str] = {}
        self.known: list[rows.Row] = [{} for _ in jobs]
        self.weights: dict[int, Trained] = {}
        self.seconds = 0.0

    def train(self, stack: Stack, context: Context, progress: Progress) -> Paused | None:
        """Train them. After an exception what was known and measured until then is still there."""
        jobs, began, family = stack.jobs, time.perf_counter(), family_of(stack.jobs[0].task)
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_facts(job.task)
        facts = family.describe(jobs[0])  # of all: they differ in numbers alone
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_network(facts) | rows.of_floor(job.task, facts.reach) | {"stack_size": len(jobs)}
        announce(jobs[0].run, context.device)
        with backends.using(None) as used:
            for event in family.train(stack, context):
                if isinstance(event, Paused):
                    return event
                self._take(event, used, progress)
        last = max((score.seconds for scores in self.scores for score in scores), default=0.0)
        self.seconds = max(last, time.perf_counter() - began)  # of a run that went on: since it first began
        return None

    def _take(self, event: Event, used: backends.Used, progress: Progress) -> None:
        """Take in one event of a training."""
        match event:
            case Scored(member, score):
                self.scores[member].append(score)
                self.known[member]["backend"] = "+".join(used.names) or "torch"
            case Diverged(member, reason):
                self.diverged[member] = reason
            case Eager(reason):
                for known in self.known:
                    known["eager_because"] = reason
            case Reached(step):
                progress.step(self.jobs, step)
            case Trained():
                self.weights[event.member] = event

    def write(self, i: int, context: Context) -> tuple[Job, Outcome]:
        """Write the file of one of the jobs, which have been trained."""
        job, more = self.jobs[i], {}
        if i in self.diverged:
            outcome = Outcome("diverged", self.diverged[i])
        else:
            outcome = Outcome("ok", value=_reported(self.scores[i], job.task.higher_is_better))
            if i in self.weights:
                more["weights"] = weights.save(self.weights[i].weights, context.folder, job.run.key)
        return job, self.write_outcome(i, context, outcome, more)

    def write_outcome(self, i: int, context: Context, outcome: Outcome, more: rows.Row) -> Outcome:
        """Write how a job ended, with what was known and measured of it."""
        job, device, ending = self.jobs[i], context.device, outcome.columns() | {"run_seconds": self.seconds} | more
        try:
            found = rows.of_run(job, device, self.known[i], self.scores[i], ending)
            store.write(context.folder, job.run.key, found)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as failure:  # a plugin states what no column holds
            outcome = Outcome.of_failure(failure)
            store.write(context.folder, job.run.key, rows.of_run(job, device, {}, [], ending | outcome.columns()))
        return outcome


def _reported(scores: Sequence[Score], higher_is_better: bool) -> float:
    """Return the headline metric on the test split by which a run is reported."""
    headline = [(s.split, s.step, s.value) for s in scores if s.headline]
    test = {step: value for split, step, value in headline if split == "test"}
    selection = {step: value for split, step, value in headline if split == "selection" and step in test}
    return test[chosen_step(selection, higher_is_better)] if selection else list(test.values())[-1]


def _one_line(failure: BaseException) -> str:
    where = traceback.extract_tb(failure.__traceback__)[-1]
    text = " ".join(str(failure).split())[:300]
    return f"{type(failure).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
