"""Job: a run with its task and model objects."""

from __future__ import annotations

from typing import NamedTuple

from expbench.mixer import unsupported
from expbench.nn.memory import Sizes
from expbench.run import Run
from expbench.task import Task


class Job(NamedTuple):
    """A run with its task object and model class, and the origins of both (built-in, folder, distribution or file)."""

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str

    @property
    def sizes(self) -> Sizes:
        """The sizes on which the memory of a step depends."""
        run = self.run
        whole = [value for value in run.model_settings.values() if isinstance(value, int)]
        return Sizes(run.batch_size, self.task.L, run.D, run.depth, max(whole, default=0))

    def unsupported(self, device: str) -> str | None:
        """Return the reason why the model cannot run on a device with the run's width and dtype; None if it can."""
        return unsupported(self.model, width=self.run.D, dtype=self.run.dtype, device=device)
