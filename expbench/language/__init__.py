"""Language models on a text: the models, their evaluation, and their workload for the trainer of epochs."""

from expbench.language.flops import flops_per_token
from expbench.language.recipe import Recipe, schedule
from expbench.language.workload import train

__all__ = ["Recipe", "flops_per_token", "schedule", "train"]
