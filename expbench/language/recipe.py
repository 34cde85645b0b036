"""Recipe: all settings that determine the numbers of a language model's training, for a given model and corpus."""

from __future__ import annotations

from dataclasses import dataclass

from expbench.errors import BadInput
from expbench.training.epochs import recipe as epochs
from expbench.training.epochs.recipe import Plan, plan


@dataclass(frozen=True, kw_only=True)
class Recipe(epochs.Recipe):
    """A recipe for a text, whose examples are sequences. Raises `BadInput`.

    context: tokens per sequence. stride: of evaluation (None: the context). lengths: further context lengths for evaluation,
    at each best validation score so far and at the end, all on the same targets.
    """

    context: int = 1024
    stride: int | None = None
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("context", "stride", least=1)
        if self.stride is not None and self.stride > self.context:
            raise BadInput(f"stride={self.stride} must be from 1 to the context, {self.context}")
        if not all(length >= 1 for length in self.lengths):
            raise BadInput(f"lengths={self.lengths} must be 1 or more")


def schedule(recipe: Recipe, tokens: int) -> Plan:
    """Return the plan of a recipe for a training split of `tokens` tokens. Raises `BadInput` if they are too few."""
    return plan(recipe, windows(recipe, tokens) // recipe.batch_size)


def windows(recipe: Recipe, tokens: int) -> int:
    """Return the number of sequences per epoch, for any offset. Raises `BadInput` if it is less than a batch."""
    found = tokens // recipe.context - 1
    if found < recipe.batch_size:
        least = (recipe.batch_size + 1) * recipe.context
        longest = tokens // (recipe.batch_size + 1)
        nearest = f"the largest batch is {found}" if found > 0 else f"the longest context is {longest}"
        raise BadInput(
            f"context={recipe.context} and batch_size={recipe.batch_size} need {least} training tokens, but there are "
            f"{tokens}: {nearest}"
        )
    return found
