"""Degrees and interaction orders, measured exactly, are those of the formulas."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.theory.degree import degree_of, generic, has_degree, order_of
from expbench.theory.residues import PRIMES, NotPolynomial, Residues, modulo
from expbench.training.loop import build
from tests.conftest import CommandLine

TAYLOR = [{"taylor": taylor, "center": center} for taylor, center in itertools.product((1, 2, 3), ("zero", "bias"))]


def network(model: str, L: int, depth: int, **settings: Any) -> nn.Module:
    words = tuple(f"{name}={value}" for name, value in settings.items())
    request = SweepSpec(task="polyreg", models=model, L=str(L), D="2", depth=str(depth), norm="none", seeds="0")
    (job,) = expand(SweepSpec(**(vars(request) | {"model_settings": words})), "cpu")
    return build(job.run, job.task, job.model, "cpu")


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("linattn", {}),
        ("mamba-poly", {}),
        ("ssm", {"N": 1}),
        *(("polyattn", {"taylor": taylor}) for taylor in (1, 2, 3)),
        *(
            (model, {"N": 1, **more})
            for model in ("s6-poly", "s6-poly-disc")
            for more in (*TAYLOR, {"transition": "linear"})
        ),
    ],
)
def test_measured_is_stated(model: str, settings: dict[str, Any]) -> None:
    """L = 2 to 12 and depth 1 to 3; S6 of three layers to L = 6."""
    for depth, L in itertools.product((1, 2, 3), range(2, 13)):
        if depth == 3 and L > 6 and model.startswith(("s6", "mamba")):
            continue
        made: Any = generic(network(model, L, depth, **settings))
        reach = made.reach()
        assert has_degree(made, L, 1, reach.degree[-1]), (depth, L)
        assert order_of(made, L, 1) == reach.order[-1], (depth, L)
        if L == 3:
            assert not has_degree(made, L, 1, reach.degree[-1] - 1)
            assert not has_degree(made, L, 1, reach.degree[-1] + 1)


def test_a_degree_that_nothing_is_known_of() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.empty(x.shape[0], 1, dtype=x.dtype)  # a buffer that activations are written into
            y[:, 0] = (x[:, 0, 0] ** 3 - 2) * x[:, 2, 0] / 7 + x.sum((1, 2)).square()
            return y

    assert degree_of(Own(), 4, 1) == 4
    assert order_of(Own(), 4, 1) == 2
    assert degree_of(Own(), 4, 1, most=2) is None


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x).sum((1, 2)).unsqueeze(1)
        return y


@pytest.mark.parametrize(
    ("function", "degree"),
    [
        (lambda x: x.cumprod(1), 4),
        (lambda x: x.prod(1, keepdim=True), 4),
        (lambda x: x.mT @ x, 2),
        (lambda x: x * 0 + 5, 0),
        (lambda x: x - x, -1),
        (lambda x: torch.einsum("bti,bsi->bts", x, x).tril(-1) @ x, 3),
        (lambda x: torch.addcmul(x, x, x, value=3.0).mean(1, keepdim=True), 2),
        (lambda x: torch.lerp(x.flip(1), x, 0.5) if False else 0.5 * x.flip(1) + (1 - x), 1),
    ],
)
def test_operations(function: Any, degree: int) -> None:
    assert degree_of(Function(function), 4, 1) == degree


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (torch.exp, "exp"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: 1 / x, "reciprocal"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: x**0.5, "power 0.5"),
        (nn.LayerNorm(1), "layer_norm"),
        (lambda x: x * math.inf, "constant inf"),
    ],
)
def test_what_is_not_polynomial_is_named(function: Any, named: str) -> None:
    with pytest.raises(NotPolynomial, match=named):
        degree_of(Function(function), 4, 1)


def test_arithmetic_is_that_of_the_prime() -> None:
    p = PRIMES[0]
    x, y = (torch.randint(p, (3, 4, 5), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with modulo(p) as lifted:
        product = lifted(x) @ lifted(y).mT / 3
        assert isinstance(product, Residues)
        third = lifted(torch.tensor(1 / 3, dtype=torch.float64))
        assert int((third * 3).values) == 1
        assert int((lifted(torch.tensor(-0.123)) + lifted(torch.tensor(0.123))).values) == 0
    for i, r, s in itertools.product(range(3), range(4), range(4)):
        exact = sum(a * b for a, b in zip(x[i, r].tolist(), y[i, s].tolist(), strict=True))
        assert int(product.values[i, r, s]) * 3 % p == exact % p


def test_the_survey(expbench: CommandLine) -> None:
    answer = expbench(
        "theory", "degree", "--models", "linattn,s6-poly,s6", "--L", "2,16", "--depth", "1,2", "--limit", "100"
    )
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["linattn", "2", "2", "9", "9", "2", "2", "2", "agrees"] in lines
    assert ["linattn", "16", "2", "9", "9", "5", "-", "2", "degree", "agrees"] in lines
    assert ["s6-poly", "16", "2", "4689", "-", "16", "-", "8", "not", "measured"] in lines
    assert ["s6", "2", "1", "-", "-", "-", "-", "-", "not", "polynomial", "(softplus)"] in lines
    assert "12 networks: 7 agree with their formula, 0 differ" in answer.out
    folder = Path("results/theory")
    assert "| linattn |" in (folder / "degree.md").read_text()
    assert (folder / "degree.svg").read_text().startswith("<?xml")


WRONG = """
from expbench.mixer import Mixer
from expbench.algebra.reach import Reach

class Square(Mixer):
    def __init__(self, width):
        super().__init__()
        self.after = lambda y: y
    def forward(self, x):
        return self.after(x * x.cumsum(1))
    def reach(self, inputs):
        return Reach.capped([3 * d for d in inputs.degree], [1 for _ in inputs.order])

class Exp(Square):
    def __init__(self, width):
        super().__init__(width)
        self.after = lambda y: y.exp()

class High(Square):
    def __init__(self, width):
        super().__init__(width)
        self.after = lambda y: y**9
"""


def test_a_formula_that_is_wrong_is_found(expbench: CommandLine) -> None:
    Path("wrong.py").write_text(WRONG)
    answer = expbench("theory", "degree", "--models", "wrong.py:Square", "--L", "3", "--depth", "1")
    assert answer.code == 1
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["wrong.py:Square", "3", "1", "3", "2", "1", "2", "1", "DIFFERS"] in lines
    for name, how in (("Exp", "not polynomial (exp)"), ("High", "above degree 12")):
        answer = expbench("theory", "degree", "--models", f"wrong.py:{name}", "--L", "3", "--depth", "1")
        assert answer.code == 1
        assert f"DIFFERS: {how}" in answer.out


def test_bad_input(expbench: CommandLine) -> None:
    for words, named in (
        (["--models", "s6-pol"], "s6-poly"),
        (["--L", "x"], "L='x'"),
        (["--limit", "0"], "--limit"),
        (["-m", "s6-poly:tailor=2"], "taylor"),
    ):
        answer = expbench("theory", "degree", *words)
        assert answer.code == 2
        assert named in answer.err
