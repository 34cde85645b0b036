"""Language models on a text: what they are made of, what is measured of them, and how the trainer of epochs gets them."""

from expbench.language.flops import flops_per_token
from expbench.language.recipe import Recipe, schedule
from expbench.language.workload import train

__all__ = ["Recipe", "flops_per_token", "schedule", "train"]
