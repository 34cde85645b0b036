"""The elementwise linear recurrence h_t = a_t h_{t-1} + b_t with h_0 = 0, the core of every state-space layer.

`reference` defines it in three lines. `linear_scan` gives the same values and gradients (up to rounding, to second order)
without an autograd node for each step: its backward is the same scan, run from the end. Neither uses logarithms or ratios of
products, so a_t may be zero, negative or larger than 1. Letters: L length, M numbers per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from expbench.ops.selective.problem import state_dtype

# A step-by-step pass is as fast as recursive halving up to _SHORT steps, and on a CPU from _WIDE numbers per step. 16
# steps would also do for speed, but halving multiplies the transitions of L / _SHORT steps: if they exceed 1, their
# product must not overflow before the states do.
_SHORT, _WIDE = 32, 4096


def reference(a: Tensor, b: Tensor) -> Tensor:
    """Return h (L, ...) for transitions a and inputs b, both (L, ...), time first: the definition, for autograd."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(state_dtype(dtype)), b.to(state_dtype(dtype))
    states = [b[0]]
    for a_t, b_t in zip(a.unbind(0)[1:], b.unbind(0)[1:], strict=True):
        states.append(a_t * states[-1] + b_t)
    return torch.stack(states).to(dtype)


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return h (L, ...) for transitions a and inputs b, both (L, ...), time first. `a` is broadcast to the shape of `b`.

    h has the common dtype of a and b; between the steps it is never below float32. It is differentiable to any order. a[0]
    multiplies the zero initial state, so it has no effect and a zero gradient.
    """
    if a.shape != b.shape:
        a = a.expand_as(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    states: Tensor = _LinearScan.apply(a.to(state_dtype(dtype)), b.to(state_dtype(dtype)))
    return states.to(dtype)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _scan(a.reshape(len(a), -1), b.reshape(len(b), -1)).view(b.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
        """Put the mapped axis behind time: the recurrence is elementwise, so any further axis will do."""
        pairs = zip((a, b), dims, strict=True)
        a, b = (
            x.unsqueeze(1).expand(-1, info.batch_size, *x.shape[1:]) if dim is None else x.movedim(dim, 0).transpose(0, 1)
            for x, dim in pairs
        )
        return _LinearScan.apply(a, b), 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        # The adjoint g_t = grad_t + a_{t+1} g_{t+1} is the same recurrence, run from the end.
        following = torch.cat([torch.zeros_like(a[:1]), a[1:].flip(0)])
        g = linear_scan(following, grads[0].flip(0)).flip(0)
        preceding = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
        return g * preceding, g


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """Return the states (L, M) for a and b (L, M), without autograd."""
    if _by_steps(b):
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        h[0] = b[0]
        _steps(a, b, h, reverse=False)()
    else:
        h = b.clone(memory_format=torch.contiguous_format)
        _halves(a, h, reverse=False)()
    return h


def in_place(a: Tensor, h: Tensor, *, reverse: bool = False) -> Callable[[], None]:
    """Return a function that adds a_t h_{t-1} to each h_t in order; in `reverse`, a_{t+1} h_{t+1} from the last step on.

    The function turns inputs into states, and in reverse the gradients of outputs into those of inputs. Call it each time
    that a and h (L, ...) have been filled. It holds the views of their steps, because creating a view takes half as long
    as a small operation.
    """
    return _steps(a, h, h, reverse) if _by_steps(h) else _halves(a, h, reverse)


def _by_steps(h: Tensor) -> bool:
    return len(h) <= _SHORT or (not h.is_cuda and h[0].numel() >= _WIDE)


def _steps(a: Tensor, b: Tensor, h: Tensor, reverse: bool) -> Callable[[], None]:
    """Step from inputs b to states h (both (L, ...)), which may be the same tensor; h holds the initial state."""
    a_steps, h_steps = a.unbind(0), h.unbind(0)
    b_steps = h_steps if b is h else b.unbind(0)
    if reverse:
        steps = list(zip(a_steps[:0:-1], b_steps[-2::-1], h_steps[-2::-1], strict=True))
    else:
        steps = list(zip(a_steps[1:], b_steps[1:], h_steps[1:], strict=True))
    first = h_steps[-1 if reverse else 0]

    def run() -> None:
        state = first
        for a_t, b_t, h_t in steps:
            state = torch.addcmul(b_t, a_t, state, out=h_t)

    return run


def _halves(a: Tensor, h: Tensor, reverse: bool) -> Callable[[], None]:
    """Scan every second step recursively, linked by products of two transitions; then fill in the steps between them.

    This needs three operations on each of log L levels, instead of L operations, for twice the arithmetic.
    """
    start = (len(h) - 1) % 2 if reverse else 0  # so that the initial state is among the kept steps
    kept, between = h[start::2], h[start + 1 : -1 : 2]
    lower, upper = a[start + 1 : -1 : 2], a[start + 2 :: 2]  # the transitions into and out of the steps between
    links = a.new_empty(kept.shape)
    product = links[1:]
    if reverse:
        reached, by = kept[:-1], lower
        others, across, beside = h[1 - start :: 2], a[2 - start :: 2], kept[1 - start :]
    else:
        reached, by = kept[1:], upper
        others, across, beside = h[1::2], a[1::2], kept[: len(h) // 2]
    scan_kept = in_place(links, kept, reverse=reverse)

    def run() -> None:
        reached.addcmul_(by, between)
        torch.mul(lower, upper, out=product)
        scan_kept()
        others.addcmul_(across, beside)

    return run
