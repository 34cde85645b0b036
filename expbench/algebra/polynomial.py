"""Polynomials of independent, identically distributed inputs: values, exact moments and interaction order.

Labels are standardised with these closed forms, never with a sample, because rare events that no sample contains dominate
the moments of a product of many variables. All moments follow from the raw moments E[x^k] of the inputs, because the
variables are independent. The interaction order comes from the ANOVA (Hoeffding) decomposition of the label's variance.
Central moments are differences of raw moments that may agree in most digits, so they are computed with 150 digits.
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

from expbench.data.rng import CounterRNG

_DIGITS = Context(prec=150)
_STEPWISE = 4096  # variables up to which the moments of `Suffix` are computed one variable after the other


class Inputs(NamedTuple):
    """Distribution of each variable: uniform on [low, high], or a sign that is -1 with probability eps and otherwise +1."""

    kind: Literal["unit", "signs"]
    low: float = 0.0
    high: float = 1.0
    eps: float = 0.0

    def moment(self, k: int) -> Decimal:
        """Return E[x^k] to the precision of the decimal context."""
        low, high, eps = Decimal(self.low), Decimal(self.high), Decimal(self.eps)
        if self.kind == "signs":
            return Decimal(1) if k % 2 == 0 else 1 - 2 * eps
        return (high ** (k + 1) - low ** (k + 1)) / ((k + 1) * (high - low)) if k else Decimal(1)

    def draw(self, rng: CounterRNG, *shape: int) -> Tensor:
        """Draw float64 inputs of the given shape."""
        if self.kind == "signs":
            return 1.0 - 2.0 * rng.coins(*shape, p=self.eps).double()
        return rng.uniform(*shape, low=self.low, high=self.high)


class Moments(NamedTuple):
    """Mean, variance, kurtosis and mean interaction order of the label; the last two are NaN if the variance is 0."""

    mean: float
    variance: float
    kurtosis: float
    interaction_order: float


class _Parts(NamedTuple):
    """Exact mean, second and fourth central moments, and the sum over variables of the total (Sobol) variances."""

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
    """Return the second and fourth central moments, given E[y^0..4]."""
    m = raw[1]
    return raw[2] - m**2, raw[4] - 4 * m * raw[3] + 6 * m**2 * raw[2] - 3 * m**4


class Polynomial(Protocol):
    """Polynomial of x_1..x_L."""

    degree: int

    def evaluate(self, x: Tensor) -> Tensor:
        """Return the values (B,) for x (B, L), in the dtype of x."""

    def recompute(self, x: Tensor) -> Tensor:
        """Return the same values (B,) from the definition by a slow, independent method (positive control)."""

    def moments(self, inputs: Inputs) -> Moments:
        """Return the moments of the label for inputs with this distribution."""

    def text(self) -> str:
        """Return the polynomial in the usual notation."""


class Monomials:
    """Polynomial sum_m c_m prod_i x_i^e_mi with few monomials, or with many that share no variable.

    coefficients: M numbers. exponents: for each monomial, a mapping from variables (from 0) to exponents of at least 1.
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
        """Group the monomials by their number of variables; return variables, powers and coefficients of each group.

        Powers are None if all are 1. The tensors are cached per device.
        """
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
            # fourth cumulants add, because the components are independent
            fourth = 3 * variance**2 + sum(p.fourth - 3 * p.variance**2 for p in parts)
            mean, totals = (sum((p[i] for p in parts), Decimal(0)) for i in (0, 3))
            return _Parts(mean, variance, fourth, totals).rounded()

    def _components(self) -> list[tuple[list[float], list[dict[int, int]]]]:
        """Partition the monomials into groups that share no variable with each other."""
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
    """Compute the moments of a sum of M monomials that may share variables, as a sum over all products of up to four."""
    M = len(exponents)
    c = [Decimal(value) for value in coefficients]
    variables = sorted(set().union(*exponents))
    table = [inputs.moment(k) for k in range(4 * max((max(e.values(), default=0) for e in exponents), default=0) + 1)]

    def product(*chosen: int) -> Decimal:
        """Return the expectation of the product of these monomials, without their coefficients."""
        result = Decimal(1)
        for variable in variables:
            result *= table[sum(exponents[m].get(variable, 0) for m in chosen)]
        return result

    def raw(order: int) -> Decimal:
        """Return E[y^order]."""
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
        # Each variable contributes the covariance of its two powers times the joint moments of all other variables.
        before = list(itertools.accumulate(joint[:-1], operator.mul, initial=Decimal(1)))
        after = list(itertools.accumulate(joint[:0:-1], operator.mul, initial=Decimal(1)))[::-1]
        totals += c[m] * c[n] * sum((x * y * z for x, y, z in zip(own, before, after, strict=True)), Decimal(0))
    return _Parts(moments[1], *_central(moments), totals)


class Suffix:
    """Polynomial sum_{m=1..q} prod_{k=L-m+1..L} x_k of degree q.

    It is the continuous count in row and satisfies y_t = x_t (1 + y_{t-1}).
    """

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
            if self.degree > _STEPWISE:
                return self._long_moments(m)
            y = [Decimal(1)] + [Decimal(0)] * 4  # E[y^k]
            seconds = []  # E[(1 + y_{t-1})^2] for each variable in use, first to last
            for _ in range(self.degree):
                z = [sum((math.comb(k, j) * y[j] for j in range(k + 1)), Decimal(0)) for k in range(5)]
                seconds.append(z[2])
                y = [m[k] * z[k] for k in range(5)]
            # The total variance of x_i follows from y = const + (product of later variables) x_i (1 + y_{i-1}).
            totals, later = Decimal(0), Decimal(1)
            for second in reversed(seconds):
                totals += (m[2] - m[1] ** 2) * later * second
                later *= m[2]
            return _Parts(y[1], *_central(y), totals).rounded()

    def _long_moments(self, m: Sequence[Decimal]) -> Moments:
        """Return `moments` by repeated squaring of their linear recurrence, of E[y^0..4] and the sum over `seconds`."""
        binomials = [[Decimal(math.comb(k, j)) for j in range(5)] for k in range(5)]
        step = [[m[k] * binomials[k][j] for j in range(5)] + [Decimal(0)] for k in range(5)] + [[*binomials[2], m[2]]]
        state, steps = [Decimal(1)] + [Decimal(0)] * 5, self.degree
        while steps:
            if steps % 2:
                state = [sum(map(operator.mul, row, state), Decimal(0)) for row in step]
            columns = list(zip(*step, strict=True))
            step = [[sum(map(operator.mul, row, column), Decimal(0)) for column in columns] for row in step]
            steps //= 2
        *y, total = state
        return _Parts(y[1], *_central(y), (m[2] - m[1] ** 2) * total).rounded()

    def text(self) -> str:
        L, q = self.length, self.degree
        products = ["*".join(f"x{k}" for k in range(L - m + 1, L + 1)) for m in range(1, min(q, 3) + 1)]
        if q <= 3:
            return " + ".join(products)
        return " + ".join([*products[:2], "...", f"x{L - q + 1}*...*x{L}"])
