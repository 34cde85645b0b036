"""S6 with Taylor polynomials for softplus and exp, and Bbar = B: Eq. 5 of arXiv 2502.02209, the paper's simplified layer."""

from __future__ import annotations

from expbench.models.s6 import S6
from expbench.models.s6_poly_disc import S6PolyDisc
from expbench.settings import Value


class S6Poly(S6PolyDisc):
    """Eq. 5. Settings as in S6PolyDisc, but start is scaled by default (literal in version 1, which lacked the setting).

    One layer has degree (L-1) a p + 3, where a and p are the polynomials' degrees.
    """

    discretise_b = False
    default_start = "scaled"
    version = 2

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return S6.resolve(width, settings) | {"start": settings["start"] or cls.default_start}
