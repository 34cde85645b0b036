"""S6 with Taylor polynomials for softplus and exp, and Bbar = B: Eq. 5 of arXiv 2502.02209, the paper's simplified layer."""

from __future__ import annotations

from expbench.models.s6_poly_disc import S6PolyDisc


class S6Poly(S6PolyDisc):
    """Eq. 5. Settings as in S6PolyDisc. One layer has degree (L-1) a p + 3, where a and p are the polynomials' degrees."""

    discretise_b = False
