"""The gated recurrent unit against its definition and against torch's own, alone and stacked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from expbench.ops import backends
from expbench.ops.gru.recurrence import gated_recurrence, reference

Tensors = tuple[Tensor, ...]
COMPUTING = {
    f"aten::{name}"
    for name in (
        *("add", "add_", "sub", "rsub", "neg", "mul", "mul_", "addcmul", "lerp", "sum", "mm", "bmm", "baddbmm_"),
        *("tanh", "tanh_", "tanh_backward", "sigmoid", "sigmoid_", "sigmoid_backward", "cat", "copy_", "fill_", "zero_"),
    )
}  # operations that are a kernel, not a view


def problem(*stack: int, B: int = 3, L: int = 5, H: int = 2, dtype: torch.dtype = torch.float64) -> Tensors:
    """Random x (*stack, B, L, 3H), weight (*stack, 3H, H) and bias (*stack, 3H), so large that some gates saturate.

    The weights are scaled by H^-1/2, since a recurrence with larger ones is chaotic and amplifies every rounding.
    """
    generator = torch.Generator().manual_seed(L)
    shapes = {(*stack, B, L, 3 * H): 1.5, (*stack, 3 * H, H): 1.5 * H**-0.5, (*stack, 3 * H): 1.5}
    return tuple(size * torch.randn(shape, generator=generator, dtype=dtype) for shape, size in shapes.items())


def gradients(function: Callable[..., Tensor], tensors: Tensors) -> Tensors:
    leaves = [x.detach().requires_grad_() for x in tensors]
    y = function(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (y.detach(), *torch.autograd.grad((y * weights.to(y)).sum(), leaves))


def check(found: Tensors, expected: Tensors, within: float = 1e-12) -> None:
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=within, atol=within)


@pytest.mark.parametrize("L", [1, 2, 3, 40])
@pytest.mark.parametrize("H", [1, 2, 5])
def test_values_and_gradients_are_those_of_torchs_gru(L: int, H: int) -> None:
    x, weight, bias = problem(L=L, H=H)
    layer = torch.nn.GRU(4, H, batch_first=True).double()
    tokens = torch.randn(3, L, 4, dtype=torch.float64)
    parameters = [layer.weight_ih_l0, layer.bias_ih_l0, layer.weight_hh_l0, layer.bias_hh_l0]

    def torchs(tokens: Tensor, *own: Tensor) -> Tensor:
        names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
        y: Tensor = torch.func.functional_call(layer, dict(zip(names, own, strict=True)), (tokens,))[0]
        return y

    def ours(tokens: Tensor, of_input: Tensor, of_bias: Tensor, *own: Tensor) -> Tensor:
        return gated_recurrence(torch.nn.functional.linear(tokens, of_input, of_bias), *own)

    check(gradients(ours, (tokens, *parameters)), gradients(torchs, (tokens, *parameters)))
    check(gradients(gated_recurrence, (x, weight, bias)), gradients(reference, (x, weight, bias)))


@pytest.mark.parametrize("axes", [(0, 0, 0), (None, 0, None), (0, None, 0), (1, 2, 1)])
def test_stacked_models_are_each_as_alone(axes: tuple[int | None, ...]) -> None:
    single, stacked = problem(L=7), problem(4, L=7)
    given = [x if axis is None else many.movedim(0, axis) for x, many, axis in zip(single, stacked, axes, strict=True)]
    found = gradients(torch.vmap(gated_recurrence, axes), tuple(given))

    def one_by_one(*tensors: Tensor) -> Tensor:
        each = ([x if axis is None else x.select(axis, i) for x, axis in zip(tensors, axes, strict=True)] for i in range(4))
        return torch.stack([reference(*one) for one in each])

    check(found, gradients(one_by_one, tuple(given)))


def test_two_mapped_axes() -> None:
    tensors = problem(2, 3)
    found = gradients(torch.vmap(torch.vmap(gated_recurrence)), tensors)
    check(found, gradients(reference, tensors))


def test_gradients_under_a_map() -> None:
    """Per-sample gradients: the backward pass is mapped, not only the forward pass."""
    tensors = problem(3)

    def loss(of: Callable[..., Tensor], *one: Tensor) -> Tensor:
        return of(*one).pow(2).sum()

    found = torch.vmap(torch.func.grad(lambda *one: loss(gated_recurrence, *one), (0, 1, 2)))(*tensors)
    check(found, torch.vmap(torch.func.grad(lambda *one: loss(reference, *one), (0, 1, 2)))(*tensors))


def test_it_is_differentiable_twice() -> None:
    tensors = tuple(x.requires_grad_() for x in problem(B=1, L=3))
    assert gradcheck(gated_recurrence, tensors)
    assert gradgradcheck(gated_recurrence, tensors)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_states_stay_in_float32_under_autocast(backend: str) -> None:
    x, weight, bias = problem(L=60, dtype=torch.float32)
    exact = gradients(reference, (x.bfloat16().double(), weight.double(), bias.double()))

    def lower(*given: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return gated_recurrence(*given, backend=backend)

    with torch.autocast("cpu", torch.bfloat16, enabled=backend == "torch"):  # around the backward pass too
        found = gradients(lower, (x.bfloat16(), weight, bias))
    assert [y.dtype for y in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for mine, its, limit in zip(found, exact, (4e-3, 8e-3, 2e-3, 2e-3), strict=True):
        assert float((mine.double() - its).norm()) <= limit * float(its.norm())


def test_operations_per_step() -> None:
    """Each operation of a step is a kernel on a GPU, so that their number is the time of a small model."""

    def counts(backend: str, L: int) -> list[int]:
        leaves = [x.requires_grad_() for x in problem(2, L=L)]
        with torch.profiler.profile(acc_events=True) as forward:
            y = torch.vmap(lambda *given: gated_recurrence(*given, backend=backend))(*leaves)
        with torch.profiler.profile(acc_events=True) as backward:
            torch.autograd.grad(y.sum(), leaves)
        return [len([event for event in profile.events() if computes(event)]) for profile in (forward, backward)]

    def computes(event: Any) -> bool:
        within = event.cpu_parent is not None and event.cpu_parent.name in COMPUTING
        return event.name in COMPUTING and not within

    def per_step(backend: str) -> list[float]:
        return [(more - less) / 10 for more, less in zip(counts(backend, 20), counts(backend, 10), strict=True)]

    assert per_step("torch") == [5, 2]
    assert sum(per_step("reference")) > 6 * (5 + 2)


def test_the_operators_keep_the_rules_of_torch() -> None:
    """The shapes and strides that the compiler is told are those of the results, and no result shares memory."""
    x, weight, bias = problem(2)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.expbench.gru.default, (x, weight, bias, "torch"), test_utils=checks)
    states, gates = torch.ops.expbench.gru.default(x, weight, bias, "torch")
    arguments = (torch.ones_like(states), x, weight, states, gates, "torch")
    torch.library.opcheck(torch.ops.expbench.gru_backward.default, arguments, test_utils=checks)


def test_it_runs_the_backend_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = problem()
    for names, how in ((("torch",), None), (("reference",), "reference"), (("torch",), "torch")):
        with backends.using(how) as used:
            gated_recurrence(*tensors)
        assert used.names == names
    monkeypatch.setattr(backends, "unavailable_reason", lambda name: None)
    with pytest.raises(
        backends.BackendUnsupported, match=r"^the gru has no backend 'mamba' \(it has: reference, torch, triton\)$"
    ):
        gated_recurrence(*tensors, backend="mamba")
