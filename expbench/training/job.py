"""Job: a run with its task and model objects."""

from __future__ import annotations

from typing import NamedTuple

from expbench.mixer import unsupported
from expbench.nn.memory import Sizes
from expbench.run import Run
from expbench.task import Task


class Refusal(NamedTuple):
    """The reason why a model's runs are recorded as failed without training. trace: the traceback of its exception."""

    reason: str
    trace: str | None = None


class Job(NamedTuple):
    """A run with its task object and model class, and the origins of both (built-in, folder, distribution or file).

    causal: whether no output of the layer depends on later inputs; None if that was not probed. refusal: set if the layer
    breaks its contract. task_distribution, model_distribution: names and versions of the installed packages whose code they
    consist of. part: the part of a study that it belongs to.
    """

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str
    task_distribution: str | None = None
    model_distribution: str | None = None
    causal: bool | None = None
    refusal: Refusal | None = None
    part: str = ""

    @property
    def sizes(self) -> Sizes:
        """The sizes on which the memory of a step depends."""
        run = self.run
        whole = [value for value in run.model_settings.values() if isinstance(value, int)]
        return Sizes(run.batch_size, self.task.L, run.D, run.depth, max(whole, default=0))

    def unsupported(self, device: str) -> str | None:
        """Return the reason why the model cannot run on a device with the run's width, length and dtype; None if it can."""
        run = self.run
        lengths = (run.L, *getattr(self.task, "contexts", ()))  # a text may be evaluated at further lengths
        reasons = (unsupported(self.model, width=run.D, dtype=run.dtype, device=device, length=n) for n in lengths)
        return next(filter(None, reasons), None)
