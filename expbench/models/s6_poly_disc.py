"""S6 with Taylor polynomials for softplus and exp, and Bbar = Delta B: polynomial end to end.

The "polynomial with discretization" row of Table 1 of arXiv 2502.02209. Taken literally, the polynomials explode at Mamba's
initialisation (that of softplus is at least 0.193, and about 85 % of |Abar| exceed 1). `center` offers two stable variants,
and `start` finite initial losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.models.s6 import S6
from expbench.ops import Transition
from expbench.ops.taylor import contraction_range
from expbench.settings import Value

Start = Literal["literal", "scaled"]
START_SCALE = 0.01


def without_literal(settings: dict[str, Value]) -> dict[str, Value]:
    """Return the settings without a literal start where that is the default, as those of all runs before this setting."""
    return {name: value for name, value in settings.items() if name != "start" or value not in (None, "literal")}


class S6PolyDisc(S6):
    """S6 with polynomial coefficients. Settings in addition to those of S6:

    taylor: degree of both polynomials. center: ``zero`` expands softplus about 0, with initial bias 0 and A = -n/N;
    ``bias`` expands it about Mamba's initial bias, with initial A = -min(n, 8), which keeps Mamba's long memory. guard:
    ``clip`` clamps u = Delta A to where the polynomial of exp lies in [0, 1], so the layer is not polynomial. transition:
    ``linear`` uses Delta = z and Abar = z n/N with bias 1, as in Theorem 2. arg_scale: constant factor on the argument of
    the softplus polynomial (the "constant normalization factor" of Eq. 5, whose value the paper does not state). start:
    ``literal`` keeps Mamba's initial weights, with which several layers without normalisation have no finite loss, because
    each of them multiplies its input by itself again and again; ``scaled`` multiplies the initial maps to B, C and Delta and
    the initial skip by 0.01, so that each layer begins near 0. Default: literal.
    """

    backends = ("reference", "torch", "triton")
    default_start: ClassVar[Start] = "literal"

    def __init__(
        self,
        width: int,
        *,
        N: int | None = None,
        layout: Literal["mamba_rank_D", "full_bias"] = "mamba_rank_D",
        dt_rank: int | None = None,
        skip: bool = True,
        taylor: int = 3,
        center: Literal["zero", "bias"] = "zero",
        guard: Literal["none", "clip"] = "none",
        transition: Literal["taylor", "linear"] = "taylor",
        arg_scale: float = 1.0,
        start: Start | None = None,
    ) -> None:
        super().__init__(width, N=N, layout=layout, dt_rank=dt_rank, skip=skip)
        if not 1 <= taylor <= 12:
            raise ValueError(f"taylor={taylor}: the degree of the Taylor polynomials must be 1 to 12")
        if arg_scale <= 0:
            raise ValueError(f"arg_scale={arg_scale} must be above 0")
        self.taylor, self.center, self.guard, self.arg_scale = taylor, center, guard, arg_scale
        self.linear = transition == "linear"
        self.of_exp = 0 if self.linear else 2 * taylor
        with torch.no_grad():
            if self.linear:
                self.to_delta.bias.fill_(1.0)
                self.A_log.sub_(torch.tensor(float(self.N)).log())
            elif center == "zero":
                self.to_delta.bias.zero_()
                self.A_log.sub_(torch.tensor(float(self.N)).log())
            else:
                self.A_log.clamp_(max=torch.tensor(8.0).log().item())
            if (start or self.default_start) == "scaled":
                self._shrink()
        self.expansion_point: Tensor
        self.register_buffer("expansion_point", self.to_delta.bias.detach().clone())
        self.lowest = contraction_range(taylor)

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return without_literal(super().resolve(width, settings))

    def argument(self, z: Tensor) -> Tensor:
        bias = self.to_delta.bias  # scale only the input-dependent part, not the bias
        return z if self.arg_scale == 1 else bias + self.arg_scale * (z - bias)

    def _shrink(self) -> None:
        """Multiply the initial maps to B, C and Delta, without the bias of Delta, and the skip by `START_SCALE`."""
        full = (self.to_delta.weight, *self.to_b.parameters(), *self.to_c.parameters()) if self.full else ()
        for parameter in (*(full or (self.to_all.weight,)), *(() if self.skip is None else (self.skip,))):
            parameter.mul_(START_SCALE)

    def transition(self) -> tuple[Transition, Tensor]:
        if self.linear:
            return Transition.linear(), self.A_log.exp()
        return Transition.taylor(self.taylor, self.expansion_point, self.guard == "clip"), -self.A_log.exp()

    def degrees(self) -> tuple[int, int]:
        """Return (a, p): the degree of Abar in Delta, and of Delta in the token."""
        if self.linear:
            return 1, 1
        # about 0, the odd coefficients of softplus vanish beyond the first
        odd = self.center == "zero" and self.taylor > 1 and self.taylor % 2 == 1
        return self.taylor, self.taylor - odd

    def reach(self, inputs: Reach) -> Reach | NoBound:
        """Return degree (L-1) a p + 3 (+ p if Delta scales B) for an affine input; one term joins all positions."""
        if self.guard == "clip" and not self.linear:
            return NO_BOUND
        a, p = self.degrees()
        source = 2 + (p if self.discretise_b else 0)
        degree: list[int] = []
        state = 0
        for d in inputs.degree:
            state = max(state + a * p * d, source * d) if degree else source * d
            degree.append(state + d)
        return Reach.capped(degree, [t + 1 for t in range(len(degree))])

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Mapping[str, Tensor]:
        _, u, _ = self.discretise(x)
        outside = ((u < self.lowest) | (u > 0)).double().mean()
        return {**super().statistics(x), "frac_u_out_of_range": outside}
