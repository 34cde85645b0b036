"""Position codes: how a network tells its layers where a token stands.

Absolute codes are added to the embedded tokens, equal for all models. Relative codes (rotary, ALiBi) change the scores of
attention, so a layer applies them itself (`Mixer.relative`). Letters: L length, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from expbench.run import Positions


class PositionCode(nn.Module):
    """An absolute code, added to x (B, L, D); the relative codes and ``none`` add nothing.

    ``sin`` adds sinusoids with the given base, ``index`` the scalar t/L along a learned direction. ``learned`` and
    ``onehot`` add a trainable vector W[t] per position and differ only in its start. learned: normal with standard deviation
    0.02, close to no code. onehot: as if the one-hot code of t were appended to the `channels` inputs of the embedding, a
    linear map that torch starts uniformly within 1/sqrt(L + channels). As W is trained, either can set any one position
    apart from all others at every width; a fixed table cannot for L > D + 1.
    """

    def __init__(self, kind: Positions, length: int, width: int, *, base: float, channels: int) -> None:
        super().__init__()
        self.kind = kind
        table = None
        if kind == "sin":
            table = sinusoids(length, width, base)
        elif kind == "index":
            table = torch.arange(1, length + 1)[:, None] / length
            self.weight = nn.Parameter(torch.randn(width) * width**-0.5)
        elif kind == "learned":
            self.weight = nn.Parameter(torch.randn(length, width) * 0.02)
        elif kind == "onehot":
            bound = (length + channels) ** -0.5
            self.weight = nn.Parameter(torch.empty(length, width).uniform_(-bound, bound))
        self.table: Tensor | None
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is not None:
            return x + (self.table * self.weight if self.kind == "index" else self.table)
        return x + self.weight if self.kind in ("learned", "onehot") else x


def sinusoids(length: int, width: int, base: float) -> Tensor:
    """Return a table (L, D) of alternating sin and cos of t / base^(2i/D), t from 0 (Vaswani et al. 2017).

    For D = 2 the code repeats every 2 pi steps, whatever the base.
    """
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(base) / width))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


def rotation(length: int, width: int, base: float) -> Tensor:
    """Return cos and sin (2, L, D/2) of t / base^(2i/D), t from 0, in float64 (Su et al. 2021).

    Raise ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"rotary positions need heads of an even number of channels, not {width}; the next is {width + 1}")
    frequency = base ** (torch.arange(0, width, 2, dtype=torch.float64) / -width)
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each pair of channels i, i + D/2 of x (..., L, D) by the i-th angle of its position, in the dtype of x."""
    cos, sin = rotation[:, : x.shape[-2]]
    a, b = x.chunk(2, -1)
    # bf16 is rotated in float32, the dtype of the table
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)
