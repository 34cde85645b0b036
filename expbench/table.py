"""Deprecated path of `expbench.results.reported.reported`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "reported":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("expbench.table.reported is now expbench.results.reported.reported", DeprecationWarning, stacklevel=2)
    from expbench.results.reported import reported

    return reported
