"""Span floors: the least error of one layer of linear attention with its position codes.

The functions that one such layer computes, whatever its weights, lie in a linear space whose dimension is about twice the
width of the codes. The distance of the label from this space is a lower bound for the error. The bounds by degree and
structure (`floors.py`) give every position a coefficient of its own; codes of eight numbers cannot choose 32 coefficients.

Theorem. One layer without normalisation reads e_t = w x_t + b + p_t, where x_t is a number and p_t the position code. The
network's output at the last position L, with or without a residual connection, lies in the span of

    1,  x_L,  sum_j g(p_j) x_j,  x_L sum_j g(p_j) x_j,  sum_j x_j^2,  x_L sum_j x_j^2     (g: any affine function of a code).

Proof. The output is h0 + h e_L + (1/L) sum_j (q_L k_j) (h v_j) with a read-out h, and q, k, v affine in e. Thus
q_L = a + a' x_L and k_j = k(p_j) + k' x_j with k affine, so q_L k_j = A(p_j) + x_L A'(p_j) + c x_j + c' x_L x_j with affine
A and A' and numbers c, c'. Also h v_j = B(p_j) + n x_j with B affine. In the product x_j has the coefficient
c B(p_j) + n A(p_j), and x_L x_j has c' B(p_j) + n A'(p_j): both are affine in p_j. Those of x_j^2 and x_L x_j^2 are n c and
n c', equal for all j. The remaining terms A B and x_L A' B are multiples of 1 and x_L, and so is h e_L without its constant.
With codes of three numbers or more, weights exist for nearly every member of the span, so the floor is exact (tested).

Learned codes are free, so that g(p_j) may be any number: only the squares are tied. The bound holds in exact arithmetic, for
weights of any size and for the codes as the network stores them. Nearly dependent codes therefore lower it. At base 10,000
and width 8 the slowest sinusoids in float32 are independent through their rounding alone, and a network that used this would
need weights that float32 cannot evaluate. `largest` gives the sharper bound for coefficients of bounded size.

The label is projected in orthonormal polynomials P_k of its inputs, with 150 digits. Whether codes are independent is
decided in whole numbers, without a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix

_Array = NDArray[np.float64]
Codes = tuple[tuple[float, ...], ...]  # L codes of K numbers each; K is 0 without codes
LEARNED: Codes = ()  # codes that are free
ERROR = 1e-12  # bound on the rounding error of a floor, which is lowered by it
_DIGITS = Context(prec=150)
_LONGEST_CODE = 32  # numbers; longer codes count as learned ones, which is a lower bound too
_BITS = 100  # after the binary point of the label's coefficients, in exact distances
# For a uniform input of mean m and standard deviation s, the P_2 and P_3 parts of x^2 are s^2 _SQUARE and 0, and those of
# x^3 are 3 m s^2 _SQUARE and s^3 _SQUARE _CUBE.
_SQUARE, _CUBE = 2 / math.sqrt(5), 3 * math.sqrt(15) / (5 * math.sqrt(7))


class _Label(NamedTuple):
    """Coefficients of a label of variance 1.

    last (3): of P_1, P_2, P_3 of x_L. first, joint (2, L-1): of P_k(x_j) and P_k(x_j) P_1(x_L), k = 1, 2, j below L.
    """

    last: _Array
    first: _Array
    joint: _Array


def span_floor(polynomial: Polynomial, inputs: Inputs, length: int, codes: Codes, *, largest: float = math.inf) -> float:
    """Return the least NMSE of one layer of linear attention with these codes (L, K), or with `LEARNED` ones.

    largest: bound on the Euclidean norm of the slopes of g, for a label of variance 1: of the coefficients of x_L x_j,
    and of those of x_j where x_L is at its mean. Raise ValueError if the polynomial is neither `Monomials` nor `Suffix`.
    """
    label, n = _label(polynomial, inputs, length), length - 1
    # the squares are tied, so only the mean over j of a coefficient of P_2(x_j) can be reached
    square, joint_square = label.first[1].sum() / math.sqrt(max(n, 1)), label.joint[1].sum() / math.sqrt(max(n, 1))
    reached = math.fsum(x * x for x in [*label.last, *label.first[0], *label.joint[0], square, joint_square])
    missed = max(0.0, 1.0 - reached)
    if inputs.kind == "unit":  # x_L sum_j x_j^2 alone holds P_2(x_j) P_1(x_L), n times, and P_3(x_L)
        missed += float((_CUBE * joint_square - math.sqrt(n) * label.last[2]) ** 2 / (_CUBE**2 + n))
    if codes and len(codes[0]) < min(length, _LONGEST_CODE + 1):
        deviation = float(inputs.moment(2) - inputs.moment(1) ** 2) ** 0.5
        table = np.c_[np.ones(length), np.array(codes, np.float64).reshape(length, -1)]
        missed += _distance(table[:n], label.first[0], largest * deviation)
        if inputs.kind == "signs":
            missed += _distance(table[:n], label.joint[0], largest * deviation**2)
        else:
            # Rows: P_1(x_j) P_1(x_L) for each j, P_2(x_L), the mean of P_2(x_j) over j. First column: sum_j x_j^2.
            features = np.zeros((n + 2, 1 + table.shape[1]))
            features[:n, 1:], features[n, 1:] = table[:n], _SQUARE * table[n]
            features[n:, 0] = 1, math.sqrt(n)
            missed += _distance(features, np.r_[label.joint[0], label.last[1], square], largest * deviation**2, tied=1)
    return min(1.0, max(0.0, missed - ERROR))


def _distance(features: _Array, target: _Array, largest: float, tied: int = 0) -> float:
    """Return the squared distance of the target (n) from the span of the features (n, K), or a lower bound.

    The coefficients of all but the first 1 + `tied` features have a norm of at most `largest`.
    """
    if not target.any():
        return 0.0
    found = _exact_distance(features, target)
    return found if math.isinf(largest) else max(found, _bounded_distance(features, target, largest, 1 + tied))


def _exact_distance(features: _Array, target: _Array) -> float:
    """Return the squared distance as a quotient of Gram determinants, by elimination in whole numbers (Bareiss 1968).

    Only the upper triangle is used. A feature that depends on earlier ones has the pivot 0 exactly. Only the target is
    rounded, to `_BITS` bits.
    """
    bits = max(Fraction(x).denominator.bit_length() for x in features.flat)
    columns = [[int(Fraction(x) * (1 << bits)) for x in column] for column in features.T]
    columns.append([round(Fraction(x) * (1 << _BITS)) for x in target])
    gram = [[sum(map(mul, a, b)) if i <= j else 0 for j, b in enumerate(columns)] for i, a in enumerate(columns)]
    last = 1
    for k in range(len(gram) - 1):
        pivot = gram[k][k]
        if pivot == 0:
            continue
        for i in range(k + 1, len(gram)):
            for j in range(i, len(gram)):
                gram[i][j] = (gram[i][j] * pivot - gram[k][i] * gram[k][j]) // last
        last = pivot
    return float(Fraction(gram[-1][-1], last) / (1 << 2 * _BITS))


def _bounded_distance(features: _Array, target: _Array, largest: float, free: int) -> float:
    """Return a lower bound on the squared distance if the coefficients have a norm of at most `largest`.

    For every m >= 0, the least of |target - F c|^2 + m (|c|^2 - largest^2) over all c is such a bound (weak duality). The
    rounding of the singular values changes F c by at most a few units of the last place times `largest`.
    """
    basis, _ = np.linalg.qr(features[:, :free])
    target = target - basis @ (basis.T @ target)
    left, sizes, _ = np.linalg.svd(features[:, free:] - basis @ (basis.T @ features[:, free:]), full_matrices=False)
    along = (left.T @ target) ** 2
    outside = max(0.0, float(target @ target - along.sum()))
    multipliers = np.geomspace(1e-40, 1e10, 2001)[:, None]
    bounds = outside + (along * multipliers / (sizes**2 + multipliers)).sum(1) - multipliers[:, 0] * largest**2
    rounding = 1e-14 * largest * float(np.linalg.norm(features))
    return max(0.0, float(bounds.max()) - rounding * (2 * float(np.linalg.norm(target)) + rounding))


def _label(polynomial: Polynomial, inputs: Inputs, length: int) -> _Label:
    """Return the coefficients of the standardised label."""
    variance = Decimal(polynomial.moments(inputs).variance)
    with localcontext(_DIGITS):
        if isinstance(polynomial, Suffix):
            terms = _of_suffix(polynomial, inputs)
        elif isinstance(polynomial, Monomials):
            terms = _of_monomials(polynomial, inputs, length)
        else:
            raise ValueError(f"no span floor is known for {type(polynomial).__name__}")
        last, others = [Decimal(0)] * 4, np.full((2, 3, length), Decimal(0))
        for variable, k, joined, coefficient in terms:
            if variable == length - 1:
                last[k] += coefficient
            else:
                others[joined, k, variable] += coefficient
        deviation = variance.sqrt()
        shares = (others[:, 1:, :-1] / deviation).astype(np.float64)
        return _Label(np.array([float(x / deviation) for x in last[1:]]), shares[0], shares[1])


_Term = tuple[int, int, int, Decimal]  # variable j, k, whether P_1(x_L) is a factor, coefficient of P_k(x_j)


def _of_monomials(polynomial: Monomials, inputs: Inputs, length: int) -> Iterator[_Term]:
    for c, exponents in zip(polynomial.coefficients, polynomial.exponents, strict=True):
        ends = _projections(inputs, exponents.get(length - 1, 0))
        variables = sorted(exponents.keys() - {length - 1})
        means = [inputs.moment(exponents[v]) for v in variables]
        before = list(accumulate(means, mul, initial=Decimal(c)))
        after = list(accumulate(reversed(means), mul, initial=Decimal(1)))[::-1]
        for k in (1, 2, 3):
            yield length - 1, k, 0, before[-1] * ends[k]
        for i, variable in enumerate(variables):
            others, own = before[i] * after[i + 1], _projections(inputs, exponents[variable])
            for k in (1, 2):
                yield variable, k, 0, others * own[k] * ends[0]
                yield variable, k, 1, others * own[k] * ends[1]


def _of_suffix(polynomial: Suffix, inputs: Inputs) -> Iterator[_Term]:
    """The product of the last m inputs holds P_1(x_j) with mean^(m-1), and P_1(x_j) P_1(x_L) with mean^(m-2)."""
    mean, q, length = inputs.moment(1), polynomial.degree, polynomial.length
    deviation = (inputs.moment(2) - mean**2).sqrt()
    powers = [Decimal(1), *accumulate([mean] * (q - 1), mul)] if q > 1 else [Decimal(1)]
    single = joint = Decimal(0)
    for m in range(q, 0, -1):  # the m-th input from the end is in the products of m inputs and more
        single += powers[m - 1]
        yield length - m, 1, 0, deviation * single
        if m > 1:
            joint += powers[m - 2]
            yield length - m, 1, 1, deviation**2 * joint


def _projections(inputs: Inputs, e: int) -> list[Decimal]:
    """Return <x^e, P_k> for k = 0..3 (for signs 0 from 2 on), with P_k orthonormal under the inputs' distribution."""
    mean = inputs.moment(1)
    moments = [inputs.moment(e + i) for i in range(4)]
    if inputs.kind == "signs":
        deviation = (1 - mean**2).sqrt()
        return [moments[0], (moments[1] - mean * moments[0]) / deviation, Decimal(0), Decimal(0)]
    half = (Decimal(inputs.high) - Decimal(inputs.low)) / 2
    signed = list(accumulate([-mean] * 3, mul, initial=Decimal(1)))  # powers of -mean, whose 0^0 is an error
    t = [sum(math.comb(k, i) * moments[i] * signed[k - i] for i in range(k + 1)) / half**k for k in range(4)]
    legendre = [t[0], t[1], (3 * t[2] - t[0]) / 2, (5 * t[3] - 3 * t[1]) / 2]
    return [Decimal(2 * k + 1).sqrt() * x for k, x in enumerate(legendre)]
