"""S6 with Bbar = B: Delta does not scale the input; exp and softplus are exact (Eq. 6 of arXiv 2502.02209)."""

from __future__ import annotations

from expbench.models.s6 import S6


class S6BbarB(S6):
    """Eq. 6, the "non-polynomial, Bbar = B" row of the paper's Table 1. Settings as in S6."""

    discretise_b = False
    backends = ("reference", "torch", "triton")
