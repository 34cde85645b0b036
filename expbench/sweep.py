"""The sweep: what is done already, what is missing, and running it.

Each run is a unit of its own: trained, then written as one file. A run that fails is a row with its error and is tried
again by the next sweep; one that diverges, or that its model does not support, is a finding and is done. Controls are
units too, one for each setting of a task.
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

from expbench import files, rows, table
from expbench.errors import BadInput
from expbench.grid import Job
from expbench.mixer import unsupported
from expbench.network import Network
from expbench.ops import backends
from expbench.progress import Progress
from expbench.run import Score, Status
from expbench.task import Measured, Task, total
from expbench.training import Diverged, build, surroundings, train


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
    plan: Plan, folder: Path, device: str, progress: Progress, *, save_weights: bool = False, fail_fast: bool = False
) -> Counter[str]:
    """Measure the missing controls, run the missing jobs, and return how many ended in which status.

    A run that another process has finished meanwhile counts as `elsewhere`. After an interrupt the folder holds every run
    that had ended, and the same sweep goes on from there.
    """
    ended: Counter[str] = Counter()
    controls = {rows.controls_key(job): job for job in plan.controls}
    for job in plan.missing:
        own = controls.pop(rows.controls_key(job), None)
        if own is not None:
            measure_controls(own, folder, progress)
        if table.finished(folder, job.run.key):
            ended["elsewhere"] += 1
            progress.skip(job)
            continue
        outcome = execute(job, folder, device, progress, save_weights=save_weights)
        ended[outcome.status] += 1
        progress.end(job, outcome.status, outcome.error, outcome.value)
        if fail_fast and outcome.status == "failed":
            progress.note(outcome.trace or "")
            break
    else:
        for job in controls.values():
            measure_controls(job, folder, progress)
    return ended


def execute(job: Job, folder: Path, device: str, progress: Progress, *, save_weights: bool = False) -> Outcome:
    """Train one job and write its file. An exception of the run's own becomes its outcome; an interrupt passes through."""
    began = time.perf_counter()
    scores: list[Score] = []
    known: rows.Row = {}
    ending: rows.Row = {}
    reason = unsupported(job.model, width=job.run.D, dtype=job.run.dtype, device=device)
    try:
        known |= rows.of_facts(job.task)
        if reason is not None:
            outcome = Outcome("unsupported", reason)
        else:
            network = build(job.run, job.task, job.model, device)
            known |= rows.of_network(network)
            with surroundings(job.run, device), backends.using(None) as used:
                for score in train(job.run, job.task, network, device):
                    scores.append(score)
                    known["backend"] = "+".join(used.names) or "torch"
                    progress.step(job, score.step)
            outcome = Outcome("ok", value=next(s.value for s in scores if s.headline and s.split == "test"))
            if save_weights:
                ending["weights"] = _save_weights(network, folder, job.run.key)
    except Diverged as diverged:
        outcome = Outcome("diverged", str(diverged))
    except (Exception, SystemExit) as failure:  # whatever a plugin raises ends its run, not the sweep
        outcome = Outcome.of_failure(failure)
    ending |= outcome.columns()
    ending["run_seconds"] = time.perf_counter() - began
    try:
        table.write(folder, job.run.key, rows.of_run(job, device, known, scores, ending))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as failure:  # a plugin states what no column can hold
        outcome = Outcome.of_failure(failure)
        ending |= outcome.columns()
        table.write(folder, job.run.key, rows.of_run(job, device, {}, [], ending))
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


def _save_weights(network: Network, folder: Path, key: str) -> str:
    """Write the weights and return their path below the results folder."""
    from safetensors.torch import save_file

    target = folder / "weights" / f"{key}.safetensors"
    target.parent.mkdir(exist_ok=True)
    with files.replacing(target) as aside:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, aside)
    return str(target.relative_to(folder))


def _one_line(failure: BaseException) -> str:
    where = traceback.extract_tb(failure.__traceback__)[-1]
    text = " ".join(str(failure).split())[:300]
    return f"{type(failure).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
