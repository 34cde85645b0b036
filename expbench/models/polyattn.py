"""Causal polynomial attention y_t = (1/L) sum_{j<=t} phi(q_t . k_j) v_j, phi the Taylor polynomial of exp, unnormalised.

One layer with phi of degree P has degree 2P+1 and joins 2 positions in a term: it raises powers, not interaction orders.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from expbench.algebra.reach import Reach
from expbench.mixer import Attention
from expbench.models.linattn import attention_reach
from expbench.ops.taylor import exp_taylor


class PolyAttn(Attention):
    """Polynomial attention. Setting: taylor, the degree P. Scores are scaled by 1/sqrt(D), as in softmax attention."""

    bounds = ("symmetry",)

    def __init__(self, width: int, *, taylor: int = 2) -> None:
        super().__init__()
        if not 1 <= taylor <= 12:
            raise ValueError(f"taylor={taylor}: the degree of the Taylor polynomial must be 1 to 12")
        self.taylor = taylor
        self.qkv = nn.Linear(width, 3 * width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = exp_taylor(q @ k.mT / math.sqrt(q.shape[-1]), self.taylor)
        y: Tensor = scores.tril() @ v / q.shape[1]
        return y

    def flops(self, L: int) -> float:
        """Count queries, keys and values, and for each of (L+1)/2 tokens a score, its polynomial and a weighted value."""
        width = int(self.qkv.in_features)
        return 6 * width**2 + (L + 1) / 2 * (4 * width + 2 * self.taylor)

    def state_size(self, L: int) -> int:
        """Count the keys and values of all tokens, or the sums over monomials of the key, whichever is smaller."""
        width = int(self.qkv.in_features)
        return min(2 * L * width, math.comb(width + self.taylor, self.taylor) * width)

    def reach(self, inputs: Reach) -> Reach:
        return attention_reach(inputs, power=self.taylor)
