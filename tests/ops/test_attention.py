"""Softmax attention of a stack against each of its sequences' sets alone, by definition: values and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from expbench.ops import attention

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])


def defined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, softmax of the scores written out."""
    L, D = q.shape[-2:]
    unseen = torch.ones(L, L, dtype=torch.bool, device=q.device).triu(1)
    return (q @ k.mT / math.sqrt(D)).masked_fill(unseen, -math.inf).softmax(-1) @ v


def called(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As a model writes it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("shape", [(3, 2, 1, 128, 8), (2, 3, 2, 200, 4), (2, 1, 1, 129, 16)])
def test_a_stack_over_long_sequences(shape: tuple[int, ...], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_MOST_SEQUENCES", 4)  # so that a launch is split
    generator = torch.Generator().manual_seed(0)
    q, k, v, weights = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
    own = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    calls = []
    causal = attention._causal
    monkeypatch.setattr(attention, "_causal", lambda *x: calls.append(x[0].shape) or causal(*x))
    with attention.Folded():
        y = torch.vmap(called)(*own)
    assert calls == [(shape[0] * shape[1], *shape[2:])]
    expected = defined(*exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad((y * weights).sum(), own)
    for mine, true in zip(grads, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-4)


def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As a model writes it, with a bias of each head."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attention.alibi(q.shape[-3], q))


def defined_with_slopes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ALiBi (Press et al. 2022), softmax of the scores written out."""
    (H, L, D), device = q.shape[-3:], q.device
    slopes = torch.tensor([2 ** (-8 * (h + 1) / H) for h in range(H)], dtype=q.dtype, device=device)
    distance = torch.arange(L, device=device)[:, None] - torch.arange(L, device=device)
    scores = q @ k.mT / math.sqrt(D) - slopes[:, None, None] * distance
    return scores.masked_fill(distance < 0, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("shape", [(3, 2, 1, 8, 4), (3, 2, 1, 128, 8), (2, 3, 2, 200, 4), (2, 1, 4, 129, 16)])
def test_a_stack_with_a_bias(shape: tuple[int, ...], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused from 128 tokens on, by torch's own rule below; the bias is one table for the whole stack."""
    monkeypatch.setattr(attention, "_MOST_SEQUENCES", 4)  # so that a launch is split
    generator = torch.Generator().manual_seed(0)
    q, k, v, weights = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
    own = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    calls = []
    causal = attention._causal
    monkeypatch.setattr(attention, "_causal", lambda *x: calls.append([y.shape for y in x]) or causal(*x))
    with sdpa_kernel(SDPBackend.MATH), attention.Folded():
        y = torch.vmap(biased)(*own)
    folded = (shape[0] * shape[1], *shape[2:])
    assert calls == ([[folded] * 3 + [(shape[2], shape[3], shape[3])]] if shape[3] >= 128 else [])
    expected = defined_with_slopes(*exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad((y * weights).sum(), own)
    for mine, true in zip(grads, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-4)
    alone = [biased(*(x[i] for x in (q, k, v))) for i in range(shape[0])]  # without vmap
    torch.testing.assert_close(torch.stack(alone).double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_keys_that_all_trials_share() -> None:
    q, k, v = (torch.randn(2, 1, 128, 4) for _ in range(3))
    with attention.Folded():
        y = torch.vmap(called, in_dims=(0, None, None))(torch.stack([q, 2 * q]), k, v)
    torch.testing.assert_close(y, torch.stack([defined(q, k, v), defined(2 * q, k, v)]))


@pytest.mark.parametrize("L", [8, 127])
def test_short_sequences_go_by_torchs_own_rule(L: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_causal", None)
    q, k, v = (torch.randn(2, 3, 1, L, 4) for _ in range(3))
    with sdpa_kernel(SDPBackend.MATH), attention.Folded():
        torch.testing.assert_close(torch.vmap(called)(q, k, v), defined(q, k, v))
