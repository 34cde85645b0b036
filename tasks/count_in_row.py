"""Count in row: the length of the run of 1s at the end of the sequence so far.

The label of position i is the length of the run of 1s that ends there, 0 if bit i is 0: for 0 1 1 0 1 1 1 the labels are
0 1 2 0 1 2 3 (Eq. 13 of arXiv 2502.02209; Eq. 25 of Ali et al. 2024). One channel of Eq. 5 computes it by
h_t = x_t (h_{t-1} + 1). ``supervise=last`` reads the last position, whose label is uniform on 0..classes-1;
``supervise=all`` reads every position, and run lengths are uniform, so high labels are rare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.data.rng import CounterRNG
from expbench.task import Batch, Control, Score, Task

_FITTED_ON = 16384  # sequences used to fit the tables of the oracles
_WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class CountInRow(Task):
    """Settings in addition to L and instance:

    classes: labels are 0..classes-1, at most L+1 classes. supervise: ``last`` (the last c bits are 1, the bit before is 0,
    and the others are 1 with probability q) or ``all`` (runs of 0..classes-1 ones, uniform, separated by single zeros, cut
    at a random offset). head: ``classes`` (cross-entropy) or ``scalar`` (squared error on the count, rounded for accuracy).
    """

    classes: int = 20
    supervise: Literal["last", "all"] = "all"
    head: Literal["classes", "scalar"] = "classes"
    q: float = 0.5

    primary_metric = "balanced_accuracy"
    higher_is_better = True
    success_threshold = 0.95
    vocabulary = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.classes <= self.L + 1:
            most = self.L + 1
            raise ValueError(f"classes={self.classes} must be 2 to {most} at L={self.L}, e.g. -t classes={most}")
        if not 0 <= self.q <= 1:
            raise ValueError(f"q={self.q} must lie in 0 to 1")

    @property
    def outputs(self) -> int:
        return self.classes if self.head == "classes" else 1

    @property
    def readout(self) -> Literal["last", "all"]:
        return self.supervise

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        bits = self._last(rng, size) if self.supervise == "last" else self._runs(rng, size)
        labels = run_lengths(bits)
        return Batch(bits, labels[:, -1] if self.supervise == "last" else labels)

    def _last(self, rng: CounterRNG, size: int) -> Tensor:
        count = rng.integers(size, n=self.classes)[:, None]
        others = rng.coins(size, self.L, p=self.q).long()
        from_end = torch.arange(self.L - 1, -1, -1, device=others.device)
        return torch.where(from_end < count, 1, torch.where(from_end == count, 0, others))

    def _runs(self, rng: CounterRNG, size: int) -> Tensor:
        runs = rng.integers(size, self.L + self.classes, n=self.classes)  # sufficient even if every run is empty
        offset = rng.integers(size, n=self.classes)[:, None]
        zeros = (runs + 1).T.cumsum(0).T - 1 - offset
        inside = torch.where((zeros >= 0) & (zeros < self.L), zeros, self.L)
        return torch.ones_like(inside[:, :1]).expand(-1, self.L + 1).scatter(1, inside, 0)[:, : self.L]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, or the mean squared error of the count, over all positions that are read."""
        if self.head == "scalar":
            return ((outputs.squeeze(-1) - targets) ** 2).mean()
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        scalar = self.head == "scalar"
        predicted = outputs.squeeze(-1).round() if scalar else outputs.argmax(-1)
        label = F.one_hot(targets.flatten(), self.classes)
        right = (predicted.flatten() == targets.flatten()).long()
        return {"right": (right.unsqueeze(1) * label).sum(0), "count": label.sum(0)}

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """Return accuracy, per label too, balanced_accuracy and equivalent_window.

        balanced_accuracy: mean accuracy over labels. equivalent_window: the least k such that an oracle that sees the last
        k bits, and predicts k if all are 1, is as accurate.
        """
        right, count = totals["right"].double().cpu(), totals["count"].double().cpu()
        share = (right / count)[count > 0]
        accuracy = float(right.sum() / count.sum())
        windows = (count.cumsum(0) / count.sum()).tolist()
        window = next((k for k, oracle in enumerate(windows) if oracle >= accuracy), self.classes - 1)
        per_label = [
            Score("accuracy", float(r / c), f"label={label}")
            for label, (r, c) in enumerate(zip(right, count, strict=True))
            if c > 0
        ]
        return [
            Score("balanced_accuracy", float(share.mean())),
            Score("accuracy", accuracy),
            Score("equivalent_window", float(window)),
            *per_label,
        ]

    def chance(self) -> float:
        return 1 / self.classes

    def controls(self) -> Iterator[Control]:
        """Yield, for each feature of the past, the most frequent training label given it; and the automaton."""
        features: dict[str, Callable[[Tensor], Tensor]] = {
            "majority": lambda bits: torch.zeros_like(bits),
            f"window-{_WINDOW}": lambda bits: run_lengths(bits).clamp(max=_WINDOW),
            "bag-of-ones": lambda bits: bits.cumsum(1),
            "last-zero": last_zero,
        }
        bits, labels = self.train_batch(_FITTED_ON, seed=0, step=0)
        for name, feature in features.items():
            yield Control(name, "baseline" if name == "majority" else "oracle", self._table(feature, bits, labels))
        yield Control("automaton", "positive", lambda x: self._as_outputs(automaton(x)))

    def _table(self, feature: Callable[[Tensor], Tensor], bits: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a predictor that maps each value of a feature (0..L) to its most frequent label."""
        values = self._read(feature(bits)).flatten()
        counts = torch.bincount(values * self.classes + labels.flatten(), minlength=(self.L + 1) * self.classes)
        answer = counts.view(self.L + 1, self.classes).argmax(1)
        return lambda x: self._as_outputs(answer[feature(x)])

    def _read(self, per_position: Tensor) -> Tensor:
        return per_position[:, -1] if self.supervise == "last" else per_position

    def _as_outputs(self, labels: Tensor) -> Tensor:
        """Convert predicted labels (B, L) to the shape of network outputs, (B, O) or (B, L, O)."""
        labels = self._read(labels)
        if self.head == "scalar":
            return labels.double().unsqueeze(-1)
        return F.one_hot(labels, self.classes).double()

    def describe(self) -> str:
        where = "at the last position" if self.supervise == "last" else "at every position"
        return f"length of the run of 1s {where}, 0..{self.classes - 1}"


def last_zero(bits: Tensor) -> Tensor:
    """Return, for each position of bits (B, L), the position (from 1) of the last 0 so far, or 0 if none: (B, L)."""
    positions = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    return torch.where(bits == 0, positions, 0).T.cummax(0).values.T  # cummax along the first axis is much faster on a GPU


def run_lengths(bits: Tensor) -> Tensor:
    """Return, for each position of bits (B, L), the length of the run of 1s that ends there: (B, L), Eq. 13."""
    return torch.arange(1, bits.shape[1] + 1, device=bits.device) - last_zero(bits)


def automaton(bits: Tensor) -> Tensor:
    """Compute the same run lengths (B, L) by the recurrence h_t = x_t (h_{t-1} + 1), step by step."""
    h = torch.zeros_like(bits[:, 0])
    states = []
    for x in bits.unbind(1):
        h = x * (h + 1)
        states.append(h)
    return torch.stack(states, 1)
