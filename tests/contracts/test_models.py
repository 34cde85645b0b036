"""Every discovered model keeps its contract; each built-in is checked against its definition."""

import math
from typing import Any

import pytest
import torch
from expbench_tasks.count_in_row import CountInRow
from expbench_tasks.polyreg import PolyReg
from torch import Tensor, nn

from expbench import contracts, plugins
from expbench.algebra.reach import NO_BOUND
from expbench.mixer import Mixer, unsupported
from expbench.models.attn import Attn
from expbench.models.gru import GRU
from expbench.models.linattn import LinAttn
from expbench.models.polyattn import PolyAttn
from expbench.models.s6 import S6
from expbench.models.s6_bbar_b import S6BbarB
from expbench.models.s6_poly import S6Poly
from expbench.models.s6_poly_disc import S6PolyDisc
from expbench.models.ssm import SSM
from expbench.nn.network import Network
from expbench.nn.positions import sinusoids

MODELS = sorted(plugins.discover("model"))


def model(name: str) -> type[nn.Module]:
    return contracts.load_model(plugins.find("model", name))


def double(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer in float64 with every parameter moved away from its initial value, so that none is special."""
    generator = torch.Generator().manual_seed(seed)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layer


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_built_in_models_are_all_here() -> None:
    assert set(MODELS) >= {
        "s6",
        "s6-bbar-b",
        "s6-poly-disc",
        "s6-poly",
        "mamba-poly",
        "ssm",
        "gru",
        "linattn",
        "polyattn",
        "attn",
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [1, 2, 5])
def test_shape_causality_and_independence_of_the_batch(name: str, width: int) -> None:
    layer, x = double(model(name)(width)), tokens(3, 70, width)
    y = layer(x)
    assert y.shape == x.shape
    changed = x.clone()
    changed[:, 40:] += 1
    torch.testing.assert_close(layer(changed)[:, :40], y[:, :40], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(layer(changed)[:, 40:], y[:, 40:])
    torch.testing.assert_close(layer(x[1:2]), y[1:2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_against_finite_differences(name: str) -> None:
    layer, x = double(model(name)(2)), (tokens(2, 5, 2) * 0.5).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    # and of every parameter
    y = layer(x).pow(2).sum()
    grads = torch.autograd.grad(y, list(layer.parameters()))
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        direction = tokens(*parameter.shape, seed=2)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                values.append(float(layer(x).pow(2).sum()))
                parameter -= sign * 1e-6 * direction
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float((grad * direction).sum()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_the_declared_state_is_enough_and_grows_only_with_a_cache(name: str) -> None:
    layer = model(name)(4)
    assert isinstance(layer, Mixer)
    sizes = [layer.state_size(L) for L in (16, 1024)]
    assert all(size is not None and size > 0 for size in sizes)
    if name not in ("attn", "polyattn"):
        assert sizes[0] == sizes[1]
    if name.startswith("s6") or name == "ssm":
        assert sizes[0] == 4 * 4


def reference_s6(layer: S6, x: Tensor, delta_of: Any, abar_of: Any, discretise: bool) -> Tensor:
    """Eq. 3-4, index by index, for one sequence (L, D)."""
    L, D = x.shape
    A = -layer.A_log.exp()
    h = torch.zeros(D, layer.N, dtype=x.dtype)
    rows = []
    for t in range(L):
        z, B, C = layer.project(x[t])
        delta = delta_of(z)
        y = torch.zeros(D, dtype=x.dtype)
        for d in range(D):
            for n in range(layer.N):
                bbar = B[n] * (delta[d] if discretise else 1)
                h[d, n] = abar_of(delta[d] * A[d, n]) * h[d, n] + bbar * x[t, d]
                y[d] += C[n] * h[d, n]
        rows.append(y + (layer.skip * x[t] if layer.skip is not None else 0))
    return torch.stack(rows)


@pytest.mark.parametrize("layout", ["mamba_rank_D", "full_bias"])
@pytest.mark.parametrize("skip", [True, False])
def test_s6_against_its_equations(layout: Any, skip: bool) -> None:
    x = tokens(1, 7, 3)
    with torch.no_grad():
        for cls in (S6, S6BbarB):
            layer = double(cls(3, N=2, layout=layout, skip=skip))
            assert isinstance(layer, S6)
            expected = reference_s6(layer, x[0], nn.functional.softplus, torch.exp, cls is S6)
            torch.testing.assert_close(layer(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", [S6Poly, S6PolyDisc])
def test_polynomial_s6_against_its_equations(cls: Any) -> None:
    x = tokens(1, 6, 2) * 0.5
    layer = double(cls(2, taylor=3, center="zero"))
    with torch.no_grad():

        def delta_of(z: Tensor) -> Tensor:
            return math.log(2) + z / 2 + z**2 / 8

        def abar_of(u: Tensor) -> Tensor:
            return 1 + u + u**2 / 2 + u**3 / 6

        expected = reference_s6(layer, x[0], delta_of, abar_of, cls is S6PolyDisc)
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-11, atol=1e-11)
        half = double(cls(2, taylor=3, center="zero", arg_scale=0.5))
        # the factor is on what depends on the token, not on the bias
        bias = half.to_delta.bias
        expected = reference_s6(half, x[0], lambda z: delta_of(bias + 0.5 * (z - bias)), abar_of, cls is S6PolyDisc)
        torch.testing.assert_close(half(x)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_taylor_s6_converges_to_the_exact_layer(degree: int) -> None:
    """With |u| <= 1 and softplus expanded about the bias, the output differs by no more than the remainders allow."""
    exact = double(S6(2, N=2))
    assert isinstance(exact, S6)
    layer = S6PolyDisc(2, N=2, taylor=degree, center="bias").double()
    x = 0.1 * tokens(2, 6, 2)
    with torch.no_grad():
        exact.A_log.clamp_(max=0.0)
        layer.load_state_dict(exact.state_dict(), strict=False)
        layer.expansion_point.copy_(layer.to_delta.bias)
        error = float((layer(x) - exact(x)).abs().max())
        z, _, _ = exact.project(x)
        assert float((z - exact.to_delta.bias).abs().max()) < 0.3
    assert error < 0.5 ** (degree + 1) / math.factorial(degree + 1)


def test_linear_transition_is_that_of_theorem_2() -> None:
    layer = double(S6Poly(2, transition="linear"))
    assert isinstance(layer, S6Poly)
    x = tokens(1, 5, 2)
    with torch.no_grad():
        # A is -exp(A_log), so Abar = z exp(A_log) = -(z A)
        expected = reference_s6(layer, x[0], lambda z: z, lambda u: -u, False)
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_ssm_is_linear_and_time_invariant() -> None:
    layer, x = double(SSM(2)), tokens(1, 9, 2)
    zeros = torch.zeros(1, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(2 * x), 2 * layer(x))
    torch.testing.assert_close(layer(torch.cat([zeros, x], 1))[:, 3:], layer(x))


@pytest.mark.parametrize("hidden", [None, 3, 6])
def test_gru_is_that_of_torch(hidden: int | None) -> None:
    """It has the parameters, values and gradients of nn.GRU; states of another width add a linear map."""
    layer, x = double(GRU(4, hidden=hidden)), tokens(2, 9, 4)
    assert isinstance(layer, GRU)
    theirs = nn.GRU(4, hidden or 4, batch_first=True).double()
    own = [p for linear in (layer.of_input, layer.of_state) for p in (linear.weight, linear.bias)]
    copies = [theirs.weight_ih_l0, theirs.bias_ih_l0, theirs.weight_hh_l0, theirs.bias_hh_l0]
    assert sum(p.numel() for p in own) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        for copy, p in zip(copies, own, strict=True):
            copy.copy_(p)
    expected = theirs(x)[0]
    assert (layer.out is None) is (hidden is None)
    expected = expected if layer.out is None else layer.out(expected)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    weights = tokens(2, 9, 4, seed=3)
    grads = torch.autograd.grad((layer(x) * weights).sum(), own)
    torch.testing.assert_close(grads, torch.autograd.grad((expected * weights).sum(), copies), rtol=1e-11, atol=1e-11)


def test_gru_starts_as_torchs_does() -> None:
    torch.manual_seed(0)
    layer = GRU(8, hidden=64)
    for p in (layer.of_input.weight, layer.of_input.bias, layer.of_state.weight, layer.of_state.bias):
        assert 0.11 < float(p.detach().abs().max()) <= 64**-0.5
        assert float(p.detach().mean().abs()) < 0.03


def test_attention_against_its_definition() -> None:
    x = tokens(2, 6, 4)
    for cls in (Attn, LinAttn, PolyAttn):
        layer = double(cls(4))
        q, k, v = layer.qkv(x).chunk(3, -1)
        scores = q @ k.mT
        causal = torch.ones(6, 6, dtype=torch.bool).tril()
        if cls is Attn:
            weights = (scores / 2).masked_fill(~causal, -math.inf).softmax(-1)
        else:
            phi = scores if cls is LinAttn else 1 + scores / 2 + (scores / 2) ** 2 / 2
            weights = torch.where(causal, phi, 0) / 6
        torch.testing.assert_close(layer(x), weights @ v)


def test_heads_split_the_width() -> None:
    layer, x = double(Attn(4, heads=2)), tokens(1, 5, 4)
    q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in layer.qkv(x).chunk(3, -1))
    scores = (q @ k.mT / math.sqrt(2)).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -math.inf)
    torch.testing.assert_close(layer(x), (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def network(name: str, width: int, depth: int = 1, norm: Any = "layer", positions: Any = "none", **settings: Any) -> Network:
    task = settings.pop("task", PolyReg(L=5))
    return Network(
        task, lambda: model(name)(width, **settings), width=width, depth=depth, norm=norm, positions=positions, residual=True
    )


SCALAR = CountInRow(L=20, head="scalar", supervise="last")
CLASSES = CountInRow(L=20, head="classes", supervise="last")


@pytest.mark.parametrize(
    ("name", "width", "depth", "settings", "parameters"),
    [
        ("attn", 4, 1, {}, 81),
        ("attn", 6, 1, {}, 157),
        ("attn", 8, 1, {}, 257),
        *[("attn", 2, n, {"task": SCALAR}, p) for n, p in [(1, 29), (2, 51), (4, 95)]],
        *[("attn", 4, n, {"task": CLASSES}, p) for n, p in [(1, 176), (2, 244), (4, 380)]],
        *[("s6", 2, n, {"task": SCALAR}, p) for n, p in [(1, 35), (2, 63)]],
        *[("s6", d, 1, {}, p) for d, p in [(4, 109), (6, 223), (8, 377)]],
        *[("s6", d, 1, {"layout": "full_bias"}, p) for d, p in [(4, 101), (6, 199), (8, 329)]],
        ("s6", 2, 1, {"task": SCALAR, "layout": "full_bias"}, 35),
    ],
)
def test_parameters_of_table_2(name: str, width: int, depth: int, settings: dict[str, Any], parameters: int) -> None:
    assert network(name, width, depth, **settings).parameter_count() == parameters


@pytest.mark.parametrize("L", [2, 3, 5])
@pytest.mark.parametrize(
    ("cls", "settings", "a", "p", "discretised"),
    [
        (S6Poly, {"transition": "linear"}, 1, 1, 0),
        (S6PolyDisc, {"transition": "linear"}, 1, 1, 1),
        (S6Poly, {"taylor": 2}, 2, 2, 0),
        (S6PolyDisc, {"taylor": 2}, 2, 2, 1),
        (S6Poly, {"taylor": 3}, 3, 2, 0),
        (S6PolyDisc, {"taylor": 3, "center": "bias"}, 3, 3, 1),
    ],
)
def test_stated_degree_of_one_layer(cls: Any, settings: dict[str, Any], a: int, p: int, discretised: int, L: int) -> None:
    task = PolyReg(L=L)
    net = Network(task, lambda: cls(2, **settings), width=2, depth=1, norm="none", positions="none", residual=True)
    reach = net.reach()
    assert reach is not None
    assert reach.degree[-1] == (L - 1) * a * p + 3 + p * discretised
    assert reach.order[-1] == L


def test_stated_degree_of_stacks() -> None:
    def reach(name: str, depth: int, L: int, **settings: Any) -> tuple[int, int]:
        found = network(name, 2, depth, norm="none", task=PolyReg(L=L), **settings).reach()
        assert found is not None
        return found.degree[-1], found.order[-1]

    assert [reach("linattn", n, 64) for n in (1, 2, 3, 4)] == [(3, 2), (9, 5), (27, 14), (81, 41)]
    assert reach("linattn", 4, 8) == (81, 8)
    assert [reach("polyattn", n, 8, taylor=2)[0] for n in (1, 2)] == [5, 25]
    assert [reach("polyattn", n, 8, taylor=3)[0] for n in (1, 2)] == [7, 49]
    assert [reach("s6-poly", 2, L, transition="linear")[0] for L in (2, 3, 4, 5)] == [14, 20, 27, 35]
    assert reach("ssm", 3, 8) == (1, 1)


def degree_on_a_line(net: nn.Module, L: int, most: int) -> int:
    """The degree of y_L on a random line of inputs, so long that the highest powers stand out of the rounding."""
    nodes = torch.cos(torch.linspace(0, math.pi, most + 2, dtype=torch.float64))
    x = tokens(1, L, 1) + 1000 * nodes[:, None, None] * tokens(1, L, 1, seed=9)
    with torch.no_grad():
        y = net(x)[:, 0]
    series = torch.linalg.solve(torch.linalg.vander(nodes), y)
    return int(torch.nonzero(series.abs() > 1e-8 * series.abs().max()).max())


@pytest.mark.parametrize(
    ("name", "depth", "L", "settings"),
    [
        ("linattn", 1, 4, {}),
        ("linattn", 2, 3, {}),
        ("polyattn", 1, 3, {"taylor": 3}),
        ("s6-poly", 1, 3, {"transition": "linear"}),
        ("s6-poly-disc", 1, 3, {"transition": "linear"}),
        ("s6-poly", 1, 2, {"taylor": 3}),
        ("s6-poly-disc", 1, 2, {"taylor": 2}),
        ("s6-poly", 1, 2, {"taylor": 3, "center": "bias"}),
        ("ssm", 2, 5, {}),
    ],
)
def test_stated_degree_is_the_measured_one(name: str, depth: int, L: int, settings: dict[str, Any]) -> None:
    net = double(network(name, 2, depth, norm="none", task=PolyReg(L=L), **settings))
    assert isinstance(net, Network)
    reach = net.reach()
    assert reach is not None
    assert degree_on_a_line(net, L, reach.degree[-1] + 3) == reach.degree[-1]


@pytest.mark.parametrize("name", ["linattn", "ssm", "polyattn"])
def test_interaction_order_of_one_layer_is_no_more_than_stated(name: str) -> None:
    """Mixed third differences over three positions vanish for layers that join two; over two they do not for attention."""
    L = 4
    net = double(network(name, 2, norm="none", task=PolyReg(L=L)))
    base, shift = tokens(1, L, 1), tokens(1, L, 1, seed=5)

    def difference(positions: tuple[int, ...]) -> float:
        total = 0.0
        for mask in range(2 ** len(positions)):
            x = base.clone()
            chosen = [p for i, p in enumerate(positions) if mask >> i & 1]
            x[:, chosen] += shift[:, chosen]
            with torch.no_grad():
                total += (-1) ** (len(positions) - len(chosen)) * float(net(x))
        return abs(total)

    assert difference((0, 1, 3)) < 1e-12
    if name == "ssm":
        assert difference((0, 3)) < 1e-12
    else:
        assert difference((0, 3)) > 1e-6
        assert difference((0, 1)) < 1e-12, "earlier positions join only with the last"


@pytest.mark.parametrize(
    ("name", "norm"), [("attn", "none"), ("s6", "none"), ("gru", "none"), ("linattn", "layer"), ("linattn", "rms")]
)
def test_no_bound_where_something_is_not_polynomial(name: str, norm: str) -> None:
    assert network(name, 2, norm=norm).reach() is NO_BOUND


def test_guarded_transitions_are_no_polynomial_and_stay_in_range() -> None:
    layer = double(S6Poly(2, guard="clip"))
    assert isinstance(layer, S6Poly)
    assert network("s6-poly", 2, norm="none", guard="clip").reach() is NO_BOUND
    statistics = layer.statistics(5 * tokens(4, 20, 2))
    assert float(statistics["frac_u_out_of_range"]) > 0
    assert float(statistics["abar_max"]) <= 1 + 1e-12
    assert float(statistics["frac_neg"]) == 0


@pytest.mark.parametrize("name", ["s6", "s6-bbar-b", "s6-poly", "s6-poly-disc"])
def test_transition_statistics_against_brute_force(name: str) -> None:
    layer, x = double(model(name)(3)), 2 * tokens(5, 9, 3)
    assert isinstance(layer, S6)
    with torch.no_grad():
        delta, u, abar = layer.discretise(x)
        delta, u, abar = delta[:, 1:], u[:, 1:], abar[:, 1:]
        statistics = {key: float(value) for key, value in layer.statistics(x).items()}
    sizes = sorted(abs(value) for value in abar.flatten().tolist())
    assert statistics["abar_max"] == pytest.approx(sizes[-1])
    assert statistics["abar_mean"] == pytest.approx(float(abar.mean()))
    assert statistics["abar_min"] == pytest.approx(float(abar.min()))
    assert statistics["frac_abs_gt_1"] == pytest.approx(sum(s > 1 for s in sizes) / len(sizes))
    assert statistics["frac_neg"] == pytest.approx(float((abar < 0).double().mean()))
    assert statistics["delta_min"] == pytest.approx(float(delta.min()))
    assert statistics["delta_max"] == pytest.approx(float(delta.max()))
    assert statistics["u_min"] == pytest.approx(float(u.min()))
    assert sizes[int(0.98 * len(sizes))] <= statistics["abar_p99"] <= sizes[-1]
    if name in ("s6", "s6-bbar-b"):
        assert 0 < statistics["abar_max"] < 1
        assert statistics["frac_abs_gt_1"] == statistics["frac_neg"] == 0


@pytest.mark.parametrize("center", ["zero", "bias"])
@pytest.mark.parametrize("taylor", [2, 3])
def test_both_centers_are_stable_at_the_start(center: Any, taylor: int) -> None:
    torch.manual_seed(0)
    layer = S6Poly(16, taylor=taylor, center=center)
    statistics = layer.statistics(0.1 * torch.randn(8, 32, 16))
    assert float(statistics["abar_max"]) <= 1.01
    assert float(statistics["delta_min"]) > 0
    if center == "bias":
        assert float(statistics["abar_max"]) > 0.98, "long memory"


def test_mambas_initialisation() -> None:
    torch.manual_seed(0)
    layer = S6(64, N=4)
    delta = nn.functional.softplus(layer.to_delta.bias.detach())
    assert 1e-3 * 0.999 <= float(delta.min()) < 3e-3
    assert 3e-2 < float(delta.max()) <= 1e-1 * 1.001
    torch.testing.assert_close(layer.A_log.detach().exp()[7], torch.tensor([1.0, 2, 3, 4]))


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(S6, {"N": 0}), (SSM, {"N": 0}), (GRU, {"hidden": 0}), (Attn, {"heads": 3}), (S6Poly, {"taylor": 0})],
)
def test_impossible_settings(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|does not|is 1 to"):
        cls(4, **settings)


def test_declared_support() -> None:
    class Picky(Mixer):
        widths = range(16, 65, 16)
        dtypes = frozenset({"float32"})

    assert unsupported(Picky, width=32, dtype="float32", device="cpu") is None
    assert "width 8 is not supported (supported: 16 to 64 in steps of 16)" in str(
        unsupported(Picky, width=8, dtype="float32", device="cpu")
    )
    assert "dtype float64" in str(unsupported(Picky, width=16, dtype="float64", device="cpu"))
    assert unsupported(nn.Identity, width=3, dtype="float64", device="cpu") is None


def test_sinusoids() -> None:
    table = sinusoids(50, 6, 10000.0)
    for t in (0, 1, 49):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    assert sinusoids(4, 3, 10000.0).shape == (4, 3)


@pytest.mark.parametrize(("positions", "extra"), [("none", 0), ("sin", 0), ("index", 4), ("learned", 20), ("onehot", 20)])
def test_position_codes(positions: Any, extra: int) -> None:
    plain, coded = (network("attn", 4, positions=p) for p in ("none", positions))
    assert coded.parameter_count() == plain.parameter_count() + extra
    assert coded(torch.zeros(2, 5, 1)).shape == (2, 1)
    embedded = coded.code(torch.zeros(1, 5, 4))[0]
    assert (len({str(row) for row in embedded.tolist()}) == 1) == (positions == "none")
    if positions == "index":
        torch.testing.assert_close(embedded[4], coded.code.weight)


@torch.no_grad()
def test_taylor_variants_tend_to_the_exact_layer() -> None:
    """With the same weights and |u| <= 1: each polynomial within its remainder, outputs closer degree by degree."""
    exact = double(S6(3))
    x = 0.5 * tokens(2, 9, 3)
    y, before = exact(x), math.inf
    delta, u, _ = exact.discretise(x)
    assert float(u.abs().max()) <= 1
    for k in (1, 2, 3, 4, 6):
        layer = S6PolyDisc(3, taylor=k, center="bias").double()
        layer.load_state_dict(exact.state_dict() | {"expansion_point": exact.to_delta.bias})
        close, v, power = layer.discretise(x)
        moved = (layer.project(x)[0] - exact.to_delta.bias).abs()
        assert bool(((close - delta).abs() <= moved ** (k + 1) + 1e-12).all())  # |softplus^(k+1)| < (k+1)!
        remainder = v.clamp(min=0).exp() * v.abs() ** (k + 1) / math.factorial(k + 1)  # a polynomial Delta may be below 0
        assert bool(((power - v.exp()).abs() <= remainder + 1e-12).all())
        error = float((layer(x) - y).abs().max())
        assert error < before / 2, k
        before = error
    assert before < 1e-3
