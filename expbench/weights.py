"""Deprecated path of `expbench.training.weights.load`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("expbench.weights.load is now expbench.training.weights.load", DeprecationWarning, stacklevel=2)
    from expbench.training.weights import load

    return load
