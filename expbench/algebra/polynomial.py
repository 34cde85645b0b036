"""Polynomials of independent, identically distributed inputs: values, exact moments and interaction order.

Labels are standardised by these closed forms, never by a sample: the moments of a product of many variables are carried
by events that no sample contains. All moments follow from the inputs' raw moments E[x^k], because the variables are
independent; the interaction order is that of the ANOVA (Hoeffding) decomposition of the label's variance. Central moments
are differences of raw ones that may agree in most of their digits, so they are computed with 150 of them.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from expbench.data.rng import Draws

_DIGITS = Context(prec=150)


class Inputs(NamedTuple):
    """The distribution of each variable: uniform on [low, high], or -1 with probability eps and else +1."""

    kind: Literal["unit", "signs"]
    low: float = 0.0
    high: float = 1.0
    eps: float = 0.0

    def moment(self, k: int) -> Decimal:
        """E[x^k], to the precision of the decimal context."""
        low, high, eps = Decimal(self.low), Decimal(self.high), Decimal(self.eps)
        if self.kind == "signs":
            return Decimal(1) if k % 2 == 0 else 1 - 2 * eps
        return (high ** (k + 1) - low ** (k + 1)) / ((k + 1) * (high - low)) if k else Decimal(1)

    def draw(self, draws: Draws, *shape: int) -> Tensor:
        """Float64 inputs of the given shape."""
        if self.kind == "signs":
            return 1.0 - 2.0 * draws.coins(*shape, p=self.eps).double()
        return draws.uniform(*shape, low=self.low, high=self.high)


class Moments(NamedTuple):
    """Mean, variance and kurtosis of the label, and its mean interaction order; NaN where the variance is 0."""

    mean: float
    variance: float
    kurtosis: float
    interaction_order: float


class _Parts(NamedTuple):
    """Exact mean, second and fourth central moments, and the sum of the total variances of the variables."""

    mean: Decimal
    variance: Decimal
    fourth: Decimal
    totals: Decimal

    def rounded(self) -> Moments:
        if not self.variance > 0:
            return Moments(float(self.mean), 0.0, math.nan, math.nan)
        kurtosis, order = self.fourth / self.variance**2, self.totals / self.variance
        return Moments(float(self.mean), float(self.variance), float(kurtosis), float(order))


def _central(raw: Sequence[Decimal]) -> tuple[Decimal, Decimal]:
    """The second and fourth central moments from E[y^0..4]."""
    m = raw[1]
    return raw[2] - m**2, raw[4] - 4 * m * raw[3] + 6 * m**2 * raw[2] - 3 * m**4


class Polynomial(Protocol):
    """A polynomial of x_1..x_L."""

    degree: int

    def evaluate(self, x: Tensor) -> Tensor:
        """Values (B,) for x (B, L), in the dtype of x."""

    def recompute(self, x: Tensor) -> Tensor:
        """The same values by the definition, slowly and along another path: the positive control."""

    def moments(self, inputs: Inputs) -> Moments:
        """The label's moments for inputs of that distribution."""

    def text(self) -> str:
        """The polynomial as a person writes it."""


class Monomials:
    """sum_m c_m prod_i x_i^e_mi, with few monomials, or many that share no variable.

    coefficients (M,) and exponents: for each monomial a mapping from variables (from 0) to exponents of 1 or more.
    """

    def __init__(self, coefficients: Sequence[float], exponents: Sequence[dict[int, int]]) -> None:
        self.coefficients = list(coefficients)
        self.exponents = list(exponents)
        self.degree = max(sum(e.values()) for e in self.exponents)
        self._made: dict[torch.device, list[tuple[Tensor, Tensor | None, Tensor]]] = {}

    def evaluate(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x[:, 0])
        for variables, powers, weights in self._tables(x.device):
            factors = x[:, variables] if powers is None else x[:, variables] ** powers
            y = y + factors.prod(-1) @ weights.to(x.dtype)
        return y

    def _tables(self, device: torch.device) -> list[tuple[Tensor, Tensor | None, Tensor]]:
        """Of the monomials with as many variables each: variables, powers (None if all are 1), coefficients; made once."""
        if device not in self._made:
            by_size: dict[int, list[tuple[float, dict[int, int]]]] = defaultdict(list)
            for c, e in zip(self.coefficients, self.exponents, strict=True):
                by_size[len(e)].append((c, e))
            self._made[device] = [
                (
                    torch.tensor([list(e.keys()) for _, e in terms], dtype=torch.int64, device=device),
                    torch.tensor([list(e.values()) for _, e in terms], dtype=torch.int64, device=device)
                    if any(power != 1 for _, e in terms for power in e.values())
                    else None,
                    torch.tensor([c for c, _ in terms], dtype=torch.float64, device=device),
                )
                for terms in by_size.values()
            ]
        return self._made[device]

    def recompute(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x[:, 0])
        for c, exponents in zip(self.coefficients, self.exponents, strict=True):
            term = torch.full_like(y, c)
            for variable, exponent in exponents.items():
                for _ in range(exponent):
                    term = term * x[:, variable]
            y = y + term
        return y

    def moments(self, inputs: Inputs) -> Moments:
        with localcontext(_DIGITS):
            parts = [_component(c, e, inputs) for c, e in self._components()]
            variance = sum((p.variance for p in parts), Decimal(0))
            # components are independent: their fourth cumulants add
            fourth = 3 * variance**2 + sum(p.fourth - 3 * p.variance**2 for p in parts)
            mean, totals = (sum((p[i] for p in parts), Decimal(0)) for i in (0, 3))
            return _Parts(mean, variance, fourth, totals).rounded()

    def _components(self) -> list[tuple[list[float], list[dict[int, int]]]]:
        """The monomials in groups that share no variable."""
        groups: list[tuple[set[int], list[int]]] = []
        for m, exponents in enumerate(self.exponents):
            variables, members = set(exponents), [m]
            apart = []
            for group in groups:
                if variables & group[0]:
                    variables |= group[0]
                    members = group[1] + members
                else:
                    apart.append(group)
            groups = [*apart, (variables, members)]
        return [([self.coefficients[m] for m in g], [self.exponents[m] for m in g]) for _, g in groups]

    def text(self) -> str:
        terms = []
        for c, exponents in zip(self.coefficients, self.exponents, strict=True):
            factors = [f"x{i + 1}" + (f"^{e}" if e > 1 else "") for i, e in sorted(exponents.items())]
            terms.append("*".join([f"{c:.4g}", *factors] if c != 1 or not factors else factors))
        return " + ".join(terms).replace("+ -", "- ")


def _component(coefficients: list[float], exponents: list[dict[int, int]], inputs: Inputs) -> _Parts:
    """Moments of a sum of M monomials that may share variables, by summing over all products of four of them."""
    M = len(exponents)
    c = [Decimal(value) for value in coefficients]
    variables = sorted(set().union(*exponents))
    table = [inputs.moment(k) for k in range(4 * max((max(e.values(), default=0) for e in exponents), default=0) + 1)]

    def product(*chosen: int) -> Decimal:
        """E of the product of these monomials, without their coefficients."""
        result = Decimal(1)
        for variable in variables:
            result *= table[sum(exponents[m].get(variable, 0) for m in chosen)]
        return result

    def raw(order: int) -> Decimal:
        """E[y^order]."""
        total = Decimal(0)
        for choice in itertools.combinations_with_replacement(range(M), order):
            ways = math.factorial(order) // math.prod(math.factorial(choice.count(m)) for m in set(choice))
            total += ways * math.prod((c[m] for m in choice), start=Decimal(1)) * product(*choice)
        return total

    moments = [raw(k) for k in range(5)]
    totals = Decimal(0)
    for m, n in itertools.product(range(M), repeat=2):
        joint = [table[exponents[m].get(v, 0) + exponents[n].get(v, 0)] for v in variables]
        own = [
            j - table[exponents[m].get(v, 0)] * table[exponents[n].get(v, 0)] for v, j in zip(variables, joint, strict=True)
        ]
        # Of each variable: the covariance of its two powers, times the second moments of all the others.
        before = list(itertools.accumulate(joint[:-1], operator.mul, initial=Decimal(1)))
        after = list(itertools.accumulate(joint[:0:-1], operator.mul, initial=Decimal(1)))[::-1]
        totals += c[m] * c[n] * sum((x * y * z for x, y, z in zip(own, before, after, strict=True)), Decimal(0))
    return _Parts(moments[1], *_central(moments), totals)


class Suffix:
    """sum_{m=1..q} prod_{k=L-m+1..L} x_k: the continuous count in row, of degree q, by y_t = x_t (1 + y_{t-1})."""

    def __init__(self, length: int, q: int) -> None:
        self.length = length
        self.degree = q

    def evaluate(self, x: Tensor) -> Tensor:
        return x[:, -self.degree :].flip(1).cumprod(1).sum(1)

    def recompute(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x[:, 0])
        for t in range(self.length - self.degree, self.length):
            y = x[:, t] * (1 + y)
        return y

    def moments(self, inputs: Inputs) -> Moments:
        with localcontext(_DIGITS):
            m = [inputs.moment(k) for k in range(5)]
            y = [Decimal(1)] + [Decimal(0)] * 4  # E[y^k]
            seconds = []  # E[(1 + y_{t-1})^2], from the first variable used to the last
            for _ in range(self.degree):
                z = [sum((math.comb(k, j) * y[j] for j in range(k + 1)), Decimal(0)) for k in range(5)]
                seconds.append(z[2])
                y = [m[k] * z[k] for k in range(5)]
            # As a function of x_i, y = const + (product of the later variables) x_i (1 + y_{i-1}).
            totals, later = Decimal(0), Decimal(1)
            for second in reversed(seconds):
                totals += (m[2] - m[1] ** 2) * later * second
                later *= m[2]
            return _Parts(y[1], *_central(y), totals).rounded()

    def text(self) -> str:
        L, q = self.length, self.degree
        products = ["*".join(f"x{k}" for k in range(L - m + 1, L + 1)) for m in range(1, min(q, 3) + 1)]
        if q <= 3:
            return " + ".join(products)
        return " + ".join([*products[:2], "...", f"x{L - q + 1}*...*x{L}"])
