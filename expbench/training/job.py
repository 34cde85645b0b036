"""Job: a run with its task and model objects."""

from __future__ import annotations

from typing import NamedTuple

from expbench.mixer import unsupported
from expbench.run import Run
from expbench.task import Task


class Job(NamedTuple):
    """A run with its task object and model class, and the origins of both (built-in, folder, distribution or file)."""

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str

    def unsupported(self, device: str) -> str | None:
        """Return the reason why the model cannot run on a device with the run's width, length and dtype; None if it can."""
        run = self.run
        lengths = (run.L, *getattr(self.task, "contexts", ()))  # a text may be evaluated at further lengths
        reasons = (unsupported(self.model, width=run.D, dtype=run.dtype, device=device, length=n) for n in lengths)
        return next(filter(None, reasons), None)
