"""Symmetry floors: against the mean over all permutations by quadrature, closed forms, and the time of long labels."""

import itertools
import math
import time
from decimal import Decimal

import numpy as np
import pytest
import torch
from expbench_tasks.polyreg import PolyReg

from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.algebra.symmetry import _plain_sums, _sums, symmetry_floor
from tests.algebra.test_spans import BIASED, CENTRED, FAIR, HALF, WIDE, quadrature

SHARED = Monomials([1.0, -2.0, 0.5, 3.0, 1.0], [{0: 2, 1: 1}, {1: 1, 4: 2}, {0: 1, 1: 1, 2: 2}, {2: 3, 4: 1}, {4: 3}])
MIXED = Monomials([1.0, 0.7], [{0: 1, 1: 2, 2: 1, 3: 2, 4: 1}, {0: 2, 1: 2, 3: 1}])


@pytest.mark.parametrize("inputs", [WIDE, HALF, CENTRED, BIASED, FAIR])
@pytest.mark.parametrize("polynomial", [SHARED, MIXED, Suffix(5, 3), Suffix(5, 5), Monomials([1.0], [{2: 1}])])
def test_a_floor_is_the_distance_from_the_mean_over_permutations(polynomial: Polynomial, inputs: Inputs) -> None:
    x, weights = quadrature(inputs, 5)
    y = polynomial.evaluate(torch.from_numpy(x)).numpy()
    orders = [[*order, 4] for order in itertools.permutations(range(4))]
    mean = np.mean([polynomial.evaluate(torch.from_numpy(x[:, order])).numpy() for order in orders], axis=0)
    expected = weights @ (y - mean) ** 2 / (weights @ (y - weights @ y) ** 2)
    assert symmetry_floor(polynomial, inputs, 5) == pytest.approx(expected, abs=1e-9)


def test_closed_forms() -> None:
    for L in (2, 8, 33):
        assert symmetry_floor(Monomials([1.0], [{0: 1}]), WIDE, L) == pytest.approx(1 - 1 / (L - 1)), "one input of L-1"
        assert symmetry_floor(Monomials([1.0], [{L - 1: 2}]), WIDE, L) == 0
        everything = Monomials([1.0], [dict.fromkeys(range(L), 1)])
        assert symmetry_floor(everything, FAIR, L) == pytest.approx(0, abs=1e-9), "a product of all has no order"
        pair = symmetry_floor(Monomials([1.0], [{0: 1, L - 1: 1}]), FAIR, L)
        assert pair == pytest.approx(1 - 1 / (L - 1))


@pytest.mark.parametrize("inputs", [HALF, BIASED])
def test_a_suffix_is_the_sum_of_its_products(inputs: Inputs) -> None:
    for L, q in ((6, 6), (6, 4), (9, 2)):
        terms = Monomials([1.0] * q, [dict.fromkeys(range(L - m, L), 1) for m in range(1, q + 1)])
        assert symmetry_floor(Suffix(L, q), inputs, L) == pytest.approx(symmetry_floor(terms, inputs, L), abs=1e-12)


@pytest.mark.parametrize(("q", "mean", "deviation"), [(1, ".75", ".2"), (9, ".75", ".2"), (40, ".8", ".6"), (7, "0", "1")])
def test_sums_of_powers(q: int, mean: str, deviation: str) -> None:
    plain, quick = (sums(q, Decimal(mean), Decimal(deviation)) for sums in (_plain_sums, _sums))
    assert [float(x) for x in quick] == pytest.approx([float(x) for x in plain], rel=1e-12)


def test_long_and_large_labels_are_quick() -> None:
    began = time.perf_counter()
    assert 0.5 < symmetry_floor(Suffix(256, 256), FAIR, 256) <= 1
    for family, L in (("random", 10), ("random", 32), ("pairwise", 64), ("sparse", 1024), ("product", 16)):
        task = PolyReg(L=L, family=family, inputs="unit", test_size=8)  # type: ignore[arg-type]
        assert 0 <= symmetry_floor(task.polynomial, task.distribution, L) <= 1
    assert symmetry_floor(Suffix(1 << 20, 1 << 20), HALF, 1 << 20) == 0, "no bound at such lengths"
    most = Monomials([1.0] * 2, [{i: 1 + (7 * i) % 12 for i in range(12)}, {i: 1 + (5 * i) % 11 for i in range(11)}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expbench.algebra.symmetry._MOST_STEPS", 100)
        assert symmetry_floor(most, WIDE, 16) == 0, "a label with too many steps has no bound"
    assert time.perf_counter() - began < 10
    assert math.isclose(symmetry_floor(Suffix(1, 1), WIDE, 1), 0, abs_tol=1e-9)
