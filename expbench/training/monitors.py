"""Watch: what is kept an eye on while runs are trained, beside their losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from expbench.run import Run
from expbench.task import Score, Task
from expbench.training.batches import Stream
from expbench.training.ensemble import Ensemble

_TURN = (math.sqrt(5) - 1) / 2  # of a circle from one number's weight to the next: no two weights of a batch are alike


def fingerprint(x: Tensor) -> Tensor:
    """A number (R,), float64, for each row of x (R, ...): its numbers weighted by where they stand, and added up.

    Other numbers, or the same in another order, give another one; rounding hardly changes it, so that it is the same on
    every device, which a hash is not.
    """
    rows = x.double().flatten(1)
    at = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=x.device)
    return (rows * torch.cos(2 * math.pi * torch.frac(at * _TURN))).sum(1) / math.sqrt(rows.shape[1])


class SeenInputs:
    """The share of test inputs that training has seen, where there are so few inputs that it must happen.

    Streams of random inputs are as good as disjoint where the space of inputs exceeds 100 times the sample. Test inputs are
    kept in order, and a batch leaves its mark on those that it holds.
    """

    def __init__(self, runs: Sequence[Run], tasks: Sequence[Task], stream: Stream) -> None:
        base, run = tasks[0].vocabulary, runs[0]
        self.small = base is not None and base ** tasks[0].L <= 100 * run.steps * run.batch_size
        if not self.small or base is None:
            return
        chunks = [chunk.each().inputs for chunk in stream.split("test")]
        self.powers = torch.tensor([base**i for i in range(tasks[0].L)], device=chunks[0].device)
        self.codes = (torch.cat(chunks, 1) * self.powers).sum(-1).sort(1).values
        self.hits = torch.zeros(len(runs), self.codes.shape[1] + 1, dtype=torch.bool, device=self.codes.device)

    @property
    def state(self) -> list[Tensor]:
        """All that `add` changes."""
        return [self.hits] if self.small else []

    def add(self, inputs: Tensor) -> None:
        """Remember the inputs (S, B, L) of a training batch."""
        if self.small:
            codes = (inputs * self.powers).sum(-1)
            at = torch.searchsorted(self.codes, codes)
            last = self.codes.shape[1]
            found = self.codes.gather(1, at.clamp(max=last - 1)) == codes
            self.hits.scatter_(1, torch.where(found, at, last), True)  # the last column is for those that are not there

    def measure(self) -> Iterator[tuple[int, float]]:
        """For each run the share of its test inputs that were in its training batches."""
        if self.small:
            first = torch.searchsorted(self.codes, self.codes)  # of equal inputs the first has the mark
            yield from enumerate(self.hits.gather(1, first).double().mean(1).tolist())


class TransitionWatch:
    """The statistics that mixers log: on a fixed probe, and their running extreme over the training batches looked at."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.extremes: dict[int, Tensor] = {}

    def probe(self, inputs: Tensor) -> list[list[Score]]:
        """What each network's mixers log about inputs (S, B, ...)."""
        values = {key: x.double().tolist() for key, x in self.ensemble.statistics(inputs).items()}
        found = []
        for i in range(self.ensemble.size):
            measured = [Score(name, of_each[i], f"layer={layer}") for (layer, name), of_each in values.items()]
            largest = [of_each[i] for (_, name), of_each in values.items() if name == "abar_max"]
            found.append([*measured, Score("k_hat", max(largest))] if largest else measured)
        return found

    def running(self, inputs: Tensor) -> list[list[Score]]:
        """The largest |Abar| of each network so far, these inputs (S, B, ...) among them."""
        for (layer, name), values in self.ensemble.statistics(inputs).items():
            if name == "abar_max":
                before = self.extremes.get(layer)
                self.extremes[layer] = values if before is None else torch.maximum(values, before)
        extremes = {layer: x.double().tolist() for layer, x in self.extremes.items()}
        return [
            [Score("abar_max_running", of_each[i], f"layer={layer}") for layer, of_each in extremes.items()]
            for i in range(self.ensemble.size)
        ]
