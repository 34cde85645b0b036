"""Causal linear attention y_t = sum_{j<=t} (q_t . k_j) v_j, without softmax or normaliser.

It is a recurrence over the matrix sum_j k_j v_j^T: `reference` carries the matrix from step to step, `chunked` from chunk to
chunk; it is never below float32. Letters: B batch, L length, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expbench.ops import backends
from expbench.ops.selective.problem import state_dtype

_CHUNK = 64
_IMPLEMENTATIONS = ("reference", "torch")


def linear_attention(q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
    """Return y (B, L, D) for q, k, v (B, L, D) in O(L) time; autograd differentiates it to any order.

    backend: ``reference`` or ``torch``; None takes the one that `backends.using` forces, else ``torch``. Raises
    `BackendUnsupported` for
    any other backend.
    """
    name = backends.requested(backend) or "torch"
    if name not in _IMPLEMENTATIONS:
        raise backends.BackendUnsupported(
            f"linear attention has no backend {name!r} (it has: {', '.join(_IMPLEMENTATIONS)})"
        )
    backends.ran("linear attention", name)
    return reference(q, k, v) if name == "reference" else chunked(q, k, v)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return y (B, L, D) step by step: the definition."""
    device, dtype = q.device.type, torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    lower = torch.is_autocast_enabled(device) and dtype != torch.float64
    with torch.autocast(device, enabled=False):
        q, k, v = (x.to(state_dtype(dtype)) for x in (q, k, v))
        total = torch.zeros_like(k[:, 0, :, None] * v[:, 0, None])
        y = []
        for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
            total = total + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
            y.append((q_t.unsqueeze(-2) @ total).squeeze(-2))
        return torch.stack(y, 1).to(torch.get_autocast_dtype(device) if lower else dtype)


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return y (B, L, D) from all L x L scores at once, as attention without softmax."""
    return (q @ k.mT).tril() @ v


def chunked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return y (B, L, D) as the sum of `naive` within each chunk and the contribution of all earlier chunks."""
    B, L, D = q.shape
    if L <= _CHUNK:
        return naive(q, k, v)
    chunks = -(-L // _CHUNK)
    padding = (0, 0, 0, chunks * _CHUNK - L)
    q, k, v = (torch.nn.functional.pad(x, padding).view(B, chunks, _CHUNK, D) for x in (q, k, v))
    sums = (k.mT @ v).cumsum(1, dtype=state_dtype(q.dtype))
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    y = naive(q, k, v) + q @ before.to(q.dtype)
    return y.reshape(B, chunks * _CHUNK, D)[:, :L]
