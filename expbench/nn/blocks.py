"""Blocks: the parts of an architecture around its mixer. A block is itself a mixer, (B, L, D) -> (B, L, D).

Normalisation and residual connection belong to `Network`, as for every layer. A Transformer layer consists of two blocks,
`AttentionBlock` and `FeedForward`. Each block ends in a linear map `to_out`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench.mixer import Attention
from expbench.nn.positions import rotate, rotation
from expbench.ops import convolution
from expbench.run import NO_BASE


class MambaBlock(nn.Module):
    """out = Linear_o(mixer(act(conv(Linear_x(u)))) * gate(Linear_z(u))), in `inner` channels between the linear maps.

    Eq. 1 of arXiv 2502.02209 (Gu and Dao 2023), where inner = 2 width. mixer: builds the layer for a number of channels.
    conv: width of the depthwise causal convolution, which has a bias; 0 omits it. bias: whether the linear maps have biases;
    Theorem 2 needs them, Mamba has none.
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
            assert self.conv.bias is not None
            convolved = convolution.shifted if torch.compiler.is_compiling() else convolution.reference
            x = convolved(x, self.conv.weight, self.conv.bias)
        if self.activated:
            x = F.silu(x)
        out: Tensor = self.to_out(self.mixer(x) * (F.silu(z) if self.silu_gate else z))
        return out


class AttentionBlock(nn.Module):
    """out = Linear_o(mix(R q, R k, v)) for an `Attention`, with R the rotary embedding; Linear_o(mixer(u)) for other layers.

    mixer: builds the layer for a width; only an `Attention` receives positions. context: maximum sequence length. base: of
    the rotary angles.
    """

    def __init__(self, width: int, mixer: Callable[[int], nn.Module], *, context: int, base: float = NO_BASE) -> None:
        super().__init__()
        self.mixer = mixer(width)
        self.to_out = nn.Linear(width, width, bias=False)
        heads = self.mixer.heads if isinstance(self.mixer, Attention) else None
        self.rotation: Tensor | None
        angles = None if heads is None else rotation(context, width // heads, base).to(torch.get_default_dtype())
        self.register_buffer("rotation", angles, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Map u (B, L, D) to (B, L, D); raise ValueError for sequences longer than the context."""
        if self.rotation is None:
            mixed = self.mixer(u)
        else:
            if u.shape[1] > self.rotation.shape[1]:
                raise ValueError(f"a sequence of {u.shape[1]} tokens is longer than the context of {self.rotation.shape[1]}")
            assert isinstance(self.mixer, Attention)
            q, k, v = self.mixer.project(u)
            mixed = self.mixer.mix(rotate(q, self.rotation), rotate(k, self.rotation), v)
        out: Tensor = self.to_out(mixed)
        return out


class FeedForward(nn.Module):
    """SwiGLU: out = Linear_o(silu(Linear_z(u)) * Linear_x(u)) in `hidden` channels, without biases (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.to_x, self.to_z = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.to_out = nn.Linear(hidden, width, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.to_out(F.silu(self.to_z(u)) * self.to_x(u))
        return out
