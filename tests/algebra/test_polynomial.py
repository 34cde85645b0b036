import math

import numpy as np
import pytest
import torch

from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.data.rng import CounterRNG

UNIT, HALF = Inputs("unit"), Inputs("unit", 0.5, 1.0)
SIGNS = Inputs("signs", eps=0.2)
POLYNOMIALS: dict[str, Polynomial] = {
    "suffix": Suffix(5, 3),
    "product": Monomials([1.0], [{0: 1, 1: 2, 3: 1}]),
    "disjoint": Monomials([1.0, -2.0], [{0: 1, 2: 1}, {1: 1, 3: 1}]),
    "shared": Monomials([0.5, -1.5, 2.0], [{0: 2, 1: 1}, {1: 1, 2: 3}, {0: 1, 2: 1, 4: 1}]),
}


def exact(polynomial: Polynomial, inputs: Inputs, variables: int) -> tuple[float, float, float, float]:
    """Mean, variance, kurtosis and mean interaction order by summing over a product grid that is exact for the moments.

    Gauss-Legendre quadrature of 16 points integrates polynomials up to degree 31; signs have two points.
    """
    if inputs.kind == "signs":
        points, weights = np.array([-1.0, 1.0]), np.array([inputs.eps, 1 - inputs.eps])
    else:
        points, weights = np.polynomial.legendre.leggauss(16)
        points, weights = inputs.low + (inputs.high - inputs.low) * (points + 1) / 2, weights / 2
    shape = (len(points),) * variables
    x = np.stack(np.meshgrid(*[points] * variables, indexing="ij"), -1).reshape(-1, variables)
    y = polynomial.recompute(torch.from_numpy(x)).numpy().reshape(shape)
    grid_weights = math.prod(np.ix_(*[weights] * variables), start=np.ones(()))
    mean = float((grid_weights * y).sum())
    centred = y - mean
    variance = float((grid_weights * centred**2).sum())
    kurtosis = float((grid_weights * centred**4).sum()) / variance**2
    order = 0.0
    for i in range(variables):  # the mean order is the sum of the total Sobol indices
        given_others = np.tensordot(y, weights, axes=(i, 0))
        given_others_squared = np.tensordot(y**2, weights, axes=(i, 0))
        other_weights = math.prod(np.ix_(*[weights] * (variables - 1)), start=np.ones(()))
        order += float((other_weights * (given_others_squared - given_others**2)).sum()) / variance
    return mean, variance, kurtosis, order


@pytest.mark.parametrize("name", POLYNOMIALS)
@pytest.mark.parametrize("inputs", [UNIT, HALF, SIGNS], ids=["unit", "half", "signs"])
def test_moments_against_quadrature(name: str, inputs: Inputs) -> None:
    variables = 5
    moments = POLYNOMIALS[name].moments(inputs)
    assert tuple(moments) == pytest.approx(exact(POLYNOMIALS[name], inputs, variables), rel=1e-9)


@pytest.mark.parametrize("L", [2, 4, 10])
def test_interaction_order_of_a_product_in_closed_form(L: int) -> None:
    r = 1 / 3
    p = r / (1 + r)
    moments = Monomials([1.0], [dict.fromkeys(range(L), 1)]).moments(UNIT)
    assert moments.interaction_order == pytest.approx(L * p / (1 - (1 - p) ** L))
    assert moments.mean == pytest.approx(2.0**-L)
    assert moments.variance == pytest.approx(3.0**-L - 4.0**-L)


def test_biased_signs_have_mean_order_four_eps_times_one_minus_eps_times_q() -> None:
    eps, q = 0.01, 3
    moments = Monomials([1.0], [dict.fromkeys(range(q), 1)]).moments(Inputs("signs", eps=eps))
    # as a share of the whole second moment, which is 1: the constant part has order 0
    assert moments.interaction_order * moments.variance == pytest.approx(4 * eps * (1 - eps) * q)


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_fast_and_plain_evaluation_agree(name: str) -> None:
    x = CounterRNG(3).uniform(64, 5, low=-1.5, high=1.5)
    polynomial = POLYNOMIALS[name]
    torch.testing.assert_close(polynomial.evaluate(x), polynomial.recompute(x), rtol=1e-13, atol=1e-13)


def test_suffix_is_the_sum_of_its_products() -> None:
    x = CounterRNG(1).uniform(8, 5)
    expected = sum(x[:, 5 - m :].prod(1) for m in (1, 2, 3))
    torch.testing.assert_close(Suffix(5, 3).evaluate(x), expected)
    assert Suffix(5, 3).text() == "x5 + x4*x5 + x3*x4*x5"


def test_text_can_be_read_back() -> None:
    polynomial = POLYNOMIALS["shared"]
    assert polynomial.text() == "0.5*x1^2*x2 - 1.5*x2*x3^3 + 2*x1*x3*x5"
    x = CounterRNG(2).uniform(1, 5)[0].tolist()
    names = {f"x{i + 1}": value for i, value in enumerate(x)}
    value = eval(polynomial.text().replace("^", "**"), {}, names)
    assert value == pytest.approx(float(polynomial.evaluate(torch.tensor([x], dtype=torch.float64))))


@pytest.mark.parametrize("low", [0.999, 0.99999, 1 - 1e-7])
@pytest.mark.parametrize("family", ["suffix", "product"])
def test_narrow_inputs_lose_no_digits(family: str, low: float) -> None:
    """Close to 1 the label is a weighted sum of 16 uniform inputs: its kurtosis is known, and a little below 3."""
    suffix = family == "suffix"
    polynomial: Polynomial = Suffix(16, 16) if suffix else Monomials([1.0], [dict.fromkeys(range(16), 1)])
    weights = [float(i) for i in range(1, 17)] if suffix else [1.0] * 16
    second, fourth = sum(w**2 for w in weights), sum(w**4 for w in weights)
    moments = polynomial.moments(Inputs("unit", low, 1.0))
    width = 1 - low
    assert moments.kurtosis == pytest.approx(3 - 1.2 * fourth / second**2, abs=20 * width)
    assert moments.variance == pytest.approx(width**2 / 12 * second, rel=20 * width)
    assert moments.interaction_order == pytest.approx(1, abs=20 * width)


def test_a_constant_has_no_variance() -> None:
    assert Monomials([1.0], [{0: 2}]).moments(Inputs("signs", eps=0.3)).variance == 0


def test_kurtosis_of_many_disjoint_pairs_tends_to_that_of_a_normal_variable() -> None:
    pairs = [{2 * i: 1, 2 * i + 1: 1} for i in range(50)]
    few, many = (Monomials([1.0] * n, pairs[:n]).moments(UNIT).kurtosis for n in (1, 50))
    assert many - 3 == pytest.approx((few - 3) / 50)
