"""The gated recurrent unit (Cho et al. 2014, in the form of `torch.nn.GRU`) as a scan over time that can be mapped.

With the gates x_t of the input (all time steps in one linear map, outside) and those of the state, W h_{t-1} + b:
    r = sigmoid(x_r + W_r h + b_r),  z = sigmoid(x_z + W_z h + b_z),  n = tanh(x_n + r (W_n h + b_n)),
    h_t = (1 - z) n + z h_{t-1},  h_0 = 0.
`reference` defines it. `gated_recurrence` gives the same values and gradients, to second order, by the loops of
`torch_steps`, and can be mapped, captured and compiled. States are never below float32.
Letters: S stacked models, B batch, L length, H states; gates are ordered r, z, n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expbench.ops import backends
from expbench.ops.gru import torch_steps, triton_steps
from expbench.ops.selective.problem import state_dtype

_OPERATION, _AUTO = "gru", "auto"
_IMPLEMENTATIONS = ("reference", "torch", "triton")


def gated_recurrence(x: Tensor, weight: Tensor, bias: Tensor, backend: str | None = None) -> Tensor:
    """Return the states h (B, L, H), in the dtype of x, for x (B, L, 3H), weight (3H, H) and bias (3H,).

    backend: ``reference``, ``torch`` or ``triton``; None takes the one that `backends.using` forces, else ``triton`` if it
    supports the problem on a GPU, else ``torch``. Raises `BackendUnsupported` for a backend that the operation lacks or that
    does not support the problem. Autocast ends here, as a state in bfloat16 would forget.
    """
    name = backends.requested(backend) or _AUTO
    if name not in (*_IMPLEMENTATIONS, _AUTO):
        raise backends.BackendUnsupported(f"the gru has no backend {name!r} (it has: {', '.join(_IMPLEMENTATIONS)})")
    dtype = state_dtype(torch.promote_types(x.dtype, weight.dtype))
    with torch.autocast(x.device.type, enabled=False):
        tensors = (x.to(dtype), weight.to(dtype), bias.to(dtype))
        if name == "reference":
            backends.ran(_OPERATION, name)
            return reference(*tensors).to(x.dtype)
        reason = triton_steps.unsupported(*tensors[:2]) if name == "triton" else None
        if reason is not None:
            raise backends.BackendUnsupported(f"gru: backend 'triton' does not support this problem: {reason}")
        states: Tensor = _GRU.apply(*(tensor[None] for tensor in tensors), name)[0][0]
        return states.to(x.dtype)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return h (..., B, L, H) for x (..., B, L, 3H), weight (..., 3H, H) and bias (..., 3H): the definition."""
    H = weight.shape[-1]
    h = torch.zeros_like(x[..., 0, :H])
    states = []
    for x_t in x.unbind(-2):
        own = h @ weight.mT + bias.unsqueeze(-2)
        r, z = (torch.sigmoid(x_t[..., part] + own[..., part]) for part in (slice(H), slice(H, 2 * H)))
        n = torch.tanh(x_t[..., 2 * H :] + r * own[..., 2 * H :])
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states, -2)


class _GRU(torch.autograd.Function):
    """States (S, B, L, H) of x (S, B, L, 3H), weight (S, 3H, H) and bias (S, 3H), and the gates; a mapped axis joins S."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = torch.ops.expbench.gru.default(x, weight, bias, backend)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # else the gates, which have no gradient, get one of zeros
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        with torch.autocast(grad.device.type, enabled=False):
            return *_Backward.apply(grad, *ctx.saved_tensors, ctx.backend), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, backend = arguments
        return _apart(_GRU.apply(*_joined(info.batch_size, in_dims[:-1], tensors), backend), info.batch_size)


class _Backward(torch.autograd.Function):
    """The gradients of x, weight and bias for the gradient (S, B, L, H) of the states and all that `_GRU` keeps."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, states: Tensor, gates: Tensor, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        operator = torch.ops.expbench.gru_backward.default
        found: tuple[Tensor, Tensor, Tensor] = operator(grad, x, weight, states, gates, backend)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate the gradients of the definition: second order is rare, and need not be fast."""

        def gradients(grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = torch.func.vjp(reference, *tensors)[1](grad)
            return found

        with torch.autocast(grads[0].device.type, enabled=False):
            return *torch.func.vjp(gradients, *ctx.saved_tensors)[1](grads), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, backend = arguments
        return _apart(_Backward.apply(*_joined(info.batch_size, in_dims[:-1], tensors), backend), info.batch_size)


def _joined(size: int, dims: tuple[int | None, ...], tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors (S, ...), mapped along `dims`, with the mapped axis of `size` and S merged."""
    first = [x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims, strict=True)]
    return [x.flatten(0, 1) for x in first]


def _apart(tensors: tuple[Tensor, ...], size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Undo `_joined`: return the tensors with the mapped axis first, and its place in each."""
    return tuple(x.unflatten(0, (size, -1)) for x in tensors), (0,) * len(tensors)


def _fused(x: Tensor, weight: Tensor, backend: str) -> bool:
    """Return whether the kernels of `triton_steps` are to solve this problem."""
    if backend != _AUTO:
        return backend == "triton"
    possible = _on_device(x) and triton_steps.unsupported(x, weight) is None
    return possible and backends.unavailable_reason("triton") is None and triton_steps.agrees(weight.shape[-1], x.device)


def _on_device(x: Tensor) -> bool:
    return x.is_cuda


def _gru(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    fused = _fused(x, weight, backend)
    backends.ran(_OPERATION, "triton" if fused else "torch")
    return triton_steps.forward(x, weight, bias) if fused else torch_steps.forward(x, weight, bias)


def _gru_backward(
    grad: Tensor, x: Tensor, weight: Tensor, states: Tensor, gates: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    solve = triton_steps.backward if _fused(x, weight, backend) else torch_steps.backward
    return solve(grad, x, weight, states, gates)


def _gru_shapes(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    (S, B, L, gates), H = x.shape, weight.shape[2]
    return torch_steps.empty(x, S, B, L, H), torch_steps.empty(x, S, B, L, gates)


def _gru_backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, states: Tensor, gates: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(gates), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])


# Operators, so that torch.compile sees a sequence as one step and does not unroll it; registered by hand, as the first call
# of torch.library.custom_op imports the compiler (2 seconds).
_LIBRARY = torch.library.Library("expbench", "FRAGMENT")
_TENSORS = "Tensor grad, Tensor x, Tensor weight, Tensor states, Tensor gates"
for _schema, _kernel, _shapes in (
    ("gru(Tensor x, Tensor weight, Tensor bias, str backend) -> (Tensor, Tensor)", _gru, _gru_shapes),
    (f"gru_backward({_TENSORS}, str backend) -> (Tensor, Tensor, Tensor)", _gru_backward, _gru_backward_shapes),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"expbench::{_name}", _shapes, lib=_LIBRARY)
