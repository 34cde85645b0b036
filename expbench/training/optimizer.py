"""AdamW (Loshchilov and Hutter 2019) for many runs at once, each with its own learning rate, weight decay and clipping.

torch.optim has one learning rate per parameter, not per run. It also imports torch's compiler at its first use, which takes
longer than a small run. This is the same update, tested against torch's. Letters: S runs, P trainable numbers per run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-8


def decays(parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter, by the one rule of all models and trainers.

    It applies to matrices and what has more dimensions: linear maps, embeddings (also learned position codes) and the taps
    of convolutions. Scalars and vectors (biases, norms, skips, the direction of the position code ``index``) are exempt, and
    so are parameters that their layer marks `_no_weight_decay`: in Mamba, A.
    """
    return parameter.ndim > 1 and not getattr(parameter, "_no_weight_decay", False)


class AdamW:
    """AdamW for stacked parameters (S, ...), which it updates in place.

    weight_decay (S,) is decoupled: each step multiplies parameters by 1 - lr * weight_decay, except those with `decayed`
    false (see `decays`). Complex parameters are treated as pairs of real ones. means: running means (S, P) of the gradients.
    """

    def __init__(self, parameters: Sequence[Tensor], decayed: Sequence[bool], weight_decay: Tensor) -> None:
        self._parameters = [as_real(p.detach()) for p in parameters]
        self._sizes = [p[0].numel() for p in self._parameters]
        values = rows(self._parameters)
        self.means, self._squares = torch.zeros_like(values), torch.zeros_like(values)
        shares = [torch.full((size,), float(d)) for size, d in zip(self._sizes, decayed, strict=True)]
        self._decay = weight_decay.unsqueeze(1) * torch.cat(shares).to(values) if bool((weight_decay != 0).any()) else None
        self._corrections = torch.ones(2, dtype=torch.float64, device=values.device)  # beta^t
        self._betas = torch.tensor(BETAS, dtype=torch.float64, device=values.device)

    @property
    def state(self) -> list[Tensor]:
        """The tensors that a step changes, except `means`."""
        return [*self._parameters, self._squares, self._corrections]

    @torch.no_grad()
    def step(self, grads: Tensor, lr: Tensor) -> None:
        """Update the parameters from gradients (S, P), in the layout of `rows`, with learning rates lr (S,), float64."""
        self._corrections *= self._betas
        correction_1, correction_2 = 1 - self._corrections
        self.means.lerp_(grads, 1 - BETAS[0])
        self._squares.mul_(BETAS[1]).addcmul_(grads, grads, value=1 - BETAS[1])
        roots = self._squares.sqrt() / correction_2.sqrt().to(grads) + EPSILON
        changes = self.means / roots * (lr / correction_1).to(grads).unsqueeze(1)
        parts = changes.split(self._sizes, 1)
        if self._decay is not None:
            factors = (1 - lr.to(self._decay).unsqueeze(1) * self._decay).split(self._sizes, 1)
            for p, factor in zip(self._parameters, factors, strict=True):
                p.mul_(factor.view_as(p))
        torch._foreach_sub_(self._parameters, [c.reshape(p.shape) for c, p in zip(parts, self._parameters, strict=True)])


@torch.no_grad()
def rows(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors (S, ...), such as the gradients of all parameters, flattened and concatenated to rows (S, P)."""
    return torch.cat([as_real(x).flatten(1) for x in tensors], 1)


@torch.no_grad()
def clipped(grads: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row of (S, P) scaled to a norm of at most `largest` (S,), and the norms (S,) before scaling."""
    norms = torch.linalg.vector_norm(grads, dim=1)
    return grads * torch.clamp(largest / (norms + 1e-6), max=1.0).unsqueeze(1), norms


def as_real(x: Tensor) -> Tensor:
    """Return a complex tensor (...) as a view (..., 2) of its real and imaginary parts, and a real one as it is."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
