"""A time-invariant diagonal state-space layer (S4D-real): S6 without selection.

h_t = exp(Delta A) h_{t-1} + Delta B x_t,  y_t = C . h_t + skip x_t, with all coefficients parameters of the channel
(Eq. 2 of arXiv 2502.02209). The layer is linear in its input, so its degree is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench.algebra.reach import Reach
from expbench.mixer import Mixer
from expbench.models.s6 import mamba_bias
from expbench.ops.scan import linear_scan
from expbench.settings import Value


class SSM(Mixer):
    """Diagonal state-space layer. Settings: N, states per channel (default: the width); skip, the term skip x_t."""

    def __init__(self, width: int, *, N: int | None = None, skip: bool = True) -> None:
        super().__init__()
        N = width if N is None else N
        if N < 1:
            raise ValueError(f"N={N} must be 1 or more")
        self.A_log = nn.Parameter(torch.arange(1, N + 1).float().log().expand(width, N).clone())
        self.bias = nn.Parameter(mamba_bias(width))
        self.B = nn.Parameter(torch.ones(width, N))
        self.C = nn.Parameter(torch.randn(width, N) * N**-0.5)
        self.skip = nn.Parameter(torch.ones(width)) if skip else None
        self.A_log._no_weight_decay = True  # type: ignore[attr-defined]

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return {**settings, "N": width if settings["N"] is None else settings["N"]}

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        delta = F.softplus(self.bias).unsqueeze(-1)
        h = linear_scan(torch.exp(-delta * self.A_log.exp()), x.unsqueeze(-1) * (delta * self.B))
        y = (h * self.C).sum(-1)
        if self.skip is not None:
            y = y + self.skip * x
        return y.transpose(0, 1)

    def flops(self, L: int) -> float:
        """Count, for each channel and state, two operations for the recurrence, one for its input and two for the output."""
        return 5 * self.A_log.numel()

    def state_size(self, L: int) -> int:
        return self.A_log.numel()

    def reach(self, inputs: Reach) -> Reach:
        """Return the running maximum of degree and order, since the layer is linear."""
        positions = range(1, len(inputs.degree) + 1)
        degree, order = ([max(values[:t]) for t in positions] for values in (inputs.degree, inputs.order))
        return Reach.capped(degree, order, anchored=max(order) == 1)
