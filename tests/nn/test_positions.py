"""Position codes by definition: values, gradients, and what each lets a layer do."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from expbench_tasks.polyreg import PolyReg
from torch import Tensor, nn

from expbench.errors import BadInput
from expbench.mixer import RelativeCode, apply_relative
from expbench.models.attn import Attn
from expbench.models.linattn import LinAttn
from expbench.nn.network import Network
from expbench.nn.positions import PositionCode, rotate, rotation, sinusoids
from expbench.ops.attention import alibi
from expbench.results import store
from expbench.run import NO_BASE, matched_base, stated_base
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.theory.degree import degree_of, generic, order_of
from expbench.training.loop import build, train

LENGTHS, WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024), (4, 6, 8, 12, 16, 32, 64)


def network(name: type, width: int, L: int, positions: Any, base: float = NO_BASE, **settings: Any) -> Network:
    return Network(
        PolyReg(L=L),
        lambda: name(width, **settings),
        width=width,
        depth=1,
        norm="none",
        positions=positions,
        residual=False,
        position_base=base,
    )


def columns(L: int, D: int, base: float) -> Tensor:
    """The functions of the position that an affine map of the code can form: 1 and the code's columns, (L, 1 + D)."""
    angle = torch.arange(L)[:, None] * base ** (-torch.arange(0, D, 2).double() / D)
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    torch.testing.assert_close(sinusoids(L, D, base).double(), table, rtol=0, atol=1e-4)
    return torch.cat([torch.ones(L, 1).double(), table], 1)


# --- The base ---


def test_the_matched_base_depends_on_the_length_alone() -> None:
    assert [matched_base("sin", L) for L in (1, 4, 8, 32, 1024)] == [2.0, 2.0, 2.546, 10.19, 325.9]
    assert matched_base("rotary", 32) == matched_base("sin", 32)
    assert {matched_base(code, 32) for code in ("none", "learned", "onehot", "index", "alibi")} == {NO_BASE}
    assert [stated_base("sin", base, 32) for base in (10.19, 10000.0)] == ["auto", "10000"]
    assert stated_base("none", NO_BASE, 32) == "auto"


def test_no_column_of_the_matched_code_is_nearly_constant() -> None:
    """As the docstring of `matched_base` states; the slowest frequency makes half a turn or more."""
    least = {"matched": math.inf, "former": math.inf}
    for D in WIDTHS:
        for L in (L for L in LENGTHS if L >= 2 * D):
            base = matched_base("sin", L)
            assert base ** (-(D - 2) / D) * L >= math.pi
            for name, used in (("matched", base), ("former", 10000.0)):
                least[name] = min(least[name], float(sinusoids(L, D, used)[:, 2:].double().std(0, correction=0).min()))
    assert least["matched"] > 0.38
    assert least["former"] < 2e-5


@pytest.mark.parametrize(("D", "matched", "former"), [(4, 7.2, 1.9e4), (6, 4.4, 1.9e7), (8, 176, 1e12), (12, 609, 1e15)])
def test_the_matched_code_is_well_conditioned(D: int, matched: float, former: float) -> None:
    lengths = [L for L in LENGTHS if L >= 2 * D]
    assert max(float(torch.linalg.cond(columns(L, D, matched_base("sin", L)))) for L in lengths) < matched
    assert max(float(torch.linalg.cond(columns(L, D, 10000.0))) for L in lengths) > former


def test_the_former_base_gives_the_former_code() -> None:
    (job,) = expand(SweepSpec(task="polyreg", models="linattn", L="5", D="6", seeds="0", position_base="10000"), "cpu")
    table = build(job.run, job.task, job.model, "cpu").code.table
    assert table is not None
    for t, row in enumerate(table.tolist()):
        angles = [t / 10000 ** (2 * i / 6) for i in range(3)]
        assert row == pytest.approx([f(angle) for angle in angles for f in (math.sin, math.cos)], abs=1e-6)
    (matched,) = expand(SweepSpec(task="polyreg", models="linattn", L="5", D="6", seeds="0"), "cpu")
    assert matched.run.position_base == 2.0
    torch.testing.assert_close(build(matched.run, matched.task, matched.model, "cpu").code.table, sinusoids(5, 6, 2.0))


def test_the_former_base_gives_the_former_run() -> None:
    """Its key and its numbers are those of a file that was written before the base was a setting (schema 7)."""
    spec = SweepSpec(
        task="polyreg", models="linattn", L="4", steps="10", seeds="0", task_settings=("test_size=64", "validation_size=64")
    )
    former, matched = (expand(replace(spec, position_base=base), "cpu")[0] for base in ("10000", "auto"))
    frame, _ = store.read(Path(__file__).parents[1] / "results" / "schemas")
    rows = frame[frame["key"] == former.run.key].drop_duplicates(["split", "step", "metric", "slice"])
    assert len(rows) == 20
    known = {(row.split, row.step, row.metric, row.slice): row.value for row in rows.itertuples()}
    values = []
    for job in (former, matched):
        scores = train(job.run, job.task, build(job.run, job.task, job.model, "cpu"), "cpu")
        values.append({(score.split, score.step, score.metric, score.slice): score.value for score in scores})
    assert values[0] == pytest.approx(known, rel=1e-4, abs=1e-6)
    assert matched.run.key != former.run.key
    assert values[1] != pytest.approx(known, rel=1e-2)


def test_a_command_names_the_base_that_it_would_not_choose_by_itself() -> None:
    spec = SweepSpec(
        task="polyreg", models="attn", L="16", seeds="0", positions="none,sin,rotary", position_base="auto,10000"
    )
    named = {}
    for job in expand(spec, "cpu"):
        words = job.run.command().split()
        named[job.run.positions, job.run.position_base] = "--position-base" in words
        if "--position-base" in words:
            assert words[words.index("--position-base") + 1] == "10000.0"
    assert named == {
        ("none", NO_BASE): False,
        **{(code, base): base == NO_BASE for code in ("sin", "rotary") for base in (5.093, NO_BASE)},
    }


# --- Absolute codes ---


def test_onehot_is_the_one_hot_code_appended_to_the_inputs() -> None:
    L, D, C = 7, 3, 2
    code, embed, whole = PositionCode("onehot", L, D, base=NO_BASE, channels=C), nn.Linear(C, D), nn.Linear(C + L, D)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([embed.weight, code.weight.T], 1))
        whole.bias.copy_(embed.bias)
    x = torch.randn(4, L, C)
    torch.testing.assert_close(code(embed(x)), whole(torch.cat([x, torch.eye(L).expand(4, L, L)], -1)))


@pytest.mark.parametrize(("channels", "L"), [(1, 32), (4, 200)])
def test_the_start_of_onehot_and_of_learned(channels: int, L: int) -> None:
    torch.manual_seed(0)
    bound = 1 / math.sqrt(L + channels)
    weight = PositionCode("onehot", L, 64, base=NO_BASE, channels=channels).weight
    assert float(weight.detach().abs().max()) <= bound
    assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    learned = PositionCode("learned", L, 64, base=NO_BASE, channels=channels).weight
    assert float(learned.detach().std()) == pytest.approx(0.02, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["onehot", "learned"])
@pytest.mark.parametrize("L", [5, 64])
def test_a_trained_table_lets_one_layer_select_any_position_at_width_2(positions: Any, L: int) -> None:
    """Linear attention copies x_j to the last output, exactly: the key is 1 at j alone, the value is the content."""
    x = torch.randn(3, L, 1)
    for j in (0, L // 2, L - 1):
        made = network(LinAttn, 2, L, positions)
        for parameter in made.parameters():
            parameter.zero_()
        made.embed.weight[0] = 1.0  # channel 0 holds the content, channel 1 the position
        made.code.weight[j, 1] = 1.0
        qkv = made.mixers[0].qkv
        qkv.bias[0] = float(L)  # the query is constant, and cancels the factor 1/L
        qkv.weight[2, 1] = 1.0
        qkv.weight[4, 0] = 1.0
        made.head.weight[0, 0] = 1.0
        torch.testing.assert_close(made(x)[:, 0], x[:, j, 0])


@pytest.mark.parametrize("base", [10000.0, matched_base("sin", 16)])
def test_a_fixed_table_cannot_set_one_position_apart(base: float) -> None:
    span = columns(16, 4, base)
    nearest = span @ torch.linalg.lstsq(span, torch.eye(16).double(), driver="gelsd").solution
    assert float((nearest - torch.eye(16)).norm(dim=0).min()) > 0.5


@pytest.mark.parametrize("positions", ["none", "sin", "learned", "onehot", "index"])
def test_a_code_changes_neither_degree_nor_order(positions: Any) -> None:
    measured = generic(network(LinAttn, 3, 4, positions))
    reach = network(LinAttn, 3, 4, positions).reach()
    assert (degree_of(measured, 4, 1), order_of(measured, 4, 1)) == (3, 2) == (reach.degree[-1], reach.order[-1])  # type: ignore[union-attr]


# --- Relative codes ---


def by_definition(layer: Attn, x: Tensor, code: RelativeCode) -> Tensor:
    """Attention with each score written out: rotated by matrices, or lowered by slope times distance."""
    B, L, D = x.shape
    each = D // layer.heads
    q, k, v = (part.view(B, L, layer.heads, each) for part in layer.qkv(x).chunk(3, -1))
    rows = []
    for t in range(L):
        heads = []
        for h in range(layer.heads):
            scores = []
            for j in range(t + 1):
                a, b = q[:, t, h], k[:, j, h]
                if code.kind == "rotary":
                    a, b = turned(a, t, code.base), turned(b, j, code.base)
                score = (a * b).sum(-1) / math.sqrt(each)
                scores.append(score - 2 ** (-8 * (h + 1) / layer.heads) * (t - j) if code.kind == "alibi" else score)
            shares = torch.stack(scores, -1).softmax(-1)
            heads.append((shares[..., None] * v[:, : t + 1, h]).sum(1))
        rows.append(torch.cat(heads, -1))
    return torch.stack(rows, 1)


def turned(x: Tensor, t: int, base: float) -> Tensor:
    """x (B, D), its pairs i, i + D/2 turned by t / base^(2i/D), by a matrix."""
    D = x.shape[1]
    matrix = torch.zeros(D, D, dtype=x.dtype)
    for i in range(D // 2):
        angle = t * base ** (-2 * i / D)
        matrix[i, i] = matrix[i + D // 2, i + D // 2] = math.cos(angle)
        matrix[i + D // 2, i] = math.sin(angle)
        matrix[i, i + D // 2] = -math.sin(angle)
    return x @ matrix.T


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["rotary", "alibi"])
def test_values_and_gradients_by_definition(kind: Any, heads: int) -> None:
    torch.manual_seed(0)
    code = RelativeCode(kind, 9, 5.0)
    layer = Attn(8, heads=heads).double()
    apply_relative(layer, code)
    x, weights = torch.randn(2, 9, 8, dtype=torch.float64, requires_grad=True), torch.randn(2, 9, 8, dtype=torch.float64)
    outputs = layer(x), by_definition(layer, x, code)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[0], Attn(8, heads=heads).mix(*layer.project(x)))  # as without positions
    grads = [torch.autograd.grad((y * weights).sum(), [x, layer.qkv.weight, layer.qkv.bias]) for y in outputs]
    for mine, true in zip(*grads, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-10)


def test_rotary_scores_depend_on_distances_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    table = rotation(40, 6, matched_base("rotary", 40))
    scores = rotate(q.expand(40, 6), table) @ rotate(k.expand(40, 6), table).T
    for distance in range(-39, 40):
        own = scores.diagonal(distance)
        torch.testing.assert_close(own, own[:1].expand_as(own), rtol=0, atol=1e-12)
    assert float((scores[-1] - scores[-1].mean()).abs().max()) > 0.1


def test_published_slopes_of_alibi() -> None:
    bias = alibi(8, torch.zeros(1, 8, 3, 2))
    assert (-bias[:, 1, 0]).tolist() == pytest.approx([2**-h for h in range(1, 9)])
    assert bias[0].tolist() == [[0.0, -math.inf, -math.inf], [-0.5, 0.0, -math.inf], [-1.0, -0.5, 0.0]]
    assert alibi(1, torch.zeros(1, 1, 3, 2).bfloat16())[0, 2].tolist() == [-(2**-7), -(2**-8), 0.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_a_run_tells_every_layer(positions: str, dtype: str) -> None:
    spec = SweepSpec(task="polyreg", models="attn", L="8", D="6", depth="2", positions=positions, seeds="0", dtype=dtype)
    (job,) = expand(spec, "cpu")
    made = build(job.run, job.task, job.model, "cpu")
    for layer in made.mixers:
        assert isinstance(layer, Attn)
        assert layer.alibi == (positions == "alibi")
        if positions == "rotary":
            assert layer.rotation is not None
            assert layer.rotation.dtype == getattr(torch, dtype)
            torch.testing.assert_close(
                layer.rotation.double(), rotation(8, 6, matched_base("rotary", 8)), rtol=1e-6, atol=1e-6
            )
    assert made.code(torch.zeros(1, 8, 6)).abs().max() == 0  # the network itself adds nothing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": "s6", "positions": "rotary"}, "--positions rotary: s6 does not apply this code; models that do: attn"),
        ({"models": "attn,linattn", "positions": "alibi"}, "--positions alibi: linattn does not apply this code"),
        ({"models": "attn", "positions": "rotary", "D": "5"}, "heads of an even number of channels, not 5; the next is 6"),
        ({"models": "s6,ssm", "position_base": "500"}, "--position-base 500: positions none have no base"),
        ({"models": "attn", "position_base": "0.5"}, "--position-base: '0.5' is not a number above 1, or auto"),
        ({"models": "attn", "position_base": "L"}, "--position-base: 'L' is not a number above 1, or auto"),
    ],
)
def test_what_is_refused_before_training(options: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        expand(SweepSpec(task="polyreg", **options), "cpu")
    assert "\n" not in str(refused.value)


def test_sizes_are_matched_with_relative_codes() -> None:
    spec = SweepSpec(task="polyreg", models="attn", positions="rotary,alibi", seeds="0", match="params=316", within="20")
    assert {(job.run.positions, job.run.D) for job in expand(spec, "cpu")} == {("rotary", 8), ("alibi", 9)}
