"""Cross-entropy of a linear map into many classes, computed in blocks of rows so that the full logits never exist.

The float32 logits of 64 sequences of 1024 tokens over 50257 classes would take 13 GB, and autograd keeps several such
tensors. Letters: M rows, D channels, V classes. Matrix products use autocast's dtype if it is on; the softmax is never
below float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from expbench.ops import backends
from expbench.ops.selective.operator import autocast_dtype, without_autocast
from expbench.ops.selective.problem import state_dtype

_ROW_BYTES = 8192  # bytes of logits per class and block: a block over 50257 classes takes 0.4 GB
_ALIGNED = 64  # 16-bit products over a number of classes that is no multiple of it take five times as long (cuBLAS, H200)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, rows: int | None = None) -> Tensor:
    """Return the mean of -log softmax(weight x_m)[target_m], a scalar: x (M, D), weight (V, D), targets (M,) int64.

    Blocks of `rows` are processed one after the other (None: blocks whose logits take 0.4 GB for 50257 classes). The forward
    pass also computes the gradients, so the backward pass only scales them and second derivatives do not exist. On a GPU
    one kernel does everything between the matrix products.
    """
    if not torch.is_grad_enabled():
        return row_cross_entropy(x, weight, targets, rows).mean()
    mean: Tensor = _Mean.apply(x, weight, targets, rows)
    return mean


@torch.no_grad()
def row_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, rows: int | None = None) -> Tensor:
    """Return the loss of each row (M,), without gradients; the arguments are those of `linear_cross_entropy`."""
    parts, classes = _logits(x, _aligned(weight, _dtype(x)), targets, rows), len(weight)
    return torch.cat([-_chosen(_logarithms(logits, classes), wanted) for _, _, wanted, logits in parts])


def reference(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the same mean from all logits (M, V) at once: the definition of `linear_cross_entropy`."""
    return F.cross_entropy(F.linear(x, weight), targets)


class _Mean(torch.autograd.Function):
    """The mean loss; the forward pass computes the gradients while the logits of a block exist."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int | None) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        dtype = _dtype(x)
        state = state_dtype(dtype)
        total = torch.zeros((), dtype=state, device=x.device)
        grad_x = torch.empty_like(x, dtype=state) if needs_x else None
        cast = _aligned(weight, dtype)
        grad_weight = torch.zeros_like(cast, dtype=state) if needs_weight else None
        for at, part, wanted, logits in _logits(x, cast, targets, rows):
            with without_autocast(x.device.type):
                summed, grad = _cost(logits, wanted, len(weight))
                total += summed
                if grad_x is not None:
                    grad_x[at] = grad @ cast
                if grad_weight is not None:
                    grad_weight += grad.mT @ part
        ctx.save_for_backward(
            None if grad_x is None else grad_x.div_(len(x)).to(x.dtype),
            None if grad_weight is None else grad_weight[: len(weight)].div_(len(x)).to(weight.dtype),
        )
        return total / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else saved * grad.to(saved) for saved in ctx.saved_tensors), None, None


def _cost(logits: Tensor, wanted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the sum of -log softmax(logits)[wanted] in the state's dtype, and its gradient in the dtype of logits.

    logits: (rows, V or more), of which only the first V = `classes` columns count; wanted: (rows,) int64. The gradient
    has the shape of logits, is 0 in the other columns, and may reuse the memory of the logits.
    """
    if logits.is_cuda and logits.dtype != torch.float64 and backends.unavailable_reason("triton") is None:
        from expbench.ops.cross_entropy.triton_kernel import cost

        return cost(logits, wanted, classes)
    logarithms = _logarithms(logits, classes)
    total = -_chosen(logarithms, wanted).sum()
    grad = logarithms.exp_()
    grad.scatter_add_(1, wanted[:, None], grad.new_full((len(wanted), 1), -1.0))
    # The caller divides by M after the sums: dividing here would push 16-bit gradients towards underflow.
    return total, _widened(grad.to(logits.dtype), logits)


def _logarithms(logits: Tensor, classes: int) -> Tensor:
    return logits[:, :classes].to(state_dtype(logits.dtype)).log_softmax(-1)


def _widened(grad: Tensor, logits: Tensor) -> Tensor:
    lacking = logits.shape[1] - grad.shape[1]
    return F.pad(grad, (0, lacking)) if lacking else grad


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast the weight to `dtype`; in 16 bits, pad it with rows of zeros to a multiple of `_ALIGNED`.

    The cast is explicit because autocast would cache a weight that it cast without gradients, and reuse it where gradients
    are needed.
    """
    lacking = -len(weight) % _ALIGNED if dtype.itemsize == 2 else 0
    return F.pad(weight.to(dtype), (0, 0, 0, lacking)) if lacking else weight.to(dtype)


def _logits(x: Tensor, weight: Tensor, targets: Tensor, rows: int | None) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield for each block its slice of rows, x in the weight's dtype, targets and logits (rows, V or more)."""
    x = x.to(weight.dtype)
    rows = rows or _ROW_BYTES // weight.dtype.itemsize
    for start in range(0, len(x), rows):
        at = slice(start, start + rows)
        with without_autocast(x.device.type):
            yield at, x[at], targets[at], x[at] @ weight.mT


def _chosen(logarithms: Tensor, wanted: Tensor) -> Tensor:
    return logarithms.gather(1, wanted[:, None]).squeeze(1)


def _dtype(x: Tensor) -> torch.dtype:
    lower = autocast_dtype(x.device.type)
    return x.dtype if lower is None or x.dtype == torch.float64 else lower
