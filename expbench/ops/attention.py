"""Softmax attention under `torch.vmap`: the mapped axis is folded into the batch of torch's fused attention kernels.

torch's own batching rule of fused attention fails in the backward pass on some shapes. The unfused definition would keep
several L x L tables for each sequence. Letters: S stacked runs, B batch, L length, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_LONG = 128  # tokens; for shorter sequences, the overhead of a fused kernel exceeds the cost of the L x L scores
_MOST_SEQUENCES = 65535  # per kernel launch
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # torch uses the first that applies


class Folded(TorchFunctionMode):
    """A context in which causal attention over long sequences is fused under `torch.vmap` too."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention and len(args) == 3 and kwargs == {"is_causal": True} and _suit(*args):
            return _Attention.apply(*args)
        return function(*args, **(kwargs or {}))


def _suit(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.ndim == 4 and q.shape == k.shape == v.shape and q.shape[-2] >= _LONG


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention (B, heads, L, D) of q, k and v (B, heads, L, D), by the fastest applicable kernel."""
    with sdpa_kernel(_FUSED):
        parts = [
            F.scaled_dot_product_attention(some_q, some_k, some_v, is_causal=True)
            for some_q, some_k, some_v in zip(*(x.split(_MOST_SEQUENCES) for x in (q, k, v)), strict=True)
        ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Attention(torch.autograd.Function):
    """Attention with its own vmap rule, the only part in use: autograd runs outside and differentiates the rule's calls."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _causal(q, k, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("folded attention works only under torch.vmap, with autograd outside of it")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *sequences: Tensor) -> tuple[Tensor, int]:
        S = info.batch_size
        each = [
            x.expand(S, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(sequences, in_dims, strict=True)
        ]
        folded = _causal(*(x.flatten(0, 1) for x in each))
        return folded.unflatten(0, (S, -1)), 0
