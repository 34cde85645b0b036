"""The linear recurrence h_t = a_t h_{t-1} + b_t with h_0 = 0, elementwise: what every state-space layer rests on.

`reference` says it in three lines. `linear_scan` gives the same values and gradients (to rounding, and to second order)
without a node of autograd for each step: its backward is the same scan, run from the end. Neither takes logarithms or
ratios of products, so a_t may be zero, negative or beyond 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_SHORT = 32  # up to here one pass over the steps beats two passes over blocks of about sqrt(L) steps


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
    return _scan_rows(a, b) if len(b) <= _SHORT else _scan_blocks(a, b)


def _scan_rows(a: Tensor, b: Tensor) -> Tensor:
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    h[0] = b[0]
    for t in range(1, len(b)):
        torch.addcmul(b[t], a[t], h[t - 1], out=h[t])
    return h


def _scan_blocks(a: Tensor, b: Tensor) -> Tensor:
    """Scan all blocks of about sqrt(L) steps side by side, then carry each block's last state into the next."""
    L, M = b.shape
    width = math.isqrt(L)
    blocks = -(-L // width)
    padding = (0, 0, 0, blocks * width - L)
    a = torch.nn.functional.pad(a, padding).view(blocks, width, M)
    b = torch.nn.functional.pad(b, padding).view(blocks, width, M)
    h, decay = torch.empty_like(b), torch.empty_like(a)
    h[:, 0], decay[:, 0] = b[:, 0], a[:, 0]
    for t in range(1, width):
        torch.addcmul(b[:, t], a[:, t], h[:, t - 1], out=h[:, t])
        torch.mul(a[:, t], decay[:, t - 1], out=decay[:, t])
    carry = h[:, -1].clone()
    for block in range(1, blocks):
        carry[block].addcmul_(decay[block, -1], carry[block - 1])
    h[1:].addcmul_(decay[1:], carry[:-1, None])
    return h.view(blocks * width, M)[:L]
