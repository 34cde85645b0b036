"""AdamW (Loshchilov and Hutter 2019) with the learning rate given at each step, and clipping by the gradient's norm.

torch.optim imports torch's compiler at its first use, which takes longer than a tiny run; this is the same update in a
few lines, tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """The optimizer's state for some parameters.

    weight_decay is decoupled: parameters shrink by lr * weight_decay at each step, except those with an attribute
    `_no_weight_decay` that is true (as Mamba marks A and the skip). Complex parameters are pairs of real ones.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self.leaves = tuple(p for p in parameters if p.requires_grad)
        self.weight_decay = weight_decay
        self._parameters = _real(self.leaves)
        self._decayed = _real(tuple(p for p in self.leaves if not getattr(p, "_no_weight_decay", False)))
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self, grads: tuple[Tensor, ...], lr: float) -> None:
        """Update the parameters in place from the gradients of `leaves`."""
        self._steps += 1
        correction_1, correction_2 = (1 - beta**self._steps for beta in BETAS)
        real = _real(grads)
        if self.weight_decay and self._decayed:
            torch._foreach_mul_(self._decayed, 1 - lr * self.weight_decay)
        torch._foreach_lerp_(self._means, real, 1 - BETAS[0])
        torch._foreach_mul_(self._squares, BETAS[1])
        torch._foreach_addcmul_(self._squares, real, real, 1 - BETAS[1])
        roots = torch._foreach_sqrt(self._squares)
        torch._foreach_div_(roots, correction_2**0.5)
        torch._foreach_add_(roots, EPSILON)
        torch._foreach_addcdiv_(self._parameters, self._means, roots, -lr / correction_1)


@torch.no_grad()
def clipped(grads: tuple[Tensor, ...], largest: float) -> tuple[tuple[Tensor, ...], Tensor]:
    """The gradients scaled so that their common norm is at most `largest`, and the norm before.

    Never in place: autograd may hand out one tensor as the gradient of two parameters.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(_real(grads))))
    return torch._foreach_mul(grads, torch.clamp(largest / (norm + 1e-6), max=1.0)), norm


def _real(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.view_as_real(t.detach()) if t.is_complex() else t for t in tensors)
