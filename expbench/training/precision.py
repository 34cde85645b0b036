"""Precision: autocast for bfloat16, and how closely two ways to one number must agree."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from expbench.run import Run

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}  # relative, between a loss or gradient found in two ways


def precision_context(run: Run, device: str) -> AbstractContextManager[Any]:
    """Autocast for bfloat16, nothing otherwise."""
    return torch.autocast(device, torch.bfloat16) if run.dtype == "bfloat16" else nullcontext()
