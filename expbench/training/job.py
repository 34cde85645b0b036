"""Job: a run with the objects that it needs."""

from __future__ import annotations

from typing import NamedTuple

from expbench.mixer import unsupported
from expbench.run import Run
from expbench.task import Task


class Job(NamedTuple):
    """A run with the objects that it needs, and where its task and model come from."""

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str

    def unsupported(self, device: str) -> str | None:
        """Why its model cannot run as asked on that device, in words; None if it can."""
        return unsupported(self.model, width=self.run.D, dtype=self.run.dtype, device=device)
