"""Family: the interface through which one kind of task is resolved, checked, timed and trained.

A task names its family (`Task.trained_as`), so callers never test the kind of a task. `stacked` trains many networks at once
on fresh data; `language` trains language models on a text, in epochs. Training is a generator of events, without callbacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from expbench.algebra.reach import NoBound, Reach
from expbench.algebra.spans import Codes
from expbench.probes import Probe
from expbench.run import Score
from expbench.settings import Value
from expbench.task import Task
from expbench.training.job import Job

_FAMILIES = {"stacked": "expbench.training.stacked", "language": "expbench.language.family"}


class Point(NamedTuple):
    """A point of the grid as the user gave it. The family chooses a value for None.

    fields: values of `Run`'s fields, by name, with epochs and match. settings: model settings, parsed, with defaults.
    given: the names of the settings that the user gave.
    """

    task_name: str
    model_name: str
    fields: Mapping[str, Any]
    settings: Mapping[str, Value]
    given: tuple[str, ...]


class Resolved(NamedTuple):
    """The fields of `Run` and the model settings that a family derives from a point."""

    fields: dict[str, Any]
    settings: dict[str, Value]


class Facts(NamedTuple):
    """Properties of a network before training.

    reach: None if a layer does not state it. codes, symmetric: the limits of one layer (`nn/limits.py`).
    """

    parameters: int
    state_size: int | None
    flops_per_token: float | None
    reach: Reach | NoBound | None
    codes: Codes | None = None
    symmetric: bool = False


class Stack(NamedTuple):
    """Jobs that are trained together. not_stacked_reason: the reason why a single job was not stacked with similar jobs."""

    jobs: list[Job]
    not_stacked_reason: str | None = None


class Context(NamedTuple):
    """Device, results folder and limits of a training.

    ends: time (`time.monotonic`) after which the training may pause. keep_weights: yield the trained weights.
    """

    device: str
    folder: Path
    ends: float
    keep_weights: bool = False


class Scored(NamedTuple):
    """A score of job number `member` of the stack."""

    member: int
    score: Score


class Diverged(NamedTuple):
    """A job's loss, gradient or metric is no longer finite; no further events of this job follow."""

    member: int
    reason: str


class Reached(NamedTuple):
    """Progress: the number of steps taken."""

    step: int


class NoCudaGraph(NamedTuple):
    """Steps run eagerly because they could not be captured as a CUDA graph."""

    reason: str


class Trained(NamedTuple):
    """The weights of a job after its last step, if the context asks for them."""

    member: int
    weights: Mapping[str, Tensor]


class Paused(NamedTuple):
    """The time limit was reached: the training saved a checkpoint after `step` of `steps` and can resume from it."""

    step: int
    steps: int


Event = Scored | Diverged | Reached | NoCudaGraph | Trained | Paused


class DivergedError(Exception):
    """The loss, its gradient or a metric is no longer finite; the message names the step."""


class Family(Protocol):
    """The interface of one kind of task."""

    distributed: bool  # whether the processes of torchrun train one network together

    def resolve(self, task: Task, model: type, point: Point) -> Resolved:
        """Return the fields and settings of a grid point. Raises `BadInput` for options that do not apply."""

    def check(self, job: Job, device: str) -> Probe:
        """Return whether the model is causal.

        Raises `BadInput` if it cannot be trained with the run's settings, `BrokenContract` if it breaks its contract.
        """

    def describe(self, job: Job) -> Facts:
        """Return the facts of a job's network."""

    def memory(self, job: Job) -> int | None:
        """Estimate the memory of a step of one run in bytes; None if that is not possible."""

    def group(self, jobs: Sequence[Job], device: str, largest: int | None) -> Iterator[Stack]:
        """Divide jobs with one signature into stacks of at most `largest` jobs (None: as many as are efficient)."""

    def seconds(self, stack: Stack, device: str) -> float:
        """Estimate the training time of a stack in seconds from a few steps."""

    def untimed(self, device: str) -> str:
        """Return a description of the work that `seconds` omits; empty if it omits nothing."""

    def train(self, stack: Stack, context: Context) -> Iterator[Event]:
        """Train a stack. Under torchrun every process must exhaust the iterator; only process 0 gets scores."""

    def network(self, job: Job) -> nn.Module:
        """Build the network of a job on the CPU, initialised from its seed alone."""


def family_of(task: Task) -> Family:
    """Import the family that a task names."""
    family: Family = import_module(_FAMILIES[task.trained_as]).FAMILY
    return family
