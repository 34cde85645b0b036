"""Floors: closed forms, least squares over everything that a class can form, and trained networks."""

import itertools
import math

import numpy as np
import pytest
from expbench_tasks.polyreg import PolyReg

from expbench.algebra.floors import floor
from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.algebra.reach import Reach

UNIT, HALF, WIDE = Inputs("unit"), Inputs("unit", 0.5, 1.0), Inputs("unit", -1.0, 2.0)
FAIR, BIASED = Inputs("signs", eps=0.5), Inputs("signs", eps=0.1)


def reach(degree: int, order: int, *, anchored: bool = False) -> Reach:
    return Reach((degree,), (order,), anchored)


def product(L: int) -> Monomials:
    return Monomials([1.0], [dict.fromkeys(range(L), 1)])


def test_closed_forms_of_a_product() -> None:
    """P(Bin(L, p) > d) / (1 - (1-p)^L) at degree or order d; 1 - (L r + (L-1) r^2) / ((1+r)^L - 1) for pairs with x_L."""
    for inputs, r in ((UNIT, 1 / 3), (HALF, 1 / 27), (BIASED, 0.36 / 0.64)):
        p = r / (1 + r)
        for L in (4, 8, 10):
            pairs = 1 - (L * r + (L - 1) * r**2) / ((1 + r) ** L - 1)
            assert floor(product(L), inputs, L, reach(3, 2, anchored=True)).both == pytest.approx(pairs, rel=1e-9)
            for d in range(1, L + 1):
                above = sum(math.comb(L, k) * p**k * (1 - p) ** (L - k) for k in range(d + 1, L + 1))
                expected = above / (1 - (1 - p) ** L)
                assert floor(product(L), inputs, L, reach(d, L)).degree == pytest.approx(expected, rel=1e-9)
                assert floor(product(L), inputs, L, reach(L, d)).structure == pytest.approx(expected, rel=1e-9)


def test_known_values() -> None:
    one_layer = reach(3, 2, anchored=True)
    assert floor(product(4), UNIT, 4, one_layer).both == pytest.approx(0.2286, abs=1e-4)
    assert floor(product(10), UNIT, 10, one_layer).both == pytest.approx(0.7414, abs=1e-4)
    assert floor(product(10), UNIT, 10, one_layer).degree == pytest.approx(0.2375, abs=1e-4)
    assert floor(product(3), UNIT, 4, one_layer).both == pytest.approx(0.2703, abs=1e-4)  # x1 x2 x3: none of them is x4
    assert floor(Monomials([1.0], [{0: 2, 3: 1}]), UNIT, 4, one_layer) == (0, 0, 0)  # x1^2 x4
    assert floor(product(4), FAIR, 4, one_layer).both == 1
    assert floor(product(4), FAIR, 4, reach(9, 5)).both == 0


def least_squares(polynomial: Polynomial, inputs: Inputs, L: int, limits: Reach) -> float:
    """The floor by projection onto every monomial that the class can form, the expectation by exact quadrature."""
    if inputs.kind == "signs":
        nodes, weights = np.array([1.0, -1.0]), np.array([1 - inputs.eps, inputs.eps])
    else:
        nodes, weights = np.polynomial.legendre.leggauss(8)
        nodes, weights = (inputs.low + inputs.high) / 2 + nodes * (inputs.high - inputs.low) / 2, weights / 2
    grid = np.array(list(itertools.product(nodes, repeat=L)))
    root = np.sqrt(np.array([math.prod(w) for w in itertools.product(weights, repeat=L)]))
    import torch

    y = polynomial.evaluate(torch.from_numpy(grid)).numpy()
    y = y - (root**2 * y).sum()
    top = min(limits.degree[-1], 6)
    features = [
        np.prod(grid ** np.array(powers), axis=1)
        for powers in itertools.product(range(top + 1), repeat=L)
        if sum(powers) <= top and _allowed([i for i, e in enumerate(powers) if e], L, limits)
    ]
    matrix = np.stack(features, 1) * root[:, None]
    rest = y * root - matrix @ np.linalg.lstsq(matrix, y * root, rcond=1e-13)[0]
    return float((rest**2).sum() / (root**2 * y**2).sum())


def _allowed(support: list[int], L: int, limits: Reach) -> bool:
    return len(support) <= limits.order[-1] and (not limits.anchored or len(support) < 2 or L - 1 in support)


SHARED = Monomials([1.0, -2.0, 0.5, 3.0], [{0: 2, 1: 1}, {1: 1, 2: 1}, {0: 1, 1: 1, 2: 2}, {2: 3}])


@pytest.mark.parametrize("inputs", [UNIT, HALF, WIDE, FAIR, BIASED])
@pytest.mark.parametrize("polynomial", [SHARED, Suffix(3, 3), Suffix(3, 2), Monomials([2.0], [{0: 1, 1: 2, 2: 1}])])
def test_against_least_squares_on_all_that_a_class_can_form(polynomial: Polynomial, inputs: Inputs) -> None:
    for limits in (reach(2, 3), reach(9, 2), reach(3, 2), reach(3, 2, anchored=True), reach(9, 1), reach(1, 3), reach(9, 3)):
        found = floor(polynomial, inputs, 3, limits)
        assert found.both == pytest.approx(least_squares(polynomial, inputs, 3, limits), abs=1e-9), limits
        assert max(found.degree, found.structure) <= found.both + 1e-12


@pytest.mark.parametrize("inputs", [UNIT, HALF, BIASED])
def test_a_suffix_is_the_sum_of_its_products(inputs: Inputs) -> None:
    for L, q in ((6, 6), (6, 4), (5, 1)):
        terms = Monomials([1.0] * q, [dict.fromkeys(range(L - m, L), 1) for m in range(1, q + 1)])
        for limits in (reach(3, 2, anchored=True), reach(2, 9), reach(9, 1), reach(3, 3), reach(9, 9)):
            assert floor(Suffix(L, q), inputs, L, limits) == pytest.approx(floor(terms, inputs, L, limits), abs=1e-12)


def test_long_labels_have_floors_too() -> None:
    assert floor(Suffix(1024, 1024), HALF, 1024, reach(3, 2, anchored=True)).both > 0.01
    assert floor(product(1024), Inputs("signs", eps=0.01), 1024, reach(27, 14)).both > 0.9
    assert floor(product(1024), Inputs("signs", eps=0.01), 1024, reach(1026, 1024)).both == 0


def test_every_family_has_a_floor() -> None:
    for family in ("suffix", "product", "sparse", "distant", "pairwise", "random"):
        found = PolyReg(L=6, family=family, test_size=8).floor(reach(3, 2, anchored=True))  # type: ignore[arg-type]
        assert 0 <= found.both <= 1
    assert PolyReg(L=6, family="pairwise", test_size=8).floor(reach(2, 2)).both == pytest.approx(0, abs=1e-12)
