"""Causal linear attention y_t = sum_{j<=t} (q_t . k_j) v_j, without softmax or normaliser.

`reference` forms the L x L scores; `linear_attention` carries the sum of k_j v_j^T from chunk to chunk and so costs O(L).
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 64


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y (B, L, D) for q, k, v (B, L, D): the definition, in O(L^2)."""
    return (q @ k.mT).tril() @ v


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y (B, L, D) for q, k, v (B, L, D), in O(L); differentiable by autograd to any order."""
    B, L, D = q.shape
    if L <= _CHUNK:
        return reference(q, k, v)
    chunks = -(-L // _CHUNK)
    padding = (0, 0, 0, chunks * _CHUNK - L)
    q, k, v = (torch.nn.functional.pad(x, padding).view(B, chunks, _CHUNK, D) for x in (q, k, v))
    sums = (k.mT @ v).cumsum(1)
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    y = (q @ k.mT).tril() @ v + q @ before
    return y.reshape(B, chunks * _CHUNK, D)[:, :L]
