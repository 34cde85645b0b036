"""Exact measurement of a network's total degree and interaction order (the number of positions in one term).

The network's own code runs on residues modulo a prime (`residues.py`), with generic weights. Along a random line x + s v
the output is a polynomial in s with the network's total degree F. The finite difference of order F is therefore not 0, and
the one of order F + 1 is 0. To find the order, each position takes its value from one of two random points, which gives 2^L
outputs. The mixed difference over a set S of positions is 0 unless one term contains all of S. A nonzero difference proves
that the degree or order is reached; a difference is 0 by chance with probability about F / p for each of two primes
(Schwartz-Zippel lemma).
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expbench.mixer import in_precision
from expbench.ops import backends
from expbench.theory.residues import PRIMES, modulo

MOST_POSITIONS = 14  # the order needs all 2^L sets of positions
_AT_ONCE = 1 << 15  # points per forward pass


class Extent(NamedTuple):
    """Total degree of y_L in all entries of x_1..x_L, and the largest number of positions in one term; -1 for y_L = 0.

    order: None if there are too many positions to try all subsets.
    """

    degree: int
    order: int | None


def generic(network: nn.Module, seed: int = 0, *, double: bool = True) -> nn.Module:
    """Return a float64 copy with random normal parameters, so that no product is 0 because of the initialisation.

    Parameters that are not trained keep their values, because they may be masks. double: whether the network may be
    converted to float64; otherwise it keeps its dtype.
    """
    made = copy.deepcopy(network)
    if double:
        in_precision(made, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for parameter in (p for p in made.parameters() if p.requires_grad):
        parameter.requires_grad_(False)
        dtype = torch.complex128 if parameter.is_complex() else torch.float64
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return made


def has_degree(network: nn.Module, length: int, channels: int, degree: int) -> bool:
    """Return whether the total degree of the output for inputs (B, length, channels) is exactly `degree`.

    Raise `NotPolynomial`, which names the operation, if the network is not a polynomial, and `NotMeasured` if it has an
    operation that is not known.
    """
    reached = False
    for p in PRIMES:
        values = _on_a_line(network, length, channels, degree + 2, p)
        reached |= bool(_difference(values[:-1], p).any())
        if bool(_difference(values, p).any()):
            return False
    return reached


def degree_of(network: nn.Module, length: int, channels: int, most: int = 1 << 12) -> int | None:
    """Find the total degree of the output without prior knowledge; None if it is above `most`, -1 for output 0."""
    points = 8
    while points <= 2 * (most + 4):
        values = _on_a_line(network, length, channels, points, PRIMES[0])
        highest = -1
        for k in range(points):
            if bool(values[0].any()):
                highest = k
            values = (values[1:] - values[:-1]) % PRIMES[0]
        if highest > most:
            return None
        if highest < points - 3:  # at least three consecutive differences are 0, so a zero by chance is ruled out
            return highest
        points *= 2
    return None


def order_of(network: nn.Module, length: int, channels: int) -> int:
    """Find the largest number of positions in one term of the output by trying all 2^length sets; -1 for output 0."""
    if length > MOST_POSITIONS:
        raise ValueError(f"length={length}: the order can be measured for at most {MOST_POSITIONS} positions")
    largest = -1
    chosen = torch.arange(1 << length).unsqueeze(1) >> torch.arange(length) & 1
    for p in PRIMES:
        base, other = (_random(p, seed, length, channels) for seed in (1, 2))
        values = _values(network, torch.where(chosen.bool().unsqueeze(-1), other, base), p)
        for i in range(length):  # Moebius transform: the alternating sum over the subsets of each set
            pairs = values.view(-1, 2, 1 << i, values.shape[1])
            values = torch.stack([pairs[:, 0], (pairs[:, 1] - pairs[:, 0]) % p], 1).view(values.shape)
        joined = chosen.sum(1)[values.any(1)]
        largest = max(largest, int(joined.max()) if len(joined) else -1)
        if largest == length:  # a nonzero value modulo one prime is a proof
            break
    return largest


def _on_a_line(network: nn.Module, length: int, channels: int, points: int, p: int) -> Tensor:
    """Return the outputs (points, O), as residues, at x + s v for s = 0, 1, ..., points - 1."""
    x, v = (_random(p, seed, length, channels) for seed in (3, 4))
    parts = [
        _values(network, (x + s[:, None, None] * v % p) % p, p)
        for s in torch.arange(points, dtype=torch.int64).split(_AT_ONCE)
    ]
    return torch.cat(parts)


def _values(network: nn.Module, inputs: Tensor, p: int) -> Tensor:
    """Return the outputs (B, O) of the network, as residues, for inputs (B, L, C) of residues."""
    dtype = next((x.real.dtype for x in network.parameters() if x.is_floating_point() or x.is_complex()), torch.float64)
    with backends.using("reference"), modulo(p, dtype) as lifted:
        y = lifted(network(lifted(inputs)))
    return y.values.flatten(1)


def _random(p: int, seed: int, *shape: int) -> Tensor:
    return torch.randint(p, shape, generator=torch.Generator().manual_seed(seed))


def _difference(values: Tensor, p: int) -> Tensor:
    """Return the finite difference (O,) of order n - 1 of values (n, O) at 0, 1, ..., n - 1, modulo p."""
    return (values * _binomials(len(values) - 1, p).unsqueeze(1) % p).sum(0) % p


@lru_cache(maxsize=16)
def _binomials(n: int, p: int) -> Tensor:
    """Return the signed binomials (-1)^(n-k) C(n, k) modulo p for k = 0..n."""
    factorials = [1]
    for k in range(1, n + 1):
        factorials.append(factorials[-1] * k % p)
    inverses = [pow(factorials[-1], -1, p)]
    for k in range(n, 0, -1):
        inverses.append(inverses[-1] * k % p)
    inverses.reverse()
    binomials = [factorials[n] * inverses[k] % p * inverses[n - k] % p for k in range(n + 1)]
    return torch.tensor([b if (n - k) % 2 == 0 else p - b for k, b in enumerate(binomials)])
