"""The Mamba block of Theorem 2 of arXiv 2502.02209: S6 with a linear Abar between linear maps, times a linear gate.

out = Linear_o(S6(Linear_x(u)) * Linear_z(u)), all maps with biases. Without convolution and activation the block is
polynomial. S6 is Eq. 5 with Delta linear in its token and Abar = Delta n/N. Four such blocks can represent any polynomial.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from expbench.algebra.reach import NoBound, Reach
from expbench.mixer import Mixer
from expbench.models.s6_poly import S6Poly
from expbench.models.s6_poly_disc import Start, without_literal
from expbench.nn.blocks import MambaBlock
from expbench.settings import Value


class MambaPoly(MambaBlock, Mixer):
    """The Mamba block. Settings: inner, channels between the maps (default: 2 D, as in Mamba); N, states per channel; start,
    the initial weights of S6, as in S6PolyDisc (default: literal)."""

    backends = S6Poly.backends

    def __init__(self, width: int, *, inner: int | None = None, N: int = 1, start: Start | None = None) -> None:
        super().__init__(
            width,
            2 * width if inner is None else inner,
            lambda channels: S6Poly(
                channels, N=N, layout="full_bias", skip=False, transition="linear", start=start or "literal"
            ),
            conv=0,
            activation="none",
            gate="linear",
            bias=True,
        )

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return without_literal(settings) | ({"inner": 2 * width} if settings["inner"] is None else {})

    @property
    def s6(self) -> S6Poly:
        """The S6 layer inside the block."""
        assert isinstance(self.mixer, S6Poly)
        return self.mixer

    def flops(self, L: int) -> float:
        """Count those of S6, three linear maps and the gate."""
        return self.s6.flops(L) + 6 * self.to_out.weight.numel() + self.to_out.in_features

    def state_size(self, L: int) -> int:
        return self.s6.state_size(L)

    def reach(self, inputs: Reach) -> Reach | NoBound:
        """Return the reach: degree L + 2 of S6 for an affine input, plus that of the gate; one term joins all."""
        scanned = self.s6.reach(inputs)
        if not isinstance(scanned, Reach):
            return scanned
        return Reach.capped([a + b for a, b in zip(scanned.degree, inputs.degree, strict=True)], list(scanned.order))

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Mapping[str, Tensor]:
        return self.s6.statistics(self.to_x(x))
