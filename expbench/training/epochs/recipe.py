"""Recipe, options and plan of a training in epochs: what decides its numbers, what changes them by rounding at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from expbench.errors import BadInput, unknown
from expbench.run import Shape

VERSION = 1  # raised when the same recipe would give other numbers
DType = Literal["float32", "bfloat16"]
_LEAST_FALL = 10  # the learning rate rises for at most one part in so many of a training that is shorter than its default


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the numbers, for a model and a data set. Raises `BadInput`.

    lr: the peak learning rate. epochs or steps: how long, one of the two. batch_size: examples of a step, over all
    processes. warmup: steps in which the rate rises (None: one epoch, but no more than a tenth of all); after it goes as
    `schedule` says (`training.schedule`). betas: AdamW's. clip: the largest norm of a gradient, of all parameters together.
    seed: of the order of the data and of what a mixer draws; the model's initial weights are the caller's. dtype: bfloat16
    is autocast, with parameters, optimizer and the scan's state in float32. evaluate_every: so many steps, and at the end
    (None: at the end of each epoch).

    Defaults are as Table 4 of arXiv 2502.02209 has them, except betas, which it does not state.
    """

    lr: float
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    warmup: int | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    dtype: DType = "float32"
    schedule: Shape = "cosine"
    evaluate_every: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise BadInput(f"epochs={self.epochs} and steps={self.steps}: one of the two must be given")
        self._require("epochs", "steps", "batch_size", "evaluate_every", least=1)
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name}={getattr(self, name)} must be above 0")
        self._require("weight_decay", "warmup", least=0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise BadInput(f"betas={self.betas} must be from 0 to below 1")
        if self.dtype not in get_args(DType):
            raise unknown("dtype", self.dtype, get_args(DType))

    def _require(self, *names: str, least: int) -> None:
        """Raise `BadInput` for the first of these fields that is given and below `least`."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise BadInput(f"{name}={value} must be {least} or more")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What changes a training's numbers by rounding at most. Raises `BadInput`.

    device: cpu or cuda. at_once: examples that a process has in memory at a time, their gradients added up (None: all of
    its share). compiled: blocks and loss by torch.compile (None: on CUDA). captured: the passes of a step on CUDA as a
    graph, if they can be. folder: of checkpoints (None: none). seconds: after so many this call ends at a checkpoint.
    save_every: seconds from one checkpoint to the next.
    """

    device: str = "cpu"
    at_once: int | None = None
    compiled: bool | None = None
    captured: bool = True
    folder: Path | None = None
    seconds: float | None = None
    save_every: float = 300.0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise unknown("device", self.device, ("cpu", "cuda"))
        if self.at_once is not None and self.at_once < 1:
            raise BadInput(f"at_once={self.at_once} must be 1 or more")
        if self.seconds is not None and self.folder is None:
            raise BadInput(f"a time limit of {self.seconds:g} s ends at a checkpoint: give a folder for checkpoints as well")


class Plan(NamedTuple):
    """A recipe on a data set, in steps: in all, those in which the learning rate rises, of an epoch, between evaluations.

    schedule: of the learning rate after the warm-up.
    """

    steps: int
    warmup: int
    epoch: int
    evaluate_every: int
    schedule: Shape = "cosine"

    def evaluated(self, step: int) -> bool:
        """Return whether the model is evaluated after that step (from 1)."""
        return step % self.evaluate_every == 0 or step == self.steps


def plan(recipe: Recipe, epoch: int) -> Plan:
    """Return the plan of a recipe, where an epoch has so many steps. Raises `BadInput` for too long a warm-up."""
    steps = recipe.steps if recipe.steps is not None else (recipe.epochs or 0) * epoch
    warmup = min(epoch, steps // _LEAST_FALL) if recipe.warmup is None else recipe.warmup
    if recipe.warmup is not None and warmup >= steps:
        raise BadInput(f"warmup={warmup} must be below the {steps} steps of the training")
    return Plan(steps, warmup, epoch, recipe.evaluate_every or epoch, recipe.schedule)
