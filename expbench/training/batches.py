"""Stream: the batches of many runs at once, identical to the batches that each run would draw alone.

Runs that share a task draw their batches in one operation, under `torch.vmap` over their keys. Tasks are called once per run
if `batch` cannot be mapped or if they override `train_batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from expbench.data.rng import CounterRNG, advance_all, as_tensor
from expbench.run import Run, Split
from expbench.task import Batch, Task


class Chunk(NamedTuple):
    """A part of a split. batch: inputs and targets, (B, ...) for all `runs` if `shared`, else (len(runs), B, ...)."""

    batch: Batch
    runs: list[int]
    shared: bool

    def each(self) -> Batch:
        """Return the batch of each run: (len(runs), B, ...)."""
        return Batch(*(x.expand(len(self.runs), *x.shape) for x in self.batch)) if self.shared else self.batch


class TaskBatches:
    """The training batches of several runs, and the chunks of their validation and test splits."""

    def __init__(self, runs: Sequence[Run], tasks: Sequence[Task], device: str) -> None:
        self._runs, self._tasks, self._device = runs, tasks, device
        members: dict[Task, list[int]] = {}
        for i, task in enumerate(tasks):
            members.setdefault(task, []).append(i)
        self._members = members
        self._keys = {
            task: as_tensor([task.stream("train", runs[i].seed) for i in found], device) for task, found in members.items()
        }
        order = [i for found in members.values() for i in found]
        self._order = None if order == sorted(order) else torch.tensor(order, device=device).argsort()
        self._dtype = torch.float64 if runs[0].dtype == "float64" else torch.float32

    def train(self, step: int) -> Batch:
        """Return the batch of each run for `step` (from 1): inputs and targets (S, B, ...)."""
        if self.mapped:
            return self.train_at(step)
        return self._stacked([self._own(i, step) for i in range(len(self._runs))])

    def train_at(self, step: int | Tensor) -> Batch:
        """Return the batches of `train` with one operation per task; requires `mapped`. `step` may be a tensor."""
        size = self._runs[0].batch_size
        parts = [torch.vmap(self._drawing(task, size))(advance_all(keys, step)) for task, keys in self._keys.items()]
        whole = [torch.cat(tensors) for tensors in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]
        return Batch(*(self._cast(x if self._order is None else x[self._order]) for x in whole))

    def split(self, name: Split, chunks: int | None = None) -> Iterator[Chunk]:
        """Yield the chunks of a split, or its first `chunks` chunks; tasks with chunks of equal size share one `Chunk`."""
        for drawn in islice(zip_longest(*(task.split(name, self._device) for task in self._members)), chunks):
            by_size: dict[int, dict[Task, Batch]] = {}
            for task, batch in zip(self._members, drawn, strict=True):
                if batch is not None:
                    by_size.setdefault(len(batch.inputs), {})[task] = batch
            for by_task in by_size.values():
                runs = [i for i, task in enumerate(self._tasks) if task in by_task]
                if len(by_task) == 1:
                    yield Chunk(Batch(*map(self._cast, *by_task.values())), runs, shared=True)
                else:
                    yield Chunk(self._stacked([by_task[self._tasks[i]] for i in runs]), runs, shared=False)

    def _drawing(self, task: Task, size: int) -> Callable[[Tensor], Batch]:
        return lambda key: task.batch(CounterRNG(key, self._device), size)

    def _own(self, i: int, step: int) -> Batch:
        run = self._runs[i]
        return self._tasks[i].train_batch(run.batch_size, seed=run.seed, step=step, device=self._device)

    @cached_property
    def mapped(self) -> bool:
        """True if mapping over keys reproduces the batches of the single runs, as tested on the first batch."""
        if len(self._runs) == 1 and self._device == "cpu":  # no gain: there is no CUDA graph to capture
            return False
        own = (type(task) for task in self._members)
        if any(c.train_batch is not Task.train_batch or c.rng is not Task.rng for c in own):
            return False
        try:
            mapped = self.train_at(1)
        except Exception:  # vmap raises many different exceptions for unsupported operations
            return False
        for found in self._members.values():
            for i in {found[0], found[-1]}:
                if not all(torch.equal(x[i], self._cast(own)) for x, own in zip(mapped, self._own(i, 1), strict=True)):
                    return False
        return True

    def _stacked(self, batches: Sequence[Batch]) -> Batch:
        return Batch(*(self._cast(torch.stack(tensors)) for tensors in zip(*batches, strict=True)))

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self._dtype) if x.is_floating_point() else x
