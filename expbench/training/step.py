"""Steps: what happens at each step of training, for runs that are trained together.

On a GPU the first steps are taken operation by operation, and the others as a CUDA graph of the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from expbench.run import Run
from expbench.task import Batch, Task
from expbench.training.batches import Stream
from expbench.training.cuda_graph import capture
from expbench.training.ensemble import Ensemble
from expbench.training.monitors import SeenInputs
from expbench.training.optimizer import AdamW, clipped, rows
from expbench.training.precision import TOLERANCE, precision_context
from expbench.training.schedule import Rates

_EAGER_STEPS = 3  # before a step is captured: kernels are compiled and tables of a task made meanwhile


class Steps:
    """The optimizer steps of runs that are trained together, and what is to be known of them, kept on the device.

    Nothing here waits for the device, so that steps follow each other without a pause, until something is asked for.
    captured: whether steps are captured on a GPU (a few eager ones come first). eager_because: why they could not be.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        tasks: Sequence[Task],
        ensemble: Ensemble,
        stream: Stream,
        device: str,
        *,
        captured: bool = True,
    ) -> None:
        self._run, self._task, self._ensemble, self._stream, self._device = runs[0], tasks[0], ensemble, stream, device
        self.seen = SeenInputs(runs, tasks, stream)
        self._rates = Rates(runs, device)
        decay = torch.tensor([run.weight_decay for run in runs], dtype=torch.float64, device=device)
        self._optimizer = AdamW(ensemble.stacked(ensemble.leaves), ensemble.decayed, decay)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._broke_at = torch.zeros(len(runs), dtype=torch.int64, device=device)
        dtype = torch.float64 if runs[0].dtype == "float64" else torch.float32
        self._total = torch.zeros(len(runs), dtype=dtype, device=device)
        self._taken = self._since = 0
        self._applied: tuple[Tensor, Tensor] | None = None  # rates (S,) and clipped gradients (S, P) of the last step
        self._capturing = captured and device == "cuda"
        self._replay: Callable[[], Batch] | None = None
        self._held: Batch | None = None  # what a graph reads, where it does not draw its batches itself
        self.eager_because: str | None = None

    def take(self) -> Batch:
        """The next step; the batch (S, B, ...) that it was taken on, over which the step after it may write."""
        self._taken += 1
        self._since += 1
        fresh = None if self._stream.mapped else self._stream.train(self._taken)
        if self._capturing and self._taken > _EAGER_STEPS:
            self._capturing, self._held = False, fresh
            judged = [self._total, self._optimizer.means]
            state = [*judged, self._step, self._broke_at, *self._optimizer.state, *self.seen.state]
            batch, self._replay, self.eager_because = capture(
                lambda: self._once(fresh), state, judged, TOLERANCE[self._run.dtype]
            )
            return batch
        if self._replay is None:
            return self._once(fresh)
        for held, new in zip(self._held or (), fresh or (), strict=True):
            held.copy_(new)
        return self._replay()

    @property
    def captured(self) -> bool:
        """Whether steps are replayed as a CUDA graph by now."""
        return self._replay is not None

    def _once(self, batch: Batch | None) -> Batch:
        """One step, of operations on tensors alone, on this batch or on the one that it draws."""
        self._step += 1
        batch = self._stream.train_at(self._step) if batch is None else batch
        self.seen.add(batch.inputs)
        with precision_context(self._run.dtype, self._device):
            losses = self._ensemble.losses(self._task, batch)
        raw = torch.autograd.grad(losses.sum(), self._ensemble.leaves, allow_unused=True, materialize_grads=True)
        grads, norms = clipped(rows(self._ensemble.stacked(raw)), self._rates.clip)
        losses = losses.detach()
        broke = (self._broke_at == 0) & ~torch.isfinite(norms + losses)
        self._broke_at.copy_(torch.where(broke, self._step, self._broke_at))
        rates = self._rates.at(self._step - 1)
        self._optimizer.step(grads, rates)
        # Held, not copied: a graph then writes the next ones there too, and a step launches nothing more for it.
        self._applied = rates, grads
        self._total += losses
        return batch

    def fine(self) -> bool:
        """Whether all losses and gradients were finite so far."""
        return not bool(self._broke_at.any())

    def broken(self, alive: Sequence[int]) -> list[tuple[int, int]]:
        """Those among `alive` whose loss or gradient was not, and at which step for the first time."""
        at = self._broke_at.tolist()
        return [(i, at[i]) for i in alive if at[i]]

    def applied(self) -> tuple[list[float], list[float]]:
        """Of each run what the optimizer was given at the last step: its learning rate, the norm of its clipped gradient.

        Measured on these tensors themselves, so that a schedule or a limit that is not kept shows.
        """
        if self._applied is None:
            raise RuntimeError("no step was taken")
        rates, grads = self._applied
        return rates.tolist(), torch.linalg.vector_norm(grads, dim=1).tolist()

    def mean_loss(self) -> list[float]:
        """Of each run the mean over the steps since this was last asked."""
        mean: list[float] = (self._total / self._since).tolist()
        self._total.zero_()
        self._since = 0
        return mean
