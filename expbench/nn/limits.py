"""Limits of a network beyond its degree: the position codes that span its output, and its symmetry.

Both are proved for one layer that is read at the last position (`algebra/spans.py`, `algebra/symmetry.py`).
"""

from __future__ import annotations

from torch import nn

from expbench.algebra.spans import LEARNED, Codes
from expbench.mixer import bounds
from expbench.nn.network import Network

LONGEST = 4096  # positions up to which a span floor takes seconds


def is_symmetric(network: Network) -> bool:
    """Return whether the output is proved to ignore the order of all positions but the last, for any normalisation."""
    alone = len(network.mixers) == 1 and network.last
    return alone and network.code.kind == "none" and "symmetry" in bounds(network.mixers[0])


def spanning_codes(network: Network) -> Codes | None:
    """Return the position codes (L, K) of a network whose output is proved to lie in their span.

    None for other networks: of several layers, normalised, with several input channels, with another layer or code, or for
    more than `LONGEST` positions.
    """
    alone = len(network.mixers) == 1 and network.last and network.polynomial and "span" in bounds(network.mixers[0])
    if not alone or not isinstance(network.embed, nn.Linear) or network.embed.in_features != 1:
        return None
    if network.length > LONGEST:
        return None
    kind: str = network.code.kind
    if kind in ("learned", "onehot"):  # a free vector for each position
        return LEARNED
    if kind == "none":
        return ((),) * network.length
    # added as it is, or times a learned direction: an affine function of the sum is one of the table
    table = network.code.table if kind in ("sin", "index") else None
    return None if table is None else tuple(map(tuple, table.double().tolist()))
