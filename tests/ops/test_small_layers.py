"""Narrow layers against torch's, mapped over models: under Triton's interpreter, or on the GPU where there is one."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.ops.small_layers import functional

pytest.importorskip("triton")
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LIMIT = 1e-6


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is allocated and never written holds NaN; and the interpreter is taken for a GPU."""
    monkeypatch.setattr(functional, "_on_device", lambda x: True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def values_and_gradients(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], weights: Tensor, dtype: torch.dtype, *, ours: bool = False
) -> dict[str, Tensor]:
    """Of `function` mapped over the first axis of `tensors`, by narrow kernels or by torch."""
    leaves = {n: x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x for n, x in tensors.items()}
    with functional.Narrow() if ours else nullcontext():
        y = torch.vmap(lambda given: function(**given))(leaves)
    wanted = {n: x for n, x in leaves.items() if x.requires_grad}
    grads = torch.autograd.grad((y * weights.to(y)).sum(), list(wanted.values()))
    return {"y": y.detach(), **dict(zip(wanted, grads, strict=True))}


def check(function: Callable[..., Tensor], tensors: dict[str, Tensor], calls: list[str]) -> None:
    tensors = {name: x.to(DEVICE) for name, x in tensors.items()}
    shape = torch.vmap(lambda given: function(**given))(tensors).shape
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = values_and_gradients(function, tensors, weights, torch.float32, ours=True)
    assert calls, "torch's own function ran"
    plain = values_and_gradients(function, tensors, weights, torch.float32)
    for name, exact in values_and_gradients(function, tensors, weights, torch.float64).items():
        error, torchs = ((x[name] - exact).norm() / exact.norm().clamp(min=1e-12) for x in (found, plain))
        assert float(error) <= LIMIT + 2 * float(torchs), name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A note for each time that narrow kernels are taken."""
    made: list[str] = []
    monkeypatch.setattr(functional.backends, "ran", lambda operation, name: made.append(name))
    return made


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("S", "batch", "ins", "outs"), [(1, (3, 5), 2, 20), (5, (7,), 8, 64), (2, (600,), 1, 1), (3, (4, 50), 3, 6)]
)
def test_linear(S: int, batch: tuple[int, ...], ins: int, outs: int, bias: bool, calls: list[str]) -> None:
    tensors = {"input": random(S, *batch, ins), "weight": random(S, outs, ins)}
    check(F.linear, tensors | ({"bias": random(S, outs)} if bias else {}), calls)


@pytest.mark.parametrize(("S", "batch", "ins"), [(1, (3, 5), 2), (4, (1100,), 3), (3, (2, 9), 200)])
@pytest.mark.parametrize("kind", ["layer", "plain layer", "rms"])
def test_normalisation(S: int, batch: tuple[int, ...], ins: int, kind: str, calls: list[str]) -> None:
    tensors = {"x": random(S, *batch, ins) + 3, "weight": random(S, ins), "bias": random(S, ins)}
    if kind == "layer":
        check(lambda x, weight, bias: F.layer_norm(x, (ins,), weight, bias, 0.1), tensors, calls)
    elif kind == "rms":
        check(lambda x, weight: F.rms_norm(x, (ins,), weight, 0.1), {n: tensors[n] for n in ("x", "weight")}, calls)
    else:
        check(lambda x: F.layer_norm(x, (ins,), eps=0.1), {"x": tensors["x"]}, calls)


def test_embedding(calls: list[str]) -> None:
    tokens = torch.randint(0, 5, (3, 7, 11), generator=torch.Generator().manual_seed(0))
    check(F.embedding, {"input": tokens, "weight": random(3, 5, 6)}, calls)


@pytest.mark.parametrize(("S", "rows", "classes"), [(1, 1, 2), (3, 700, 20), (2, 9, 129)])
def test_cross_entropy(S: int, rows: int, classes: int, calls: list[str]) -> None:
    target = torch.randint(0, classes, (S, rows), generator=torch.Generator().manual_seed(0))
    logits = {"input": 9 * random(S, rows, classes), "target": target}
    check(F.cross_entropy, logits, calls)
    if rows > 1:
        check(lambda input, target: F.cross_entropy(input, target, ignore_index=1), logits, calls)


@pytest.mark.parametrize(("S", "batch", "sizes"), [(1, (3, 5), (1, 2)), (4, (1100,), (2, 2, 2)), (3, (2, 9), (17, 1, 5, 8))])
def test_split(S: int, batch: tuple[int, ...], sizes: tuple[int, ...], calls: list[str]) -> None:
    powers = torch.arange(1, len(sizes) + 1).tolist()  # each part is used in another way
    x = {"x": random(S, *batch, sum(sizes))}
    for parted in (lambda x: x.split(list(sizes), -1), lambda x: torch.split(x, sizes, dim=x.ndim - 1)):
        check(lambda x, f=parted: torch.cat([p**n for p, n in zip(f(x), powers, strict=True)], -1), x, calls)
    if len(set(sizes)) == 1:
        check(lambda x: torch.cat([p**n for p, n in zip(x.chunk(len(sizes), -1), powers, strict=True)], -1), x, calls)


def test_a_part_that_is_not_used_has_no_gradient(calls: list[str]) -> None:
    check(lambda x: x.split([1, 2], -1)[1] ** 2, {"x": random(3, 4, 3)}, calls)


def test_inputs_that_models_share(calls: list[str]) -> None:
    x, weight = random(30, 4).to(DEVICE), random(3, 5, 4).to(DEVICE)
    with functional.Narrow():
        y = torch.vmap(F.linear, (None, 0))(x, weight)
    torch.testing.assert_close(y, x @ weight.mT)
    assert calls


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.linear(random(4, 9), random(3, 9)),
        lambda: F.linear(random(4, 2), random(65, 2)),
        lambda: F.linear(random(4, 2).double(), random(3, 2).double()),
        lambda: F.layer_norm(random(4, 300), (300,)),
        lambda: F.layer_norm(random(4, 3, 2), (3, 2)),
        lambda: F.embedding(torch.arange(3), random(4, 2), padding_idx=0),
        lambda: F.embedding(torch.arange(3), random(9, 2)),
        lambda: F.cross_entropy(random(5, 3), torch.arange(5) % 3, reduction="sum"),
        lambda: random(4, 6).split([2, 2], 0)[1],
        lambda: random(4, 6).split(3, -1)[1],
        lambda: random(4, 6).split([6], -1)[0],
        lambda: random(4, 66).split([33, 33], -1)[0],
        lambda: random(4, 5).chunk(2, -1)[0],
        lambda: F.cross_entropy(random(5, 3), random(5, 3).softmax(1)),
        lambda: F.cross_entropy(random(5, 300), torch.arange(5)),
    ],
)
def test_what_is_not_narrow_is_left_to_torch(call: Callable[[], Any], calls: list[str]) -> None:
    expected = call()
    with functional.Narrow():
        assert torch.equal(call(), expected)
    assert not calls
