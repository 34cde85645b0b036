"""Check of witnesses: networks with kept weights that solve their task, evaluated again on data that no run has seen.

A results folder says that a run solved its task. The check builds the network, loads its weights and measures the primary
metric on fresh sequences, in the precision of the run. Where the task states the sampling error of its metric (`nmse`), a
witness must stay on the right side of the success threshold by two standard errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from expbench.console.formatting import aligned, number
from expbench.contracts import build_task, load_task
from expbench.errors import BadInput
from expbench.plugins import find
from expbench.results.certificates.kept import KeptRun, kept_runs, of_folder
from expbench.task import CHUNK, Task, scores_of, total
from expbench.training import weights

_SEED = 2**62  # of a training stream that no run uses
_DTYPES = {"float64": torch.float64}


class Checked(NamedTuple):
    """A witness with its value on fresh data. margin: two standard errors, 0 if the task states none."""

    run: KeptRun
    value: float
    margin: float

    @property
    def holds(self) -> bool:
        """True if the network solves its task by the margin."""
        worst = self.value + (-self.margin if self.run.configuration.higher_is_better else self.margin)
        return self.run.configuration.solves(worst)


def check(folder: Path, sequences: int = 1 << 14) -> Iterator[Checked]:
    """Yield the witnesses of a results folder, evaluated on that many fresh sequences; raise `BadInput` without any."""
    kept = list(kept_runs(of_folder(folder)[0], folder))
    if not kept:
        raise BadInput(f"{folder} holds no run that solves its task and has kept its weights (expbench run --save-weights)")
    for run in kept:
        network = weights.load(folder, run.key)
        value, margin = measured(network, _task(run), sequences, run.witness.precision)
        yield Checked(run, value, margin)


def _task(run: KeptRun) -> Task:
    row = run.configuration.runs.set_index("key").loc[run.key]
    settings = {name: str(value) for name, value in json.loads(str(row["task_settings"])).items() if value is not None}
    return build_task(load_task(find("task", str(row["task"]))), settings, str(row["task"]))


@torch.no_grad()
def measured(network: nn.Module, task: Task, sequences: int, precision: str) -> tuple[float, float]:
    """Return the primary metric on fresh sequences, and two standard errors of it (0 if the task states none)."""
    dtype = _DTYPES.get(precision, torch.float32)
    parts = []
    for step in range(-(-sequences // CHUNK)):
        x, y = task.train_batch(CHUNK, seed=_SEED, step=step)
        outputs = network.to(dtype)(x.to(dtype) if x.is_floating_point() else x)
        parts.append(task.measure(outputs, y))
    scores = {score.metric: score.value for score in scores_of(task, total(parts), finite=True)}
    return scores[task.primary_metric], 2 * scores.get(f"{task.primary_metric}_standard_error", 0.0)


def text(found: list[Checked]) -> str:
    """Return the witnesses as a table with a line each."""
    lines = [["run", "network", "task", "precision", "norm", "at the end", "fresh data", "threshold", "witness"]]
    for run, value, margin in found:
        c = run.configuration
        network = f"{c['model']} D={c['D']} depth={c['depth']} positions={c['positions']}"
        task = f"{c['task']} L={c['L']}, degree={c['degree']}, {c['context']}, instance={run.witness.instance}"
        values = [number(run.value), f"{number(value)} +- {number(margin)}", number(c.success_threshold)]
        holds = "holds" if Checked(run, value, margin).holds else "FAILS"
        lines.append([run.key[:12], network, task, run.witness.precision, c["norm"], *values, holds])
    return aligned(lines)
