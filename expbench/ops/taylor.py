"""Taylor polynomials of softplus and exp of any degree, which replace both functions in section 4 of arXiv 2502.02209."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def softplus_coefficients(center: Tensor, degree: int) -> list[Tensor]:
    """Return c_0..c_degree, each shaped like `center`, with softplus(center + e) = sum_k c_k e^k + O(e^(degree+1)).

    The k-th derivative is a polynomial in s = sigmoid(center), and d/dz p(s) = p'(s) s (1 - s). About 0 the cubic
    coefficient is 0, so degrees 2 and 3 give the same polynomial log 2 + e/2 + e^2/8.
    """
    coefficients = [torch.nn.functional.softplus(center)]
    s = torch.sigmoid(center)
    derivative = np.polynomial.Polynomial([0.0, 1.0])
    for k in range(1, degree + 1):
        value = horner(s, [torch.full_like(s, float(c)) for c in derivative.coef.tolist()])
        coefficients.append(value / math.factorial(k))
        derivative = derivative.deriv() * np.polynomial.Polynomial([0.0, 1.0, -1.0])
    return coefficients


def exp_coefficients(degree: int) -> list[float]:
    """Return 1/k! for k = 0..degree."""
    return [1 / math.factorial(k) for k in range(degree + 1)]


def exp_taylor(u: Tensor, degree: int) -> Tensor:
    """Return the Taylor polynomial of exp about 0, of `degree`, at u (any shape)."""
    return horner(u, exp_coefficients(degree))


def horner(x: Tensor, coefficients: list[float] | list[Tensor]) -> Tensor:
    """Return sum_k coefficients[k] x^k, shaped like x; coefficients are numbers or tensors that broadcast against x."""
    value = torch.zeros_like(x) + coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def contraction_range(degree: int) -> float:
    """Return the least u for which the Taylor polynomial of exp stays in [0, 1] on [u, 0]: -1, -2, -1.596, ...

    At this u, polynomials of odd degree reach 0 and polynomials of even degree return to 1.
    """
    coefficients = exp_coefficients(degree)
    coefficients[0] -= 1 - degree % 2
    roots = np.polynomial.Polynomial(coefficients).roots()
    real = roots.real[(abs(roots.imag) < 1e-9) & (roots.real < -1e-9)]
    return float(real.max())
