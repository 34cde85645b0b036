"""Steps: one optimizer step of all runs of a stack.

On a GPU the first steps run eagerly, and all others replay a CUDA graph of the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from expbench.nn import forward_state
from expbench.run import Run
from expbench.task import Batch, Task
from expbench.training.batches import TaskBatches
from expbench.training.cuda_graph import capture
from expbench.training.ensemble import Ensemble
from expbench.training.monitors import TrainTestOverlap
from expbench.training.optimizer import AdamW, clipped, rows
from expbench.training.precision import TOLERANCE, precision_context
from expbench.training.schedule import Rates

_EAGER_STEPS = 3  # before the capture, because the first steps compile kernels and build the tables of a task


class Steps:
    """The optimizer steps of the runs of a stack, and their running statistics, which stay on the device.

    Taking a step never waits for the device, so that it is never idle; only reading a statistic does. captured: capture the
    steps on a GPU, after a few eager ones. no_cuda_graph_reason: the reason why the capture failed.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        tasks: Sequence[Task],
        ensemble: Ensemble,
        batches: TaskBatches,
        device: str,
        *,
        captured: bool = True,
    ) -> None:
        self._run, self._task, self._ensemble, self._stream, self._device = runs[0], tasks[0], ensemble, batches, device
        self.seen = TrainTestOverlap(runs, tasks, batches)
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
        self._held: Batch | None = None  # the input of a graph that does not draw its own batches
        self.no_cuda_graph_reason: str | None = None

    def take(self) -> Batch:
        """Take the next step and return its batch (S, B, ...), which the following step may overwrite."""
        self._taken += 1
        self._since += 1
        fresh = None if self._stream.mapped else self._stream.train(self._taken)
        if self._capturing and self._taken > _EAGER_STEPS:
            self._capturing, self._held = False, fresh
            judged = [self._total, self._optimizer.means]
            state = [*judged, self._step, self._broke_at, *self._optimizer.state, *self.seen.state]
            batch, self._replay, self.no_cuda_graph_reason = capture(
                lambda: self._once(fresh), state, judged, TOLERANCE[self._run.dtype]
            )
            return batch
        if self._replay is None:
            return self._watched(fresh) if self._capturing and self._taken == _EAGER_STEPS else self._once(fresh)
        for held, new in zip(self._held or (), fresh or (), strict=True):
            held.copy_(new)
        return self._replay()

    def _watched(self, batch: Batch | None) -> Batch:
        """Take a step, and give up the capture if it changes state of the networks other than their parameters."""
        network = self._ensemble.template
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        before = forward_state.snapshot(network)
        batch = self._once(batch)
        changed = set(forward_state.changes(before, network)) - trained
        if changed:
            self._capturing, self.no_cuda_graph_reason = False, forward_state.reason(sorted(changed))
        return batch

    @property
    def captured(self) -> bool:
        """True once steps are replayed as a CUDA graph."""
        return self._replay is not None

    def _once(self, batch: Batch | None) -> Batch:
        """Take one step with tensor operations only, on a given batch or (None) on a batch drawn within the step."""
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
        # References, not copies: a replayed graph updates these tensors in place, so that no further kernel is needed.
        self._applied = rates, grads
        self._total += losses
        return batch

    def fine(self) -> bool:
        """Return whether all losses and gradients were finite so far. Waits for the device."""
        return not bool(self._broke_at.any())

    def broken(self, alive: Sequence[int]) -> list[tuple[int, int]]:
        """Return the runs in `alive` with a non-finite loss or gradient, each with the first such step."""
        at = self._broke_at.tolist()
        return [(i, at[i]) for i in alive if at[i]]

    def applied(self) -> tuple[list[float], list[float]]:
        """Return each run's learning rate and the norm of its clipped gradient at the last step.

        Both are read from the tensors that the optimizer received, so that errors in the schedule or the clipping show.
        """
        if self._applied is None:
            raise RuntimeError("no step has been taken")
        rates, grads = self._applied
        return rates.tolist(), torch.linalg.vector_norm(grads, dim=1).tolist()

    def mean_loss(self) -> list[float]:
        """Return each run's mean loss over the steps since the last call."""
        mean: list[float] = (self._total / self._since).tolist()
        self._total.zero_()
        self._since = 0
        return mean
