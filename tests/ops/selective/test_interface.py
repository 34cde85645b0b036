"""The selective scan as a function: its values, gradients, errors, transformations, and which backend runs."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from expbench.errors import BadInput
from expbench.ops import Transition, backends, selective_scan
from expbench.ops.selective import backend_torch, operator
from expbench.ops.selective.problem import Form, Inputs

Tensors = dict[str, Tensor]
OPTIONAL = ("D", "z", "delta_bias", "initial_state")
CENTER = torch.tensor([-0.4, 0.3, 0.9], dtype=torch.float64)
TRANSITIONS = {
    "exact": Transition(),
    "taylor": Transition.taylor(3),
    "taylor about a number": Transition.taylor(2, center=-0.5),
    "taylor about a point, clipped": Transition.taylor(3, center=CENTER, clip=True),
    "linear": Transition.linear(),
}
FAST = pytest.mark.parametrize("backend", ["torch", "reference"])


def problem(
    S: int | None = None, *, B: int = 2, L: int = 4, D: int = 3, N: int = 2, dtype: torch.dtype = torch.float64
) -> Tensors:
    """Random tensors for every argument; with S each has an axis of S models before its own."""
    shapes = {"u": (B, L, D), "delta": (B, L, D), "A": (D, N), "B": (B, L, N), "C": (B, L, N), "D": (D,), "z": (B, L, D)}
    shapes |= {"delta_bias": (D,), "initial_state": (B, D, N)}
    lead = () if S is None else (S,)
    tensors = {name: torch.randn(*lead, *shape, dtype=dtype) for name, shape in shapes.items()}
    tensors["A"] = 0.3 - 2 * tensors["A"].abs()  # mostly decaying, and some beyond the clip
    return {name: x.requires_grad_() for name, x in tensors.items()}


def loss(tensors: Tensors, **options: Any) -> Tensor:
    """A number that depends on every entry of y and of the last state."""
    y, last = selective_scan(**tensors, return_last_state=True, **options)
    return (
        y.float().sin().sum().to(last.dtype) + last.cos().sum()
        if y.dtype != last.dtype
        else y.sin().sum() + last.cos().sum()
    )


def gradients(value: Tensor, tensors: Tensors) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, list(tensors.values()))


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


# Values and gradients


def by_hand(tensors: Tensors, transition: Transition, delta_on_b: bool) -> tuple[Tensor, Tensor]:
    """y and the last state, number by number, with softplus's derivatives written out."""
    x = {name: tensor.tolist() for name, tensor in tensors.items()}
    B, L, D = tensors["u"].shape
    N = tensors["A"].shape[1]
    y, last = torch.empty(B, L, D, dtype=torch.float64), torch.empty(B, D, N, dtype=torch.float64)
    for b in range(B):
        for d in range(D):
            h = x["initial_state"][b][d] if "initial_state" in x else [0.0] * N
            for t in range(L):
                argument = x["delta"][b][t][d] + (x["delta_bias"][d] if "delta_bias" in x else 0)
                center = transition.center[d].item() if isinstance(transition.center, Tensor) else transition.center
                step, transit = discretised(argument, transition, center)
                source = x["u"][b][t][d] * (step if delta_on_b else 1)
                h = [transit(step * x["A"][d][n]) * h[n] + source * x["B"][b][t][n] for n in range(N)]
                value = sum(x["C"][b][t][n] * h[n] for n in range(N))
                value += x["D"][d] * x["u"][b][t][d] if "D" in x else 0
                y[b, t, d] = value * (x["z"][b][t][d] / (1 + math.exp(-x["z"][b][t][d])) if "z" in x else 1)
            last[b, d] = torch.tensor(h)
    return y, last


def discretised(argument: float, transition: Transition, center: float) -> tuple[float, Callable[[float], float]]:
    """Delta, and a as a function of Delta A."""
    if transition.kind == "linear":
        return argument, lambda v: v
    if transition.kind == "exact":
        return math.log1p(math.exp(argument)), math.exp
    s, k = 1 / (1 + math.exp(-center)), transition.degree + 1
    coefficients = [math.log1p(math.exp(center)), s, s * (1 - s) / 2, s * (1 - s) * (1 - 2 * s) / 6][:k]
    step = sum(c * (argument - center) ** i for i, c in enumerate(coefficients))

    def polynomial(v: float) -> float:
        if transition.lowest:
            v = min(max(v, {2: -2.0, 3: -1.5960716}[transition.degree]), 0)
        return sum(v**i / math.factorial(i) for i in range(k))

    return step, polynomial


@FAST
@pytest.mark.parametrize("delta_on_b", [True, False])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_values_by_hand(name: str, delta_on_b: bool, backend: str) -> None:
    tensors = problem()
    y, last = selective_scan(
        **tensors, transition=TRANSITIONS[name], delta_on_b=delta_on_b, return_last_state=True, backend=backend
    )
    expected = by_hand(tensors, TRANSITIONS[name], delta_on_b)
    torch.testing.assert_close((y, last), expected, rtol=1e-6, atol=1e-7)  # the clip by hand has 8 digits


@FAST
@pytest.mark.parametrize("present", [(), *((name,) for name in OPTIONAL)])
def test_values_by_hand_with_options_left_out(present: tuple[str, ...], backend: str) -> None:
    for transition in (Transition(), Transition.taylor(2, center=-0.5)):  # the center needs a bias, given or not
        tensors = {name: x for name, x in problem().items() if name not in OPTIONAL or name in present}
        y = selective_scan(**tensors, transition=transition, backend=backend)
        close(y, by_hand(tensors, transition, True)[0])


@pytest.mark.parametrize("delta_on_b", [True, False])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_the_reference_is_differentiable_twice(name: str, delta_on_b: bool) -> None:
    tensors = problem(B=1, L=3)

    def function(*values: Tensor) -> tuple[Tensor, Tensor]:
        options: Any = {"transition": TRANSITIONS[name], "delta_on_b": delta_on_b, "backend": "reference"}
        return selective_scan(*values, return_last_state=True, **options)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("present", [OPTIONAL, (), ("z",), ("initial_state", "D")])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_gradients_against_the_reference(name: str, present: tuple[str, ...]) -> None:
    tensors = {name: x for name, x in problem().items() if name not in OPTIONAL or name in present}
    for delta_on_b in (True, False):
        options: Any = {"transition": TRANSITIONS[name], "delta_on_b": delta_on_b}
        expected = gradients(loss(tensors, backend="reference", **options), tensors)
        close(gradients(loss(tensors, backend="torch", **options), tensors), expected)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_from_one_output_alone(output: int) -> None:
    tensors = problem()
    of = {name: x for name, x in tensors.items() if output == 0 or name not in ("C", "D", "z")}

    def found(backend: str) -> tuple[Tensor, ...]:
        return gradients(selective_scan(**tensors, return_last_state=True, backend=backend)[output].sin().sum(), of)

    close(found("torch"), found("reference"))


def test_a_last_state_that_is_not_used_has_no_gradient_to_pass_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, inner = [], backend_torch.backward
    monkeypatch.setattr(backend_torch, "backward", lambda *arguments: (seen.append(arguments[1]), inner(*arguments))[1])
    tensors = problem()
    gradients(selective_scan(**tensors, return_last_state=True, backend="torch")[0].sum(), tensors)
    assert seen == [None]


def test_only_what_requires_grad_gets_it() -> None:
    tensors = {name: x.detach() for name, x in problem().items()}
    tensors["A"].requires_grad_()
    selective_scan(**tensors).sum().backward()
    assert [name for name, x in tensors.items() if x.grad is not None] == ["A"]
    assert not selective_scan(**{name: x.detach() for name, x in tensors.items()}).requires_grad


def test_nothing_is_kept_without_gradients() -> None:
    tensors = [x.detach() for x in problem().values()]
    for keep in (True, False):
        *_, checkpoints = torch.ops.expbench.selective_scan(*tensors, None, *Form(), "torch", keep)
        assert bool(checkpoints.numel()) == keep


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out unwritten is full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def test_operators_write_every_number_that_they_give(poisoned: None) -> None:
    tensors = [x.detach() for x in problem().values()]
    y, last, *kept = torch.ops.expbench.selective_scan(*tensors, None, *Form(), "torch", True)
    found = torch.ops.expbench.selective_scan_backward(y, last, *tensors, None, *Form(), "torch", *kept)
    assert [x.isfinite().all().item() for x in (y, last, *kept, *found)] == [True] * (4 + len(found))


@FAST
def test_tensors_in_any_memory_order(backend: str) -> None:
    tensors = problem()
    strange = {name: torch.stack([x, x], -1)[..., 0] for name, x in tensors.items()}  # every second number
    strange["u"] = tensors["u"].transpose(0, 1).contiguous().transpose(0, 1)
    strange["A"] = tensors["A"].t().contiguous().t()
    assert not any(x.is_contiguous() for x in strange.values())
    expected = loss(tensors, backend="reference")
    found = loss(strange, backend=backend)
    close(found, expected)
    close(gradients(found, tensors), gradients(expected, tensors))
    everywhere = {**tensors, "delta": tensors["delta"][:, :1].expand(-1, 4, -1)}  # and with a stride of 0
    close(
        gradients(loss(everywhere, backend=backend), tensors),
        gradients(loss({**everywhere, "delta": everywhere["delta"].clone()}, backend="reference"), tensors),
    )


@FAST
def test_the_outputs_are_nobody_elses_memory(backend: str) -> None:
    tensors = problem(L=1)
    outputs = selective_scan(**tensors, return_last_state=True, backend=backend)
    places = [x.untyped_storage().data_ptr() for x in (*tensors.values(), *outputs)]
    assert len(set(places)) == len(places)


# Dtypes


@FAST
def test_sequences_are_promoted_and_the_state_is_never_low(backend: str) -> None:
    def dtypes(**given: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        tensors = {name: x.detach().to(given.get(name, torch.bfloat16)) for name, x in problem().items()}
        y, last = selective_scan(**tensors, return_last_state=True, backend=backend)
        common = {name: x.to(y.dtype) if name in ("u", "delta", "B", "C", "z") else x for name, x in tensors.items()}
        state = {name: x if x.dtype == y.dtype and name in common else x.to(last.dtype) for name, x in common.items()}
        expected = selective_scan(**state, return_last_state=True, backend="reference")
        torch.testing.assert_close((y, last), expected)
        return y.dtype, last.dtype

    assert dtypes() == (torch.bfloat16, torch.float32)
    assert dtypes(A=torch.float64, initial_state=torch.float64) == (torch.bfloat16, torch.float32)
    assert dtypes(B=torch.float32) == (torch.float32, torch.float32)
    assert dtypes(z=torch.float64) == (torch.float64, torch.float64)


@FAST
def test_gradients_come_in_the_dtype_that_was_given(backend: str) -> None:
    tensors = {name: x.detach().bfloat16().requires_grad_() for name, x in problem().items()}
    tensors["u"] = tensors["u"].detach().float().requires_grad_()
    found = gradients(loss(tensors, backend=backend), tensors)
    assert [x.dtype for x in found] == [x.dtype for x in tensors.values()]
    wide = {name: x.detach().double().requires_grad_() for name, x in tensors.items()}
    torch.testing.assert_close(found, gradients(loss(wide), wide), rtol=2e-2, atol=2e-2, check_dtype=False)


@FAST
def test_autocast_lowers_the_sequences_alone(backend: str) -> None:
    tensors = {name: x.detach().float().requires_grad_() for name, x in problem().items()}
    lowered = {name: x.bfloat16() if name in ("u", "delta", "B", "C", "z") else x for name, x in tensors.items()}
    expected = selective_scan(**lowered, return_last_state=True, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(**tensors, return_last_state=True, backend=backend)
        wide = selective_scan(**{name: x.double() for name, x in tensors.items()}, backend=backend)
    assert (found[0].dtype, found[1].dtype, wide.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    torch.testing.assert_close(found, expected)
    grads = gradients(found[1].sum() + found[0].sum(), tensors)
    torch.testing.assert_close(grads, gradients(expected[1].sum() + expected[0].sum(), tensors), rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.float16), pytest.raises(TypeError, match="use bfloat16"):
        selective_scan(**tensors, backend=backend)


def test_autocast_is_off_within_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("forward", "backward"):
        inner = getattr(backend_torch, name)

        def outer(*arguments: Any, inner: Any = inner) -> Any:
            seen.append(torch.is_autocast_enabled("cpu"))
            return inner(*arguments)

        monkeypatch.setattr(backend_torch, name, outer)
    tensors = problem()
    with torch.autocast("cpu", torch.bfloat16):
        gradients(loss(tensors, backend="torch"), tensors)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False, False]


# Errors


def wrong(name: str, x: object, error: type[Exception], line: str) -> Any:
    return pytest.param(name, x, error, line, id=f"{name}: {line}")


@pytest.mark.parametrize(
    ("name", "x", "error", "line"),
    [
        wrong("u", torch.ones(4, 3), ValueError, "u has shape (4, 3), expected (B, L, D)"),
        wrong("delta", torch.ones(2, 4, 2), ValueError, "delta has shape (2, 4, 2), expected (B=2, L=4, D=3)"),
        wrong("A", torch.ones(3), ValueError, "A has shape (3,), expected (D=3, N)"),
        wrong("A", torch.ones(4, 2), ValueError, "A has shape (4, 2), expected (D=3, N=2)"),
        wrong("B", torch.ones(2, 2, 4), ValueError, "B has shape (2, 2, 4), expected (B=2, L=4, N=2)"),
        wrong("C", torch.ones(1, 4, 2), ValueError, "C has shape (1, 4, 2), expected (B=2, L=4, N=2)"),
        wrong("D", torch.ones(()), ValueError, "D has shape (), expected (D=3)"),
        wrong("z", torch.ones(2, 4, 1), ValueError, "z has shape (2, 4, 1), expected (B=2, L=4, D=3)"),
        wrong("delta_bias", torch.ones(1, 3), ValueError, "delta_bias has shape (1, 3), expected (D=3)"),
        wrong(
            "initial_state", torch.ones(2, 2, 3), ValueError, "initial_state has shape (2, 2, 3), expected (B=2, D=3, N=2)"
        ),
        wrong("D", 1.0, TypeError, "D must be a tensor, not a float"),
        wrong("A", torch.ones(3, 2, device="meta"), ValueError, "A is on meta, but u is on cpu"),
        wrong(
            "u",
            torch.ones(2, 4, 3).half(),
            TypeError,
            "u is torch.float16: its range is too small for a scan, use bfloat16",
        ),
        wrong(
            "A", torch.ones(3, 2).half(), TypeError, "A is torch.float16: its range is too small for a scan, use bfloat16"
        ),
        wrong("B", torch.ones(2, 4, 2).long(), TypeError, "B is torch.int64: expected bfloat16, float32 or float64"),
        wrong("D", torch.ones(3).cfloat(), TypeError, "D is torch.complex64: expected bfloat16, float32 or float64"),
    ],
)
def test_errors_name_the_argument(name: str, x: Any, error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=f"^selective_scan: {re.escape(line)}$"):
        selective_scan(**{**problem(), name: x})


@pytest.mark.parametrize(("size", "line"), [("L", "u has shape (2, 0, 3)"), ("B", "u has"), ("D", "u has"), ("N", "A has")])
def test_no_size_may_be_0(size: str, line: str) -> None:
    with pytest.raises(ValueError, match=f"^selective_scan: {re.escape(line)}.*, but sizes must not be 0$"):
        selective_scan(**problem(**{size: 0}))  # type: ignore[arg-type]


def test_errors_of_the_transition() -> None:
    with pytest.raises(ValueError, match=r"^Transition\.taylor: degree is 0, expected 1 to 12$"):
        Transition.taylor(0)
    with pytest.raises(ValueError, match=r"^selective_scan: transition\.center has shape \(2,\), expected \(D=3\)$"):
        selective_scan(**problem(), transition=Transition.taylor(2, center=torch.zeros(2)))


@FAST
def test_a_center_that_requires_grad_is_an_error_wherever_it_hides(backend: str) -> None:
    tensors, centers = problem(2), torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)

    def scan(values: Tensors, center: Tensor) -> Tensor:
        return selective_scan(**values, transition=Transition.taylor(2, center=center), backend=backend)

    with pytest.raises(ValueError, match=r"center requires grad, but its gradient is not implemented: detach it"):
        scan(problem(), centers[0])
    with pytest.raises(ValueError, match=r"transition\.center requires grad"):
        torch.vmap(scan)(tensors, centers)
    assert torch.vmap(scan)(tensors, centers.detach()).shape == (2, 2, 4, 3)


# Transformations


@pytest.mark.parametrize("name", TRANSITIONS)
@FAST
def test_vmap_within_and_autograd_around(name: str, backend: str) -> None:
    tensors = problem(3)

    def one(values: Tensors) -> Tensor:
        return loss(values, transition=TRANSITIONS[name], backend=backend)

    models = [{name: x[i] for name, x in tensors.items()} for i in range(3)]
    expected = torch.stack([loss(model, transition=TRANSITIONS[name], backend="reference") for model in models])
    found = torch.vmap(one)(tensors)
    close(found, expected)
    close(gradients(found.sum(), tensors), gradients(expected.sum(), tensors))


def test_vmap_over_some_arguments_and_within_vmap() -> None:
    tensors = problem()
    A = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    centers = torch.randn(3, 3, dtype=torch.float64)

    def one(A: Tensor, center: Tensor, **options: Any) -> Tensor:
        return loss({**tensors, "A": A}, transition=Transition.taylor(2, center=center), **options)

    expected = torch.stack(
        [torch.stack([one(A[i, j], centers[j], backend="reference") for j in range(3)]) for i in range(2)]
    )
    found = torch.vmap(torch.vmap(one), in_dims=(0, None))(A, centers)
    close(found, expected)
    wanted = {**tensors, "A": A}
    close(gradients(found.sum(), wanted), gradients(expected.sum(), wanted))
    close(torch.vmap(torch.vmap(one, in_dims=(2, 0)), in_dims=(2, None))(A.permute(2, 3, 0, 1), centers), expected)


def test_jacobians_by_batched_gradients() -> None:
    tensors = problem(B=1, L=2)
    wanted = list(tensors.values())
    for y in selective_scan(**tensors, return_last_state=True, backend="torch"):

        def gradient(weights: Tensor, y: Tensor = y) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, wanted, weights, retain_graph=True)

        basis = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
        expected = tuple(torch.stack(parts) for parts in zip(*map(gradient, basis), strict=True))
        close(torch.vmap(gradient)(basis), expected)
        close(torch.vmap(gradient, in_dims=1)(basis.movedim(0, 1)), expected)
        close(torch.autograd.grad(y, wanted, basis, is_grads_batched=True, retain_graph=True), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.15's checks look at it
@pytest.mark.parametrize("S", [None, 2])
def test_operators_pass_torchs_own_checks(S: int | None) -> None:
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    checks = (*quick, "test_aot_dispatch_dynamic") if S else quick
    tensors, form = list(problem(S).values())[: 9 if S else 5], Form("taylor", 2, -2.0) if S else Form()
    coefficients = torch.randn(S, 3, 3, dtype=torch.float64) if S else None
    inputs = [*tensors, *[None] * (9 - len(tensors)), coefficients]
    operators = torch.ops.expbench
    torch.library.opcheck(operators.selective_scan.default, (*inputs, *form, "torch", True), test_utils=checks)
    inputs = [None if x is None else x.detach() for x in inputs]
    y, last, *kept = operators.selective_scan(*inputs, *form, "torch", True)
    arguments = (y, last if S else None, *inputs, *form, "torch", *kept)
    torch.library.opcheck(operators.selective_scan_backward.default, arguments, test_utils=checks)
    torch.library.opcheck(operators.softplus_coefficients.default, (CENTER, 3), test_utils=quick)


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """Compiles a function without graph breaks; what was compiled is forgotten afterwards."""
    torch._dynamo.reset()
    yield lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()


def test_vmap_compiled_without_graph_breaks(compiled: Callable[..., Any]) -> None:
    tensors = problem(2)

    def one(values: Tensors) -> Tensor:
        return loss(values, transition=TRANSITIONS["taylor about a point, clipped"])

    def stack(tensors: Tensors) -> Tensor:
        return torch.vmap(one)(tensors).sum()

    expected = stack(tensors)
    with backends.using(None) as used:
        found = compiled(stack)(tensors)
    close(found, expected)
    close(gradients(found, tensors), gradients(expected, tensors))
    assert used.names == ("torch",)


def test_compiled_under_autocast_with_the_options_made_within(compiled: Callable[..., Any]) -> None:
    tensors = {name: x.detach().float().requires_grad_() for name, x in problem().items()}

    def one(tensors: Tensors) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(tensors, transition=Transition.taylor(2, center=0.5, clip=True), backend="torch")

    expected = one(tensors)
    found = compiled(one)(tensors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


def test_the_compiled_reference(compiled: Callable[..., Any]) -> None:
    tensors = problem(B=1, L=2)
    with backends.using("reference") as used:
        found = compiled(loss)(tensors)
    close(gradients(found, tensors), gradients(loss(tensors), tensors))
    assert used.names == ("reference",)


ONLY_REFERENCE = pytest.raises(NotImplementedError, match=r"^selective scan: .*, which only backend='reference' supports$")


def test_a_second_derivative_of_a_fast_path_is_an_error() -> None:
    tensors = problem()
    value = loss(tensors, backend="torch")
    first = torch.autograd.grad(value, list(tensors.values()), create_graph=True)
    close(first, gradients(loss(tensors, backend="reference"), tensors))
    for grad in first:
        with ONLY_REFERENCE:
            torch.autograd.grad(grad.sum(), tensors["u"], retain_graph=True)
    y = selective_scan(**{name: x.detach() for name, x in tensors.items() if name != "u"}, u=tensors["u"], backend="torch")
    weights = torch.ones_like(y, requires_grad=True)
    (product,) = torch.autograd.grad(y, tensors["u"], weights, create_graph=True)
    with ONLY_REFERENCE:
        torch.autograd.grad(product.sum(), weights)


def test_a_gradient_of_what_is_mapped_over_is_an_error() -> None:
    u, *others = [x.detach() for x in problem().values()]
    y, last, *kept = torch.ops.expbench.selective_scan(u, *others, None, *Form(), "torch", True)

    def gradient(u: Tensor) -> Tensor:
        return torch.ops.expbench.selective_scan_backward(y, last, u, *others, None, *Form(), "torch", *kept)[0]

    with ONLY_REFERENCE:
        torch.vmap(gradient)(torch.stack([u, u]))


FUNCTIONAL: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad": lambda f, u: torch.func.grad(f)(u[0]),
    "vmap of grad": lambda f, u: torch.vmap(torch.func.grad(f))(u),
    "grad of vmap": lambda f, u: torch.func.grad(lambda u: torch.vmap(f)(u).sum())(u),
    "vjp": lambda f, u: torch.func.vjp(f, u[0])[1](torch.ones((), dtype=u.dtype))[0],
    "jacrev": lambda f, u: torch.func.jacrev(f)(u[0]),
    "hessian": lambda f, u: torch.func.hessian(f)(u[0]),
    "jvp": lambda f, u: torch.func.jvp(f, (u[0],), (u[1],))[1],
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own use, in forward mode
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional_transforms_are_the_references_alone(name: str) -> None:
    tensors = {key: x.detach() for key, x in problem(B=1, L=2).items()}
    u = torch.randn(2, 1, 2, 3, dtype=torch.float64)

    def function(backend: str) -> Callable[[Tensor], Tensor]:
        return lambda u: loss({**tensors, "u": u}, backend=backend)

    with ONLY_REFERENCE:
        FUNCTIONAL[name](function("torch"), u)
    found = FUNCTIONAL[name](function("reference"), u)
    slopes = [torch.func.grad(function("reference"))(x) for x in u]
    if name in ("grad", "vjp", "jacrev"):
        close(found, slopes[0])
    elif "vmap" in name:
        close(found, torch.stack(slopes))
    elif name == "jvp":
        close(found, (slopes[0] * u[1]).sum())


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_forward_mode_is_the_references_alone() -> None:
    tensors = {name: x.detach() for name, x in problem().items()}
    u = tensors["u"].clone().requires_grad_()
    y = selective_scan(**{**tensors, "u": u}, backend="torch")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tensors["u"], torch.ones_like(u))
        with ONLY_REFERENCE:
            selective_scan(**{**tensors, "u": dual}, backend="torch")
        with ONLY_REFERENCE:
            torch.autograd.grad(y, u, torch.autograd.forward_ad.make_dual(y.detach(), y.detach()))
        by_reference = selective_scan(**{**tensors, "u": dual}, backend="reference")
        tangent = torch.autograd.forward_ad.unpack_dual(by_reference).tangent
    moved = selective_scan(**{**tensors, "u": tensors["u"] + 1}, backend="reference")  # y is linear in u
    close(tangent, moved - selective_scan(**tensors, backend="reference"))


# Which backend runs


def stand_in(unavailable_reason: str | None = None, unsupported: str | None = None) -> Any:
    return SimpleNamespace(unavailable_reason=lambda: unavailable_reason, unsupported=lambda inputs, form: unsupported)


def test_the_context_forces_records_and_nests() -> None:
    tensors = problem()
    with backends.using(None) as outer:
        assert outer.names == ()
        selective_scan(**tensors)
        assert outer.names == ("torch",)
        with backends.using("reference") as forced:
            selective_scan(**tensors)
            with backends.using(None) as inner:
                selective_scan(**tensors)
            assert (forced.names, inner.names) == (("reference",), ("reference",))
            with backends.using("torch"):
                selective_scan(**tensors)
            assert forced.names == ("reference", "torch")
        selective_scan(**tensors, backend="reference")
    assert outer.names == ("reference", "torch")
    with backends.using("reference") as used:
        selective_scan(**tensors, backend="torch")
    assert used.names == ("torch",)


def test_a_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._announce.cache_clear()
    with caplog.at_level(logging.INFO, "expbench"):
        for backend in ("torch", "reference", "torch"):
            selective_scan(**problem(), backend=backend)
    assert caplog.messages == ["selective scan: backend torch", "selective scan: backend reference"]


def test_a_backend_that_is_unknown_or_absent_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "expbench.ops.selective.backend_triton", stand_in(unavailable_reason="no GPU; to get it: buy one")
    )
    for name, line in (
        ("trition", r"^unknown backend 'trition'; did you mean 'triton'\? \(known: mamba, reference, torch, triton\)$"),
        ("triton", r"^backend triton does not work here: no GPU; to get it: buy one$"),
    ):
        with pytest.raises(BadInput, match=line):
            backends.require(name)
        with pytest.raises(BadInput, match=line):
            selective_scan(**problem(), backend=name)
        with pytest.raises(BadInput, match=line), backends.using(name):
            pass
    for name in ("reference", "torch"):
        backends.require(name)


def test_a_forced_backend_that_cannot_is_an_error_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "expbench.ops.selective.backend_triton", stand_in(unsupported="it has no tea"))
    with pytest.raises(ValueError, match=r"^selective scan: backend 'triton' does not support this problem: it has no tea$"):
        selective_scan(**problem(), backend="triton")
    with (
        backends.using("triton"),
        pytest.raises(ValueError, match=r"^selective scan: backend 'triton' does not support this problem: it has no tea$"),
    ):
        selective_scan(**problem())


@pytest.mark.parametrize(
    ("device", "triton", "name"),
    [
        ("cuda", stand_in(), "triton"),
        ("cuda", stand_in(unavailable_reason="no triton"), "torch"),
        ("cuda", stand_in(unsupported="it has no tea"), "torch"),
        ("cpu", stand_in(), "torch"),
    ],
)
def test_the_choice_by_device(device: str, triton: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "expbench.ops.selective.backend_triton", triton)
    with FakeTensorMode():
        u, A, B = torch.empty(1, 2, 4, 3, device=device), torch.empty(1, 3, 2, device=device), torch.empty(1, 2, 4, 2)
        assert operator.choose(Inputs(u, u, A, B, B), Form(), "auto")[0] == name


def test_neither_torch_nor_its_compiler_is_imported_before_it_is_needed() -> None:
    code = """
import sys
from expbench.ops import backends
assert "torch" not in sys.modules
import torch
from expbench.ops import selective_scan
x, A = torch.ones(2, 1, 3, 2, requires_grad=True), torch.ones(2, 2)
torch.vmap(lambda x: selective_scan(x, x, A, x, x))(x).sum().backward()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
