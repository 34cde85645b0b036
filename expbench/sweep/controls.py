"""Controls, measured once for each configuration of a task."""

from __future__ import annotations

import time
from pathlib import Path

from expbench.global_state import seeded
from expbench.results import store
from expbench.run import Score
from expbench.supervision import refuse
from expbench.sweep import rows
from expbench.sweep.execution import Outcome
from expbench.sweep.progress import Progress
from expbench.training.job import Job


def measure_controls(job: Job, folder: Path, progress: Progress) -> None:
    """Measure and write the controls of a job's task; warn of each positive control that does not solve it."""
    task, began = job.task, time.perf_counter()
    scores: list[tuple[str, str, Score]] = []
    ending: rows.Row = {"status": "ok"}
    warnings = []
    key = rows.controls_key(job)
    try:
        refuse(key)
        with seeded(0, f"task {job.run.task!r}"):
            ending |= rows.of_facts(task)
            for name, kind, measured in task.measured_controls():
                for m in measured:
                    primary = m.metric == task.primary_metric and not m.slice
                    seconds = time.perf_counter() - began
                    scores.append((name, kind, m._replace(value=float(m.value), seconds=seconds, primary=primary)))
                    if primary and kind == "positive" and not task.solved(m.value):
                        warnings.append(
                            f"the positive control {name} does not solve {job.run.task}: {m.metric} {m.value:.3g}"
                        )
    except (Exception, SystemExit) as failure:  # a task is third-party code
        scores = []
        ending = Outcome.of_failure(failure).columns()
        warnings.append(f"the controls of {job.run.task} failed: {ending['error']}")
    ending["run_seconds"] = time.perf_counter() - began
    store.write(folder, key, rows.of_controls(job, scores, ending))
    for warning in warnings:
        progress.note(f"warning: {warning}")
