"""Causal linear attention y_t = (1/L) sum_{j<=t} (q_t . k_j) v_j: no softmax, no data-dependent normaliser.

One layer has degree 3 and joins 2 positions in a term; N layers have degree 3^N and join (3^N + 1) / 2.
The constant 1/L keeps training stable and does not change the degree.
"""

from __future__ import annotations

from torch import Tensor, nn

from expbench.algebra.reach import Reach
from expbench.mixer import Attention
from expbench.ops.linear_attention import linear_attention


class LinAttn(Attention):
    """Linear attention with one head, biases on queries, keys and values, and no output projection. No settings."""

    backends = ("reference", "torch")
    bounds = ("symmetry", "span")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(q, k, v) / q.shape[1]

    def flops(self, L: int) -> float:
        """Count queries, keys and values (6 D^2), the running sum of k v^T (2 D^2), and its product with q (2 D^2)."""
        return 10 * int(self.qkv.in_features) ** 2

    def state_size(self, L: int) -> int:
        """Count the running sum of k v^T (D, D)."""
        return int(self.qkv.in_features) ** 2

    def reach(self, inputs: Reach) -> Reach:
        return attention_reach(inputs, power=1)


def attention_reach(inputs: Reach, power: int) -> Reach:
    """Return the reach of sum_{j<=t} phi(q_t . k_j) v_j for a polynomial phi of degree `power`.

    A term has `power` factors of position t and `power` + 1 factors of one j; factors of one position share that position.
    If the inputs at t and j depend only on their own position, every joined pair contains t.
    """
    degree, order = [], []
    top_degree = top_order = 0
    for d, o in zip(inputs.degree, inputs.order, strict=True):
        top_degree, top_order = max(top_degree, d), max(top_order, o)
        degree.append(power * d + (power + 1) * top_degree)
        order.append(2 + power * (o - 1) + (power + 1) * (top_order - 1))
    return Reach.capped(degree, order, anchored=max(inputs.order) == 1)
