"""The optimizer steps of a model that is trained in epochs; taking a step never waits for the device.

The batch, learning rate and random state of a step are functions of its number. The model, the optimizer's moments and the
loss since the last evaluation are therefore the whole state of a training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from expbench.data.rng import fold
from expbench.training.distributed import Group
from expbench.training.epochs.gradients import GradientAccumulator
from expbench.training.epochs.recipe import Plan, Recipe, TrainerOptions
from expbench.training.epochs.workload import Batch, Workload
from expbench.training.optimizer import as_real, decays
from expbench.training.schedule import learning_rate_factor


class Steps:
    """The steps of a model on its device, starting at the first step or after `restore`.

    taken: number of steps taken. passes: computes losses and gradients.
    """

    def __init__(self, workload: Workload, recipe: Recipe, plan: Plan, options: TrainerOptions, group: Group) -> None:
        self._workload, self._recipe, self._plan, self._group = workload, recipe, plan, group
        self._model = model = workload.model
        self._optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.weight_decay),
            recipe.lr,
            recipe.betas,
            fused=True if group.device.type == "cuda" and not any(p.is_complex() for p in model.parameters()) else None,
        )
        name_of = {id(p): name for name, p in model.named_parameters()}
        self._trained = [(name_of[id(p)], p) for part in self._optimizer.param_groups for p in part["params"]]
        self.passes = GradientAccumulator(workload, recipe, options, group)
        self._total = torch.zeros((), dtype=torch.float64, device=group.device)
        self._broke_at = torch.zeros((), dtype=torch.int64, device=group.device)
        self._since = self.taken = 0
        self._batch: Batch = ()  # this process's share of the last batch

    def begin(self) -> None:
        """Prepare the model for its first step; call once, after the initial weights are set."""
        self.passes.begin()
        self._model.train()

    def take(self) -> None:
        """Take the next step."""
        group, recipe = self._group, self._recipe
        self.taken += 1
        self._since += 1
        # Seeded by the step's number, so that a mixer's random numbers (dropout) are the same after a restart.
        torch.manual_seed(fold(f"{self._workload.stream} step", recipe.seed, self.taken, group.rank))
        self._batch = self._workload.batch(self.taken, group.device, group.rank, group.size)
        loss = self.passes(self._batch)
        norm = clip_grad_norm_([p for _, p in self._trained], recipe.clip)
        for part in self._optimizer.param_groups:
            part["lr"] = recipe.lr * learning_rate_factor(self._plan, self.taken - 1)
        self._optimizer.step()
        self._total += loss
        broke = (self._broke_at == 0) & ~torch.isfinite(norm + loss)
        self._broke_at.copy_(torch.where(broke, self.taken, self._broke_at))

    def broke_at(self) -> int:
        """Return the first step with a non-finite loss or gradient, or 0. Waits for the device."""
        return int(self._group.largest(self._broke_at))

    def mean_loss(self) -> float:
        """Return the mean loss over the steps since the last call. Waits for the device."""
        mean = float(self._group.summed(self._total)) / (self._since * self._group.size)
        self._total.zero_()
        self._since = 0
        return mean

    def applied(self) -> tuple[float, float]:
        """Return the learning rate and the norm of the clipped gradient at the last step.

        Both are read from the values that the optimizer received, so that errors in the schedule or the clipping show.
        """
        norms = [torch.linalg.vector_norm(as_real(p.grad).double()) for _, p in self._trained if p.grad is not None]
        return float(self._optimizer.param_groups[0]["lr"]), float(torch.stack(norms).norm()) if norms else 0.0

    def batch(self) -> Batch:
        """Return the last step's whole batch, gathered from all processes; every process must call it."""
        return tuple(self._group.gathered(x) for x in self._batch)

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Return the arguments of `restore`: tensors, and the number of steps in the mean loss. Every process must call it.

        The state of process 0 suffices to restore all processes.
        """
        tensors = {f"model.{name}": x for name, x in self._model.state_dict().items()}
        tensors["total"] = self._group.summed(self._total) / self._group.size
        for name, p in self._trained:
            moments = self._optimizer.state.get(p)  # none for a parameter without gradient
            if moments:
                tensors |= {f"mean.{name}": moments["exp_avg"], f"square.{name}": moments["exp_avg_sq"]}
        return tensors, self._since

    def restore(self, step: int, tensors: dict[str, Tensor], since: int) -> None:
        """Resume after `step`; call before `begin`."""
        self.taken, self._since = step, since
        self._total.copy_(tensors["total"])
        model = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
        self._model.load_state_dict(model)
        moments = {
            i: {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"mean.{name}"],
                "exp_avg_sq": tensors[f"square.{name}"],
            }
            for i, (name, _) in enumerate(self._trained)
            if f"mean.{name}" in tensors
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return two parameter groups for torch.optim, with and without weight decay (`optimizer.decays`)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if decays(p)], [p for p in trained if not decays(p)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
