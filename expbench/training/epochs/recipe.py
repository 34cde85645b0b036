"""Recipe, options and plan of a training in epochs: the recipe determines the numbers, options change only rounding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from expbench.errors import BadInput, unknown
from expbench.run import Shape

VERSION = 1  # increase it when the same recipe yields different numbers
DType = Literal["float32", "bfloat16"]
_LEAST_FALL = 10  # the default warm-up is at most this fraction (one in ten) of all steps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that determine the numbers of a training, for a given model and data set. Raises `BadInput`.

    lr: the peak learning rate. epochs, steps: length of the training; give one of the two. batch_size: examples per step,
    over all processes. warmup: steps in which the learning rate rises (None: one epoch, but at most a tenth of all steps).
    schedule: shape of the learning rate after the warm-up (`training.schedule`). betas: of AdamW. clip: maximum norm of the
    gradient of all parameters. seed: for the order of the data and the random numbers of mixers; the caller initialises the
    model. dtype: bfloat16 means autocast, with parameters, optimizer and scan state in float32. evaluate_every: steps
    between evaluations, with another at the end (None: at the end of each epoch).

    Defaults are those of Table 4 of arXiv 2502.02209, except betas, which it does not state.
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
            raise BadInput(f"epochs={self.epochs} and steps={self.steps}: give exactly one of the two")
        self._require("epochs", "steps", "batch_size", "evaluate_every", least=1)
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name}={getattr(self, name)} must be above 0")
        self._require("weight_decay", "warmup", least=0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise BadInput(f"betas={self.betas} must be at least 0 and below 1")
        if self.dtype not in get_args(DType):
            raise unknown("dtype", self.dtype, get_args(DType))

    def _require(self, *names: str, least: int) -> None:
        """Raise `BadInput` for the first of these fields that is set and below `least`."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise BadInput(f"{name}={value} must be {least} or more")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Settings that change a training's numbers only by rounding. Raises `BadInput`.

    device: cpu or cuda. at_once: examples per micro-batch of a process, with gradient accumulation (None: its whole share).
    compiled: use torch.compile for blocks and loss (None: on CUDA). captured: run the passes of a step as a CUDA graph, if
    possible. folder: for checkpoints (None: no checkpoints). seconds: time limit of this call, which then ends at a
    checkpoint. save_every: seconds between checkpoints.
    """

    device: str = "cpu"
    micro_batch_size: int | None = None
    compiled: bool | None = None
    captured: bool = True
    folder: Path | None = None
    seconds: float | None = None
    save_every: float = 300.0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise unknown("device", self.device, ("cpu", "cuda"))
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise BadInput(f"micro_batch_size={self.micro_batch_size} must be 1 or more")
        if self.seconds is not None and self.folder is None:
            raise BadInput(f"a time limit of {self.seconds:g} s needs a folder for checkpoints")


class Plan(NamedTuple):
    """A recipe for a data set, in steps.

    steps: in total. warmup: in which the learning rate rises. epoch: per epoch. evaluate_every: between evaluations.
    schedule: shape of the learning rate after the warm-up.
    """

    steps: int
    warmup: int
    epoch: int
    evaluate_every: int
    schedule: Shape = "cosine"

    def evaluated(self, step: int) -> bool:
        """Return whether the model is evaluated after `step` (from 1)."""
        return step % self.evaluate_every == 0 or step == self.steps


def plan(recipe: Recipe, epoch: int) -> Plan:
    """Return the plan of a recipe for a number of steps per epoch. Raises `BadInput` if the warm-up is too long."""
    steps = recipe.steps if recipe.steps is not None else (recipe.epochs or 0) * epoch
    warmup = min(epoch, steps // _LEAST_FALL) if recipe.warmup is None else recipe.warmup
    if recipe.warmup is not None and warmup >= steps:
        raise BadInput(f"warmup={warmup} must be below the {steps} steps of the training")
    return Plan(steps, warmup, epoch, recipe.evaluate_every or epoch, recipe.schedule)
