"""Several processes on one host that train one model, each on its share of every batch.

Gradients meet by torch's DistributedDataParallel, or, where a graph leaves them (`passes`), by `Group.average`.

They are started by torchrun, which tells each its number in the environment (RANK, WORLD_SIZE, LOCAL_RANK). Process 0 leads:
it alone evaluates, writes and decides what depends on a clock; the others wait for it where their gradients meet.
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

_PATIENCE = timedelta(hours=2)  # that the others have while the first evaluates and writes


class Group:
    """The processes of a training, as one of them sees them. rank: its number, from 0. size: how many."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """Whether it is process 0."""
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients are then the mean over the processes."""
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, devices, gradient_as_bucket_view=True)

    def share(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers that it has in process 0, as `wrapped` does."""
        if self.size > 1:
            for x in (*module.parameters(), *module.buffers()):
                distributed.broadcast(x.detach(), 0)

    def decided(self, numbers: Sequence[int]) -> list[int]:
        """The numbers of process 0."""
        if self.size == 1:
            return list(numbers)
        both = torch.tensor(numbers, device=self.device)
        distributed.broadcast(both, 0)
        found: list[int] = both.tolist()
        return found

    def leave(self) -> None:
        """End the group, once there is nothing more to train; all must call it: none leaves while another waits for it."""
        if self.size > 1:
            distributed.barrier()
            _leave()

    def broadcast(self, what: Any) -> Any:
        """Return what process 0 says, which can be pickled. The others wait for it."""
        if self.size == 1:
            return what
        both = [what]
        distributed.broadcast_object_list(both, 0, device=self.device)
        return both[0]

    def summed(self, x: Tensor) -> Tensor:
        """The sum over the processes."""
        return x if self.size == 1 else self._reduced(x, distributed.ReduceOp.SUM)

    def largest(self, x: Tensor) -> Tensor:
        """The largest over the processes."""
        return x if self.size == 1 else self._reduced(x, distributed.ReduceOp.MAX)

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.largest(torch.tensor(int(here), device=self.device)))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over the processes in the place of each."""
        if self.size > 1:
            for x in tensors:
                distributed.all_reduce(x)
                x /= self.size

    def gathered(self, x: Tensor) -> Tensor:
        """What all processes have, one after the other."""
        if self.size == 1:
            return x
        every = [torch.empty_like(x) for _ in range(self.size)]
        distributed.all_gather(every, x.contiguous())
        return torch.cat(every)

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x, how)
        return x


def apart(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Within it gradients are only added up in each process; with `last` they meet."""
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()


def processes() -> tuple[int, int]:
    """The number of this process and how many torchrun has started; (0, 1) without it. Joins nothing."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def announce(what: Any, device: str) -> None:
    """Tell the other processes of torchrun, which wait for it, what begins; nothing where there are none."""
    if processes()[1] > 1:
        joined(device).broadcast(what)


def joined(device: str) -> Group:
    """The group of this process: of torchrun's where it was started by that, else by itself. Raises BadInput.

    It lasts as long as the process, for one training after the other: torchrun's processes cannot meet a second time.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device=cuda: torch sees no GPU here; take cpu")
    _, size = processes()
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and local >= torch.cuda.device_count():
        raise BadInput(f"process {local} of this host has no GPU of its own: there are {torch.cuda.device_count()}")
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
    """Destroy the group, if there is one, and its threads: one of them that outlives the interpreter aborts the process."""
    if distributed.is_initialized():
        gc.collect()  # what was trained holds the group, and is part of cycles
        distributed.destroy_process_group()
