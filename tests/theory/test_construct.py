"""What the paper says that S6 can express, as weights: Lemma 2, Theorem 2, count in row; and the polynomials' text."""

import itertools
import math
import random
import re
from collections.abc import Callable

import pytest
import torch
from expbench_tasks.count_in_row import run_lengths
from torch import Tensor, nn
from torch.nn import functional as F

from expbench.algebra.parsing import Parsed, parse
from expbench.errors import BadInput
from expbench.models.s6 import S6
from expbench.models.s6_poly import S6Poly
from expbench.nn.blocks import MambaBlock
from expbench.theory.construct import Form, count_in_row, lemma2, report, theorem2

FORMS: tuple[Form, ...] = ("s6", "s6-bbar-b", "s6-poly", "s6-poly-linear")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(N: int, D: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(N, D, seed=seed), normal(N, D, seed=seed + 1), normal(D, d, seed=seed + 2)


def attention(x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, decay: float = 0.0) -> Tensor:
    """The definition; decay: the term of x_j at t has the factor exp(-decay (t - j))."""
    t = torch.arange(x.shape[1], dtype=torch.float64)
    scores = ((x @ W_Q.mT) @ (x @ W_K.mT).mT).tril() * torch.exp(-decay * (t[:, None] - t))
    return scores @ x @ W_V


# --- Lemma 2 ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("N", "D", "d"), [(1, 1, 1), (2, 5, 3), (6, 3, 4), (4, 4, 4)])
def test_an_s6_layer_and_a_linear_map_are_any_head_of_linear_attention(form: Form, N: int, D: int, d: int) -> None:
    for seed in range(5):
        weights, x = head(N, D, d, 10 * seed), normal(3, 20, D, seed=7 + seed)
        expected = attention(x, *weights)
        assert (lemma2(*weights, form)(x) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_only_the_linear_form_has_finite_parameters_and_training_leaves_none(form: Form) -> None:
    made = lemma2(*head(2, 3, 2, 0), form)
    (layer,) = (module for module in made if isinstance(module, S6))
    assert bool(layer.A_log.isfinite().all()) == (form == "s6-poly-linear")
    made(normal(2, 6, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    if form != "s6-poly-linear":
        assert (layer.A_log.grad == 0).all()


@pytest.mark.parametrize(("form", "delta"), [("s6", 1.0), ("s6-bbar-b", 1.0), ("s6-poly", math.log(2))])
def test_a_finite_parameter_forgets_at_the_rate_that_is_stated(form: Form, delta: float) -> None:
    weights, x, eps = head(3, 4, 4, 0), normal(2, 12, 4), 1e-4
    y, exact = lemma2(*weights, form, eps=eps)(x), attention(x, *weights)
    # the Taylor polynomial of exp is off by (eps delta)^4 / 24 a step
    assert (y - attention(x, *weights, decay=eps * delta)).abs().max() < 1e-12 * exact.abs().max()
    assert 1e-5 < (y - exact).abs().max() / exact.abs().max() < 11 * eps * delta


# --- Theorem 2 ---


def some(generator: random.Random, variables: int, degree: int, monomials: int) -> Parsed:
    """A random polynomial with at most so many monomials, none above the degree."""
    terms: dict[tuple[int, ...], float] = {}
    for _ in range(generator.randint(1, monomials)):
        chosen = generator.choices(range(variables), k=generator.randint(1, degree))
        terms[tuple(sorted(chosen))] = generator.gauss(0, 1)
    exponents = [{v: chosen.count(v) for v in sorted(set(chosen))} for chosen in terms]
    return Parsed(generator.gauss(0, 1), list(terms.values()), exponents)


def by_definition(parsed: Parsed, x: Tensor) -> Tensor:
    y = torch.full_like(x[:, 0], parsed.constant)
    for c, exponents in zip(parsed.coefficients, parsed.exponents, strict=True):
        y = y + c * torch.stack([x[:, v] ** e for v, e in exponents.items()]).prod(0)
    return y


def test_four_blocks_are_any_polynomial() -> None:
    generator = random.Random(0)
    for seed in range(200):
        large = seed % 20 == 0
        L = 6 if large else generator.randint(1, 4)
        parsed = some(generator, L, 8, 20) if large else some(generator, L, 4, 8)
        made, x = theorem2(parsed, L), normal(16, L, seed=seed)
        assert made.error(x).max() < 1e-12, parsed
        torch.testing.assert_close(made.evaluate(x), by_definition(parsed, x), rtol=1e-8, atol=1e-10)
        assert made.padding == max(sum(e.values()) for e in parsed.exponents)


def test_windows_that_begin_as_early_as_they_can() -> None:
    generator = random.Random(2)
    longest = 0
    for seed in range(100):
        parsed = some(generator, 4, 6, 5)
        made = theorem2(parsed, 4, windows="earliest")
        assert made.error(normal(16, 4, seed=seed)).max() < 1e-12, parsed
        ends = []
        for exponents in parsed.exponents:
            end = 0
            for variable, exponent in exponents.items():
                end = max(end, variable) + exponent
            ends.append(end)
        assert made.padding == max(0, *(end - 4 for end in ends)), "no more than a chain of windows needs"
        longest = max(longest, made.padding)
    assert longest > 1
    assert theorem2(parse("x1*x2*x3*x4"), 4, windows="earliest").padding == 0


def test_all_monomials_of_degree_4_in_4_variables() -> None:
    exponents = [e for e in itertools.product(range(5), repeat=4) if 0 < sum(e) <= 4]
    parsed = Parsed(1.0, normal(len(exponents)).tolist(), [{v: k for v, k in enumerate(e) if k} for e in exponents])
    made = theorem2(parsed, 4)
    assert (len(exponents), made.L + made.padding, made.width, made.inner) == (69, 8, 917, (5, 281, 281, 208))
    assert made.error(normal(32, 4)).max() < 1e-14


def test_the_network_is_made_of_the_suites_layers_and_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    made = theorem2(parse("x1*x2"), 3)
    assert torch.equal(torch.get_rng_state(), before)
    layers = [block.mixer for block in made.network.mixers if isinstance(block, MambaBlock)]
    assert [type(layer) for layer in layers] == [S6Poly] * 4
    assert [tuple(layer.A_log.shape) for layer in layers if isinstance(layer, S6)] == [(n, 1) for n in made.inner]
    assert {p.dtype for p in made.network.parameters()} == {torch.float64}
    assert made.parameters == made.network.parameter_count()
    assert all(torch.equal(made.evaluate(normal(9, 3))[i : i + 1], made.evaluate(normal(9, 3)[i : i + 1])) for i in range(9))


@pytest.mark.parametrize(("text", "L"), [("0", 1), ("-2.5", 3), ("x1", 1), ("x7", 9), ("x2^64", 2), ("x1 - x1 + 1", 1)])
def test_polynomials_of_no_or_one_variable(text: str, L: int) -> None:
    assert theorem2(parse(text), L).error(normal(5, L).clamp(-1, 1)).max() < 1e-14


@pytest.mark.parametrize(
    ("text", "fails"),
    [("x1^2*x2", True), ("x1^3*x2^2*x3", True), ("x1^3*x3 + x2", True), ("x1*x2^2", False), ("x1^4*x2", False)],
)
def test_the_printed_windows_fail_where_two_of_them_end_together(text: str, fails: bool) -> None:
    x = normal(64, 3)
    assert (theorem2(parse(text), 3, windows="printed").error(x).max() > 1e-2) == fails
    assert theorem2(parse(text), 3).error(x).max() < 1e-14


def test_the_printed_windows_fail_there_alone() -> None:
    generator = random.Random(1)
    failed = 0
    for seed in range(100):
        parsed = some(generator, 4, 4, 3)
        coincide = any(len({v + e for v, e in m.items()}) < len(m) for m in parsed.exponents)
        error = theorem2(parsed, 4, windows="printed").error(normal(16, 4, seed=seed)).max()
        assert error > 1e-3 if coincide else error < 1e-12, parsed
        failed += coincide
    assert 10 < failed < 90


def test_where_a_variable_is_near_0_the_error_is_rounding_of_the_products_of_the_others() -> None:
    made, x = theorem2(parse("x1*x2^8"), 2), torch.tensor([[1e-9, 11.0]], dtype=torch.float64)
    error = made.error(x).item()  # of a value of 0.2
    assert 1e-12 < error < 4 * torch.finfo(torch.float64).eps * 11.0**8


def test_a_construction_that_is_too_large_is_refused_before_it_is_built() -> None:
    pairs = list(itertools.combinations(range(300), 2))
    with pytest.raises(BadInput, match=r"^theorem 2: 44850 monomials .* width 583652 and [\d.e+]+ GB \(the limits are 2 GB"):
        theorem2(Parsed(0.0, [1.0] * len(pairs), [{i: 1, j: 1} for i, j in pairs]), 300)
    with pytest.raises(BadInput) as refused:
        theorem2(parse("x1*x2"), 2, limit=0)
    need = re.search(r"and ([\d.e-]+) GB", str(refused.value))
    assert need is not None
    assert 8e-9 * theorem2(parse("x1*x2"), 2).parameters < float(need[1]) < 3e-8 * theorem2(parse("x1*x2"), 2).parameters
    with pytest.raises(BadInput, match="1048576 positions"):
        theorem2(parse("x1"), (1 << 20) + 1)
    with pytest.raises(BadInput, match="L=2 is too small; the polynomial's last variable is x3"):
        theorem2(parse("x3"), 2)


def test_the_report_of_a_construction() -> None:
    lines = report(theorem2(parse("2*x1^2*x3 - x2*x4 + 0.5"), 4)).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["positions", "7"],
        ["width", "36"],
        ["inner", "5/9/9/7"],
        ["parameters", "4169"],
    ]
    assert lines[0].startswith("error")
    assert float(lines[0].split()[1]) < 1e-14


# --- Count in row ---


def test_one_channel_counts_in_row() -> None:
    every = torch.tensor(list(itertools.product([0, 1], repeat=10)))
    long = (normal(4, 1000) > -2).long()
    for bits in (every, long):
        network = count_in_row(bits.shape[1])
        assert torch.equal(network(bits).squeeze(-1), run_lengths(bits).double())
    assert run_lengths(long).max() > 50


# --- The block ---


def test_a_block_is_its_definition() -> None:
    torch.manual_seed(0)
    u = normal(2, 7, 3)
    block = MambaBlock(3, 5, S6).double()
    assert block.conv is not None
    x = F.pad(block.to_x(u), (0, 0, 3, 0))
    x = sum(x[:, k : k + 7] * block.conv.weight[:, 0, k] for k in range(4)) + block.conv.bias
    torch.testing.assert_close(block(u), block.to_out(block.mixer(F.silu(x)) * F.silu(block.to_z(u))))
    changed = u.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(block(changed)[:, :4], block(u)[:, :4])
    assert block.to_x.bias is None
    plain = MambaBlock(3, 5, S6, conv=0, activation="none", gate="linear", bias=True).double()
    assert plain.conv is None
    torch.testing.assert_close(plain(u), plain.to_out(plain.mixer(plain.to_x(u)) * plain.to_z(u)))


@pytest.mark.parametrize("make", [lambda: MambaBlock(3, 0, S6), lambda: MambaBlock(3, 5, S6, conv=-1)])
def test_a_block_refuses_sizes_that_make_no_sense(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="inner="):
        make()


# --- The text ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2*x1^2*x3 - x2*x4 + 0.5", Parsed(0.5, [2.0, -1.0], [{0: 2, 2: 1}, {1: 1, 3: 1}])),
        ("-x1", Parsed(0.0, [-1.0], [{0: 1}])),
        ("--x1 + -2*x2", Parsed(0.0, [1.0, -2.0], [{0: 1}, {1: 1}])),
        ("x3*1e-3*x1*-2.*x1", Parsed(0.0, [-2e-3], [{0: 2, 2: 1}])),
        ("  x1 ** 2*x1 ^3 ", Parsed(0.0, [1.0], [{0: 5}])),
        ("x1*x2 + x2*x1 - .5", Parsed(-0.5, [2.0], [{0: 1, 1: 1}])),
        ("x1 - x1 + x2 + 0*x3 + x2^0", Parsed(1.0, [1.0], [{1: 1}])),
        ("1E+2*x01", Parsed(0.0, [100.0], [{0: 1}])),
        ("3", Parsed(3.0, [], [])),
    ],
)
def test_text_becomes_a_polynomial(text: str, expected: Parsed) -> None:
    assert parse(text) == expected
    assert parse(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end at character 1, expected a number or a variable (x1, x2, ...)"),
        ("x1 +", "the end at character 5, expected a number or a variable"),
        ("x1 + * x2", "'*' at character 6, expected a number or a variable"),
        ("2x1", "'x1' at character 2, expected +, -, * or the end"),
        ("x1 x2", "'x2' at character 4, expected +, -"),
        ("2^3", "'^' at character 2, expected +, -"),
        ("x1^", "the end at character 4, expected an integer exponent from 0 to 64"),
        ("x1^2.5", "'2.5' at character 4, expected an integer exponent"),
        ("x1^-2", "'-' at character 4, expected an integer exponent"),
        ("x1^65", "'65' at character 4, expected an integer exponent from 0 to 64"),
        ("x1^" + "9" * 5000, "at character 4, expected an integer exponent"),
        ("x1^40*x2*x1^25", "'x1' at character 10, expected exponents of at most 64"),
        ("x1 + x5", "'x5' at character 6, expected a variable from x1 to x4"),
        ("x0", "'x0' at character 1, expected a variable from x1 to x4"),
        ("x" + "1" * 5000, "at character 1, expected a variable from x1 to x4"),
        ("x1 + 1e999", "'1e999' at character 6, expected a finite coefficient"),
        ("x2 + 1e200*x1*1e200", "'1e200' at character 6, expected a finite coefficient"),
        ("x1 / x2", "'/' at character 4, expected a number, a variable (x1, x2, ...), +, -, * or ^"),
        ("(x1)", "'(' at character 1"),
        ("x1\n+ y", "'y' at character 6"),
        ("x\u0661", "'x' at character 1"),
    ],
)
def test_text_that_makes_no_sense_is_refused_where_it_goes_wrong(text: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text, 4)
    message = str(refused.value)
    assert message.startswith("polynomial '")
    assert words in message
    assert "\n" not in message
    assert len(message) < 300


def test_without_a_length_variables_go_as_far_as_sequences() -> None:
    assert parse("x1048576").exponents == [{1048575: 1}]
    with pytest.raises(BadInput, match="from x1 to x1048576"):
        parse("x1048577")
