"""Degree and interaction order of a network, measured exactly: total degree, and how many positions one term of it joins.

The network's own code runs on residues modulo a prime (`residues.py`), with generic weights. On a random line x + s v its
output is a polynomial in s of its total degree F, so the finite difference of order F is not 0 and that of order F + 1 is.
Between two random points the output takes 2^L values, one for each set of positions that come from the second; the mixed
difference over a set S is 0 unless a term joins all of S. A difference that is not 0 proves that the degree, or order, is
reached; that one is 0 by chance has a probability of about F / p for each of two primes (Schwartz and Zippel).
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expbench.ops import backends
from expbench.theory.residues import PRIMES, modulo

MOST_POSITIONS = 14  # of which all 2^L sets are tried
_AT_ONCE = 1 << 15  # points that go through the network together


class Extent(NamedTuple):
    """Total degree of y_L in all entries of x_1..x_L, and the most positions that one term of it joins; -1 of zero.

    order: None where there are too many positions to try all sets of them.
    """

    degree: int
    order: int | None


def generic(network: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 with random normal parameters: no product of them is 0 by the initialisation's doing.

    What is not trained stays as it is: it may be a mask.
    """
    made = copy.deepcopy(network).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in (p for p in made.parameters() if p.requires_grad):
        parameter.requires_grad_(False)
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def has_degree(network: nn.Module, length: int, channels: int, degree: int) -> bool:
    """Whether the total degree of the output for inputs (B, length, channels) is exactly `degree`.

    Raises `NotPolynomial`, which names the operation, for a network that is no polynomial.
    """
    reached = False
    for p in PRIMES:
        values = _on_a_line(network, length, channels, degree + 2, p)
        reached |= bool(_difference(values[:-1], p).any())
        if bool(_difference(values, p).any()):
            return False
    return reached


def degree_of(network: nn.Module, length: int, channels: int, most: int = 1 << 12) -> int | None:
    """The total degree of the output, of which nothing is known beforehand; None if it is above `most`; -1 for 0."""
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
        if highest < points - 3:  # three differences and more in a row are 0
            return highest
        points *= 2
    return None


def order_of(network: nn.Module, length: int, channels: int) -> int:
    """The most positions that one term of the output joins, by all 2^length sets of positions; -1 for 0."""
    if length > MOST_POSITIONS:
        raise ValueError(f"length={length}: the order is measured up to {MOST_POSITIONS} positions")
    largest = -1
    chosen = torch.arange(1 << length).unsqueeze(1) >> torch.arange(length) & 1
    for p in PRIMES:
        base, other = (_random(p, seed, length, channels) for seed in (1, 2))
        values = _values(network, torch.where(chosen.bool().unsqueeze(-1), other, base), p)
        for i in range(length):  # Moebius: of each set the alternating sum over its subsets
            pairs = values.view(-1, 2, 1 << i, values.shape[1])
            values = torch.stack([pairs[:, 0], (pairs[:, 1] - pairs[:, 0]) % p], 1).view(values.shape)
        joined = chosen.sum(1)[values.any(1)]
        largest = max(largest, int(joined.max()) if len(joined) else -1)
        if largest == length:  # which one prime proves
            break
    return largest


def _on_a_line(network: nn.Module, length: int, channels: int, points: int, p: int) -> Tensor:
    """Outputs (points, O) at x + s v for s = 0, 1, ..., as residues."""
    x, v = (_random(p, seed, length, channels) for seed in (3, 4))
    parts = [
        _values(network, (x + s[:, None, None] * v % p) % p, p)
        for s in torch.arange(points, dtype=torch.int64).split(_AT_ONCE)
    ]
    return torch.cat(parts)


def _values(network: nn.Module, inputs: Tensor, p: int) -> Tensor:
    """The network's outputs (B, O) for inputs (B, L, C) of residues."""
    with backends.using("reference"), modulo(p) as lifted:
        y = network(lifted(inputs))
    values: Tensor = y.values.flatten(1)
    return values


def _random(p: int, seed: int, *shape: int) -> Tensor:
    return torch.randint(p, shape, generator=torch.Generator().manual_seed(seed))


def _difference(values: Tensor, p: int) -> Tensor:
    """The finite difference of order n - 1 of values (n, O) at 0, 1, ..., n - 1, modulo p."""
    return (values * _binomials(len(values) - 1, p).unsqueeze(1) % p).sum(0) % p


@lru_cache(maxsize=16)
def _binomials(n: int, p: int) -> Tensor:
    """(-1)^(n-k) C(n, k) modulo p for k = 0..n."""
    factorials = [1]
    for k in range(1, n + 1):
        factorials.append(factorials[-1] * k % p)
    inverses = [pow(factorials[-1], -1, p)]
    for k in range(n, 0, -1):
        inverses.append(inverses[-1] * k % p)
    inverses.reverse()
    binomials = [factorials[n] * inverses[k] % p * inverses[n - k] % p for k in range(n + 1)]
    return torch.tensor([b if (n - k) % 2 == 0 else p - b for k, b in enumerate(binomials)])
