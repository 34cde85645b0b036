"""Polynomials of independent, identically distributed inputs: values, exact moments and interaction order.

Labels are standardised by these closed forms, never by a sample: the moments of a product of many variables are carried
by events that no sample contains. All moments follow from the inputs' raw moments E[x^k], because the variables are
independent; the interaction order is that of the ANOVA (Hoeffding) decomposition of the label's variance.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expbench.draws import Draws

Array = NDArray[np.float64]


class Inputs(NamedTuple):
    """The distribution of each variable: uniform on [low, high], or -1 with probability eps and else +1."""

    kind: Literal["unit", "signs"]
    low: float = 0.0
    high: float = 1.0
    eps: float = 0.0

    def moment(self, k: int) -> float:
        """E[x^k]."""
        if self.kind == "signs":
            return 1.0 if k % 2 == 0 else 1 - 2 * self.eps
        return float((self.high ** (k + 1) - self.low ** (k + 1)) / ((k + 1) * (self.high - self.low)))

    def draw(self, draws: Draws, *shape: int) -> Tensor:
        """Float64 inputs of the given shape."""
        if self.kind == "signs":
            return 1.0 - 2.0 * draws.coins(*shape, p=self.eps).double()
        return draws.uniform(*shape, low=self.low, high=self.high)


class Moments(NamedTuple):
    """Mean, variance and kurtosis of the label, and its mean interaction order: all exact up to rounding."""

    mean: float
    variance: float
    kurtosis: float
    interaction_order: float


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

    def evaluate(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x[:, 0])
        by_size: dict[int, list[tuple[float, dict[int, int]]]] = defaultdict(list)
        for c, e in zip(self.coefficients, self.exponents, strict=True):
            by_size[len(e)].append((c, e))
        for terms in by_size.values():
            variables = torch.tensor([list(e.keys()) for _, e in terms], dtype=torch.int64, device=x.device)
            powers = torch.tensor([list(e.values()) for _, e in terms], dtype=torch.int64, device=x.device)
            weights = torch.tensor([c for c, _ in terms], dtype=x.dtype, device=x.device)
            factors = x[:, variables]
            if bool((powers != 1).any()):
                factors = factors**powers
            y = y + factors.prod(-1) @ weights
        return y

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
        parts = [_component_moments(c, e, inputs) for c, e in self._components()]
        mean, variance = sum(p.mean for p in parts), sum(p.variance for p in parts)
        if variance == 0:
            return Moments(mean, 0.0, math.nan, math.nan)
        # components are independent: their fourth cumulants add
        fourth = sum((p.kurtosis - 3) * p.variance**2 for p in parts if p.variance)
        order = sum(p.interaction_order * p.variance for p in parts if p.variance) / variance
        return Moments(mean, variance, 3 + fourth / variance**2, order)

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


def _component_moments(coefficients: list[float], exponents: list[dict[int, int]], inputs: Inputs) -> Moments:
    """Moments of a sum of M monomials that may share variables, by summing over all M^4 products of four."""
    variables = sorted(set().union(*exponents))
    M = len(exponents)
    e = np.array([[m.get(v, 0) for v in variables] for m in exponents], dtype=np.int64).reshape(M, len(variables))
    c = np.array(coefficients)
    table = np.array([inputs.moment(k) for k in range(4 * int(e.max(initial=0)) + 1)])

    def raw(order: int) -> float:
        """E[y^order]."""
        total = 0.0
        for choice in itertools.combinations_with_replacement(range(M), order):
            counts = [choice.count(m) for m in set(choice)]
            ways = math.factorial(order) / math.prod(math.factorial(n) for n in counts)
            total += ways * float(np.prod(c[list(choice)]) * table[e[list(choice)].sum(0)].prod())
        return total

    mean, second, third, fourth = (raw(k) for k in (1, 2, 3, 4))
    variance = second - mean**2
    if not variance > 1e-12 * abs(second):
        return Moments(mean, 0.0, math.nan, math.nan)
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    # The total variance of variable i: Cov_i(m, n) times the second moments over all other variables.
    joint = table[e[:, None] + e[None]]
    own = joint - table[e][:, None] * table[e][None]
    ones = np.ones((M, M, 1))
    before = np.concatenate([ones, joint[..., :-1].cumprod(-1)], -1)
    after = np.concatenate([joint[..., :0:-1].cumprod(-1)[..., ::-1], ones], -1)
    totals = np.einsum("m,n,mni->", c, c, own * before * after)
    return Moments(mean, variance, central / variance**2, float(totals) / variance)


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
        m = [inputs.moment(k) for k in range(5)]
        y = [1.0, 0.0, 0.0, 0.0, 0.0]  # E[y^k]
        seconds = []  # E[(1 + y_{t-1})^2], from the first variable used to the last
        for _ in range(self.degree):
            z = [sum(math.comb(k, j) * y[j] for j in range(k + 1)) for k in range(5)]
            seconds.append(z[2])
            y = [m[k] * z[k] for k in range(5)]
        mean, variance = y[1], y[2] - y[1] ** 2
        central = y[4] - 4 * mean * y[3] + 6 * mean**2 * y[2] - 3 * mean**4
        # As a function of x_i, y = const + (product of the later variables) x_i (1 + y_{i-1}).
        spread = m[2] - m[1] ** 2
        totals = sum(spread * m[2] ** (self.degree - 1 - i) * second for i, second in enumerate(seconds))
        return Moments(mean, variance, central / variance**2 if variance > 0 else math.nan, totals / variance)

    def text(self) -> str:
        L, q = self.length, self.degree
        products = ["*".join(f"x{k}" for k in range(L - m + 1, L + 1)) for m in range(1, min(q, 3) + 1)]
        if q <= 3:
            return " + ".join(products)
        return " + ".join([*products[:2], "...", f"x{L - q + 1}*...*x{L}"])
