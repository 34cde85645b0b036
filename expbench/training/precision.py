"""Precision: autocast for bfloat16, and how closely two ways to one number must agree."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}  # relative, between a loss or gradient found in two ways


def precision_context(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Return autocast for bfloat16, on a type of device; nothing otherwise."""
    return torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
