"""Causal depthwise convolution of a few taps along a sequence that is channel-last.

Letters: B batch, L length, D channels, K taps. torch's own wants the time last, and its gradients of a depthwise kernel are
slow; as a sum of K shifted products a compiler makes one pass over memory of it, together with what comes before and after.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def shifted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y_t = bias + sum_k weight_k x_(t-K+1+k), (B, L, D) of x's dtype: x (B, L, D), weight (D, 1, K), bias (D,).

    Sums are in the widest of the three dtypes. To be compiled: operation by operation it is slower than `reference`.
    """
    taps, length = weight.shape[-1], x.shape[1]
    past = F.pad(x, (0, 0, taps - 1, 0))
    y = bias
    for k in range(taps):
        y = y + weight[:, 0, k] * past[:, k : k + length]
    return y.to(x.dtype)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by torch's convolution, under autocast in its dtype."""
    taps, length = weight.shape[-1], x.shape[1]
    # padded on both sides: the last outputs would look beyond the end
    return F.conv1d(x.mT, weight, bias, padding=taps - 1, groups=len(weight))[..., :length].mT
