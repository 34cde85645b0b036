"""The linear recurrence h_t = a_t h_{t-1} + b_t with h_0 = 0, elementwise: what every state-space layer rests on.

`reference` says it in three lines. `linear_scan` gives the same values and gradients (to rounding, and to second order)
without a node of autograd for each step: its backward is the same scan, run from the end. Neither takes logarithms or
ratios of products, so a_t may be zero, negative or beyond 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

# Up to so many steps, and on a CPU from so many numbers a step on, one pass over the steps beats two over blocks of steps.
_SHORT, _WIDE = 32, 4096


def reference(a: Tensor, b: Tensor) -> Tensor:
    """h (L, ...) for transitions a and inputs b, both (L, ...), time first; the definition, differentiable by autograd."""
    states = [b[0]]
    for a_t, b_t in zip(a.unbind(0)[1:], b.unbind(0)[1:], strict=True):
        states.append(a_t * states[-1] + b_t)
    return torch.stack(states)


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h (L, ...) for transitions a and inputs b, both (L, ...), time first. `a` is broadcast to the shape of `b`.

    Differentiable twice and more. a[0] multiplies the zero initial state: it has no effect and a zero gradient.
    """
    if a.shape != b.shape:
        a = a.expand_as(b)
    states: Tensor = _LinearScan.apply(a, b)
    return states


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _scan(a.reshape(len(a), -1), b.reshape(len(b), -1)).view(b.shape)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        # The adjoint g_t = grad_t + a_{t+1} g_{t+1} is the same recurrence, read from the end.
        following = torch.cat([torch.zeros_like(a[:1]), a[1:].flip(0)])
        g = linear_scan(following, grads[0].flip(0)).flip(0)
        preceding = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
        return g * preceding, g


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence on (L, M) without autograd."""
    if _in_one_pass(b):
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        h[0] = b[0]
        _rows(a, b, h, reverse=False)()
    else:
        h = b.clone(memory_format=torch.contiguous_format)
        _blocks(a, h, reverse=False)()
    return h


def in_place(a: Tensor, h: Tensor, *, reverse: bool = False) -> Callable[[], None]:
    """A function that adds a_t h_{t-1} to each h_t, from the first step on; in `reverse` a_{t+1} h_{t+1}, from the last.

    So inputs become states, and in reverse the gradients of outputs those of inputs. To be called whenever a and h (L, ...)
    have been filled: it holds the views of their steps, for to make a view takes half as long as a small operation.
    """
    return _rows(a, h, h, reverse) if _in_one_pass(h) else _blocks(a, h, reverse)


def _in_one_pass(h: Tensor) -> bool:
    return len(h) <= _SHORT or (not h.is_cuda and h[0].numel() >= _WIDE)


def _rows(a: Tensor, b: Tensor, h: Tensor, reverse: bool) -> Callable[[], None]:
    """Scan step by step from inputs b to states h, which may be b; the first is there."""
    a_steps, b_steps, h_steps = (x.unbind(0) for x in (a, b, h))
    if reverse:
        return partial(_carry, a_steps[:0:-1], b_steps[::-1], h_steps[::-1])
    return partial(_carry, a_steps[1:], b_steps, h_steps)


def _carry(a: Sequence[Tensor], b: Sequence[Tensor], h: Sequence[Tensor]) -> None:
    """Each of h but the first is that of b plus the h before it times what of `a` lies between."""
    state = h[0]
    for a_t, b_t, h_t in zip(a, b[1:], h[1:], strict=True):
        state = torch.addcmul(b_t, a_t, state, out=h_t)


def _blocks(a: Tensor, h: Tensor, reverse: bool) -> Callable[[], None]:
    """Scan all blocks of about sqrt(L) steps side by side, from the states that enter them.

    These come first: each block's last state had it begun with zero, and the product of its transitions, which carries the
    true state of one block into the next.
    """
    width = math.isqrt(len(h) // 2)
    count = (len(h) - 1) // width
    whole = count * width  # steps; before them is the first, after them are those that fill no block
    if reverse:
        a_blocks, h_blocks, rest = a[len(a) - whole :], h[len(h) - 1 - whole : -1], slice(len(h) - whole)
    else:
        a_blocks, h_blocks, rest = a[1 : 1 + whole], h[1 : 1 + whole], slice(whole, None)
    turn = slice(None, None, -1 if reverse else 1)
    a_steps, h_steps = (x.unflatten(0, (count, width)).unbind(1)[turn] for x in (a_blocks, h_blocks))
    product, last = torch.empty_like(a_steps[0]), h.new_empty((count + 1, *h.shape[1:]))
    first, lasts, entering = (last[-1], last[:-1], last[1:]) if reverse else (last[0], last[1:], last[:-1])
    products, last_steps = product.unbind(0)[turn], last.unbind(0)[turn]
    after = _rows(a[rest], h[rest], h[rest], reverse)

    def run() -> None:
        first.copy_(h[-1] if reverse else h[0])
        lasts.copy_(h_steps[0])
        product.copy_(a_steps[0])
        for a_t, h_t in zip(a_steps[1:], h_steps[1:], strict=True):
            torch.addcmul(h_t, a_t, lasts, out=lasts)
            product.mul_(a_t)
        _carry(products, last_steps, last_steps)
        h_steps[0].addcmul_(a_steps[0], entering)
        _carry(a_steps[1:], h_steps, h_steps)
        after()

    return run
