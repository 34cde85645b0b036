"""Softmax attention under `torch.vmap`: the mapped axis is folded into the batch of torch's fused attention kernels.

torch's own batching rule of fused attention fails in the backward pass on some shapes. The unfused definition would keep
several L x L tables for each sequence. A call has the form ``is_causal=True``, or ``attn_mask=bias`` with a bias that all
stacked runs share, such as `alibi`. Letters: S stacked runs, B batch, H heads, L length, D width of a head.
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


def alibi(heads: int, q: Tensor) -> Tensor:
    """Return the bias (H, L, L) of ALiBi for queries q (..., L, D), in their dtype (Press et al. 2022).

    It is -slope * (t - j) where query t sees key j, and -infinity for later keys. The slopes are the published ones, fixed,
    and independent of L: 2^(-8h/H) for head h = 1..H, thus 2^-8 for a single head.
    """
    t = torch.arange(q.shape[-2], device=q.device)
    ahead = t - t.unsqueeze(1)
    slopes = 2.0 ** (torch.arange(1, heads + 1, device=q.device) * (-8 / heads))
    bias = (slopes.view(-1, 1, 1) * ahead).masked_fill(ahead > 0, -torch.inf)
    return bias.to(q.dtype)


class Folded(TorchFunctionMode):
    """A context in which attention over long sequences is fused under `torch.vmap` too."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention and len(args) == 3 and _suit(*args):
            if kwargs == {"is_causal": True}:
                return _Attention.apply(*args, None)
            if kwargs is not None and kwargs.keys() == {"attn_mask"} and _shared(kwargs["attn_mask"]):
                return _Attention.apply(*args, kwargs["attn_mask"])
        return function(*args, **(kwargs or {}))


def _suit(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.ndim == 4 and q.shape == k.shape == v.shape and q.shape[-2] >= _LONG


def _shared(bias: Tensor | None) -> bool:
    """Return whether a bias is a constant (H, L, L), the same for all stacked runs."""
    return bias is not None and bias.ndim == 3 and not bias.requires_grad and not torch._C._functorch.is_batchedtensor(bias)


def _causal(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return causal attention (B, H, L, D) of q, k and v (B, H, L, D), by the fastest applicable kernel.

    bias (H, L, L): added to the scores, with -infinity for later keys; None: only later keys are left out.
    """
    how: dict[str, Any] = {"is_causal": True} if bias is None else {"attn_mask": bias}
    with sdpa_kernel(_FUSED):
        parts = [
            F.scaled_dot_product_attention(some_q, some_k, some_v, **how)
            for some_q, some_k, some_v in zip(*(x.split(_MOST_SEQUENCES) for x in (q, k, v)), strict=True)
        ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Attention(torch.autograd.Function):
    """Attention with its own vmap rule, the only part in use: autograd runs outside and differentiates the rule's calls."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        return _causal(q, k, v, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("folded attention works only under torch.vmap, with autograd outside of it")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        S = info.batch_size
        *sequences, bias = inputs
        each = [
            x.expand(S, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(sequences, in_dims[:3], strict=True)
        ]
        q, k, v = (x.flatten(0, 1) for x in each)
        folded = _causal(q, k, v, bias)
        return folded.unflatten(0, (S, -1)), 0
