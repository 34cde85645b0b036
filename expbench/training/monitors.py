"""Monitors: statistics logged during training beside the losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from expbench.run import Run
from expbench.task import Score, Task
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble

_TURN = (math.sqrt(5) - 1) / 2  # golden ratio: fraction of a turn between neighbouring weights, so that no weight repeats


def checksum(x: Tensor) -> Tensor:
    """Return a checksum (R,), float64, of each row of x (R, ...): the sum of its numbers, weighted by position.

    Different numbers or a different order change the checksum. Rounding hardly changes it, so that it is comparable across
    devices, unlike a hash.
    """
    rows = x.double().flatten(1)
    at = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=x.device)
    return (rows * torch.cos(2 * math.pi * torch.frac(at * _TURN))).sum(1) / math.sqrt(rows.shape[1])


class TrainTestOverlap:
    """The train/test overlap: the share of test inputs that occurred in training.

    It is measured only for small input spaces, because random inputs hardly ever repeat in a space of more than 100 times
    the number of training inputs. The test inputs are sorted, and each batch marks those that it contains.
    """

    def __init__(self, runs: Sequence[Run], tasks: Sequence[Task], batches: TaskBatches) -> None:
        base, run = tasks[0].vocabulary, runs[0]
        self.small = base is not None and base ** tasks[0].L <= 100 * run.steps * run.batch_size
        if not self.small or base is None:
            return
        chunks = [chunk.each().inputs for chunk in batches.split("test")]
        self.powers = torch.tensor([base**i for i in range(tasks[0].L)], device=chunks[0].device)
        self.codes = (torch.cat(chunks, 1) * self.powers).sum(-1).sort(1).values
        self.hits = torch.zeros(len(runs), self.codes.shape[1] + 1, dtype=torch.bool, device=self.codes.device)

    @property
    def state(self) -> list[Tensor]:
        """The tensors that `add` changes."""
        return [self.hits] if self.small else []

    def add(self, inputs: Tensor) -> None:
        """Mark the test inputs that occur in the inputs (S, B, L) of a training batch."""
        if self.small:
            codes = (inputs * self.powers).sum(-1)
            at = torch.searchsorted(self.codes, codes)
            last = self.codes.shape[1]
            found = self.codes.gather(1, at.clamp(max=last - 1)) == codes
            self.hits.scatter_(1, torch.where(found, at, last), True)  # last column: inputs not in the test split

    def measure(self) -> Iterator[tuple[int, float]]:
        """Yield each run's index and the share of its test inputs that occurred in its training batches."""
        if self.small:
            first = torch.searchsorted(self.codes, self.codes)  # of equal inputs only the first is marked
            yield from enumerate(self.hits.gather(1, first).double().mean(1).tolist())


class TransitionMonitor:
    """The statistics that mixers log: on a fixed probe, and their running maximum over the inspected training batches."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.extremes: dict[int, Tensor] = {}

    def probe(self, inputs: Tensor) -> list[list[Score]]:
        """Return the statistics that each network's mixers log for inputs (S, B, ...)."""
        values = {key: x.double().tolist() for key, x in self.ensemble.statistics(inputs).items()}
        found = []
        for i in range(self.ensemble.size):
            measured = [Score(name, of_each[i], f"layer={layer}") for (layer, name), of_each in values.items()]
            largest = [of_each[i] for (_, name), of_each in values.items() if name == "abar_max"]
            found.append([*measured, Score("k_hat", max(largest))] if largest else measured)
        return found

    def running(self, inputs: Tensor) -> list[list[Score]]:
        """Return each network's largest |Abar| per layer so far, including these inputs (S, B, ...)."""
        for (layer, name), values in self.ensemble.statistics(inputs).items():
            if name == "abar_max":
                before = self.extremes.get(layer)
                self.extremes[layer] = values if before is None else torch.maximum(values, before)
        extremes = {layer: x.double().tolist() for layer, x in self.extremes.items()}
        return [
            [Score("abar_max_running", of_each[i], f"layer={layer}") for layer, of_each in extremes.items()]
            for i in range(self.ensemble.size)
        ]
