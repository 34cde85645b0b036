"""The backend `mamba`: its conversion of layouts, by an extension made of the reference; on a GPU, the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from expbench.errors import BadInput
from expbench.ops import Transition, backends, selective_scan
from expbench.ops.selective import backend_mamba
from expbench.ops.selective.backend_reference import reference
from expbench.ops.selective.problem import Form, Gradients, Inputs

OPTIONS = pytest.mark.parametrize("present", [("skip", "z", "bias"), (), ("z",), ("skip",), ("bias",)])


def problem(*present: str, S: int = 2, B: int = 3, L: int = 5, D: int = 4, N: int = 2, **options: Any) -> Inputs:
    """Random inputs, of the optional ones those that are named."""
    shapes = {"u": (S, B, L, D), "delta": (S, B, L, D), "A": (S, D, N), "B": (S, B, L, N), "C": (S, B, L, N)}
    shapes |= {name: {"skip": (S, D), "z": (S, B, L, D), "bias": (S, D), "state": (S, B, D, N)}[name] for name in present}
    tensors = {name: torch.randn(shape, **options) for name, shape in shapes.items()}
    return Inputs(**{**tensors, "A": -tensors["A"].abs()})


class Extension:
    """`selective_scan_cuda` as selective_scan.cpp describes it, with its checks, on any device; it counts its calls."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def fwd(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any) -> list[Tensor]:
        self.forwards += 1
        D, z, delta_bias, delta_softplus = rest
        batch, dim, L = u.shape
        N = A.shape[1]
        assert delta_softplus is True
        for x, shape in ((u, (batch, dim, L)), (delta, (batch, dim, L)), (B, (batch, 1, N, L)), (C, (batch, 1, N, L))):
            assert (x.shape, x.stride(-1), x.dtype) == (shape, 1, u.dtype)
        assert z is None or (z.shape, z.stride(-1), z.dtype) == (u.shape, 1, u.dtype)
        for x in (A, D, delta_bias):
            assert x is None or (x.dtype == torch.float32 and x.is_contiguous() and x.shape[0] == dim)
        y, last = self._solve(u, delta, A, B, C, D, None, delta_bias)
        states = torch.full((batch, dim, 1, 2 * N), torch.nan)
        states[:, :, -1, 1::2] = last
        return [y, states] if z is None else [y, states, self._solve(u, delta, A, B, C, D, z, delta_bias)[0]]

    def bwd(self, *arguments: Any) -> list[Tensor | None]:
        self.backwards += 1
        *inputs, dout, x, out, dz, delta_softplus, recompute = arguments
        u, A, z = inputs[0], inputs[2], inputs[6]
        assert (dz, delta_softplus, recompute) == (None, True, False)
        assert (dout.shape, dout.stride(-1), dout.dtype) == (u.shape, 1, u.dtype)
        assert (x.shape, x.is_contiguous()) == ((*u.shape[:2], 1, 2 * A.shape[1]), True)
        assert (z is None) == (out is None)
        with torch.enable_grad():
            leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
            torch.testing.assert_close(x[:, :, -1, 1::2], self._solve(*leaves)[1])
            if out is not None:
                torch.testing.assert_close(out, self._solve(*leaves[:6], None, leaves[7])[0])
            given = [x for x in leaves if x is not None]
            found = iter(torch.autograd.grad(self._solve(*leaves)[0], given, dout))
        du, ddelta, dA, dB, dC, dD, dz, dbias = [None if x is None else next(found) for x in leaves]
        return [du, ddelta, dA, dB, dC, dD, dbias, *([] if z is None else [dz])]

    @staticmethod
    def _solve(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, D, z, bias = tensors
        sequences = [None if x is None else x.mT for x in (u, delta, z)]
        states = [None if x is None else x.squeeze(1).mT for x in (B, C)]
        canonical: Any = (*sequences[:2], A, *states, D, sequences[2], bias)
        y, last = reference(Inputs(*(None if x is None else x.unsqueeze(0) for x in canonical)), Form())
        return y[0].mT.contiguous(), last[0]


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Extension:
    made = Extension()
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", made)
    return made


@OPTIONS
def test_conversion_to_the_extensions_layout(present: tuple[str, ...], extension: Extension) -> None:
    inputs = problem(*present)
    y, last, raw, checkpoints = backend_mamba.forward(inputs, Form(), True)
    torch.testing.assert_close((y, last), reference(inputs, Form()))
    if "z" in present:
        torch.testing.assert_close(raw, reference(inputs._replace(z=None), Form())[0])
    else:
        assert raw.numel() == 0
    assert checkpoints.shape == backend_mamba.saved_shapes(inputs, Form())[1]
    assert backend_mamba.forward(inputs, Form(), False).checkpoints.numel() == 0
    grad_y = torch.randn_like(y).transpose(1, 2).contiguous().transpose(1, 2)
    found = backend_mamba.backward(grad_y, None, inputs, Form(), raw, checkpoints)
    leaves: Any = [None if x is None else x.clone().requires_grad_() for x in inputs]
    given = [x for x in leaves if x is not None]
    expected = iter(torch.autograd.grad(reference(Inputs(*leaves), Form())[0], given, grad_y))
    torch.testing.assert_close(found, Gradients(*(None if x is None else next(expected) for x in leaves[:9])))
    assert (extension.forwards, extension.backwards) == (4, 2)


def test_checkpoints_of_several_chunks() -> None:
    assert backend_mamba.saved_shapes(problem(L=2049), Form())[1] == (2, 3, 4, 2, 4)
    assert backend_mamba.saved_shapes(problem(L=2048), Form())[1] == (2, 3, 4, 1, 4)


@pytest.mark.parametrize(
    ("given", "form", "reason"),
    [
        ({"dtype": torch.float64}, Form(), "it supports only bfloat16 and float32"),
        ({}, Form("taylor", 2), "it supports only the exact transition"),
        ({}, Form("linear"), "it supports only the exact transition"),
        ({}, Form(delta_on_b=False), "it supports only Delta B (delta_on_b)"),
        ({"N": 257}, Form(), "it supports at most 256 states"),
        ({"N": 256}, Form(), None),
        ({"S": 1, "B": 1, "L": 1, "D": 65536}, Form(), "it supports at most 65535 channels"),
    ],
)
def test_what_it_cannot_do(given: dict[str, Any], form: Form, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_mamba.unsupported(problem(**given), form) == (
        reason if "dtype" in given else "it supports only CUDA tensors"
    )
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert backend_mamba.unsupported(problem("skip", "z", "bias", **given), form) == reason
    assert backend_mamba.unsupported(problem("state"), Form()) == "it supports no initial state"
    long = problem(S=1, D=1, N=256)._replace(u=torch.empty(1).expand(1, 128, 2049, 32768))
    assert backend_mamba.unsupported(long, Form()) == "the problem exceeds its 32-bit indices"


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_no_gradient_through_the_last_state_and_none_that_must_be_deterministic(
    extension: Extension, deterministic: None
) -> None:
    inputs = problem()
    y, last, raw, checkpoints = backend_mamba.forward(inputs, Form(), True)
    with pytest.raises(ValueError, match="backend 'mamba' has no gradient through the last state"):
        backend_mamba.backward(y, last, inputs, Form(), raw, checkpoints)
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="the backward pass of backend 'mamba' is not deterministic"):
        backend_mamba.backward(y, None, inputs, Form(), raw, checkpoints)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with pytest.warns(UserWarning, match="the backward pass of backend 'mamba' is not deterministic"):
        backend_mamba.backward(y, None, inputs, Form(), raw, checkpoints)


@pytest.mark.skipif(backend_mamba.unavailable_reason() is None, reason="mamba-ssm works here")
def test_forcing_it_where_it_is_absent_says_how_to_get_it() -> None:
    x = torch.ones(1, 2, 3)
    line = r"^backend mamba does not work here: \w+: .*; to get it: on a machine with a CUDA toolkit: .*pip install .*mamba"
    for force in (
        lambda: backends.require("mamba"),
        lambda: backends.using("mamba").__enter__(),
        lambda: selective_scan(x, x, -torch.ones(3, 3), x, x, backend="mamba"),
    ):
        with pytest.raises(BadInput, match=line) as raised:
            force()
        assert "\n" not in str(raised.value)


def on_a_gpu(test: Any) -> Any:
    return pytest.mark.gpu(
        pytest.mark.skipif(backend_mamba.unavailable_reason() is not None, reason="needs mamba-ssm")(test)
    )


TOLERANCE = {torch.float32: {"rtol": 2e-3, "atol": 2e-3}, torch.bfloat16: {"rtol": 3e-2, "atol": 5e-2}}


@on_a_gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("L", [1, 17, 2049])
@OPTIONS
def test_against_the_reference_on_a_gpu(present: tuple[str, ...], L: int, dtype: torch.dtype) -> None:
    inputs = problem(*present, S=1, L=L, device="cuda")
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    low = ("u", "delta", "B", "C", "z")
    tensors = {
        name: x[0].to(dtype if name in low else torch.float32)
        for name, x in zip(names, inputs, strict=False)
        if x is not None
    }
    for x in tensors.values():
        x.requires_grad_()
    with backends.using("mamba") as used:
        found, last = selective_scan(**tensors, return_last_state=True)  # type: ignore[arg-type]
    assert used.names == ("mamba",)
    expected, expected_last = selective_scan(**tensors, return_last_state=True, backend="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, **TOLERANCE[dtype])
    torch.testing.assert_close(last, expected_last, **TOLERANCE[dtype])
    weights = torch.randn_like(found)
    grads, expected_grads = (torch.autograd.grad(y, list(tensors.values()), weights) for y in (found, expected))
    for grad, wanted in zip(grads, expected_grads, strict=True):
        error = (grad - wanted).double().norm() / wanted.double().norm().clamp(min=1)  # of one step, dA is 0
        assert error < TOLERANCE[dtype]["rtol"], error


@on_a_gpu
def test_stacked_models_and_refusals_on_a_gpu() -> None:
    inputs = problem("skip", "z", "bias", device="cuda")
    u, delta, A, B, C, skip, z, bias, *_ = inputs

    def scan(*tensors: Tensor) -> Tensor:
        return selective_scan(*tensors, backend="mamba")

    found = torch.vmap(scan)(u, delta, A, B, C, skip, z, bias)
    torch.testing.assert_close(found, reference(inputs, Form())[0], **TOLERANCE[torch.float32])
    arguments: Any = [x[0] for x in (u, delta, A, B, C)]
    with pytest.raises(ValueError, match="'mamba' does not support this problem: it supports only the exact transition"):
        selective_scan(*arguments, transition=Transition.linear(), backend="mamba")
