"""Capture one step of tensor operations as a CUDA graph and replay it: one launch instead of hundreds.

A small step takes the host several milliseconds to launch, but the device only a fraction of a millisecond to run. A graph
records the sequence of kernels and their fixed memory addresses. A replay runs no Python code, so state that a module keeps
in Python (a counter, for example) no longer changes. A replay is therefore compared with an eager step before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from expbench.training.optimizer import as_real

Result = TypeVar("Result")


class Capture(NamedTuple, Generic[Result]):
    """The result of a step, and a function that replays it into the same tensors, or the reason why there is none."""

    result: Result
    replay: Callable[[], Result] | None
    reason: str | None = None


def possible(device: torch.device) -> bool:
    """Return whether a device supports CUDA graphs."""
    return device.type == "cuda"


def capture(
    step: Callable[[], Result], state: Sequence[Tensor], judged: Sequence[Tensor], tolerance: float
) -> Capture[Result]:
    """Take one step and capture it.

    step: changes nothing but `state`, in place; it must have run before, so that all kernels are compiled. judged: tensors
    (S, ...) among the state, whose rows after a step and after its replay must agree within `tolerance`, relative to the
    norm of the row. Raises `torch.OutOfMemoryError` if there is too little memory for the step and the graph.
    """
    before = [x.clone() for x in state]
    result = step()
    after = [x.clone() for x in state]
    expected = [x.clone() for x in judged]
    _put(before, state)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode=_mode()):
            held = step()
        graph.replay()
        difference = max(map(_difference, judged, expected))
        reason = f"a replayed step differs from an eager one (by {difference:.1e})" if not difference <= tolerance else None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # third-party code may use operations that CUDA graphs do not support
        reason = f"it cannot be captured: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    if reason is not None:
        _put(after, state)
        return Capture(result, None, reason)

    def replay() -> Result:
        graph.replay()
        return held

    return Capture(held, replay)


def _mode() -> Literal["global", "thread_local"]:
    """Return the capture mode: thread_local in a process group, because its NCCL thread queries the device meanwhile."""
    return "thread_local" if distributed.is_available() and distributed.is_initialized() else "global"


def _put(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for x, value in zip(tensors, values, strict=True):
        x.copy_(value)


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest distance between rows of a and b, relative to b; entries that are non-finite in both are equal."""
    a, b = (as_real(x).double().reshape(len(x), -1) for x in (a, b))
    gap = torch.where(a.isfinite() | b.isfinite(), a - b, 0.0).norm(dim=1)
    scale = torch.where(b.isfinite(), b, 0.0).norm(dim=1).clamp(min=1e-30)
    return float((gap / scale).nan_to_num(nan=torch.inf).max())
