"""Blocks: what an architecture puts around its mixer. A block is itself a mixer, (B, L, D) -> (B, L, D).

Normalisation and residual connection are not part of it: they stand around it in `Network`, as around every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class MambaBlock(nn.Module):
    """out = Linear_o(mixer(act(conv(Linear_x(u)))) * gate(Linear_z(u))), in `inner` channels between the linear maps.

    Eq. 1 of arXiv 2502.02209 (Gu and Dao 2023), where inner = 2 width. mixer: makes the layer for that many channels. conv:
    width of the depthwise causal convolution, which has a bias; 0 leaves it out. bias: whether the linear maps have biases,
    as Theorem 2 needs them and Mamba has none.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        mixer: Callable[[int], nn.Module],
        *,
        conv: int = 4,
        activation: Literal["silu", "none"] = "silu",
        gate: Literal["silu", "linear"] = "silu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if inner < 1 or conv < 0:
            raise ValueError(f"inner={inner} must be 1 or more, and conv={conv} 0 or more")
        self.to_x, self.to_z = (nn.Linear(width, inner, bias) for _ in range(2))
        self.conv = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1) if conv else None
        self.mixer = mixer(inner)
        self.to_out = nn.Linear(inner, width, bias)
        self.activated, self.silu_gate = activation == "silu", gate == "silu"

    def forward(self, u: Tensor) -> Tensor:
        x, z = self.to_x(u), self.to_z(u)
        if self.conv is not None:
            x = self.conv(x.mT)[..., : u.shape[1]].mT  # padded on both sides: the last outputs would look beyond the end
        if self.activated:
            x = F.silu(x)
        out: Tensor = self.to_out(self.mixer(x) * (F.silu(z) if self.silu_gate else z))
        return out
