"""Schedule: the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from expbench.run import Run


class Rates:
    """Learning rate and clipping of each run, in tensors (S,): the rate is `learning_rate_factor` times its peak."""

    def __init__(self, runs: Sequence[Run], device: str) -> None:
        def each(values: Iterable[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        self._peak = each(run.lr for run in runs)
        self._warmup = each(run.warmup for run in runs)
        self._decay = each(max(1, run.steps - run.warmup) for run in runs)
        self.clip = each((run.clip for run in runs), torch.float64 if runs[0].dtype == "float64" else torch.float32)

    def at(self, step: Tensor) -> Tensor:
        """The learning rates of update `step` (from 0), float64."""
        rising = (step + 1) / self._warmup.clamp(min=1)
        falling = 0.5 + 0.5 * torch.cos(math.pi * (step - self._warmup) / self._decay)
        return self._peak * torch.where(step < self._warmup, rising, falling)


class Schedule(Protocol):
    """steps: updates in all. warmup: how many of them, at the beginning, the learning rate rises."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup(self) -> int: ...


def learning_rate_factor(schedule: Schedule, step: int) -> float:
    """The share of the peak learning rate used for update `step` (from 0): linear warm-up, then a half cosine to 0."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup))
