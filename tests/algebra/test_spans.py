"""Span floors: random and trained layers against the span, least squares by quadrature, and the study's instance 0."""

import itertools
import math

import numpy as np
import pytest
import torch
from expbench_tasks.polyreg import PolyReg
from numpy.typing import NDArray
from torch import nn

from expbench.algebra.floors import floor
from expbench.algebra.polynomial import Inputs, Monomials, Polynomial, Suffix
from expbench.algebra.reach import Reach
from expbench.algebra.spans import LEARNED, Codes, span_floor
from expbench.models.linattn import LinAttn
from expbench.nn.network import Network
from expbench.run import Positions

WIDE, HALF, CENTRED = Inputs("unit", -1.0, 2.0), Inputs("unit", 0.5, 1.0), Inputs("unit", -1.0, 1.0)
BIASED, FAIR = Inputs("signs", eps=0.1), Inputs("signs", eps=0.5)
_Array = NDArray[np.float64]


def codes(table: _Array) -> Codes:
    return tuple(map(tuple, table.tolist()))


def sines(L: int, D: int, dtype: torch.dtype = torch.float32) -> Codes:
    """The sinusoids of base 10,000, in the dtype in which a network computes them."""
    frequency = torch.exp(torch.arange(0, D, 2, dtype=dtype) * (-math.log(10000.0) / D))
    angle = torch.arange(L)[:, None] * frequency
    return codes(torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :D].double().numpy())


def ideal(L: int, D: int) -> Codes:
    return sines(L, D, torch.float64)


def features(x: _Array, table: Codes) -> _Array:
    """Everything of the theorem, for inputs (B, L)."""
    affine = np.c_[np.ones(len(table)), np.array(table).reshape(len(table), -1)]
    last, squares = x[:, -1:], (x**2).sum(1, keepdims=True)
    return np.concatenate([np.ones_like(last), last, x @ affine, last * (x @ affine), squares, last * squares], 1)


def layer(L: int, D: int, positions: Positions, *, residual: bool) -> Network:
    task = PolyReg(L=L, family="suffix", degree=1, test_size=8)
    network = Network(task, lambda: LinAttn(D), width=D, depth=1, norm="none", positions=positions, residual=residual)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.double()


def table_of(network: Network, L: int) -> Codes:
    shift = network.code(torch.zeros(1, L, network.head.in_features, dtype=torch.float64))
    return codes(shift[0].detach().numpy())


@pytest.mark.parametrize("positions", ["none", "index", "sin", "learned"])
def test_the_outputs_of_random_layers_lie_in_the_span(positions: Positions) -> None:
    L, x = 12, np.random.default_rng(0).uniform(-1, 2, (200, 12))
    torch.manual_seed(0)
    worst = 0.0
    for i in range(40):
        network = layer(L, 3, positions, residual=i % 2 == 0)
        with torch.no_grad():
            y = network(torch.from_numpy(x)[..., None])[:, 0].numpy()
        inside = features(x, table_of(network, L))
        rest = y - inside @ np.linalg.lstsq(inside, y, rcond=None)[0]
        worst = max(worst, float(np.linalg.norm(rest) / np.linalg.norm(y - y.mean())))
    assert worst < 1e-11


def quadrature(inputs: Inputs, L: int) -> tuple[_Array, _Array]:
    if inputs.kind == "signs":
        nodes, weights = np.array([1.0, -1.0]), np.array([1 - inputs.eps, inputs.eps])
    else:
        nodes, weights = np.polynomial.legendre.leggauss(4)
        nodes, weights = (inputs.low + inputs.high) / 2 + nodes * (inputs.high - inputs.low) / 2, weights / 2
    grid = np.array(list(itertools.product(nodes, repeat=L)))
    return grid, np.array([math.prod(w) for w in itertools.product(weights, repeat=L)])


def least_squares(polynomial: Polynomial, inputs: Inputs, L: int, table: Codes) -> float:
    x, weights = quadrature(inputs, L)
    root, y = np.sqrt(weights), polynomial.evaluate(torch.from_numpy(x)).numpy()
    inside, y = features(x, table) * root[:, None], (y - weights @ y) * root
    rest = y - inside @ np.linalg.lstsq(inside, y, rcond=1e-13)[0]
    return float((rest**2).sum() / (y**2).sum())


SHARED = Monomials([1.0, -2.0, 0.5, 3.0, 1.0], [{0: 2, 1: 1}, {1: 1, 4: 2}, {0: 1, 1: 1, 2: 2}, {2: 3, 4: 1}, {4: 3}])
LABELS = [SHARED, Suffix(5, 3), Suffix(5, 5), Monomials([2.0, 1.0], [{3: 1, 4: 1}, {0: 2, 4: 1}])]


@pytest.mark.parametrize("inputs", [WIDE, HALF, CENTRED, BIASED, FAIR])
@pytest.mark.parametrize("polynomial", LABELS)
def test_a_floor_is_the_distance_by_quadrature(polynomial: Polynomial, inputs: Inputs) -> None:
    L = 5
    tables = {"none": codes(np.zeros((L, 0))), "index": codes(np.arange(1, L + 1)[:, None] / L), "sin": sines(L, 3)}
    for table in (*tables.values(), codes(np.eye(L)), LEARNED):
        expected = least_squares(polynomial, inputs, L, table or codes(np.eye(L)))
        found = span_floor(polynomial, inputs, L, table)
        assert found == pytest.approx(expected, abs=1e-9)
        by_degree = floor(polynomial, inputs, L, Reach((3,), (2,), anchored=True)).both
        assert found >= by_degree - 2e-12, "the span lies in the class of degree 3 and order 2"


def test_dependent_codes_do_not_raise_a_floor() -> None:
    """Copies, a constant and scaled codes span what one code spans; the scale of the codes does not matter."""
    once = np.arange(1, 9)[:, None] / 8
    polynomial = Monomials([1.0], [{2: 1, 7: 1}])
    expected = span_floor(polynomial, WIDE, 8, codes(once))
    for table in (np.c_[once, once], np.c_[once, np.ones(8)], 1e-9 * once, np.c_[once, np.full(8, 0.1), 2 * once]):
        assert span_floor(polynomial, WIDE, 8, codes(table)) == pytest.approx(expected, abs=1e-11)
    assert span_floor(polynomial, WIDE, 8, codes(np.c_[once, 1e-12 * once**2])) < expected - 0.01


STUDY = [
    # label, floor in the study's codes, in sinusoids of float64, and of coefficients up to 1e5
    ({"L": 16, "family": "sparse", "degree": 1}, 0.4395, 0.5238, 0.5951),
    ({"L": 32, "family": "sparse", "degree": 1}, 0.7372, 0.7252, 0.8200),
    ({"L": 32, "degree": 2}, 0.0460, 0.0335, 0.0635),
    ({"L": 32, "degree": 3}, 0.0320, 0.0184, 0.0567),
    ({"L": 32, "degree": 4}, 0.0210, 0.0129, 0.0405),
    ({"L": 32, "degree": 2, "inputs": "signs"}, 0.0646, 0.0454, 0.0726),
    ({"L": 256, "degree": 8}, 0.3306, 0.3306, 0.3306),
    ({"L": 256, "degree": 32}, 0.2997, 0.2997, 0.2997),
]


@pytest.mark.parametrize(("settings", "stored", "exact", "bounded"), STUDY)
def test_the_degree_study(settings: dict[str, object], stored: float, exact: float, bounded: float) -> None:
    """Width 8, sinusoids of base 10,000, instance 0."""
    task = PolyReg(**settings)  # type: ignore[arg-type]
    label = task.polynomial, task.distribution, task.L
    assert span_floor(*label, sines(task.L, 8)) == pytest.approx(stored, abs=5e-5)
    assert span_floor(*label, ideal(task.L, 8)) == pytest.approx(exact, abs=5e-5)
    assert span_floor(*label, sines(task.L, 8), largest=1e5) == pytest.approx(bounded, abs=5e-5)
    by_degree = floor(*label, Reach((3,) * task.L, (2,) * task.L, anchored=True)).both
    assert span_floor(*label, LEARNED) == pytest.approx(by_degree, abs=2e-3), "learned codes choose every position"
    assert by_degree < 0.03 < 10 * stored


def test_a_bound_on_the_coefficients_only_raises_a_floor() -> None:
    task = PolyReg(L=16, family="sparse", degree=1)
    label = task.polynomial, task.distribution, task.L
    floors = [span_floor(*label, sines(16, 8), largest=10.0**power) for power in range(12)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] > 0.6
    assert floors[-1] == pytest.approx(span_floor(*label, sines(16, 8)), abs=1e-4)


def attaining(table: Codes, best: _Array) -> Network:
    """Return the layer whose coefficients of the `features` are `best`.

    Here h v_j / L = s e_j with s w = 1, and q_L = (1, x_L, 0, ..). Row i of k is l e_j + g_0 with l = g - c s, where the
    slopes g of that coefficient give c = g w / 2, the coefficient of the squares.
    """
    L, D = len(table), len(table[0])
    affine, squares = np.stack([best[2 : 3 + D], best[3 + D : 4 + 2 * D]]), best[-2:]
    slopes = affine[:, 1:]
    w = np.linalg.lstsq(slopes, 2 * squares, rcond=None)[0] + np.linalg.svd(slopes)[2][-1]
    s = w / (w @ w)
    rows = slopes - squares[:, None] * s
    along = (np.array(table) @ s)[:, None] * (affine[:, 0] + np.array(table) @ rows.T)  # (A B, A' B) of the proof
    of_constant, of_last = best[:2] - along.sum(0)
    h = of_last * s
    network = layer(L, D, "learned", residual=True)
    weight, bias = np.zeros((3, D, D)), np.zeros((3, D))
    weight[0, 1], bias[0, :2] = s, (1, -s @ table[-1])
    weight[1, :2], bias[1, :2] = rows, affine[:, 0]
    weight[2] = L * np.outer(h, s) / (h @ h)
    state = {
        "embed.weight": w[:, None], "embed.bias": np.zeros(D), "code.weight": np.array(table),
        "mixers.0.qkv.weight": weight.reshape(3 * D, D), "mixers.0.qkv.bias": bias.reshape(3 * D),
        "head.weight": h[None], "head.bias": np.array([of_constant - h @ table[-1]]),
    }  # fmt: skip
    network.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()})
    return network


@pytest.mark.parametrize("inputs", [WIDE, HALF])
@pytest.mark.parametrize("polynomial", LABELS)
def test_a_layer_attains_its_floor(polynomial: Polynomial, inputs: Inputs) -> None:
    L, table = 5, codes(np.random.default_rng(3).normal(size=(5, 3)))
    x, weights = quadrature(inputs, L)
    y = polynomial.evaluate(torch.from_numpy(x)).numpy()
    y = (y - weights @ y) / math.sqrt(polynomial.moments(inputs).variance)
    root = np.sqrt(weights)
    best = np.linalg.lstsq(features(x, table) * root[:, None], y * root, rcond=1e-13)[0]
    with torch.no_grad():
        error = weights @ (attaining(table, best)(torch.from_numpy(x)[..., None])[:, 0].numpy() - y) ** 2
    assert error == pytest.approx(span_floor(polynomial, inputs, L, table), abs=1e-9)


def test_training_comes_down_to_a_floor_and_not_below() -> None:
    """The error of a layer over all inputs, by quadrature, under L-BFGS from several starts."""
    L = 4
    task = PolyReg(L=L, family="given", formula="x1*x4 - x2*x3", inputs="signs", test_size=8)
    found = span_floor(task.polynomial, task.distribution, L, sines(L, 2))
    grid, weights = (torch.from_numpy(array) for array in quadrature(task.distribution, L))
    target = task.standardise(task.polynomial.evaluate(grid))
    errors = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = layer(L, 2, "sin", residual=True)
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def loss(network: Network = network, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = (weights * (network(grid[..., None])[:, 0] - target) ** 2).sum()
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        errors.append(loss().item())
    assert found > 0.1
    assert found - 1e-12 <= min(errors) < found + 0.01
