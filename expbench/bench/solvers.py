"""Backends as the benchmark runs them, forward and backward apart, and whether what they compute is right.

A backend is checked at the very size at which it is timed. Where the float64 reference would not fit there, it solves some
of the sequences, and a prefix of them: the gradient of y is put to zero elsewhere, so that all gradients are theirs alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from expbench.bench.cases import NATIVE, REFERENCE_BYTES, memory
from expbench.ops.selective.backend_reference import reference
from expbench.ops.selective.operator import implementation
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs

LIMITS = {torch.bfloat16: 1e-2, torch.float32: 2e-5, torch.float64: 1e-9}  # of the relative error in norm
_SEQUENCES = ("u", "delta", "B", "C", "z")  # those with the axes of batch and time
_MOST = {"cuda": 1 << 27, "cpu": 1 << 22}  # state elements of a check: seconds, on either


class Solver(Protocol):
    """A backend bound to a problem and to the gradient of y."""

    def forward(self) -> Any:
        """What `backward` takes, in the backend's own layout."""

    def backward(self, kept: Any) -> Any:
        """The gradients, in the backend's own layout."""

    def outputs(self, kept: Any) -> tuple[Tensor, Tensor]:
        """y (1, B, L, D) and the last state (1, B, D, N)."""

    def gradients(self, found: Any) -> Gradients:
        """Those that `backward` gave, in the shapes of the inputs."""


def solver(name: str, inputs: Inputs, form: Form, grad_y: Tensor) -> Solver:
    """The backend `name`, where ``mamba-native`` is mamba-ssm in its own layout."""
    if name == "reference":
        return _Loop(inputs, form, grad_y)
    if name == NATIVE:
        return _Native(inputs, grad_y)
    return _Implementation(implementation(name), inputs, form, grad_y)


class _Implementation:
    def __init__(self, implementation: Any, inputs: Inputs, form: Form, grad_y: Tensor) -> None:
        self._implementation, self._inputs, self._form, self._grad_y = implementation, inputs, form, grad_y

    def forward(self) -> Outputs:
        outputs: Outputs = self._implementation.forward(self._inputs, self._form, True)
        return outputs

    def backward(self, kept: Outputs) -> Gradients:
        rest = self._inputs, self._form, kept.raw, kept.checkpoints
        found: Gradients = self._implementation.backward(self._grad_y, None, *rest)
        return found

    def outputs(self, kept: Outputs) -> tuple[Tensor, Tensor]:
        return kept.y, kept.last

    def gradients(self, found: Gradients) -> Gradients:
        return found


class _Loop:
    """The plain loop under autograd."""

    def __init__(self, inputs: Inputs, form: Form, grad_y: Tensor) -> None:
        leaves = {name: x.detach().requires_grad_() for name, x in _differentiable(inputs)}
        self._inputs, self._leaves, self._form, self._grad_y = inputs._replace(**leaves), leaves, form, grad_y

    def forward(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            return reference(self._inputs, self._form)

    def backward(self, kept: tuple[Tensor, Tensor]) -> Gradients:
        found = torch.autograd.grad(kept[0], list(self._leaves.values()), self._grad_y, retain_graph=True)
        by_name = dict(zip(self._leaves, found, strict=True))
        return Gradients(*(by_name.get(name) for name in Gradients._fields))  # type: ignore[arg-type]

    def outputs(self, kept: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return kept[0].detach(), kept[1].detach()

    def gradients(self, found: Gradients) -> Gradients:
        return found


class _Native:
    """mamba-ssm's extension on tensors that are already in its layout, (B, D, L) and (B, 1, N, L)."""

    def __init__(self, inputs: Inputs, grad_y: Tensor) -> None:
        self._extension: Any = import_module("selective_scan_cuda")
        time_last = {name: x[0].transpose(1, 2).contiguous() for name, x in _differentiable(inputs) if name in _SEQUENCES}
        B, C = (time_last[name].unsqueeze(1) for name in "BC")
        skip, bias = (None if x is None else x[0] for x in (inputs.skip, inputs.bias))
        u, delta, z = time_last["u"], time_last["delta"], time_last.get("z")
        self._arguments = u, delta, inputs.A[0], B, C, skip, z, bias
        self._gated, self._grad_y = z is not None, grad_y[0].transpose(1, 2).contiguous()

    def forward(self) -> Any:
        return self._extension.fwd(*self._arguments, True)

    def backward(self, kept: Any) -> Any:
        y, states = kept[:2]
        return self._extension.bwd(*self._arguments, self._grad_y, states, y if self._gated else None, None, True, False)

    def outputs(self, kept: Any) -> tuple[Tensor, Tensor]:
        y = kept[2] if self._gated else kept[0]
        return y.transpose(1, 2).unsqueeze(0), kept[1][:, :, -1, 1::2].unsqueeze(0)

    def gradients(self, found: Any) -> Gradients:
        u, delta, A, B, C, skip, bias, *z = found

        def channel_last(x: Tensor) -> Tensor:
            return x.transpose(1, 2).unsqueeze(0)

        B, C = (channel_last(x.squeeze(1)) for x in (B, C))
        dz = channel_last(z[0]) if self._gated else None
        skip, bias = (None if x is None else x.unsqueeze(0) for x in (skip, bias))
        return Gradients(channel_last(u), channel_last(delta), A.unsqueeze(0), B, C, skip, dz, bias, None)


def _differentiable(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    for name in Gradients._fields:
        x = getattr(inputs, name)
        if x is not None:
            yield name, x


class Expected(NamedTuple):
    """The reference's answer for some sequences and their first steps, all in float64; `grad_y` is zero elsewhere."""

    sequences: Tensor  # indices into the batch
    steps: int
    y: Tensor
    last: Tensor | None  # None unless the steps are all
    gradients: dict[str, Tensor]
    grad_y: Tensor  # as long as the problem, and in its dtype


def part(inputs: Inputs) -> tuple[int, int]:
    """How many sequences and how many of their steps the reference is asked to solve: all, where it is not too much."""
    _, B, L, D = inputs.u.shape
    device = inputs.u.device.type
    most = max(1, min(_MOST[device], memory(device)[0] // 4 // REFERENCE_BYTES) // (D * inputs.A.shape[-1]))
    return (min(B, most // L), L) if most >= L else (1, most)


def expected(inputs: Inputs, form: Form, grad_y: Tensor, count: int, steps: int) -> Expected:
    """What `count` sequences, evenly spread and the last among them, should give over their first steps."""
    B, L = inputs.u.shape[1:3]
    chosen = torch.linspace(B - 1, 0, count, dtype=torch.float64).round().long().to(grad_y.device)
    masked = grad_y if (count, steps) == (B, L) else torch.zeros_like(grad_y)
    masked[:, chosen, :steps] = grad_y[:, chosen, :steps]
    parts = {name: getattr(inputs, name) for name in inputs._fields}
    parts |= {name: x[:, chosen, :steps] for name, x in _differentiable(inputs) if name in _SEQUENCES}
    doubles: dict[str, Any] = {name: None if x is None else x.double() for name, x in parts.items()}
    some = Inputs(**doubles)
    loop = _Loop(some, form, grad_y[:, chosen, :steps].double())
    kept = loop.forward()
    y, last = loop.outputs(kept)
    gradients = {name: x for name, x in loop.backward(kept)._asdict().items() if x is not None}
    return Expected(chosen, steps, y, last if steps == L else None, gradients, masked)


def worst_error(solved: Solver, wanted: Expected) -> float:
    """The largest relative error in norm over outputs and gradients, of a solver bound to ``wanted.grad_y``; inf for NaN."""
    kept = solved.forward()
    y, last = solved.outputs(kept)
    errors = [_error(y[:, wanted.sequences, : wanted.steps], wanted.y)]
    if wanted.last is not None:
        errors.append(_error(last[:, wanted.sequences], wanted.last))
    found = solved.gradients(solved.backward(kept))
    for name, gradient in wanted.gradients.items():
        x = getattr(found, name)
        if name in _SEQUENCES:
            errors.append(_error(x[:, wanted.sequences, : wanted.steps], gradient))
            elsewhere = x.detach().clone()
            elsewhere[:, wanted.sequences, : wanted.steps] = 0
            errors.append(float(elsewhere.float().norm() / gradient.norm()))
        else:
            errors.append(_error(x, gradient))
    return max(math.inf if math.isnan(error) else error for error in errors)


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def same_bits(solved: Solver) -> bool:
    """Whether two runs give the same bits, in outputs and gradients."""
    first, second = (_run(solved) for _ in range(2))
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _run(solved: Solver) -> list[Tensor]:
    kept = solved.forward()
    gradients = solved.gradients(solved.backward(kept))
    return [*solved.outputs(kept), *(x for x in gradients if x is not None)]
