import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from expbench.ops import backends, scan, taylor
from expbench.ops import linear_attention as attention


def transitions(L: int, *shape: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Random a (zero, negative and beyond 1 among them) and b."""
    generator = torch.Generator().manual_seed(L)
    a = torch.randn(L, *shape, generator=generator, dtype=torch.float64) * 0.8
    a[::7] = 0
    b = torch.randn(L, *shape, generator=generator, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("L", [1, 2, 3, 31, 32, 33, 37, 100, 257])
def test_scan_values_and_gradients_against_the_reference(L: int) -> None:
    a, b = transitions(L, 3, 2)
    weights = torch.randn(L, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = scan.reference(a, b)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (a, b), allow_unused=True)
    states = scan.linear_scan(a, b)
    grads = torch.autograd.grad((states * weights).sum(), (a, b))
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, torch.zeros_like(grad) if reference is None else reference, rtol=1e-9, atol=1e-9)


def test_scan_of_hand_counted_numbers() -> None:
    a, b = torch.tensor([9.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 5.0])
    assert scan.linear_scan(a, b).tolist() == [1, 3, 2]


@pytest.mark.parametrize("L", [5, 40])
def test_scan_is_differentiable_twice(L: int) -> None:
    a, b = transitions(L, 2)
    assert torch.autograd.gradcheck(scan.linear_scan, (a, b))
    assert torch.autograd.gradgradcheck(scan.linear_scan, (a, b))


def test_scan_broadcasts_its_transitions_with_gradients() -> None:
    _, b = transitions(40, 3, 2)
    a = torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: scan.linear_scan(a, b), (a,))
    torch.testing.assert_close(scan.linear_scan(a, b), scan.reference(a.expand_as(b), b))


def test_scan_takes_tensors_in_any_memory_order() -> None:
    a, b = (x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in transitions(50, 4))
    torch.testing.assert_close(scan.linear_scan(a, b), scan.reference(a, b))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("L", [1, 63, 64, 65, 128, 200])
def test_linear_attention_against_all_pairs(L: int, backend: str) -> None:
    q, k, v = (torch.randn(2, L, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = attention.naive(q, k, v)
    by_hand = torch.stack(
        [sum((q[:, t] * k[:, j]).sum(-1, keepdim=True) * v[:, j] for j in range(t + 1)) for t in range(L)], 1
    )
    torch.testing.assert_close(expected, by_hand)
    values = attention.linear_attention(q, k, v, backend)
    torch.testing.assert_close(values, expected)
    weights = torch.randn_like(v)
    naive_grads = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for grad, naive in zip(torch.autograd.grad((values * weights).sum(), (q, k, v)), naive_grads, strict=True):
        torch.testing.assert_close(grad, naive)


def test_linear_attention_runs_the_backend_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(1, 3, 2) for _ in range(3))
    for names, how in ((("torch",), None), (("reference",), "reference"), (("torch",), "torch")):
        with backends.using(how) as used:
            attention.linear_attention(q, k, v)
        assert used.names == names
    with backends.using("reference") as used:
        attention.linear_attention(q, k, v, "torch")
    assert used.names == ("torch",)
    monkeypatch.setattr(backends, "unavailable_reason", lambda name: None)
    with (
        backends.using("triton"),
        pytest.raises(ValueError, match=r"^linear attention has no backend 'triton' \(it has: reference, torch\)$"),
    ):
        attention.linear_attention(q, k, v)


def test_a_backend_is_probed_with_numbers_while_a_compiler_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that met tensors without data would fail, and what it found is kept: the slow backend would run for good."""
    probed = types.ModuleType("probed")
    probed.unavailable_reason = lambda: None if float(torch.ones(2).sum()) == 2 else "wrong"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probed", probed)
    monkeypatch.setitem(backends._PROBED, "triton", "probed")
    with FakeTensorMode():
        assert backends.unavailable_reason("triton") is None


def test_softplus_coefficients() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    known = [math.log(2), 1 / 2, 1 / 8, 0, -1 / 192, 0, 1 / 2880]
    assert [float(c) for c in taylor.softplus_coefficients(zero, 6)] == pytest.approx(known)


@pytest.mark.parametrize("center", [-5.0, -2.0, 0.0, 1.5])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_taylor_errors_fall_as_the_remainder_does(center: float, degree: int) -> None:
    point = torch.tensor(center, dtype=torch.float64)
    coefficients = taylor.softplus_coefficients(point, degree)
    errors = []
    for e in (0.2, 0.1):
        exact = torch.nn.functional.softplus(point + e)
        errors.append(abs(float(taylor.horner(torch.tensor(e, dtype=torch.float64), coefficients) - exact)))
    assert errors[1] < errors[0] / 2 ** (degree + 0.8)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_exp_taylor_within_the_lagrange_remainder(degree: int) -> None:
    u = torch.linspace(-1, 0, 101, dtype=torch.float64)
    error = (taylor.exp_taylor(u, degree) - u.exp()).abs()
    assert bool((error <= u.abs() ** (degree + 1) / math.factorial(degree + 1) + 1e-15).all())


def test_contraction_ranges() -> None:
    ranges = [taylor.contraction_range(degree) for degree in (1, 2, 3)]
    assert ranges == pytest.approx([-1, -2, -1.59607], abs=1e-5)
    for degree in range(1, 13):
        inside = taylor.exp_taylor(torch.linspace(taylor.contraction_range(degree), 0, 1001, dtype=torch.float64), degree)
        assert float(inside.min()) > -1e-9
        assert float(inside.max()) < 1 + 1e-9
        beyond = taylor.exp_taylor(torch.tensor(taylor.contraction_range(degree) - 1e-3, dtype=torch.float64), degree)
        assert not 0 <= float(beyond) <= 1
