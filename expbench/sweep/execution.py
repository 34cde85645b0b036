"""Execute: train the jobs of a stack and write a file for each, whatever becomes of them."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from expbench.errors import BadInput
from expbench.language import family as language
from expbench.language.model import LanguageModel
from expbench.language.task import TextTask
from expbench.ops import backends
from expbench.results import store
from expbench.run import Score, Status
from expbench.sweep import rows
from expbench.sweep.progress import Progress
from expbench.training import weights
from expbench.training.ensemble import Ensemble
from expbench.training.job import Job
from expbench.training.loop import Diverged, build, surroundings, train_together
from expbench.training.stacking import Stack


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


def execute(
    stack: Stack, folder: Path, device: str, progress: Progress, *, save_weights: bool = False, ends: float = math.inf
) -> Iterator[tuple[Job, Outcome]]:
    """Train a stack and write a file for each of its jobs, when all have ended.

    An exception of one job's own becomes its outcome: where a stack breaks, its jobs are run again one by one. Where memory
    does not suffice, halves are trained one after the other. An interrupt passes through, and so does `OutOfTime`, which
    ends a text's run at a checkpoint after `ends` (by `time.monotonic`).
    """
    jobs = stack.jobs
    if len(jobs) == 1:
        yield jobs[0], _alone(stack, folder, device, progress, save_weights, ends)
    if len(jobs) <= 1:
        return
    trained, parts = _together(jobs, device, progress)
    for i, job in enumerate(trained.jobs):
        yield job, _write(trained, i, folder, device, save_weights)
    for part in parts:
        yield from execute(part, folder, device, progress, save_weights=save_weights, ends=ends)


def _together(jobs: list[Job], device: str, progress: Progress) -> tuple[_Trained, list[Stack]]:
    """Train jobs as one program; where that breaks, nothing is trained, and what is left are smaller stacks.

    It returns before they are run, so that nothing of the failure keeps memory from them.
    """
    trained = _Trained(jobs)
    try:
        trained.run(device, progress)
    except torch.OutOfMemoryError:
        half, reason = len(jobs) // 2, "memory did not suffice for two" if len(jobs) == 2 else None
        progress.note(f"memory does not suffice for {len(jobs)} runs at once, going on with {half}")
        return _Trained([]), [Stack(jobs[:half], reason), Stack(jobs[half:], reason)]
    except (Exception, SystemExit) as failure:
        reason = f"a stack broke: {_one_line(failure)}"
        progress.note(f"{jobs[0].run.task} {jobs[0].run.model}: {reason}; its runs go on one by one")
        return _Trained([]), [Stack([job], reason) for job in jobs]
    return trained, []


class _Trained:
    """What comes of jobs that are trained together: of each its scores, or how it diverged; and their networks."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.scores: list[list[Score]] = [[] for _ in jobs]
        self.diverged: dict[int, str] = {}
        self.known: list[rows.Row] = [{} for _ in jobs]
        self.seconds = 0.0
        self.ensemble: Ensemble | None = None
        self.model: LanguageModel | None = None  # of a text

    def run(self, device: str, progress: Progress) -> None:
        """Train them. After an exception what was known and measured until then is still there."""
        jobs, began = self.jobs, time.perf_counter()
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_facts(job.task)
        networks = [build(job.run, job.task, job.model, device) for job in jobs]
        for job, known in zip(jobs, self.known, strict=True):
            known |= rows.of_network(networks[0]) | rows.of_floor(job.task, networks[0]) | {"stack_size": len(jobs)}
        self.ensemble = Ensemble(networks)
        runs, tasks = [job.run for job in jobs], [job.task for job in jobs]
        with surroundings(runs[0], device, len(jobs)), backends.using(None) as used:
            for item in train_together(runs, tasks, self.ensemble, device, self._eager):
                if isinstance(item.what, Diverged):
                    self.diverged[item.member] = str(item.what)
                else:
                    self.scores[item.member].append(item.what)
                    self.known[item.member]["backend"] = "+".join(used.names) or "torch"
                    progress.step(jobs, item.what.step)
        self.seconds = time.perf_counter() - began

    def run_text(self, device: str, progress: Progress, folder: Path, ends: float) -> None:
        """Train the only job, a text's. After an exception what was known and measured until then is still there."""
        (job,), (known,), began = self.jobs, self.known, time.perf_counter()
        run, task = job.run, job.task
        assert isinstance(task, TextTask)
        known |= rows.of_facts(task)
        self.model = language.model_of(run, task, job.model)
        known |= {**language.facts(self.model, task.L), "stack_size": 1}
        with surroundings(run, device), backends.using(None) as used:
            told = partial(progress.step, self.jobs)
            try:
                for score in language.scores(run, task, self.model, device, folder, ends, told, self._eager):
                    self.scores[0].append(score)
                    known["backend"] = "+".join(used.names) or "torch"
            except Diverged as diverged:
                self.diverged[0] = str(diverged)
        before = self.scores[0][-1].seconds if self.scores[0] else 0.0  # of a run that goes on: since it first began
        self.seconds = max(before, time.perf_counter() - began)

    def _eager(self, reason: str) -> None:
        for known in self.known:
            known["eager_because"] = reason


def _alone(stack: Stack, folder: Path, device: str, progress: Progress, save_weights: bool, ends: float) -> Outcome:
    """Train one job, if it is supported, and write its file, whatever becomes of it."""
    job, trained, began = stack.jobs[0], _Trained(stack.jobs), time.perf_counter()
    reason = job.unsupported(device)
    try:
        if reason is None:
            if not isinstance(job.task, TextTask):
                trained.run(device, progress)
                trained.known[0]["alone_because"] = stack.alone_because
                return _write(trained, 0, folder, device, save_weights)
            trained.run_text(device, progress, folder, ends)
            outcome = _write(trained, 0, folder, device, save_weights)
            language.forget(job.run, folder)  # by now its results are written
            return outcome
        trained.known[0] |= rows.of_facts(job.task)
        outcome = Outcome("unsupported", reason)
    except language.OutOfTime:
        raise
    except (Exception, SystemExit) as failure:  # whatever a plugin raises ends its run, not the sweep
        if isinstance(failure, BadInput) and isinstance(job.task, TextTask):
            raise  # a damaged checkpoint, say, for the user to put right
        outcome = Outcome.of_failure(failure)
    trained.seconds = time.perf_counter() - began
    return _write_outcome(trained, 0, folder, device, outcome, {})


def _write(trained: _Trained, i: int, folder: Path, device: str, save_weights: bool) -> Outcome:
    """Write the file of one of the jobs that have been trained together."""
    more: rows.Row = {}
    if i in trained.diverged:
        outcome = Outcome("diverged", trained.diverged[i])
    else:
        outcome = Outcome("ok", value=_reported(trained.scores[i], trained.jobs[i].task.higher_is_better))
        if save_weights and trained.ensemble is not None:
            more["weights"] = weights.save(trained.ensemble.state(i), folder, trained.jobs[i].run.key)
        elif save_weights and trained.model is not None:
            more["weights"] = weights.save(trained.model.state_dict(), folder, trained.jobs[i].run.key)
    return _write_outcome(trained, i, folder, device, outcome, more)


def _reported(scores: Sequence[Score], higher_is_better: bool) -> float:
    """The headline metric on the test split: of several the one that was measured with the best on the selection split."""
    headline = [(s.split, s.step, s.value) for s in scores if s.headline]
    test = {step: value for split, step, value in headline if split == "test"}
    selection = {step: value for split, step, value in headline if split == "selection" and step in test}
    if not selection:
        return list(test.values())[-1]
    return test[max(selection, key=lambda step: selection[step] if higher_is_better else -selection[step])]


def _write_outcome(trained: _Trained, i: int, folder: Path, device: str, outcome: Outcome, more: rows.Row) -> Outcome:
    job, ending = trained.jobs[i], outcome.columns() | {"run_seconds": trained.seconds} | more
    try:
        store.write(folder, job.run.key, rows.of_run(job, device, trained.known[i], trained.scores[i], ending))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as failure:  # a plugin states what no column can hold
        outcome = Outcome.of_failure(failure)
        store.write(folder, job.run.key, rows.of_run(job, device, {}, [], ending | outcome.columns()))
    return outcome


def _one_line(failure: BaseException) -> str:
    where = traceback.extract_tb(failure.__traceback__)[-1]
    text = " ".join(str(failure).split())[:300]
    return f"{type(failure).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
