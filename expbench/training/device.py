"""Device: where runs are trained."""

from __future__ import annotations

import torch

from expbench.errors import BadInput


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; raises `BadInput` for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch finds no CUDA device here; take --device cpu (expbench doctor says more)")
    return name
