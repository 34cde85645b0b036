"""Workload: the interface between a family of tasks and the trainer of epochs: a model, its data and its evaluation.

The trainer controls steps, learning rates, checkpoints, processes and the clock. The workload controls data order,
augmentation and metrics. A batch is a tuple of tensors whose first dimension counts examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expbench.run import Score

Batch = tuple[Tensor, ...]


class Evaluation(Protocol):
    """The measurements of a model on its device. The trainer adds step and seconds to the scores."""

    def untrained(self) -> Iterable[Score]:
        """Yield checksums of the model's outputs before the first step."""

    def scores(self) -> Iterable[Score]:
        """Yield the metrics on the splits, including the primary metric. Raises `DivergedError` if one is not finite."""

    def logged(self) -> Iterable[Score]:
        """Yield the statistics that mixers log."""

    def at_best(self) -> Iterable[Score]:
        """Yield the metrics that are measured only at the best validation score so far and after the last step."""

    def data(self) -> Iterable[Score]:
        """Yield checksums of the splits' data, after the last step."""


class Workload(Protocol):
    """One model on one data set.

    stream: name of the random-number stream of the steps. unit: unit of the speed, such as ``tokens``. units: units per
    step. epoch: steps per epoch. higher_is_better: for the primary metric.
    """

    stream: str
    unit: str
    higher_is_better: bool

    @property
    def model(self) -> nn.Module: ...
    @property
    def epoch(self) -> int: ...
    @property
    def units(self) -> int: ...

    def identity(self) -> Mapping[str, Any]:
        """Return the values, by name, that together with the recipe identify this training."""

    def batch(self, step: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Batch:
        """Return a process's share of the batch of `step` (from 1): a pure function of seed, step and rank."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def flops(self) -> float:
        """Return the floating-point operations of one step, forward and backward."""

    def compile(self) -> None:
        """Compile the model's blocks with torch.compile."""

    def evaluation(self, device: torch.device, rows: int, compiled: bool) -> Evaluation:
        """Return the evaluation of the model. rows: maximum number of examples that fit into memory."""

    def of_batch(self, batch: Batch) -> Iterable[Score]:
        """Yield checksums of a training batch of all processes."""
