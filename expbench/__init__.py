"""expbench: a benchmark suite for the expressivity of sequence layers."""

__version__ = "0.1.0"
