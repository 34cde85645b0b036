"""The selective scan's backend ``torch`` against the definition in float64: values, every gradient, and memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from expbench.ops import scan
from expbench.ops.selective import backend_torch, torch_tiles
from expbench.ops.selective.backend_reference import discretise, reference
from expbench.ops.selective.problem import Form, Inputs, state_dtype

EXACT = Form()
EVERY = ("skip", "z", "bias", "state", "last")
FORMS = [
    EXACT,
    *(Form("taylor", degree) for degree in (1, 2, 3, 5)),
    *(Form("taylor", degree, lowest) for degree, lowest in ((1, -1.0), (2, -2.0), (3, -1.5))),
    Form("linear"),
]


class Problem(NamedTuple):
    """A problem, and gradients of its y and (if any) of its last state."""

    inputs: Inputs
    form: Form
    grad_y: Tensor
    grad_last: Tensor | None


@pytest.fixture(params=[False, True], ids=["one-chunk", "many-chunks"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve small problems in one chunk, or in tiles of 2 lanes and chunks of 9 steps, which are scanned by halves."""
    if request.param:
        for name, value in {"_CHUNK": 1, "_STEP": 1, "_LANES": 2, "_STEPS": 9}.items():
            monkeypatch.setattr(torch_tiles, name, value)
        monkeypatch.setattr(scan, "_SHORT", 4)


def problem(
    *,
    S: int = 2,
    B: int = 3,
    L: int = 23,
    D: int = 3,
    N: int = 2,
    form: Form = EXACT,
    present: tuple[str, ...] = EVERY,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Random numbers. In the exact form a lies in (0, 1), in the others on both sides of 0 and beyond 1."""
    generator = torch.Generator().manual_seed(L + D + N)

    def sequence(*shape: int) -> Tensor:
        return torch.randn(S, *shape, generator=generator, dtype=torch.float64).to(dtype)

    def constant(*shape: int) -> Tensor:
        return torch.randn(S, *shape, generator=generator, dtype=torch.float64).to(state_dtype(dtype))

    A = constant(D, N)
    inputs = Inputs(
        u=sequence(B, L, D),
        delta=sequence(B, L, D),
        A=-A.abs() if form.kind == "exact" else 0.7 * A,
        B=sequence(B, L, N),
        C=sequence(B, L, N),
        skip=constant(D) if "skip" in present else None,
        z=sequence(B, L, D) if "z" in present else None,
        bias=0.3 * constant(D) if "bias" in present else None,
        state=constant(B, D, N) if "state" in present else None,
        coefficients=0.5 * constant(form.degree + 1, D) if form.kind == "taylor" else None,
    )
    return Problem(inputs, form, sequence(B, L, D), constant(B, D, N) if "last" in present else None)


def changed(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """With every tensor changed."""
    return Inputs(**{name: change(x) for name, x in inputs._asdict().items() if x is not None})


def by_definition(inputs: Inputs, form: Form, grad_y: Tensor, grad_last: Tensor | None) -> dict[str, Tensor]:
    """y, last and by their inputs' names the gradients, by autograd through the definition in float64."""
    wide = changed(inputs, lambda x: x.detach().double().requires_grad_())
    y, last = reference(wide, form)
    leaves = {name: x for name, x in wide._asdict().items() if x is not None and name != "coefficients"}
    loss = (y * grad_y).sum() + (0 if grad_last is None else (last * grad_last).sum())
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return {"y": y.detach(), "last": last.detach(), **dict(zip(leaves, grads, strict=True))}


def by_chunks(inputs: Inputs, form: Form, grad_y: Tensor, grad_last: Tensor | None) -> dict[str, Tensor]:
    """The same from the implementation."""
    outputs = backend_torch.forward(inputs, form, keep=True)
    grads = backend_torch.backward(grad_y, grad_last, inputs, form, outputs.raw, outputs.checkpoints)
    return {"y": outputs.y, "last": outputs.last, **{name: g for name, g in grads._asdict().items() if g is not None}}


def check(given: Problem, tolerance: float = 1e-12) -> None:
    """Assert that all shapes and dtypes are right, and all values to `tolerance`, relative in norm."""
    right, found = by_definition(*given), by_chunks(*given)
    assert found.keys() == right.keys()
    like = {"y": given.inputs.u, "last": given.inputs.A, **given.inputs._asdict()}
    for name, x in found.items():
        assert (x.dtype, x.shape) == (like[name].dtype, right[name].shape), name
        error, norm = float((x - right[name]).norm()), float(right[name].norm())
        assert error <= tolerance * norm, f"{name}: {error} of {norm}"


@pytest.mark.parametrize("delta_on_b", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients_of_every_form(form: Form, delta_on_b: bool, cut: None) -> None:
    given = problem(form=form._replace(delta_on_b=delta_on_b))
    assert given.inputs.bias is not None
    _, a = discretise(given.inputs.delta + given.inputs.bias[:, None, None], given.inputs.A, form, given.inputs.coefficients)
    if form.kind != "exact" and form.lowest == 0:
        assert float(a.max()) > 1
        assert float(a.min()) < 0 or form.degree == 2  # 1 + v + v^2/2 is at least 1/2
    check(given)


@pytest.mark.parametrize("present", [(), *((name,) for name in EVERY), EVERY[:3]], ids=str)
def test_optional_inputs_may_be_absent(present: tuple[str, ...], cut: None) -> None:
    given = problem(present=present)
    check(given)
    raw = backend_torch.forward(given.inputs, given.form, keep=True).raw
    assert raw.shape == (given.inputs.u.shape if "z" in present else (0,))


@pytest.mark.parametrize(("S", "B", "D", "N"), [(1, 1, 1, 1), (1, 2, 3, 1), (3, 1, 1, 5), (3, 2, 3, 2), (1, 5, 1, 2)])
@pytest.mark.parametrize("L", [1, 17, 63, 100, 257])
def test_odd_sizes(S: int, B: int, L: int, D: int, N: int, cut: None) -> None:
    check(problem(S=S, B=B, L=L, D=D, N=N))


@pytest.mark.parametrize(("B", "L", "D", "N"), [(2, 600, 4, 64), (300, 40, 3, 16)], ids=["many-chunks", "many-tiles"])
def test_sizes_that_are_cut_without_being_told_to(B: int, L: int, D: int, N: int) -> None:
    given = problem(S=1, B=B, L=L, D=D, N=N)
    assert backend_torch.saved_shapes(given.inputs, EXACT)[1][-1] == B
    assert backend_torch.forward(given.inputs, EXACT, keep=True).checkpoints.numel() <= B * D * N * L // 16
    check(given)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("form", [EXACT, Form("taylor", 3, -1.5)], ids=str)
def test_precision_of_narrow_sequences(form: Form, dtype: torch.dtype, tolerance: float, cut: None) -> None:
    check(problem(L=200, form=form, dtype=dtype), tolerance)


def test_bfloat16_is_rounded_where_it_is_read_and_written_and_nowhere_between(cut: None) -> None:
    given = problem(L=40, dtype=torch.bfloat16, present=("skip", "bias", "state", "last"))
    wide = by_chunks(changed(given.inputs, Tensor.float), given.form, given.grad_y.float(), given.grad_last)
    assert all(torch.equal(x, wide[name].to(x.dtype)) for name, x in by_chunks(*given).items())


def test_of_float32_over_a_thousand_steps_of_slow_decay() -> None:
    given = problem(S=1, L=1024, D=4, N=4, dtype=torch.float32)
    check(given._replace(inputs=given.inputs._replace(delta=given.inputs.delta - 5)), 2e-5)


def test_by_hand() -> None:
    """h = 2 * 0 + 1, -1 * 1 + 5, 0 * 4 + 7 with a = delta A of the linear form, and y = 10 h."""
    one = torch.ones(1, 1, 3, 1)
    inputs = Inputs(u=one, delta=torch.tensor([2.0, -1, 0]).view(one.shape), A=torch.ones(1, 1, 1), B=one, C=10 * one)
    inputs = inputs._replace(u=torch.tensor([1.0, 5, 7]).view(one.shape))
    outputs = backend_torch.forward(inputs, Form("linear", delta_on_b=False), keep=True)
    assert outputs.y.flatten().tolist() == [10, 40, 70]
    assert outputs.last.tolist() == [[[[7]]]]
    grads = backend_torch.backward(one, None, inputs, Form("linear", delta_on_b=False), outputs.raw, outputs.checkpoints)
    assert grads.u.flatten().tolist() == [0, 10, 10]  # 10 (1 - 1 + 0), 10 (1 + 0), 10
    assert grads.delta.flatten().tolist() == [0, 10, 40]  # what a_t multiplies, times the gradient of h_t


def test_the_gradient_of_the_clip_at_its_ends() -> None:
    """v = -delta is lowest, 0 and beyond them: as torch.clamp does, both ends pass the gradient on."""
    form = Form("taylor", 2, -2.0)
    given = problem(S=1, B=1, L=6, D=1, N=1, form=form)
    delta = torch.tensor([1.0, 2, 0, 3, -1, 0.5], dtype=torch.float64).view(1, 1, 6, 1)
    coefficients = torch.tensor([0.0, 1, 0], dtype=torch.float64).view(1, 3, 1)
    given = given._replace(
        inputs=given.inputs._replace(delta=delta, A=-torch.ones_like(given.inputs.A), bias=None, coefficients=coefficients)
    )
    check(given)


def test_inputs_in_any_memory_order(cut: None) -> None:
    given = problem()
    turned = changed(given.inputs, lambda x: x.transpose(0, -1).contiguous().transpose(0, -1))
    scattered = changed(given.inputs, lambda x: torch.stack([x, x], -1)[..., 0])
    for inputs in (turned, scattered, changed(given.inputs, lambda x: x[:1].expand(x.shape))):
        assert not inputs.u.is_contiguous()
        check(given._replace(inputs=inputs, grad_y=given.grad_y.transpose(1, 2).contiguous().transpose(1, 2)))


def test_models_do_not_see_each_other(cut: None) -> None:
    given = problem(S=3)
    stacked = by_chunks(*given)
    for s in range(3):
        member = slice(s, s + 1)
        assert given.grad_last is not None
        inputs = changed(given.inputs, operator.itemgetter(member))
        single = by_chunks(inputs, given.form, given.grad_y[member], given.grad_last[member])
        for name, x in single.items():
            torch.testing.assert_close(stacked[name][member], x)


@pytest.mark.parametrize(("S", "B"), [(1, 1), (2, 3)])
def test_a_second_backward_pass_finds_the_same_and_nothing_is_overwritten(S: int, B: int, cut: None) -> None:
    for form in FORMS:
        given = problem(S=S, B=B, form=form)
        outputs = backend_torch.forward(given.inputs, form, keep=True)
        read = [x for x in (*given.inputs, given.grad_y, given.grad_last, *outputs) if x is not None]
        before = [x.clone() for x in read]
        passes = [
            backend_torch.backward(given.grad_y, given.grad_last, given.inputs, form, outputs.raw, outputs.checkpoints)
            for _ in range(2)
        ]
        assert all(torch.equal(x, y) for x, y in zip(*passes, strict=True) if x is not None and y is not None)
        assert all(torch.equal(x, y) for x, y in zip(read, before, strict=True))


def test_without_keep_there_are_the_outputs_alone(cut: None) -> None:
    given = problem()
    kept, alone = (backend_torch.forward(given.inputs, given.form, keep) for keep in (True, False))
    assert kept.checkpoints.shape == backend_torch.saved_shapes(given.inputs, given.form)[1]
    assert alone.checkpoints.numel() == 0
    assert all(torch.equal(x, y) for x, y in zip(kept[:3], alone[:3], strict=True))


def test_outputs_are_plain_tensors_even_of_leaves(cut: None) -> None:
    given = problem()
    inputs = changed(given.inputs, Tensor.requires_grad_)
    outputs = backend_torch.forward(inputs, given.form, keep=True)
    grads = backend_torch.backward(given.grad_y, given.grad_last, inputs, given.form, outputs.raw, outputs.checkpoints)
    for x in (*outputs, *grads):
        assert x is not None
        assert not x.requires_grad
        assert not x.is_inference()
        x.add_(1)


@pytest.fixture
def poison() -> Iterator[None]:
    """Have torch fill new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nothing_depends_on_what_was_in_memory(form: Form, cut: None, poison: None) -> None:
    assert bool(torch.empty(9).isnan().all())
    given = problem(form=form)
    outputs = backend_torch.forward(given.inputs, form, keep=True)
    grads = backend_torch.backward(given.grad_y, given.grad_last, given.inputs, form, outputs.raw, outputs.checkpoints)
    assert all(x is not None and bool(x.isfinite().all()) for x in (*outputs, *grads))


class Largest(TorchDispatchMode):
    """Records the most memory behind one tensor that any operation gave, in numbers of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for x in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // 8)
        return given


def test_no_tensor_of_all_states_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_CHUNK": 1, "_STEP": 1, "_LANES": 4}.items():
        monkeypatch.setattr(torch_tiles, name, value)
    S, B, L, D, N, lanes, steps = 2, 4, 320, 6, 8, 4, 16
    given = problem(S=S, B=B, L=L, D=D, N=N, form=Form("taylor", 3, -1.5))
    with Largest() as largest:
        by_definition(*given)
    assert largest.numbers >= S * B * L * D * N
    with Largest() as largest:
        by_chunks(*given)
    sequence, chunk, kept = S * B * L * N, 2 * (steps + 1) * N * D * lanes, S * B * D * N * L // steps
    assert largest.numbers <= max(sequence, chunk, kept) < S * B * L * D * N / 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_same_on_cuda(form: Form, cut: None) -> None:
    given = problem(L=70, form=form)
    assert given.grad_last is not None
    found = by_chunks(changed(given.inputs, Tensor.cuda), form, given.grad_y.cuda(), given.grad_last.cuda())
    for name, x in by_chunks(*given).items():
        torch.testing.assert_close(found[name].cpu(), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 8, 9, 17, 31, 50])
def test_scan_in_place_in_both_directions(L: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(L)
    a, b = (torch.randn(L, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = b.clone()
    for t in reversed(range(L - 1)) if reverse else range(1, L):
        expected[t] += a[t + 1] * expected[t + 1] if reverse else a[t] * expected[t - 1]
    for short in (50, 1):
        monkeypatch.setattr(scan, "_SHORT", short)
        for strided in (b, b.transpose(1, 2).contiguous().transpose(1, 2)):
            h = strided.clone()
            run = scan.in_place(a, h, reverse=reverse)
            run()
            torch.testing.assert_close(h, expected, rtol=1e-10, atol=1e-10)
            h.copy_(b)
            run()
            torch.testing.assert_close(h, expected, rtol=1e-10, atol=1e-10)
