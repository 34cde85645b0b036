"""Causal softmax self-attention without output projection: parameter counts equal those of the paper's Table 2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.mixer import Attention, RelativeCode
from expbench.nn.positions import rotate, rotation
from expbench.ops.attention import alibi


class Attn(Attention):
    """Softmax attention, scale 1/sqrt(D / heads). Setting: heads, which must divide the width.

    Relative positions: rotary turns queries and keys by angles proportional to their position, so that a score depends on t
    and j through t - j alone (Su et al. 2021). alibi subtracts slope * (t - j) from each score (Press et al. 2022).
    """

    relative = ("rotary", "alibi")

    bounds = ("symmetry",)

    def __init__(self, width: int, *, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads} does not divide the width {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.alibi = False
        self.rotation: Tensor | None
        self.register_buffer("rotation", None, persistent=False)

    def use_positions(self, code: RelativeCode) -> None:
        self.alibi = code.kind == "alibi"
        if code.kind == "rotary":
            self.rotation = rotation(code.length, self.qkv.in_features // self.heads, code.base)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, L, D = x.shape
        # (B, heads, L, D / heads): the fused kernel on a CPU needs four dimensions
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.rotation is not None:
            q, k = rotate(q, self.rotation), rotate(k, self.rotation)
        if self.alibi:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=alibi(self.heads, q))
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)

    def flops(self, L: int) -> float:
        """Count queries, keys and values, and for each of (L+1)/2 tokens a score, its softmax and a weighted value.

        Rotary adds three operations for each channel of query and key, ALiBi one for each score.
        """
        width = self.qkv.in_features
        rotated = 0 if self.rotation is None else 6 * width
        return 6 * width**2 + rotated + (L + 1) / 2 * (4 * width + (3 + self.alibi) * self.heads)

    def state_size(self, L: int) -> int:
        """Count the keys and values of all tokens."""
        return 2 * L * self.qkv.in_features

    def reach(self, inputs: Reach) -> NoBound:
        """Return no bound, because of the softmax."""
        return NO_BOUND
