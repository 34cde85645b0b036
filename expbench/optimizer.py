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
    """The optimizer's state for some parameters. weight_decay is decoupled: parameters shrink by lr * weight_decay."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, grads: tuple[Tensor, ...], lr: float) -> None:
        """Update the parameters in place from their gradients."""
        self.steps += 1
        correction_1, correction_2 = (1 - beta**self.steps for beta in BETAS)
        torch._foreach_mul_(self.parameters, 1 - lr * self.weight_decay)
        torch._foreach_lerp_(self.means, grads, 1 - BETAS[0])
        torch._foreach_mul_(self.squares, BETAS[1])
        torch._foreach_addcmul_(self.squares, grads, grads, 1 - BETAS[1])
        roots = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(roots, correction_2**0.5)
        torch._foreach_add_(roots, EPSILON)
        torch._foreach_addcdiv_(self.parameters, self.means, roots, -lr / correction_1)


@torch.no_grad()
def clip(grads: tuple[Tensor, ...], largest: float) -> Tensor:
    """Scale the gradients in place so that their common norm is at most `largest`; returns the norm before."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, torch.clamp(largest / (norm + 1e-6), max=1.0))
    return norm
