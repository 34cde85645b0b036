"""Precision: autocast for bfloat16, and the tolerances between two computations of one number."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}  # relative, between two computations of a loss or gradient


def precision_context(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Return an autocast context on a device type for bfloat16, a null context for other dtypes."""
    return torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
