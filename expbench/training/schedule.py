"""Schedule: the learning rate at each step: linear warm-up, then cosine decay to 0, a constant, or linear decay to 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from expbench.run import Run, Shape

Number = TypeVar("Number", float, Tensor)


class Rates:
    """Learning rate and clipping of each run, in tensors (S,): the rate is the peak times `learning_rate_factor`."""

    def __init__(self, runs: Sequence[Run], device: str) -> None:
        def each(values: Iterable[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        (self._shape,) = {run.schedule for run in runs}  # all runs of a stack have the same schedule
        self._peak = each(run.lr for run in runs)
        self._warmup = each(run.warmup for run in runs)
        self._decay = each(max(1, run.steps - run.warmup) for run in runs)
        self.clip = each((run.clip for run in runs), torch.float64 if runs[0].dtype == "float64" else torch.float32)

    def at(self, step: Tensor) -> Tensor:
        """Return the learning rates of update `step` (from 0), float64."""
        rising = (step + 1) / self._warmup.clamp(min=1)
        return self._peak * torch.where(step < self._warmup, rising, _falling(self._shape, step - self._warmup, self._decay))


class Schedule(Protocol):
    """The settings of a learning-rate schedule.

    steps: total number of updates. warmup: number of updates in which the learning rate rises. schedule: its shape after the
    warm-up: cosine, constant or linear.
    """

    @property
    def steps(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def schedule(self) -> Shape: ...


def learning_rate_factor(training: Schedule, step: int) -> float:
    """Return the fraction of the peak rate for update `step` (from 0): linear warm-up, then the schedule's shape."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    decay = max(1, training.steps - training.warmup)
    return _falling(training.schedule, float(step - training.warmup), float(decay))


def _falling(shape: str, done: Number, decay: Number) -> Number:
    """Return the fraction of the peak after `done` of the `decay` steps that follow the warm-up."""
    if shape == "constant":
        return 0.0 * done + 1.0
    if shape == "linear":
        return 1.0 - done / decay
    if shape != "cosine":
        raise ValueError(f"unknown schedule {shape!r}")
    angle = math.pi * done / decay
    return 0.5 + 0.5 * (torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle))
