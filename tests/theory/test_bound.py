import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from expbench_tasks.count_in_row import run_lengths
from torch import Tensor, nn

from expbench.data.rng import CounterRNG, fold
from expbench.errors import BadInput
from expbench.models.s6 import S6
from expbench.models.s6_bbar_b import S6BbarB
from expbench.models.s6_poly import S6Poly
from expbench.theory import bound
from expbench.theory.bound import (
    Classifier,
    Inputs,
    Limits,
    Norms,
    complexity,
    eligible,
    inputs_of,
    k_hat,
    margin_error,
    margins,
    norms_of,
    paper_bound,
    rigorous_bound,
)
from expbench.theory.bound_example import demonstrate_bound, fit, problem, rademacher_lower

LIMITS = Limits(rho_W=2.0, rho_BC=3.0, rho_A=1.5, rho_D=1.2, log_K=math.log(0.8))


def norms(limits: Limits = LIMITS, *, D: int = 2, N: int = 2, classes: int = 2) -> Norms:
    return Norms(1.0, 2.0, 3.0, limits, D, N, classes)


def perturbed(layer: nn.Module, scale: float) -> None:
    with torch.no_grad():
        for p in layer.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn_like(p))


def points(m: int, L: int, D: int, seed: int = 0) -> Tensor:
    x = CounterRNG(fold("points", seed)).normal(m, L, D)
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1)


# --- norms ---


@pytest.mark.parametrize("layout", ["full_bias", "mamba_rank_D"])
def test_no_input_has_a_larger_transition_than_K_and_one_comes_near(layout: str) -> None:
    layer = S6BbarB(3, N=2, layout=layout, skip=False, dt_rank=2).double()
    if layout == "full_bias":
        for linear in (layer.to_b, layer.to_c):
            nn.init.zeros_(linear.bias).requires_grad_(False)
    perturbed(layer, 0.7)
    K = norms_of(layer, torch.randn(4, 3)).K
    x = torch.nn.functional.normalize(points(20_000, 2, 3), dim=-1)
    assert 0.98 * K < k_hat(layer, x) <= K < 1
    assert k_hat(layer, x[:, :1]) == 0


def test_the_norms_of_a_layer_whose_numbers_are_known() -> None:
    classifier = Classifier(2, N=2, classes=2)
    layer = classifier.layer
    with torch.no_grad():
        layer.to_b.weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        layer.to_c.weight.copy_(torch.tensor([[2.0, 2.0], [-1.0, 0.0]]))
        layer.to_delta.weight.copy_(torch.tensor([[0.0, 2.0], [3.0, 4.0]]))
        layer.to_delta.bias.copy_(torch.tensor([-1.0, 12.0]))
        layer.A_log.copy_(torch.tensor([[0.5, 2.0], [1.0, 3.0]]).log())
        classifier.head.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    found = norms_of(layer, classifier.head.weight)
    assert found.limits[:4] == pytest.approx((4.0, 3 * 4 + 3 * 1, 3.0, 13.0))
    assert math.log(found.K) == pytest.approx(-0.5 * math.log1p(math.exp(-1 - 2)))
    assert found[:3] == pytest.approx((2.0, math.sqrt(14), 3.0))
    assert found.Gamma == pytest.approx(2 * math.sqrt(14) * 3 * 3 * 13)
    assert found.limits.rho_BC <= found.D * found.S_B_F * found.S_C_F


def test_inputs_longer_than_1_are_refused() -> None:
    x = points(5, 3, 2)
    assert inputs_of(x)[:2] == (5, 3)
    assert inputs_of(x).energy == pytest.approx(max(float((x[:, t] ** 2).sum()) for t in range(3)))
    with pytest.raises(BadInput, match=r"\|x_t\| <= 1; the largest norm is 2"):
        inputs_of(torch.full((1, 1, 1), 2.0))


# --- the bounds' formulas ---


def test_the_complexity_term_is_the_stated_formula() -> None:
    limits, inputs = Limits(2.0, 3.0, 0.5, 4.0, math.log(0.5)), Inputs(100, 8, 44.0)
    # C D^3 = 24, N (L+1) = 27; M = max(2 sqrt 144, (0.5 log 2 + log 2) 10) = 24
    expected = 6 / 100 * (math.sqrt(200 * math.log(48)) / 0.5 + 2 * 0.5 / 0.25 * 24 * (1 + math.sqrt(2 * math.log(48 * 27))))
    assert complexity(limits, inputs, D=2, N=3, classes=3) == pytest.approx(expected)
    small = limits._replace(rho_D=0.1)  # M is its second part
    M = 1.5 * math.log(2) * 10
    expected = 6 / 100 * (math.sqrt(200 * math.log(48)) / 0.5 + 4 * M * (1 + math.sqrt(2 * math.log(48 * 27))))
    assert complexity(small, inputs, D=2, N=3, classes=3) == pytest.approx(expected)


def test_the_papers_bound_is_the_stated_formula() -> None:
    inputs, found = Inputs(100, 4, 44.0), norms(Limits(2, 3, 0.5, 4.0, math.log(0.5)))
    answer = paper_bound(found, inputs, gamma=0.5, margin_error=0.25, delta=0.1)
    Gamma = 1 * 2 * 3 * 0.5 * 4
    term = 2 * math.sqrt(2) * (Gamma + 1) * 4 / (0.5 * 100) * 0.5 / 0.25 * (1 + math.sqrt(2 * math.log(4 * 16 * 4 * 2))) * 12
    assert answer.complexity == pytest.approx(term)
    assert answer.confidence == pytest.approx(3 * math.sqrt(math.log(2 * (Gamma + 2) ** 2 / 0.1) / 200))
    assert answer.total == pytest.approx(0.25 + answer.complexity + answer.confidence)


@pytest.mark.parametrize("which", [rigorous_bound, paper_bound])
def test_how_the_bounds_scale_in_m_and_K(which: Callable[..., bound.Bound]) -> None:
    def at(m: int, K: float = 0.8) -> bound.Bound:
        inputs = Inputs(m, 8, float(m))
        return which(norms(LIMITS._replace(log_K=math.log(K))), inputs, gamma=1.0, margin_error=0.0)

    assert at(400).complexity == pytest.approx(at(100).complexity / 2)
    assert at(400).confidence == pytest.approx(at(100).confidence / 2)
    near, nearer = at(100, 1 - 1e-5).complexity, at(100, 1 - 1e-6).complexity
    assert nearer / near == pytest.approx(100, rel=1e-3)  # K / (1-K)^2
    assert at(100, 0.5).complexity < at(100, 0.9).complexity < at(100, 0.99).complexity
    assert at(100, 1.0).total == math.inf


def test_the_rigorous_bound_pays_for_every_class_that_it_chose_among() -> None:
    inputs = Inputs(1000, 8, 1000.0)
    own = LIMITS._replace(log_K=math.log(0.7))
    found = rigorous_bound(norms(own), inputs, gamma=0.7, margin_error=0.0, delta=0.05)
    steps = [math.ceil(4 * scale) for scale in (6 / 0.7, 1.5, 1.2, 1 / 0.3)]
    shares = math.prod(j * (j + 1) for j in steps)
    assert found.confidence == pytest.approx(3 * math.sqrt(math.log(2 * shares / 0.05) / 2000))
    limits = Limits(steps[0] / 4, 1.0, steps[1] / 4, steps[2] / 4, math.log1p(-4 / steps[3]))
    assert limits.log_K >= own.log_K
    assert found.complexity == pytest.approx(4 * complexity(limits, inputs, D=2, N=2, classes=2))
    assert found.complexity >= 4 / 0.7 * complexity(own, inputs, D=2, N=2, classes=2)


def test_what_is_1_or_more_is_called_vacuous() -> None:
    loose = rigorous_bound(norms(), Inputs(100, 8, 100.0), gamma=1.0, margin_error=0.0)
    tight = rigorous_bound(norms(), Inputs(10**9, 8, 1e9), gamma=1.0, margin_error=0.0)
    assert (loose.reading, tight.reading) == ("vacuous", "below 1")
    assert bound.Bound(1.0, 1.0, 0.0, 0.0).vacuous
    assert bound.Bound(1.0, 0.0, math.nan, 0.0).vacuous


@pytest.mark.parametrize(("gamma", "delta"), [(0.0, 0.1), (math.nan, 0.1), (1.0, 0.0), (1.0, 1.0)])
def test_senseless_margins_and_probabilities_are_refused(gamma: float, delta: float) -> None:
    for which in (rigorous_bound, paper_bound):
        with pytest.raises(BadInput):
            which(norms(), Inputs(10, 2, 10.0), gamma=gamma, margin_error=0.0, delta=delta)


def test_margins_and_their_errors() -> None:
    outputs = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, -1.0], [1.0, 2.0, 5.0]])
    found = margins(outputs, torch.tensor([0, 1, 0]))
    assert found.tolist() == [1.0, 0.0, -4.0]
    assert margin_error(found) == pytest.approx(2 / 3)  # a tie is an error
    assert margin_error(found, 1.0) == 1


# --- the bounds against what happens ---


def signs(m: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """One channel of +-1, L = 2; the label is the sign of the last, flipped with probability noise."""
    rng = CounterRNG(fold("signs", seed))
    up, flipped = rng.coins(m, 2), rng.coins(m, p=noise)
    return torch.where(up, 1.0, -1.0).double()[..., None], (up[:, -1] ^ flipped).long()


def test_a_bound_below_1_holds_where_labels_are_noisy() -> None:
    m = 200_000
    classifier = Classifier(1, N=1, classes=2)
    with torch.no_grad():
        for p, value in ((classifier.layer.to_b, 1.0), (classifier.layer.to_c, 1.0), (classifier.layer.to_delta, 0.0)):
            p.weight.fill_(value)
        classifier.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        x, labels = signs(m, 0.1, 0)
        train = margins(classifier(x), labels)
        x_test, labels_test = signs(20_000, 0.1, 1)
        error = margin_error(margins(classifier(x_test), labels_test))
    found = rigorous_bound(
        norms_of(classifier.layer, classifier.head.weight), inputs_of(x), gamma=2.0, margin_error=margin_error(train, 2.0)
    )
    assert error == pytest.approx(0.1, abs=0.01)
    assert error <= found.total < 0.5
    assert found.reading == "below 1"


@pytest.mark.parametrize(("D", "N", "steps"), [(1, 1, 0), (1, 1, 30), (3, 2, 0), (3, 2, 30)])
def test_the_bound_holds_for_every_layer_tried(D: int, N: int, steps: int) -> None:
    x, labels = problem(CounterRNG(1), 256, L=5, D=D, classes=3)
    x_test, labels_test = problem(CounterRNG(2), 1024, L=5, D=D, classes=3)
    classifier = fit(x, labels, N=N, classes=3, seed=D + steps, steps=steps)
    assert eligible(classifier.layer) is None
    with torch.no_grad():
        train, test = margins(classifier(x), labels), margins(classifier(x_test), labels_test)
    found = norms_of(classifier.layer, classifier.head.weight)
    for gamma in (0.01, 0.1, 1.0, 10.0, 1e4):
        answer = rigorous_bound(found, inputs_of(x), gamma=gamma, margin_error=margin_error(train, gamma))
        assert margin_error(test) <= answer.total
        assert answer.vacuous == (answer.total >= 1)


def test_training_lowers_the_training_error_and_repeats_itself() -> None:
    x, labels = problem(CounterRNG(1), 256, L=5, D=3, classes=3)
    errors = []
    for steps in (0, 60, 60):
        classifier = fit(x, labels, N=2, classes=3, seed=0, steps=steps)
        errors.append(margin_error(margins(classifier(x), labels)))
    assert errors[1] == errors[2] < errors[0] - 0.2


# --- the complexity from below ---


@pytest.mark.parametrize(("L", "D", "classes"), [(1, 2, 2), (4, 1, 2), (8, 2, 2), (5, 3, 4)])
def test_the_monte_carlo_bound_from_below_is_below_the_analytic_one(L: int, D: int, classes: int) -> None:
    x = points(32, L, D)
    found = rademacher_lower(LIMITS, x, classes=classes, seed=0, rng=8)
    upper = complexity(LIMITS, inputs_of(x), D=D, N=1, classes=classes)
    assert 0 < found.mean + 3 * found.standard_error < upper
    assert found == rademacher_lower(LIMITS, x, classes=classes, seed=0, rng=8)
    twice = rademacher_lower(LIMITS._replace(rho_W=4.0), x, classes=classes, seed=0, rng=8)
    assert twice.mean == pytest.approx(2 * found.mean)
    wider = rademacher_lower(LIMITS._replace(log_K=math.log(0.5)), x, classes=classes, seed=0, rng=8)
    assert wider.mean <= found.mean * (1 + 1e-3)  # a smaller K, a smaller class


def test_the_monte_carlo_bound_is_what_layers_on_a_grid_reach_and_no_layer_outside_the_class_is_used() -> None:
    limits, seed, m, L, classes = LIMITS, 3, 12, 4, 2
    x = points(m, L, 1)
    xi = torch.where(CounterRNG(fold("rademacher", seed)).coins(1, m, classes), 1.0, -1.0).double()[0]
    best = 0.0
    classifier = Classifier(1, N=1, classes=classes)
    layer = classifier.layer
    with torch.no_grad():
        layer.to_b.weight.fill_(limits.rho_BC)
        layer.to_c.weight.fill_(1.0)
        radii = itertools.product(
            torch.linspace(0.05, limits.rho_A, 12), (0.3, 0.6, 1.0), torch.linspace(0, 2 * math.pi, 25)
        )
        for a, radius, angle in radii:
            layer.A_log.fill_(float(a.log()))
            layer.to_delta.weight.fill_(float(radius * limits.rho_D * angle.sin()))
            layer.to_delta.bias.fill_(float(radius * limits.rho_D * angle.cos()))
            for c in range(classes):
                classifier.head.weight.zero_()[c] = limits.rho_W
                own = norms_of(layer, classifier.head.weight).limits
                small = all(mine <= theirs * (1 + 1e-9) for mine, theirs in zip(own[:4], limits[:4], strict=True))
                if small and own.log_K <= limits.log_K:
                    best = max(best, float((xi * classifier(x)).sum().abs()) / m)
    found = rademacher_lower(limits, x, classes=classes, seed=seed, rng=1, restarts=16, steps=40).mean
    assert best > 0
    assert 0.99 * best <= found <= 1.05 * best


def test_a_class_without_members_is_refused() -> None:
    with pytest.raises(BadInput, match="no layer has"):
        rademacher_lower(LIMITS._replace(log_K=-50.0), points(4, 2, 1), classes=2, seed=0)


# --- what the bound does not hold for ---


def test_why_a_layer_is_refused() -> None:
    bare = Classifier(2, N=2, classes=2)
    assert eligible(bare.layer) is None
    assert eligible(S6BbarB(2, skip=False)) is None  # the layout without biases of B and C
    assert "skip" in str(eligible(S6BbarB(2)))
    assert "bias of B or C" in str(eligible(S6BbarB(2, layout="full_bias", skip=False)))
    assert "S6 is not Eq. 6" in str(eligible(S6(2, skip=False)))
    assert "S6Poly is not Eq. 6" in str(eligible(S6Poly(2, skip=False)))
    nn.init.constant_(bare.layer.to_delta.bias, -800.0)  # Delta is 0 to rounding
    assert "K = 1 is not below 1" in str(eligible(bare.layer))
    with pytest.raises(BadInput, match="K = 1 is not below 1"):
        norms_of(bare.layer, bare.head.weight)


# --- the demonstration ---


def test_the_problem_is_capped_count_in_row_of_fixed_unit_vectors() -> None:
    x, labels = problem(CounterRNG(1), 500, L=6, D=3, classes=4)
    assert torch.allclose(x.norm(dim=-1), torch.ones(500, 6, dtype=torch.float64))
    values, codes = x.reshape(-1, 3).unique(dim=0, return_inverse=True)
    assert len(values) == 2
    assert abs(float(values[0] @ values[1])) < 1e-12
    bits = codes.view(500, 6)
    expected = [run_lengths(b)[:, -1].clamp(max=3) for b in (bits, 1 - bits)]
    assert any(torch.equal(labels, e) for e in expected)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    again, _ = problem(CounterRNG(2), 500, L=6, D=3, classes=4)
    assert torch.equal(again.reshape(-1, 3).unique(dim=0), values)  # the same vectors for every sample


def test_what_is_demonstrated() -> None:
    text = demonstrate_bound(L=4, D=2, N=2, classes=2, samples=64, seed=0, steps=20)
    assert text == demonstrate_bound(L=4, D=2, N=2, classes=2, samples=64, seed=0, steps=20)
    for name in ("|W|_F", "rho_BC", "max|A|", "Gamma", "K-hat", "K ", "R_X, found", "train error", "test error", "gap"):
        assert re.search(rf"^{re.escape(name)}", text, re.MULTILINE), name
    assert len(re.findall(r"^rigorous .*(vacuous|no positive margin)$", text, re.MULTILINE)) == len(bound.QUANTILES)
    assert len(re.findall(r"^paper \(reconstruction\) .*(vacuous|no positive margin)$", text, re.MULTILINE)) == 4
    assert "vacuous" in text


@pytest.mark.parametrize(
    "wrong",
    [{"L": 1}, {"D": 0}, {"N": 0}, {"classes": 1}, {"classes": 6}, {"samples": 1}, {"steps": -1}, {"L": 10**6}, {"D": 17}],
)
def test_sizes_that_make_no_sense_are_refused_in_a_line(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=f"--{next(iter(wrong))}: .* is not between"):
        demonstrate_bound(**({"L": 4, "D": 2, "N": 2, "classes": 2, "samples": 64, "seed": 0, "steps": 1} | wrong))
    with pytest.raises(BadInput, match="is more than"):
        demonstrate_bound(L=256, D=16, N=64, classes=2, samples=1 << 16, seed=0, steps=1)
