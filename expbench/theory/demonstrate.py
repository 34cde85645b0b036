"""Demonstrations of the constructions: set the weights, evaluate in float64, and report the error in a few lines."""

from __future__ import annotations

from typing import get_args

import torch

from expbench.algebra.parsing import parse
from expbench.console.formatting import aligned, number
from expbench.data.rng import CounterRNG, fold
from expbench.errors import BadInput
from expbench.ops.linear_attention import naive
from expbench.theory import construct

_SEQUENCES = 64
_LONGEST = 1 << 12


def demonstrate(what: str, L: int | None, D: int, N: int) -> str:
    """Return a report on ``lemma2``, ``count-in-row`` or a polynomial given as text; raise `BadInput` for any other text."""
    if what == "lemma2":
        return _lemma2(_length(L, 16), D, N)
    if what == "count-in-row":
        return _count_in_row(_length(L, 64))
    try:
        parsed = parse(what, L)
    except BadInput as error:
        raise BadInput(f"{error}; other choices: lemma2, count-in-row") from error
    used = max((variable + 1 for exponents in parsed.exponents for variable in exponents), default=1)
    return construct.report(construct.theorem2(parsed, _length(L, used)))


def _length(L: int | None, default: int) -> int:
    L = default if L is None else L
    if not 1 <= L <= _LONGEST:
        raise BadInput(f"--L: {L} is not between 1 and {_LONGEST}")
    return L


def _lemma2(L: int, D: int, N: int) -> str:
    """Compare each form of S6 with a random head of linear attention."""
    rng = CounterRNG(fold("lemma2", L, D, N))
    W_Q, W_K, W_V, x = rng.normal(N, D), rng.normal(N, D), rng.normal(D, D), rng.normal(_SEQUENCES, L, D)
    expected = naive(x @ W_Q.mT, x @ W_K.mT, x @ W_V)
    lines = [["S6 layer", "maximum error, relative to the maximum value"]]
    for form in get_args(construct.Form):
        with torch.no_grad():
            error = float((construct.lemma2(W_Q, W_K, W_V, form)(x) - expected).abs().max() / expected.abs().max())
        lines.append([form, number(error)])
    return f"a head of linear attention, D={D}, N={N}, L={L}, as one S6 layer and a linear map:\n{aligned(lines)}"


def _count_in_row(L: int) -> str:
    """Compare one channel with the definition on random bits that include long runs."""
    rng = CounterRNG(fold("count in row", L))
    bits = (rng.uniform(_SEQUENCES, L) < rng.uniform(_SEQUENCES, 1)).long()
    network = construct.count_in_row(L)
    with torch.no_grad():
        found = network(bits).squeeze(-1)
    positions = torch.arange(1, L + 1)
    expected = positions - torch.where(bits == 0, positions, 0).cummax(1).values
    wrong = int((found != expected).sum())
    parameters = sum(p.numel() for p in network.parameters())
    return f"one S6 channel with one state, {parameters} parameters: {wrong} of {expected.numel()} counts are wrong (L={L})"
