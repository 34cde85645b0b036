"""The softmax cross-entropy of rows of logits in one kernel on a GPU, whose gradient takes the place of the logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Measured on an H200, 32768 rows of 50304: 2.8 ms; 3.9 ms with 8192 and 32, where fewer rows are under way and a pass has to
# wait for more warps at each of its sums, though its row stays in the cache.
_BLOCK, _WARPS = 4096, 8


def cost(logits: Tensor, wanted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The sum of -log softmax(logits)[wanted] over the first `classes`, float32, and its gradient: the logits' own memory.

    logits (M, V or more), contiguous, of float32 or less; wanted (M,) int64. The gradient of what is beyond V is 0.
    """
    costs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, triton.next_power_of_2(logits.shape[1]))
    _cost[(len(logits),)](logits, wanted, costs, classes, logits.shape[1], block, num_warps=_WARPS)
    return costs.sum(), logits


@triton.jit
def _cost(LOGITS, WANTED, COSTS, CLASSES, WIDTH, BLOCK: tl.constexpr):
    """A row: its largest logit and the sum of exponentials in one pass, the gradient in another, from the cache."""
    row = tl.program_id(0).to(tl.int64)
    start = LOGITS + row * WIDTH
    wanted = tl.load(WANTED + row)
    chosen = tl.load(start + wanted).to(tl.float32)  # first: the second pass writes over it
    lanes = tl.arange(0, BLOCK)
    most = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for begin in range(0, CLASSES, BLOCK):
        at = begin + lanes
        x = tl.load(start + at, mask=at < CLASSES, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(x, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(x - higher), 0)
        most = higher
    tl.store(COSTS + row, tl.log(total) + most - chosen)
    for begin in range(0, WIDTH, BLOCK):
        at = begin + lanes
        x = tl.load(start + at, mask=at < CLASSES, other=float("-inf")).to(tl.float32)
        grad = tl.exp(x - most) / total - tl.where(at == wanted, 1.0, 0.0)
        tl.store(start + at, grad.to(LOGITS.dtype.element_ty), mask=at < WIDTH)
