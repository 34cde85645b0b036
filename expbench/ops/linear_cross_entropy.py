"""Cross-entropy of a linear map into many classes, some rows at a time: its logits are never all in memory.

The float32 logits of 64 sequences of 1024 tokens over 50257 classes would take 13 GB, and autograd keeps several such.
Letters: M rows, D channels, V classes. Products are in autocast's dtype where it is on; the softmax is never below float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from expbench.ops.selective.library import autocast_dtype, without_autocast
from expbench.ops.selective.problem import state_dtype

_ROWS = 2048  # 0.4 GB of float32 logits over 50257 classes


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, rows: int = _ROWS, *, compiled: bool = False) -> Tensor:
    """The mean of -log softmax(weight x_m)[target_m], a scalar: x (M, D), weight (V, D), targets (M,) int64.

    `rows` are done at a time, with their gradients: it can be differentiated once, and costs no second pass. compiled: what
    is between the products of matrices, by torch.compile.
    """
    if not torch.is_grad_enabled():
        return row_cross_entropy(x, weight, targets, rows).mean()
    mean: Tensor = _Mean.apply(x, weight, targets, rows, compiled)
    return mean


@torch.no_grad()
def row_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, rows: int = _ROWS) -> Tensor:
    """The terms (M,) of that mean, without gradients."""
    parts = _logits(x, weight, targets, rows)
    return torch.cat([-_chosen(z.to(state_dtype(z.dtype)).log_softmax(-1), wanted) for _, _, wanted, z in parts])


def reference(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition of `linear_cross_entropy`, from all logits at once."""
    return F.cross_entropy(F.linear(x, weight), targets)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int, compiled: bool) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        dtype = _dtype(x)
        state = state_dtype(dtype)
        total = torch.zeros((), dtype=state, device=x.device)
        grad_x = torch.empty_like(x, dtype=state) if needs_x else None
        grad_weight = torch.zeros_like(weight, dtype=state) if needs_weight else None
        cast = weight.to(dtype)
        cost = _compiled_cost() if compiled else _cost
        for at, part, wanted, logits in _logits(x, cast, targets, rows):
            with without_autocast(x.device.type):
                summed, grad = cost(logits, wanted)
                total += summed
                if grad_x is not None:
                    grad_x[at] = grad @ cast
                if grad_weight is not None:
                    grad_weight += grad.mT @ part
        ctx.save_for_backward(
            None if grad_x is None else grad_x.div_(len(x)).to(x.dtype),
            None if grad_weight is None else grad_weight.div_(len(x)).to(weight.dtype),
        )
        return total / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else saved * grad.to(saved) for saved in ctx.saved_tensors), None, None, None


def _cost(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of -log softmax(logits)[wanted], in the state's dtype, and its gradient, in that of logits (rows, V)."""
    logarithms = logits.to(state_dtype(logits.dtype)).log_softmax(-1)
    cost = -_chosen(logarithms, wanted).sum()
    grad = logarithms.exp_()
    grad.scatter_add_(1, wanted[:, None], grad.new_full((len(wanted), 1), -1.0))
    return cost, grad.to(logits.dtype)  # not divided by rows: that would bring it closer to a narrow dtype's least number


def _cost_to_compile(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """`_cost` without the scatter, at which a compiler would part it in two."""
    logarithms = logits.to(state_dtype(logits.dtype)).log_softmax(-1)
    hit = torch.arange(logits.shape[1], device=logits.device) == wanted[:, None]
    return -_chosen(logarithms, wanted).sum(), (logarithms.exp() - hit.to(logarithms.dtype)).to(logits.dtype)


@cache
def _compiled_cost() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_cost_to_compile, dynamic=False)


def _logits(x: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Of some rows at a time: which, their x in the dtype of the products, their targets, their logits (rows, V)."""
    dtype = _dtype(x)
    # cast here, not by autocast: what it casts where there is no gradient, it keeps for where there is one
    x, weight = x.to(dtype), weight.to(dtype)
    for start in range(0, len(x), rows):
        at = slice(start, start + rows)
        with without_autocast(x.device.type):
            yield at, x[at], targets[at], x[at] @ weight.mT


def _chosen(logarithms: Tensor, wanted: Tensor) -> Tensor:
    return logarithms.gather(1, wanted[:, None]).squeeze(1)


def _dtype(x: Tensor) -> torch.dtype:
    lower = autocast_dtype(x.device.type)
    return x.dtype if lower is None or x.dtype == torch.float64 else lower
