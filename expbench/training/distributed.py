"""Data parallelism: several processes on one host train one model, each on its share of every batch.

Gradients are averaged by torch's DistributedDataParallel or, after a CUDA graph (`epochs.gradients`), by `Group.average`.

torchrun starts the processes and sets their rank in the environment (RANK, WORLD_SIZE, LOCAL_RANK). Process 0 leads: it
alone evaluates, writes and makes all decisions that depend on a clock. The others wait for it at the next reduction.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from expbench.errors import BadInput
from expbench.training.optimizer import as_real

_PATIENCE = timedelta(hours=2)  # the other processes wait this long while process 0 evaluates and writes


class Group:
    """The process group of a training. rank: number of this process, from 0. size: number of processes."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """True in process 0."""
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return the module wrapped so that its gradients are the mean over all processes."""
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, devices, gradient_as_bucket_view=True)

    def share(self, module: nn.Module) -> None:
        """Copy parameters and buffers from process 0 to all processes, as `wrapped` does."""
        if self.size > 1:
            for x in (*module.parameters(), *module.buffers()):
                distributed.broadcast(x.detach(), 0)

    def decided(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of process 0 in all processes."""
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, device=self.device)
        distributed.broadcast(shared, 0)
        decided: list[int] = shared.tolist()
        return decided

    def leave(self) -> None:
        """End the group after all training. Every process must call it; a barrier keeps any from leaving early."""
        if self.size > 1:
            distributed.barrier()
            _leave()

    def broadcast(self, value: Any) -> Any:
        """Return the object of process 0, which must be picklable, in all processes. The others wait for it."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, 0, device=self.device)
        return values[0]

    def summed(self, x: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return x if self.size == 1 else self._reduced(x, distributed.ReduceOp.SUM)

    def largest(self, x: Tensor) -> Tensor:
        """Return the maximum over the processes."""
        return x if self.size == 1 else self._reduced(x, distributed.ReduceOp.MAX)

    def any(self, here: bool) -> bool:
        """Return whether `here` is true in any process."""
        return bool(self.largest(torch.tensor(int(here), device=self.device)))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        if self.size > 1:
            for x in map(as_real, tensors):
                distributed.all_reduce(x)
                x /= self.size

    def gathered(self, x: Tensor) -> Tensor:
        """Return the tensors of all processes, concatenated along the first axis in the order of rank."""
        if self.size == 1:
            return x
        every = [torch.empty_like(x) for _ in range(self.size)]
        distributed.all_gather(every, x.contiguous())
        return torch.cat(every)

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x, how)
        return x


def no_sync(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Return a context in which each process accumulates its own gradients (`no_sync`); with `last` they are reduced."""
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()


def processes() -> tuple[int, int]:
    """Return the rank and the number of processes that torchrun has started; (0, 1) without it. Joins no group."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def announce(work: Any, device: str) -> None:
    """Broadcast the next piece of work to the waiting processes of torchrun; do nothing if there are none."""
    if processes()[1] > 1:
        joined(device).broadcast(work)


def joined(device: str) -> Group:
    """Return the process group: torchrun's processes, or this process alone without torchrun.

    The group lasts as long as the process and serves all its trainings, since torchrun's processes cannot join twice.
    Raises `BadInput` if there is no GPU for this process.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device=cuda: torch finds no GPU; use cpu")
    _, size = processes()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and local >= torch.cuda.device_count():
        raise BadInput(f"no GPU is left for process {local} of this host, which has {torch.cuda.device_count()}")
    own = torch.device("cpu")
    if device == "cuda":
        own = torch.device("cuda", local if size > 1 else torch.cuda.current_device())
    if size == 1:
        return Group(0, 1, own)
    if device == "cuda":
        torch.cuda.set_device(own)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
        atexit.register(_leave)
    return Group(distributed.get_rank(), size, own)


def _leave() -> None:
    """Destroy the group, if any, and its threads: a thread that outlives the interpreter aborts the process."""
    if distributed.is_initialized():
        gc.collect()  # trained models hold the group through reference cycles
        distributed.destroy_process_group()
        gc.collect()  # its threads end with the last reference, while they may still call Python
