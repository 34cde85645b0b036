"""Symmetry floors: the least error of a network that does not see the order of the past.

One attention layer without position codes adds up terms of the pairs (x_L, x_j). Its output at the last position depends on
x_L and on the multiset of the other inputs only, for every width, all weights, any normalisation of single tokens, and with
softmax too. The inputs are independent and identically distributed, so the best such predictor of the label y is its mean Sy
over the permutations of x_1 .. x_(L-1), and the least error is exactly Var(y - Sy) / Var(y) = 1 - Var(Sy) / Var(y).

Two causal layers are not invariant: the first one gives each position a sum over its own past.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Context, Decimal, localcontext
from functools import reduce
from itertools import accumulate
from operator import mul, sub

from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.algebra.spans import ERROR

_DIGITS = Context(prec=150)
_MOST_STEPS = 200_000  # for one pair of monomials; a label that needs more has no such floor
_LONGEST, _LONGEST_PLAIN = 4096, 512
_Counts = tuple[tuple[int, int], ...]  # (exponent, number of positions with it), without the exponent 0


def symmetry_floor(polynomial: Polynomial, inputs: Inputs, length: int) -> float:
    """Return the least NMSE of a function of x_L and the multiset of x_1 .. x_(L-1); 0 if it is too expensive to compute.

    Raise ValueError if the polynomial is neither `Monomials` nor `Suffix`.
    """
    if length > _LONGEST:
        return 0.0
    moments = polynomial.moments(inputs)
    with localcontext(_DIGITS):
        if isinstance(polynomial, Suffix):
            kept = _of_suffix(polynomial, inputs)
        elif isinstance(polynomial, Monomials):
            kept = _of_monomials(polynomial, inputs, length)
        else:
            raise ValueError(f"no symmetry floor is known for {type(polynomial).__name__}")
        return 0.0 if kept is None else min(1.0, max(0.0, float(1 - kept / Decimal(moments.variance)) - ERROR))


def _of_suffix(polynomial: Suffix, inputs: Inputs) -> Decimal | None:
    """Return Var(Sy) of x_L times the sum of the products of its last a inputs before it, a = 0 .. q-1.

    With x = m + s P_1, the coefficients of order k in the product of a inputs have the sum C(a, k) m^(a-k) s^k. The mean
    over permutations spreads it evenly over the C(L-1, k) products of order k.
    """
    mean, square = inputs.moment(1), inputs.moment(2)
    deviation = (square - mean**2).sqrt()
    if 0 <= mean < 1:
        total = _sums(polynomial.degree, mean, deviation)
    elif polynomial.degree <= _LONGEST_PLAIN:
        total = _plain_sums(polynomial.degree, mean, deviation)
    else:
        return None
    shares = (x * x / math.comb(polynomial.length - 1, k) for k, x in enumerate(total))
    return square * sum(shares, Decimal(0)) - mean * mean * total[0] * total[0]


def _plain_sums(q: int, mean: Decimal, deviation: Decimal) -> list[Decimal]:
    """Return the coefficients of the sum of (mean + deviation z)^a over a = 0 .. q-1, from the powers."""
    power, total = [Decimal(1)], [Decimal(0)] * q
    for a in range(q):
        for k, coefficient in enumerate(power):
            total[k] += coefficient
        if a + 1 < q:
            power = [mean * x + deviation * y for x, y in zip([*power, Decimal(0)], [Decimal(0), *power], strict=True)]
    return total


def _sums(q: int, mean: Decimal, deviation: Decimal) -> list[Decimal]:
    """Return the same for a mean in [0, 1), in linear time.

    The sum times 1 - mean - deviation z is 1 - (mean + deviation z)^q. From the highest power of z down, no terms cancel.
    """
    last, above, total = deviation**q, Decimal(0), [Decimal(0)] * q  # last: the coefficient of z^k in the q-th power
    for k in range(q, 0, -1):
        above = ((1 - mean) * above + last) / deviation
        total[k - 1] = above
        last *= mean * k / (deviation * (q - k + 1))
    return total


def _of_monomials(polynomial: Monomials, inputs: Inputs, length: int) -> Decimal | None:
    """Return Var(Sy) as a sum over pairs of monomials; those that a permutation exchanges are added up first."""
    alike: dict[tuple[int, _Counts], Decimal] = defaultdict(Decimal)
    for coefficient, exponents in zip(polynomial.coefficients, polynomial.exponents, strict=True):
        found = Counter(e for variable, e in exponents.items() if variable != length - 1 and e)
        alike[exponents.get(length - 1, 0), tuple(sorted(found.items()))] += Decimal(coefficient)
    mean = square = Decimal(0)
    terms = list(alike.items())
    for i, ((last, counts), c) in enumerate(terms):
        mean += c * inputs.moment(last) * _product(_power(inputs.moment(e), n) for e, n in counts)
        for j, ((other, others), d) in enumerate(terms[: i + 1]):
            joint = _mean_product(counts, others, length - 1, inputs)
            if joint is None:
                return None
            square += (1 if i == j else 2) * c * d * inputs.moment(last + other) * joint
    return square - mean**2


def _mean_product(first: _Counts, second: _Counts, positions: int, inputs: Inputs) -> Decimal | None:
    """Return the mean of E[x^e x^f] over the permutations of the exponents f; None if there are too many tables.

    A table N counts the positions with exponent r in e and s in f. Of the n! permutations, prod a_r! prod b_s! / prod N_rs!
    give this table with the row sums a and the column sums b, and the expectation is prod E[x^(r+s)]^N_rs.
    """
    rows = (*first, (0, positions - sum(n for _, n in first)))  # the row of exponent 0 takes what is left
    columns = (*second, (0, positions - sum(n for _, n in second)))
    sums = {tuple(n for _, n in columns): Decimal(1)}  # over the rows so far, by what they leave of the columns
    steps = 0
    for e, row in rows:
        weights = [_weights(inputs.moment(e + f), min(row, n)) for f, n in columns]
        after: dict[tuple[int, ...], Decimal] = defaultdict(Decimal)
        for left, value in sums.items():
            for taken in _ways(row, left):
                steps += 1
                if steps > _MOST_STEPS:
                    return None
                after[tuple(map(sub, left, taken))] += value * _product(w[n] for w, n in zip(weights, taken, strict=True))
        sums = dict(after)
    ways = math.prod(math.factorial(n) for _, n in (*rows, *columns))
    return sum(sums.values(), Decimal(0)) * ways / math.factorial(positions)


def _weights(moment: Decimal, most: int) -> list[Decimal]:
    """Return moment^n / n! for n = 0 .. most."""
    return list(accumulate(range(1, most + 1), lambda value, n: value * moment / n, initial=Decimal(1)))


def _ways(total: int, limits: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as a sum of numbers from 0 to the limits."""
    if len(limits) == 1:
        yield from [(total,)] * (total <= limits[0])
        return
    for n in range(max(0, total - sum(limits[1:])), min(total, limits[0]) + 1):
        for others in _ways(total - n, limits[1:]):
            yield (n, *others)


def _power(x: Decimal, n: int) -> Decimal:
    return x**n if n else Decimal(1)  # 0^0 is an error in decimal arithmetic


def _product(factors: Iterable[Decimal]) -> Decimal:
    return reduce(mul, factors, Decimal(1))
