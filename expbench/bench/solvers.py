"""Backends with separate forward and backward passes for the benchmark, and the check of their results.

A backend is checked at the same size at which it is timed. If the float64 reference does not fit into memory at that
size, it solves only a prefix of some sequences. The gradient of y is then 0 elsewhere, so that only this part contributes
to gradients.
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

LIMITS = {torch.bfloat16: 1e-2, torch.float32: 2e-5, torch.float64: 1e-9}  # largest relative error in norm
_SEQUENCES = ("u", "delta", "B", "C", "z")  # inputs with batch and time axes
_MOST = {"cuda": 1 << 27, "cpu": 1 << 22}  # state elements of a check, which then takes seconds on either device


class Solver(Protocol):
    """A backend bound to inputs and to the gradient of y."""

    def forward(self) -> Any:
        """Return outputs and saved tensors, in the backend's own layout, as the argument of `backward`."""

    def backward(self, kept: Any) -> Any:
        """Return the gradients in the backend's own layout."""

    def outputs(self, kept: Any) -> tuple[Tensor, Tensor]:
        """Return y (1, B, L, D) and the last state (1, B, D, N)."""

    def gradients(self, found: Any) -> Gradients:
        """Return the gradients from `backward` in the shapes of the inputs."""


def solver(name: str, inputs: Inputs, form: Form, grad_y: Tensor) -> Solver:
    """Bind the backend `name`, or for ``mamba-native`` mamba-ssm in its own layout, to a problem; grad_y: (1, B, L, D)."""
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
    """mamba-ssm's extension on tensors in its own layout, (B, D, L) and (B, 1, N, L), so that no pass transposes."""

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
    """Results of the reference for the first steps of some sequences, in float64; `grad_y` is 0 elsewhere."""

    sequences: Tensor  # indices into the batch
    steps: int
    y: Tensor
    last: Tensor | None  # None if the steps are only a prefix
    gradients: dict[str, Tensor]
    grad_y: Tensor  # (1, B, L, D) of the whole problem, in its dtype


def part(inputs: Inputs) -> tuple[int, int]:
    """Return how many sequences, and how many of their steps, the reference solves: all if memory and time permit."""
    _, B, L, D = inputs.u.shape
    device = inputs.u.device.type
    most = max(1, min(_MOST[device], memory(device)[0] // 4 // REFERENCE_BYTES) // (D * inputs.A.shape[-1]))
    return (min(B, most // L), L) if most >= L else (1, most)


def expected(inputs: Inputs, form: Form, grad_y: Tensor, count: int, steps: int) -> Expected:
    """Compute the expected results of `count` evenly spread sequences, including the last one, over their first `steps`."""
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
    """Return the largest relative error in norm over outputs and gradients; inf for NaN.

    The solver must be bound to ``wanted.grad_y``. Gradients of sequences must be 0 outside the expected part.
    """
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
    """Return whether two runs give the same bits in outputs and gradients."""
    first, second = (_run(solved) for _ in range(2))
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _run(solved: Solver) -> list[Tensor]:
    kept = solved.forward()
    gradients = solved.gradients(solved.backward(kept))
    return [*solved.outputs(kept), *(x for x in gradients if x is not None)]
