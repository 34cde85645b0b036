"""Graph: one step of tensor operations, captured as a CUDA graph and replayed: one launch instead of hundreds.

A tiny step takes the host several milliseconds to launch and the device a fraction of one. What is captured is the sequence
of kernels on the tensors where they lie. Python runs no more, so whatever a module keeps in Python (a counter, say) stands
still; therefore a replay is compared with the step itself before it takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

Result = TypeVar("Result")


class Capture(NamedTuple, Generic[Result]):
    """What a step returned; what replays it and returns the same tensors with other values, or why nothing does."""

    result: Result
    replay: Callable[[], Result] | None
    reason: str | None = None


def possible(device: torch.device) -> bool:
    """Whether steps on that device can be captured at all."""
    return device.type == "cuda"


def capture(
    step: Callable[[], Result], state: Sequence[Tensor], judged: Sequence[Tensor], tolerance: float
) -> Capture[Result]:
    """Take a step that changes nothing but `state`, in place, and capture it; it has been taken before, and compiled.

    judged: tensors (S, ...) among the state, each row of which the step and its replay must bring to the same within
    `tolerance`, relative to the norm of the row. Raises `torch.OutOfMemoryError` where memory does not suffice for both.
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
        reason = f"replayed, a step is another (by {difference:.1e})" if not difference <= tolerance else None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a plugin is a stranger's code, and may do what no graph can hold
        reason = f"it cannot be captured: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    if reason is not None:
        _put(after, state)
        return Capture(result, None, reason)

    def replay() -> Result:
        graph.replay()
        return held

    return Capture(held, replay)


def _mode() -> Literal["global", "thread_local"]:
    """Among several processes a thread of NCCL asks the device how far it is, now and then, which a capture of this thread
    does not have to forbid it."""
    return "thread_local" if distributed.is_available() and distributed.is_initialized() else "global"


def _put(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for x, value in zip(tensors, values, strict=True):
        x.copy_(value)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest distance between rows of a and of b, relative to those of b; what is finite in neither is alike."""
    a, b = (x.double().reshape(len(x), -1) for x in (a, b))
    gap = torch.where(a.isfinite() | b.isfinite(), a - b, 0.0).norm(dim=1)
    scale = torch.where(b.isfinite(), b, 0.0).norm(dim=1).clamp(min=1e-30)
    return float((gap / scale).nan_to_num(nan=torch.inf).max())
