"""Floors: the lowest normalised mean squared error (NMSE) that a network's class can reach on a polynomial label.

The label is expanded in orthonormal polynomials of its independent inputs (Legendre polynomials for uniform inputs, {1, (x -
m) / s} for signs). A network that is polynomial end to end can form only products up to its own total degree, and they join
only those positions that its layers join (`Reach`). The share of the label's variance outside this class is its exact floor.
A floor is a lower bound for such networks. A floor of 0 means that degree and structure exclude nothing; it does not mean
that a network of some width can represent the label. Shares of the variance are products over the variables, so they are
accumulated variable by variable, by the number of joined positions (support) and by degree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.algebra.reach import Reach

_Array = NDArray[np.float64]


class Floor(NamedTuple):
    """Lowest NMSE given the network's total degree, given the positions it can join (structure), and given both."""

    degree: float
    structure: float
    both: float


def floor(polynomial: Polynomial, inputs: Inputs, length: int, reach: Reach) -> Floor:
    """Compute the floors of a network with this reach and a read-out at the last of `length` positions, exact to rounding.

    Raise ValueError if the polynomial is neither `Monomials` nor `Suffix`.
    """
    degree, order = min(reach.degree[-1], polynomial.degree), min(reach.order[-1], length)
    if degree == polynomial.degree and order >= _widest(polynomial) and not reach.anchored:
        return Floor(0.0, 0.0, 0.0)
    limits = _Limits(degree, order, reach.anchored)
    if isinstance(polynomial, Suffix):
        spectrum = _of_suffix(polynomial, inputs, limits)
    elif isinstance(polynomial, Monomials):
        spectrum = _of_monomials(polynomial, inputs, length, limits)
    else:
        raise ValueError(f"no floors are known for {type(polynomial).__name__}")
    return limits.floors(spectrum)


def _widest(polynomial: Polynomial) -> int:
    """Return the largest number of variables in one term."""
    return max(map(len, polynomial.exponents)) if isinstance(polynomial, Monomials) else polynomial.degree


class _Limits(NamedTuple):
    """Resolution of a spectrum [last position included or not, support, degree]; the final bin holds everything above."""

    degree: int
    order: int
    anchored: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.order + 2, self.degree + 2

    def floors(self, spectrum: _Array) -> Floor:
        last, support, degree = np.indices(spectrum.shape)
        spectrum = np.where((support == 0) & (degree == 0), 0.0, spectrum)  # the mean is no variance
        too_high = degree > self.degree
        unjoined = support > self.order
        if self.anchored:  # every term that joins positions includes the last one
            unjoined |= (support > 1) & (last == 0)
        total = spectrum.sum()
        return Floor(*(_share(spectrum[out].sum(), total) for out in (too_high, unjoined, too_high | unjoined)))


def _share(part: float, total: float) -> float:
    return float(min(1.0, max(0.0, part / total))) if total > 0 else math.nan


def _of_monomials(polynomial: Monomials, inputs: Inputs, length: int, limits: _Limits) -> _Array:
    """Sum c_m c_n <x^m, P_a> <x^n, P_a> over pairs of monomials, in the spectrum bins of the multi-indices a.

    The spectrum is scaled by the largest term, because shares need only ratios and the terms may overflow.
    """
    terms = [
        (c, e, sum(_log_second_moment(inputs, power) for power in e.values()))
        for c, e in zip(polynomial.coefficients, polynomial.exponents, strict=True)
        if c != 0
    ]
    scale = max(math.log(abs(c)) + logs / 2 for c, _, logs in terms)
    spectrum = np.zeros((2, *limits.shape))
    for i, (c, e, logs) in enumerate(terms):
        for j, (d, f, others) in enumerate(terms[: i + 1]):
            if j < i and not e.keys() & f.keys():
                continue  # without shared variables only the means overlap
            size = math.log(abs(c)) + math.log(abs(d)) + (logs + others) / 2 - 2 * scale
            weight = math.copysign(math.exp(size), c * d) * (1 if j == i else 2)
            spectrum += weight * _pair(inputs, e, f, length, limits)
    return spectrum


def _pair(inputs: Inputs, e: dict[int, int], f: dict[int, int], length: int, limits: _Limits) -> _Array:
    """Return the joint spectrum of two monomials, each divided by the square root of its second moment."""
    state = np.zeros(limits.shape)
    state[0, 0] = 1.0
    for variable in sorted((e.keys() | f.keys()) - {length - 1}):
        shares = _shares(inputs, e.get(variable, 0), f.get(variable, 0))
        state = np.sum([share * _moved(state, k) for k, share in shares], axis=0)
    last = np.zeros((2, *limits.shape))
    for k, share in _shares(inputs, e.get(length - 1, 0), f.get(length - 1, 0)):
        last[int(k > 0)] += share * _moved(state, k)
    return last


def _shares(inputs: Inputs, e: int, f: int) -> Iterator[tuple[int, float]]:
    """Yield k and <x^e, P_k> <x^f, P_k> / sqrt(E[x^2e] E[x^2f]) for orthonormal P_k, k up to the smaller exponent."""
    scale = math.exp(-(_log_second_moment(inputs, e) + _log_second_moment(inputs, f)) / 2)
    a, b = _projections(inputs, e), _projections(inputs, f)
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        yield k, x * y * scale


def _log_second_moment(inputs: Inputs, e: int) -> float:
    return float(inputs.moment(2 * e).ln())


def _projections(inputs: Inputs, e: int) -> list[float]:
    """Return <x^e, P_k> for k = 0..e (at most 1 for signs), with P_k orthonormal under the inputs' distribution."""
    if inputs.kind == "signs":
        mean = float(inputs.moment(1))
        return [1.0] if e % 2 == 0 else [mean, math.sqrt(max(0.0, 1 - mean**2))]
    middle, half = (inputs.low + inputs.high) / 2, (inputs.high - inputs.low) / 2
    return [
        math.sqrt(2 * k + 1)
        * sum(math.comb(e, j) * middle ** (e - j) * half**j * _legendre(j, k) for j in range(k, e + 1, 2))
        for k in range(e + 1)
    ]


def _legendre(j: int, k: int) -> float:
    """Return E[t^j P_k(t)] = j! / ((j-k)!! (j+k+1)!!) for t uniform on [-1, 1] and the Legendre polynomial P_k."""
    return math.factorial(j) / (_double_factorial(j - k) * _double_factorial(j + k + 1))


def _double_factorial(n: int) -> int:
    return math.prod(range(n, 0, -2))


def _moved(state: _Array, k: int) -> _Array:
    """Shift the spectrum by a variable with P_k: for k > 0, support grows by 1 and degree by k."""
    if k == 0:
        return state
    moved = np.zeros_like(state)
    moved[1:] = state[:-1]
    moved[-1] += state[-1]
    columns = min(k, state.shape[1])
    result = np.zeros_like(state)
    result[:, columns:] = moved[:, : state.shape[1] - columns]
    result[:, -1] += moved[:, state.shape[1] - columns :].sum(1)
    return result


def _of_suffix(polynomial: Suffix, inputs: Inputs, limits: _Limits) -> _Array:
    """Compute the spectrum of a suffix polynomial by the first position of each multi-index.

    Every term that contains the first position also contains all positions after it. Positions before it contribute only
    factors of the mean m, so a first position that is i places after the first variable has the coefficient
    1 + m + ... + m^i. Each later position joins independently with the same probability p = Var(x) / E[x^2].
    """
    mean, second = float(inputs.moment(1)), float(inputs.moment(2))
    variance = float(inputs.moment(2) - inputs.moment(1) ** 2)
    p = variance / second
    spectrum = np.zeros((2, *limits.shape))
    after = np.zeros((2, *limits.shape))  # positions after the first; first axis: last position joins or not
    after[0, 0, 0] = 1.0
    powers = list(_geometric(mean, polynomial.degree))
    for later in range(polynomial.degree):  # number of positions after the first
        weight = powers[polynomial.degree - 1 - later] ** 2 * variance * second**later
        first = np.stack([_moved(x, 1) for x in after])
        if later == 0:
            spectrum[1] += weight * first[0]  # the first position is also the last
            after = np.stack([(1 - p) * after[0], p * _moved(after[0], 1)])
        else:
            spectrum += weight * first
            after = np.stack([(1 - p) * x + p * _moved(x, 1) for x in after])
    return spectrum


def _geometric(ratio: float, count: int) -> Sequence[float]:
    sums, total, power = [], 0.0, 1.0
    for _ in range(count):
        total += power
        power *= ratio
        sums.append(total)
    return sums
