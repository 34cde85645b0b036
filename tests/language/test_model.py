"""Language models: each backbone against a plain one, its size, and what any mixer in it must keep."""

import cmath
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench import contracts, plugins
from expbench.errors import BadInput
from expbench.language.model import LanguageModel, backbone_of, language_settings, matched_hidden
from expbench.mixer import Attention, Mixer
from expbench.models import s6 as s6_module
from expbench.models.attn import Attn
from expbench.models.linattn import LinAttn
from expbench.models.s6 import S6
from expbench.nn.blocks import AttentionBlock, FeedForward, MambaBlock
from expbench.nn.positions import rotate, rotation
from expbench.ops.cross_entropy.linear import _cost as reference_cost
from expbench.ops.cross_entropy.linear import linear_cross_entropy, reference, row_cross_entropy
from expbench.ops.cross_entropy.triton_kernel import cost
from expbench.studies.published import numbers

V, D, L = 11, 16, 12


class Gru(nn.Module):
    """A stranger's: it knows nothing of expbench."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class GruInTransformer(Gru):
    """The same, which asks for the other backbone by one attribute."""

    backbone = "transformer"


def model(name: str) -> type[nn.Module]:
    return contracts.load_model(plugins.find("model", name))


@contextmanager
def doubles() -> Iterator[None]:
    """Within it torch makes float64 tensors, tables among them."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def language(mixer: type[nn.Module], given: Any = None, *, moved: float = 0.3, **options: Any) -> LanguageModel:
    """A small one in float64, with every parameter moved away from its initial value, so that none is special."""
    with doubles():
        net = LanguageModel(mixer, given, **{"vocabulary": V, "width": D, "layers": 2, "context": L, **options}).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += moved * torch.randn_like(parameter)
    return net


def some_tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


ANY = {
    name: model(name) for name in ("s6", "s6-bbar-b", "s6-poly-disc", "s6-poly", "ssm", "gru", "attn", "linattn", "polyattn")
}
ANY |= {"torchs-gru": Gru, "gru-in-transformer": GruInTransformer}


@pytest.mark.parametrize("name", ANY)
def test_causality_gradients_and_block_of_any_mixer(name: str) -> None:
    net, tokens = language(ANY[name], moved=0.02), some_tokens(2, L)
    attends = name in ("attn", "linattn", "polyattn", "gru-in-transformer")
    assert [type(block) for block in net.blocks] == 2 * ([AttentionBlock, FeedForward] if attends else [MambaBlock])
    assert [type(mixer) for mixer in net.mixers] == 2 * [ANY[name]]
    logits = net(tokens)
    assert logits.shape == (2, L, V)
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % V
    torch.testing.assert_close(net(changed)[:, :7], logits[:, :7], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(net(changed)[:, 7:], logits[:, 7:])
    early = tokens.clone()
    early[:, 0] = (early[:, 0] + 1) % V
    assert not torch.allclose(net(early)[:, -1], logits[:, -1], rtol=1e-12, atol=1e-12), (
        "the last output sees the first token"
    )
    net.loss(tokens, some_tokens(2, L, seed=2)).backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all())
        assert bool(parameter.grad.any()), parameter_name


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def plain_mamba(block: MambaBlock, u: Tensor, discretised: bool) -> Tensor:
    """mamba_simple.py for one sequence u (L, D), number by number of the state."""
    s6, conv = block.mixer, block.conv
    assert isinstance(s6, S6)
    assert conv is not None
    A, skip, inner = -s6.A_log.exp(), s6.skip, 2 * u.shape[1]
    assert A.shape == (inner, 16)
    h, ys = torch.zeros(inner, 16, dtype=u.dtype), []
    past = [torch.zeros(inner, dtype=u.dtype)] * 3
    for u_t in u:
        past = [*past[-3:], block.to_x.weight @ u_t]
        x = conv.bias + sum(conv.weight[:, 0, i] * past[i] for i in range(4))
        x = x * torch.sigmoid(x)
        low, B, C = (s6.to_all.weight @ x).split([math.ceil(u.shape[1] / 16), 16, 16])
        delta = torch.log1p(torch.exp(s6.to_delta.weight @ low + s6.to_delta.bias))
        h = torch.exp(delta[:, None] * A) * h + (delta * x if discretised else x)[:, None] * B
        z = block.to_z.weight @ u_t
        ys.append(block.to_out.weight @ ((h @ C + skip * x) * z * torch.sigmoid(z)))
    return torch.stack(ys)


@pytest.mark.parametrize("name", ["s6", "s6-bbar-b"])
@pytest.mark.parametrize("width", [16, 20])
@torch.no_grad()
def test_mambas_backbone_against_a_plain_one(name: str, width: int) -> None:
    net, tokens = language(ANY[name], width=width), some_tokens(2, L)
    for sequence, logits in zip(tokens, net(tokens), strict=True):
        x = net.embed.weight[sequence]
        for block, norm in zip(net.blocks, net.norms, strict=True):
            x = x + plain_mamba(block, rms(x, norm.weight), name == "s6")
        torch.testing.assert_close(rms(x, net.norm.weight) @ net.embed.weight.T, logits, rtol=1e-9, atol=1e-9)


def turned(x: Tensor) -> Tensor:
    """Rotary positions of one head x (L, d), pair by pair as complex numbers."""
    half = x.shape[1] // 2
    turns = [[cmath.exp(1j * t * 10000 ** (-i / half)) for i in range(half)] for t in range(len(x))]
    y = torch.complex(x[:, :half], x[:, half:]) * torch.tensor(turns, dtype=torch.complex128)
    return torch.cat([y.real, y.imag], 1)


@pytest.mark.parametrize(("name", "given", "heads"), [("attn", {}, 1), ("attn", {"heads": 4}, 4), ("linattn", {}, 1)])
@torch.no_grad()
def test_transformers_backbone_against_a_plain_one(name: str, given: Any, heads: int) -> None:
    net, tokens = language(ANY[name], given, hidden=7), some_tokens(2, L)
    for sequence, logits in zip(tokens, net(tokens), strict=True):
        x = net.embed.weight[sequence]
        norms = iter(net.norms)
        for attention, forward in zip(net.blocks[::2], net.blocks[1::2], strict=True):
            qkv, u = attention.mixer.qkv, rms(x, next(norms).weight)
            q, k, v = ((u @ qkv.weight.T + qkv.bias)[:, i * D : (i + 1) * D] for i in range(3))
            outputs = []
            for q_h, k_h, v_h in zip(*(part.chunk(heads, 1) for part in (q, k, v)), strict=True):
                scores = turned(q_h) @ turned(k_h).T
                if name == "attn":
                    weights = (scores * (D // heads) ** -0.5).exp().tril()
                    outputs.append(weights / weights.sum(1, keepdim=True) @ v_h)
                else:
                    outputs.append(scores.tril() / L @ v_h)
            x = x + torch.cat(outputs, 1) @ attention.to_out.weight.T
            u = rms(x, next(norms).weight)
            z = u @ forward.to_z.weight.T
            x = x + (z * torch.sigmoid(z) * (u @ forward.to_x.weight.T)) @ forward.to_out.weight.T
        torch.testing.assert_close(rms(x, net.norm.weight) @ net.embed.weight.T, logits, rtol=1e-9, atol=1e-9)


def test_rotated_products_depend_on_distances_alone() -> None:
    table = rotation(50, 8, 10000.0)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    products = rotate(q.expand(50, 8), table) @ rotate(k.expand(50, 8), table).T
    for distance in (0, 1, 17):
        torch.testing.assert_close(products.diagonal(-distance), products[distance, 0].expand(50 - distance))
    assert len({round(float(p), 6) for p in products[:, 0]}) == 50, "distances differ"
    torch.testing.assert_close(rotate(q.expand(50, 8), table).norm(dim=1), q.norm().expand(50))


def test_rotation_keeps_the_dtype_and_is_done_in_the_tables() -> None:
    x = torch.randn(1, 4, 30, 8).bfloat16()
    y = rotate(x, rotation(64, 8, 10000.0).float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, rotate(x.float(), rotation(64, 8, 10000.0).float()).bfloat16())


@pytest.mark.parametrize("name", ["s6", "attn"])
def test_the_head_is_the_embedding(name: str) -> None:
    net, tokens = language(ANY[name]), some_tokens(1, L) % (V - 1)  # the last token is never an input
    assert net.terms()["embed"] == V * D
    assert sum(net.terms().values()) == net.parameter_count()
    logits = net(tokens)
    logits[..., -1].sum().backward()
    assert net.embed.weight.grad is not None
    torch.testing.assert_close(net.embed.weight.grad[-1], net.features(tokens).sum((0, 1)))
    assert bool(net.embed.weight.grad[tokens[0, 0]].any()), "and the inputs' rows by way of the blocks"
    with torch.no_grad():
        net.embed.weight[-1] *= 2
        expected = torch.cat([logits[..., :-1], 2 * logits[..., -1:]], -1)
        torch.testing.assert_close(net(tokens), expected)


@pytest.mark.parametrize(("name", "blocks"), [("s6", 9), ("attn", 18)])
def test_initialisation(name: str, blocks: int) -> None:
    net = LanguageModel(ANY[name], vocabulary=500, width=64, layers=9, context=8).requires_grad_(False)
    assert len(net.blocks) == blocks
    assert float(net.embed.weight.std()) == pytest.approx(0.02, rel=0.02)
    for block in net.blocks:  # torch's own is uniform on +-1/sqrt(columns)
        for part, factor in ((block.to_out, blocks**-0.5), (block.to_x if hasattr(block, "to_x") else None, 1.0)):
            if part is not None:
                assert float(part.weight.abs().max()) == pytest.approx(factor * part.in_features**-0.5, rel=0.01)
    undecayed = {n.rpartition(".")[2] for n, p in net.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert undecayed == ({"A_log", "skip"} if name == "s6" else set())
    if name == "s6":
        for mixer in net.mixers:
            delta = F.softplus(mixer.to_delta.bias)
            assert 1e-3 * 0.999 <= float(delta.min()) < 4e-3
            assert 3e-2 < float(delta.max()) <= 1e-1 * 1.001


def test_sizes_beside_the_papers() -> None:
    mamba, transformer = LanguageModel(S6), LanguageModel(Attn)
    published = {row.model: row.parameters for row in numbers.table1()}
    assert (published["s6"], published["attn"]) == ("30.1M", "31.4M")  # ours are 2.6 % larger and 1.8 % smaller
    embed, inner, layers = 50257 * 384, 768, 12
    terms = {
        "embed": embed,
        "to_x": layers * 384 * inner,
        "to_z": layers * 384 * inner,
        "to_out": layers * 384 * inner,
        "conv": layers * inner * (4 + 1),
        "mixer": layers * inner * ((24 + 16 + 16) + (24 + 1) + 16 + 1),  # to_all, to_delta, A, skip
        "norms": (layers + 1) * 384,
    }
    assert (mamba.backbone, mamba.terms(), mamba.parameter_count()) == ("mamba", terms, 30_869_760)
    terms = {
        "embed": embed,
        "mixer": layers * (384 + 1) * 3 * 384,
        "to_out": layers * 384**2,
        "feed_forward": layers * 3 * 384 * 320,
        "norms": (2 * layers + 1) * 384,
    }
    assert (transformer.backbone, transformer.terms(), transformer.parameter_count()) == ("transformer", terms, 30_823_680)


@pytest.mark.parametrize("name", ["s6-bbar-b", "s6-poly-disc", "s6-poly"])
def test_variants_are_as_large_as_mamba(name: str) -> None:
    small: Any = {"vocabulary": V, "width": 32, "layers": 1, "context": L}
    assert LanguageModel(ANY[name], **small).terms() == LanguageModel(S6, **small).terms()


@pytest.mark.parametrize("width", [128, 384, 768])
def test_layers_of_both_backbones_are_equally_large(width: int) -> None:
    mamba, transformer = (
        LanguageModel(cls, vocabulary=1, width=width, layers=1, context=1).parameter_count() for cls in (S6, Attn)
    )
    assert abs(transformer - mamba) <= 3 * width * 16  # half a step of the feed-forward part
    assert matched_hidden(width) % 32 == 0


def test_settings_of_a_mixer_within_a_language_model() -> None:
    assert language_settings(S6, 100, {}) == {"N": 16, "layout": "mamba_rank_D", "dt_rank": 7, "skip": True}
    assert language_settings(S6, 100, {"N": 3, "dt_rank": None})["N"] == 3
    assert language_settings(S6, 100, {"N": 3, "dt_rank": None})["dt_rank"] == 7
    assert language_settings(Attn, 384, {}) == {"heads": 6}
    assert language_settings(Attn, 384, {"heads": 3}) == {"heads": 3}
    assert language_settings(Attn, 16, {}) == {"heads": 1}
    assert language_settings(LinAttn, 384, {}) == language_settings(Gru, 384, {}) == {}
    assert LanguageModel(S6, {"N": 3}, vocabulary=V, width=D, layers=1, context=L).mixers[0].A_log.shape == (2 * D, 3)
    with pytest.raises(BadInput, match="unknown setting of Attn: 'head'; did you mean 'heads'"):
        language_settings(Attn, 384, {"head": 3})

    class Resolving(Mixer):
        def __init__(self, width: int, *, size: int | None = None) -> None: ...

        @classmethod
        def resolve(cls, width: int, settings: Any) -> Any:
            return {"size": width}

    assert language_settings(Resolving, 10, {}) == {"size": 20}, "the mixer's width is the inner one"


def test_a_backbone_is_asked_for_by_one_attribute() -> None:
    class Misspelt(nn.Module):
        backbone = "transfomer"

    class Unrelated(nn.Module):
        backbone = nn.Identity()

    assert [backbone_of(cls) for cls in (Gru, GruInTransformer, S6, Attn, Unrelated)] == [
        "mamba",
        "transformer",
        "mamba",
        "transformer",
        "mamba",
    ]
    with pytest.raises(BadInput, match="Misspelt's attribute backbone: 'transfomer'; did you mean 'transformer'"):
        backbone_of(Misspelt)


def test_a_strangers_attention_is_rotated_too() -> None:
    """A sum over the past without positions would not see its order; rotated, it does."""

    class Sum(Attention):
        def __init__(self, width: int) -> None:
            super().__init__()

        def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x, x, x

        def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return (q @ k.mT).tril() @ v

    net, tokens = language(Sum), torch.tensor([[1, 2, 3], [2, 1, 3]])
    first, second = net(tokens)[:, -1].detach()
    assert not torch.allclose(first, second)
    for block in net.blocks[::2]:
        block.rotation.copy_(torch.tensor([1.0, 0.0])[:, None, None])
    net.blocks = net.blocks[:2]  # in one layer: two would see it by their masks
    net.norms = net.norms[:2]
    first, second = net(tokens)[:, -1].detach()
    torch.testing.assert_close(first, second)


def test_too_long_and_impossible() -> None:
    with pytest.raises(ValueError, match="13 tokens is longer than the context of 12"):
        language(Attn)(some_tokens(1, L + 1))
    assert language(S6)(some_tokens(1, L + 1)).shape == (1, L + 1, V), "a recurrence has no longest sequence"
    with pytest.raises(ValueError, match="even number of channels, not 5"):
        language(LinAttn, width=5)
    with pytest.raises(ValueError, match="layers=0 must be 1 or more"):
        language(S6, layers=0)


@pytest.mark.parametrize("rows", [1, 4, 5, 100])
def test_linear_cross_entropy_against_its_definition(rows: int) -> None:
    x, weight = torch.randn(10, 3, dtype=torch.float64), torch.randn(V, 3, dtype=torch.float64)
    targets = some_tokens(10)
    answers = []
    for function in (reference, lambda *tensors: linear_cross_entropy(*tensors, rows=rows)):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        loss = function(*leaves, targets)
        answers.append([loss.detach(), *torch.autograd.grad(loss**2, leaves)])  # not with the gradient 1
    torch.testing.assert_close(answers[1], answers[0])
    frozen = x.clone().requires_grad_()
    linear_cross_entropy(frozen, weight, targets, rows).backward()
    torch.testing.assert_close(2 * answers[0][0] * frozen.grad, answers[0][1])
    terms = F.cross_entropy(x @ weight.T, targets, reduction="none")
    torch.testing.assert_close(row_cross_entropy(x, weight, targets, rows), terms)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, weight, targets, rows), terms.mean())


def test_linear_cross_entropy_under_autocast() -> None:
    x, weight, targets = torch.randn(64, 8), torch.randn(V, 8), some_tokens(64)
    answers = []
    with torch.autocast("cpu", torch.bfloat16):
        row_cross_entropy(x, weight, targets)  # what it casts must not be kept without a gradient
        for function in (reference, linear_cross_entropy):
            leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
            loss = function(*leaves, targets)
            assert loss.dtype == torch.float32
            answers.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    exact = linear_cross_entropy(x, weight, targets)
    torch.testing.assert_close(answers[1][0], answers[0][0], rtol=1e-6, atol=0)
    assert float((answers[1][0] - exact).abs()) > 1e-6, "the products are bfloat16's"
    torch.testing.assert_close(answers[1][1:], answers[0][1:], rtol=0.02, atol=1e-4)


GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])
INTERPRETED = pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("classes", "width"), [(1, 1), (50, 64), (5000, 5056), (9000, 9000)])
@pytest.mark.parametrize("device", [INTERPRETED, GPU])
def test_the_kernel_of_the_cross_entropy_against_its_reference(
    classes: int, width: int, dtype: torch.dtype, device: str
) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = (30 * torch.randn(6, width, generator=generator)).to(device, dtype)
    logits[1, 0] = 3e4  # nearly all of its row
    wanted = torch.tensor([0, classes - 1, 0, classes // 2, classes - 1, 0], device=device)
    expected, gradient = reference_cost(logits.double(), wanted, classes)
    found, over = cost(logits, wanted, classes)
    assert over.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(over.double(), gradient, rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-7)
    assert not over[:, classes:].any()


@pytest.mark.parametrize("name", ["s6", "attn"])
def test_loss_is_the_cross_entropy_of_the_logits(name: str) -> None:
    net, tokens, targets = language(ANY[name]), some_tokens(3, L), some_tokens(3, L, seed=2)
    plain = F.cross_entropy(net(tokens).flatten(0, 1), targets.flatten())
    loss = net.loss(tokens, targets)
    torch.testing.assert_close(loss, plain)
    parameters = list(net.parameters())
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters))
    each = net.token_losses(tokens, targets)
    assert each.shape == (3, L)
    torch.testing.assert_close(each, F.cross_entropy(net(tokens).mT, targets, reduction="none").detach())


@pytest.mark.parametrize("name", ["s6", "s6-bbar-b", "s6-poly-disc", "s6-poly", "attn", "linattn", "polyattn"])
def test_bfloat16_by_autocast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to float32, with float32 gradients; what a scan carries is float32 while its sequences are bfloat16."""
    seen = []

    def spied(*tensors: Any, **options: Any) -> Tensor:
        y, last = spied.scan(*tensors, return_last_state=True, **options)  # type: ignore[attr-defined]
        seen.append((y.dtype, last.dtype))
        return y

    spied.scan = s6_module.selective_scan  # type: ignore[attr-defined]
    monkeypatch.setattr(s6_module, "selective_scan", spied)
    net = LanguageModel(ANY[name], vocabulary=V, width=D, layers=2, context=L)
    tokens, targets = some_tokens(2, L), some_tokens(2, L, seed=2)
    exact = net(tokens).detach()
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        logits, features = net(tokens), net.features(tokens)
        loss = net.loss(tokens, targets)
    assert logits.dtype == torch.bfloat16
    assert features.dtype == loss.dtype == torch.float32, "the residual stream and the loss"
    assert set(seen) == ({(torch.bfloat16, torch.float32)} if name.startswith("s6") else set())
    assert float((logits.detach() - exact).norm() / exact.norm()) < 0.02
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)
