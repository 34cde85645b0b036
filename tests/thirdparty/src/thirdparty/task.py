"""Repeat the last value."""

from dataclasses import dataclass

import torch

from expbench.task import Batch, Score, Task


@dataclass(frozen=True, kw_only=True)
class LastValue(Task):
    """Scale is the setting: inputs are uniform on [0, scale]."""

    L: int = 4
    scale: float = 1.0

    primary_metric = "error"
    higher_is_better = False
    success_threshold = 0.01

    def batch(self, rng, size):
        x = rng.uniform(size, self.L, 1, high=self.scale)
        return Batch(x, x[:, -1])

    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).mean()

    def measure(self, outputs, targets):
        return {"error": ((outputs - targets) ** 2).sum(), "count": torch.tensor(len(targets))}

    def summary(self, totals):
        return [Score("error", float(totals["error"] / totals["count"]))]
