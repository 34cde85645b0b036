"""Reach of a polynomial network: total degree and interaction order of its output at each position.

A network that is polynomial end to end computes a polynomial of its inputs x_1..x_t at each position t. Its total degree
bounds the powers in a term. Its interaction order (the largest number of distinct positions in one term) is the sharper
limit: one linear-attention layer has degree 3 and order 2. Each layer maps the reach of its input to the reach of its
output. Softmax, exp, softplus and LayerNorm are not polynomial: a network with them has no bound (`NO_BOUND`). A layer
that says neither has no stated reach (None).
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from expbench.console.formatting import whole


class Reach(NamedTuple):
    """Upper bounds, attained for generic weights: `degree[t]` and `order[t]` of the polynomial at position t (from 0).

    anchored: whether every term with two or more positions contains t itself, as in a single attention layer.
    """

    degree: tuple[int, ...]
    order: tuple[int, ...]
    anchored: bool = False

    @classmethod
    def of_inputs(cls, length: int) -> Reach:
        """Return the reach of the embedded input, where each position is an affine function of its own token."""
        return cls((1,) * length, (1,) * length, anchored=True)

    @classmethod
    def capped(cls, degree: list[int], order: list[int], *, anchored: bool = False) -> Reach:
        """Return a reach with its order at position t limited to t+1, the number of positions that a causal network sees."""
        return cls(tuple(degree), tuple(min(o, t + 1) for t, o in enumerate(order)), anchored)

    def __or__(self, other: Reach) -> Reach:
        """Return the reach of a sum (a residual connection): the maximum at each position."""
        return Reach(
            tuple(map(max, self.degree, other.degree)),
            tuple(map(max, self.order, other.order)),
            self.anchored and other.anchored,
        )


class NoBound(Enum):
    """Type of `NO_BOUND`, the statement that a layer or a network is not polynomial."""

    NO_BOUND = "no polynomial bound"


NO_BOUND: Final = NoBound.NO_BOUND
NOT_STATED = "not stated"


def degree_and_order(reach: Reach | NoBound | None) -> str:
    """Format the total degree and the interaction order of the output at the last position; None: not stated."""
    if not isinstance(reach, Reach):
        return NOT_STATED if reach is None else reach.value
    return f"degree {whole(reach.degree[-1])}, order {reach.order[-1]}"
