"""How far a polynomial network reaches: total degree and interaction order of its output, position by position.

A network that is polynomial end to end computes at each position t a polynomial of its inputs x_1..x_t. Its total degree
bounds the powers it can form; its interaction order (the most distinct positions that one term can join) is the sharper
limit: one linear-attention layer has degree 3 and order 2. Each layer maps the reach of its input to that of its output;
softmax, exp, softplus and LayerNorm are not polynomial, and then there is no reach (None), hence no bound.
"""

from __future__ import annotations

from typing import NamedTuple

from expbench.console.formatting import whole


class Reach(NamedTuple):
    """Upper bounds, attained for generic weights: `degree[t]` and `order[t]` of the polynomial at position t (from 0).

    anchored: whether every term that joins two positions or more holds t itself, as those of one attention layer do.
    """

    degree: tuple[int, ...]
    order: tuple[int, ...]
    anchored: bool = False

    @classmethod
    def of_inputs(cls, length: int) -> Reach:
        """The reach of the embedded input: each position an affine function of its own token."""
        return cls((1,) * length, (1,) * length, anchored=True)

    @classmethod
    def capped(cls, degree: list[int], order: list[int], *, anchored: bool = False) -> Reach:
        """A reach whose order at position t is cut to the t+1 positions that a causal network has seen."""
        return cls(tuple(degree), tuple(min(o, t + 1) for t, o in enumerate(order)), anchored)

    def __or__(self, other: Reach) -> Reach:
        """The reach of a sum (a residual connection): the larger at each position."""
        return Reach(
            tuple(map(max, self.degree, other.degree)),
            tuple(map(max, self.order, other.order)),
            self.anchored and other.anchored,
        )


NO_BOUND = "no polynomial bound"


def degree_and_order(reach: Reach | None) -> str:
    """Total degree and interaction order of the output at the last position."""
    return NO_BOUND if reach is None else f"degree {whole(reach.degree[-1])}, order {reach.order[-1]}"
