"""Operators on tensors, one per file, each fast path beside its plain reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expbench.ops.selective.interface import Transition, selective_scan

__all__ = ["Transition", "selective_scan"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported lazily: the command line needs the backend names without importing torch
        from expbench.ops.selective import interface

        return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
