"""Training of language models at size: on a whole corpus, in epochs, with checkpoints, on one GPU or several."""

from expbench.language.flops import flops_per_token
from expbench.language.recipe import How, Recipe, Schedule, schedule
from expbench.language.trainer import Unfinished, train

__all__ = ["How", "Recipe", "Schedule", "Unfinished", "flops_per_token", "schedule", "train"]
