"""Causal depthwise convolution of a few taps along a channel-last sequence.

Letters: B batch, L length, D channels, K taps. torch's convolution needs time as the last axis, and its gradients of
depthwise kernels are slow. A compiler fuses a sum of K shifted products, and its neighbouring operations, into one pass
over memory.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def shifted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return y_t = bias + sum_k weight_k x_(t-K+1+k), (B, L, D) in x's dtype: x (B, L, D), weight (D, 1, K), bias (D,).

    Sums are in the widest of the three dtypes. Call it from compiled code: in eager mode it is slower than `reference`.
    """
    taps, length = weight.shape[-1], x.shape[1]
    past = F.pad(x, (0, 0, taps - 1, 0))
    y = bias
    for k in range(taps):
        y = y + weight[:, 0, k] * past[:, k : k + length]
    return y.to(x.dtype)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the same (B, L, D) by torch's convolution, under autocast in its dtype."""
    taps, length = weight.shape[-1], x.shape[1]
    # conv1d pads both ends; the slice drops the last outputs, which read the padding beyond the end
    return F.conv1d(x.mT, weight, bias, padding=taps - 1, groups=len(weight))[..., :length].mT
