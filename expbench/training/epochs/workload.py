"""Workload: what a family of tasks supplies to the trainer of epochs: a model, its data, and what is measured of it.

The trainer owns steps, learning rates, checkpoints, processes and the clock; order, augmentation and metrics are the
workload's. A batch is a tuple of tensors whose first dimension counts examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expbench.run import Score

Batch = tuple[Tensor, ...]


class Evaluation(Protocol):
    """What is measured of a model that is on its device, without step and seconds, which the trainer knows."""

    def untrained(self) -> Iterable[Score]:
        """Measure what tells the model's outputs, before the first step."""

    def scores(self) -> Iterable[Score]:
        """Measure the splits, the primary metric among them; raises `DivergedError` where one is not finite."""

    def logged(self) -> Iterable[Score]:
        """Measure the statistics that mixers log."""

    def at_best(self) -> Iterable[Score]:
        """Measure what is measured only where the selection split is the best yet, and after the last step."""

    def data(self) -> Iterable[Score]:
        """Measure what tells the splits, after the last step."""


class Workload(Protocol):
    """One model on one data set.

    stream: names the random numbers that a step draws. unit: what the speed is counted in, as ``tokens``; units: of them in
    a step. epoch: steps in an epoch. higher_is_better: of the primary metric.
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
        """Return what tells this training from all others, beside its recipe, by name."""

    def batch(self, step: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Batch:
        """Return the share of a process in the batch of a step (from 1), a pure function of seed, step and rank."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def flops(self) -> float:
        """Return the floating-point operations of one step, forward and backward."""

    def compile(self) -> None:
        """Have torch.compile make programs of the model's blocks."""

    def evaluation(self, device: torch.device, rows: int, compiled: bool) -> Evaluation:
        """Return what measures the model; rows: examples that memory suffices for."""

    def of_batch(self, batch: Batch) -> Iterable[Score]:
        """Measure what tells a training batch, of all processes."""
