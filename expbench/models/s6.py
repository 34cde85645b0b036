"""S6, the selective state-space layer at the core of Mamba, without convolution, activation or gate.

Per channel d and state n, with B_t, C_t and Delta_t linear in the token x_t:
    h_t = Abar_t h_{t-1} + Bbar_t x_t,   y_t = C_t . h_t + skip x_t,   Abar_t = exp(Delta_t A),   Bbar_t = Delta_t B_t
(Gu and Dao 2023; Eq. 3-4 of arXiv 2502.02209). The variants in the paper form a 2 x 2 factorial design: exact exp and
softplus or Taylor polynomials, and Bbar = Delta B or B. Each variant is a subclass in its own file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.mixer import Mixer
from expbench.ops import Transition, selective_scan
from expbench.ops.selective.interface import discretised
from expbench.settings import Value

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # Mamba's initial range of Delta (mamba_simple.py)
_QUANTILE_LIMIT = 1 << 23  # maximum number of values to sort for a quantile


class S6(Mixer):
    """The exact layer. Settings:

    N: states per channel (default: the width). layout: one of two readings of the parameter counts in the paper's Table 2.
    ``mamba_rank_D`` is Mamba's layout (S_Delta of rank dt_rank, by default the width; no bias on B and C); ``full_bias`` has
    a full S_Delta and biases on B and C. skip: whether to add the term skip x_t.

    Initialisation as in Mamba: A = -1..-N, Delta log-uniform in [1e-3, 1e-1], skip 1.
    """

    discretise_b: ClassVar[bool] = True
    of_exp = 1  # operations for Abar, given u

    def __init__(
        self,
        width: int,
        *,
        N: int | None = None,
        layout: Literal["mamba_rank_D", "full_bias"] = "mamba_rank_D",
        dt_rank: int | None = None,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.N = N = width if N is None else N
        self.rank = width if dt_rank is None else dt_rank
        if N < 1 or self.rank < 1:
            raise ValueError(f"N={N} and dt_rank={self.rank} must be 1 or more")
        if layout == "full_bias":
            self.to_b, self.to_c = nn.Linear(width, N), nn.Linear(width, N)
            self.to_delta = nn.Linear(width, width)
        else:
            self.to_all = nn.Linear(width, self.rank + 2 * N, bias=False)
            self.to_delta = nn.Linear(self.rank, width)
            nn.init.uniform_(self.to_delta.weight, -(self.rank**-0.5), self.rank**-0.5)
        self.full = layout == "full_bias"
        self.A_log = nn.Parameter(torch.arange(1, N + 1).float().log().expand(width, N).clone())
        self.skip = nn.Parameter(torch.ones(width)) if skip else None
        for parameter in (self.A_log, self.skip):
            if parameter is not None:
                parameter._no_weight_decay = True  # type: ignore[attr-defined]
        with torch.no_grad():
            self.to_delta.bias.copy_(mamba_bias(width))

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return {**settings, **{name: width for name in ("N", "dt_rank") if settings[name] is None}}

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens x (B, L, D) to z (B, L, D), from which Delta follows, and to B and C (B, L, N)."""
        if self.full:
            return self.to_delta(x), self.to_b(x), self.to_c(x)
        low, B, C = self.to_all(x).split([self.rank, self.N, self.N], -1)
        return self.to_delta(low), B, C

    def argument(self, z: Tensor) -> Tensor:
        """Return the argument (B, L, D) of softplus for the projected z (B, L, D)."""
        return z

    def transition(self) -> tuple[Transition, Tensor]:
        """Return the transition, which maps the argument to Delta and Abar, and A (D, N)."""
        return Transition.exact(), -self.A_log.exp()

    def forward(self, x: Tensor) -> Tensor:
        z, B, C = self.project(x)
        transition, A = self.transition()
        delta, skip = self.argument(z), self.skip
        y: Tensor = selective_scan(x, delta, A, B, C, skip, transition=transition, delta_on_b=self.discretise_b)
        return y

    def discretise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Delta (B, L, D), u = Delta A and Abar (both (B, L, D, N)) for tokens x (B, L, D)."""
        transition, A = self.transition()
        return discretised(self.argument(self.project(x)[0]), A, transition)

    def flops(self, L: int) -> float:
        """Count the linear maps, softplus and Delta x per channel, and per state u = Delta A, exp, the input, the recurrence
        and the output (two each)."""
        maps = sum(2 * m.in_features * m.out_features for m in self.modules() if isinstance(m, nn.Linear))
        return maps + 4 * len(self.A_log) + (6 + self.of_exp) * self.A_log.numel()

    def state_size(self, L: int) -> int:
        return self.A_log.numel()

    def reach(self, inputs: Reach) -> Reach | NoBound:
        """Return no bound, because of softplus and exp."""
        return NO_BOUND

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Mapping[str, Tensor]:
        """Return statistics of |Abar|, Delta and u over the steps from the second on, since the first has no past."""
        delta, u, abar = self.discretise(x)
        if abar.shape[1] > 1:
            delta, u, abar = delta[:, 1:], u[:, 1:], abar[:, 1:]
        size = abar.abs().flatten()
        sample = size[:: 1 + size.numel() // _QUANTILE_LIMIT]
        return {
            "abar_max": size.max(),
            "abar_p99": quantile(sample, 0.99),
            "abar_mean": abar.mean(),
            "abar_min": abar.min(),
            "frac_abs_gt_1": (size > 1).double().mean(),
            "frac_neg": (abar < 0).double().mean(),
            "delta_min": delta.min(),
            "delta_max": delta.max(),
            "u_min": u.min(),
        }


def quantile(x: Tensor, q: float) -> Tensor:
    """Return the q-quantile of x (M,), as torch.quantile does, which does not support vmap."""
    at = q * (len(x) - 1)
    ordered = x.sort().values
    return torch.lerp(ordered[math.floor(at)], ordered[math.ceil(at)], at - math.floor(at))


def mamba_bias(width: int) -> Tensor:
    """Draw a bias b (D,) with softplus(b) log-uniform in [1e-3, 1e-1], the initial step sizes of Mamba."""
    delta = torch.exp(torch.rand(width) * math.log(DT_MAX / DT_MIN) + math.log(DT_MIN)).clamp(min=DT_FLOOR)
    return delta + torch.log(-torch.expm1(-delta))
