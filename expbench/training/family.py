"""Family: how one kind of task is resolved, checked, timed and trained; a task names its own (`Task.trained_as`).

Nothing above this seam asks what kind a task is. `stacked` trains networks on fresh data, many at once; `language` trains
language models on a text, in epochs. Training is a generator of events: it calls nothing back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from expbench.algebra.reach import Reach
from expbench.run import Score
from expbench.settings import Value
from expbench.task import Task
from expbench.training.job import Job

_FAMILIES = {"stacked": "expbench.training.stacked", "language": "expbench.language.family"}


class Point(NamedTuple):
    """A point of the grid as it was asked for. None leaves a value to the family.

    fields: values of `Run`'s fields, by name, with epochs and match. settings: of the model, parsed, with their defaults.
    given: the names of those settings that were asked for.
    """

    task_name: str
    model_name: str
    fields: Mapping[str, Any]
    settings: Mapping[str, Value]
    given: tuple[str, ...]


class Resolved(NamedTuple):
    """What a family makes of a point: the fields of `Run` that it decides, model settings among them."""

    fields: dict[str, Any]
    settings: dict[str, Value]


class Facts(NamedTuple):
    """What is known of a network before it is trained. reach: None where there is no polynomial bound."""

    parameters: int
    state_size: int | None
    flops_per_token: float | None
    reach: Reach | None


class Stack(NamedTuple):
    """Jobs that are trained together, or one; and why it is one where similar jobs might have been stacked."""

    jobs: list[Job]
    alone_because: str | None = None


class Context(NamedTuple):
    """Where a stack is trained. ends: by `time.monotonic`, after which it may pause. keep_weights: tell trained weights."""

    device: str
    folder: Path
    ends: float
    keep_weights: bool = False


class Scored(NamedTuple):
    """A number was measured of job number `member` of the stack."""

    member: int
    score: Score


class Diverged(NamedTuple):
    """A job's loss, gradient or metric is no longer finite, and nothing more comes of it."""

    member: int
    reason: str


class Reached(NamedTuple):
    """So many steps have been taken."""

    step: int


class Eager(NamedTuple):
    """Steps could not be captured as a CUDA graph, for this reason."""

    reason: str


class Trained(NamedTuple):
    """The weights of a job after its last step, where the context asks for them."""

    member: int
    weights: Mapping[str, Tensor]


class Paused(NamedTuple):
    """Time was up: the training stands at a checkpoint, after `step` of `steps`, and goes on from there."""

    step: int
    steps: int


Event = Scored | Diverged | Reached | Eager | Trained | Paused


class DivergedError(Exception):
    """The loss, its gradient or a metric is no longer finite; the message says at which step."""


class Family(Protocol):
    """How one kind of task is resolved, checked, timed and trained."""

    distributed: bool  # whether the processes of torchrun train one network together

    def resolve(self, task: Task, model: type, point: Point) -> Resolved:
        """Return what a point of the grid becomes. Raises `BadInput` for options that do not apply."""

    def check(self, job: Job, device: str) -> None:
        """Raise `BadInput` if the model breaks its contract, or cannot be trained as the run says."""

    def describe(self, job: Job) -> Facts:
        """Return what is known of a job's network."""

    def group(self, jobs: Sequence[Job], device: str, largest: int | None) -> Iterator[Stack]:
        """Divide jobs with one signature into stacks of at most `largest` (None: as many as pay)."""

    def seconds(self, stack: Stack, device: str) -> float:
        """Return how long training a stack takes, from a few steps."""

    def untimed(self, device: str) -> str:
        """Return what `seconds` leaves out, in words; empty if nothing."""

    def train(self, stack: Stack, context: Context) -> Iterator[Event]:
        """Train a stack. With torchrun every process makes the call and exhausts it; the first alone gets scores."""

    def network(self, job: Job) -> nn.Module:
        """Return the network of a job, on the CPU, initialised from its seed alone."""


def family_of(task: Task) -> Family:
    """Return the family that a task names."""
    family: Family = import_module(_FAMILIES[task.trained_as]).FAMILY
    return family
