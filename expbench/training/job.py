"""Job: a run with its task and model objects."""

from __future__ import annotations

from typing import NamedTuple

from expbench.mixer import unsupported
from expbench.run import Run
from expbench.task import Task


class Job(NamedTuple):
    """A run with its task object and model class, and the origins of both (built-in, folder, distribution or file).

    task_distribution, model_distribution: names and versions of the installed packages whose code they consist of.
    """

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str
    task_distribution: str | None = None
    model_distribution: str | None = None

    def unsupported(self, device: str) -> str | None:
        """Return the reason why the model cannot run on a device with the run's width and dtype; None if it can."""
        return unsupported(self.model, width=self.run.D, dtype=self.run.dtype, device=device)
