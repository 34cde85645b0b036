"""Attention as public implementations write it: torch's encoder layer, a decoder with rotary codes, a window."""

import torch
from torch import nn
from torch.nn import functional as F


class TransformerLayer(nn.Module):
    """torch's encoder layer behind a causal mask, or without it."""

    def __init__(self, width: int, causal: bool = True):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 1, 2 * width, dropout=0.0, batch_first=True)
        self.causal = causal

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=x.dtype)
        return self.layer(x, src_mask=mask, is_causal=True) if self.causal else self.layer(x)


class DropoutLayer(nn.Module):
    """A pre-norm block with torch's attention, and dropout at its usual places."""

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 1, dropout=dropout, batch_first=True)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        y, ahead = self.norm(x), torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return x + self.drop(self.attend(y, y, y, attn_mask=ahead, need_weights=False)[0])


class OwnAttention(nn.Module):
    """Causal attention without positions: it sums the past in any order."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class WithPositions(OwnAttention):
    positions = "sin"


class LocalAttention(nn.Module):
    """Attention to the last `window` tokens, over blocks of that size and the block before, as local-attention has it."""

    def __init__(self, width: int, window: int = 4):
        super().__init__()
        self.qkv, self.window = nn.Linear(width, 3 * width, bias=False), window

    def forward(self, x):
        B, L, D = x.shape
        w = self.window
        padded = F.pad(x, (0, 0, 0, -L % w))
        q, k, v = (part.reshape(B, -1, w, D) for part in self.qkv(padded).chunk(3, -1))
        k, v = (torch.cat([F.pad(part, (0, 0, 0, 0, 1, 0))[:, :-1], part], 2) for part in (k, v))
        at, seen = torch.arange(w, device=x.device)[:, None] + w, torch.arange(2 * w, device=x.device)
        hidden = (seen > at) | (seen <= at - w)
        before = (torch.arange(q.shape[1], device=x.device) == 0)[:, None, None] & (seen < w)
        scores = q @ k.mT * D**-0.5
        scores = scores.masked_fill(hidden | before, -torch.finfo(scores.dtype).max)
        return (scores.softmax(-1) @ v).reshape(B, -1, D)[:, :L]


def rotated(x, angles):
    """Rotate pairs of the channels of x (B, H, L, K) by angles (L, K)."""
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


class Decoder(nn.Module):
    """A pre-norm decoder block with rotary positions and a feed-forward part, in the manner of x-transformers."""

    def __init__(self, width: int, heads: int = 2, head_width: int = 4):
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(3))
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(4 * width, width))
        self.register_buffer("rates", 10000.0 ** -(torch.arange(0, head_width, 2) / head_width))

    def forward(self, x):
        y = self.norms[0](x)
        q, k, v = (to(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        angles = torch.arange(x.shape[1], device=x.device).type_as(self.rates)[:, None] * self.rates
        angles = torch.cat([angles, angles], -1)
        q, k = rotated(q, angles), rotated(k, angles)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.to_out(mixed)
        return self.norms[2](x + self.feed(self.norms[1](x)))
