"""The gated recurrent unit (Cho et al. 2014, in the form of `torch.nn.GRU`) as a scan over time that can be mapped.

With the gates x_t of the input (all time steps in one linear map, outside) and those of the state, W h_{t-1} + b:
    r = sigmoid(x_r + W_r h + b_r),  z = sigmoid(x_z + W_z h + b_z),  n = tanh(x_n + r (W_n h + b_n)),
    h_t = (1 - z) n + z h_{t-1},  h_0 = 0.
`reference` defines it. `gated_recurrence` gives the same values and gradients, to second order, with five operations per
step forward and two backward, whatever the number of stacked models. States are never below float32.
Letters: S stacked models, B batch, L length, H states; gates are ordered r, z, n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expbench.ops import backends
from expbench.ops.selective.problem import state_dtype

_IMPLEMENTATIONS = ("reference", "torch")


def gated_recurrence(x: Tensor, weight: Tensor, bias: Tensor, backend: str | None = None) -> Tensor:
    """Return the states h (B, L, H), in the dtype of x, for x (B, L, 3H), weight (3H, H) and bias (3H,).

    backend: ``reference`` or ``torch``; None takes the one that `backends.using` forces, else ``torch``. Raises
    `BackendUnsupported` for any other backend. Autocast is left at the door, as a state in bfloat16 would forget.
    """
    name = backends.requested(backend) or "torch"
    if name not in _IMPLEMENTATIONS:
        raise backends.BackendUnsupported(f"the gru has no backend {name!r} (it has: {', '.join(_IMPLEMENTATIONS)})")
    backends.ran("gru", name)
    dtype = state_dtype(torch.promote_types(x.dtype, weight.dtype))
    with torch.autocast(x.device.type, enabled=False):
        tensors = (x.to(dtype), weight.to(dtype), bias.to(dtype))
        states = reference(*tensors) if name == "reference" else _GRU.apply(*(tensor[None] for tensor in tensors))[0][0]
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
    """States (S, B, L, H) of x (S, B, L, 3H), weight (S, 3H, H) and bias (S, 3H), with r, z and W_n h + b_n for `backward`.

    A mapped axis joins S. All tensors lie time first in memory.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        S, B, L, _ = x.shape
        H, turned = weight.shape[2], weight.mT
        gates = torch.empty((L, S, B, 3 * H), dtype=x.dtype, device=x.device)
        x = x.movedim(2, 0)
        torch.add(x[..., : 2 * H], bias[:, None, : 2 * H], out=gates[..., : 2 * H])
        gates[..., 2 * H :] = bias[:, None, 2 * H :]
        states = torch.empty((L, S, B, H), dtype=x.dtype, device=x.device)
        h = torch.zeros_like(states[0])
        for t, (x_t, own, h_t) in enumerate(zip(x.unbind(0), gates.unbind(0), states.unbind(0), strict=True)):
            if t:
                own.baddbmm_(h, turned)
            rz = own[..., : 2 * H].sigmoid_()
            n = torch.addcmul(x_t[..., 2 * H :], rz[..., :H], own[..., 2 * H :]).tanh_()
            h = torch.lerp(n, h, rz[..., H:], out=h_t)
        return states.movedim(0, 2), gates.movedim(0, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            gradients: tuple[Tensor, ...] = _Backward.apply(grad, *ctx.saved_tensors)
        return gradients

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _apart(_GRU.apply(*_joined(info.batch_size, in_dims, tensors)), info.batch_size)


class _Backward(torch.autograd.Function):
    """The gradients of x, weight and bias for the gradient (S, B, L, H) of the states and all that `_GRU` keeps.

    With all gates known, the gradient g_t of h_t makes those of the gates of the state by factors k, in one product, and
    these make that of h_{t-1}; the term z g_t takes part in it as a fourth gate whose weight is the identity.
    """

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, states: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        S, B, L, H = grad.shape
        x, states, gates = (tensor.movedim(2, 0) for tensor in (x, states, gates))
        g = grad.movedim(2, 0).clone(memory_format=torch.contiguous_format)
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        r, z, own = (gates[..., i * H : (i + 1) * H] for i in range(3))
        n = torch.tanh(x[..., 2 * H :] + r * own)
        k_n = (1 - z) * (1 - n * n)
        k = torch.stack([k_n * own * r * (1 - r), (before - n) * z * (1 - z), k_n * r, z], -2)
        identity = torch.eye(H, dtype=weight.dtype, device=weight.device).expand(S, H, H)
        along = torch.cat([weight, identity], 1)
        of_gates = k.flatten(-2)
        for t in range(L - 1, -1, -1):
            k[t].mul_(g[t].unsqueeze(-2))
            if t:
                g[t - 1].baddbmm_(of_gates[t], along)
        of_state = of_gates[..., : 3 * H]
        of_input = torch.cat([of_gates[..., : 2 * H], k_n * g], -1)
        flat, h = (tensor.transpose(0, 1).reshape(S, L * B, -1) for tensor in (of_state, before))
        return of_input.movedim(0, 2), flat.mT @ h, flat.sum(1)

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
            return *torch.func.vjp(gradients, *ctx.saved_tensors)[1](grads), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _apart(_Backward.apply(*_joined(info.batch_size, in_dims, tensors)), info.batch_size)


def _joined(size: int, dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Return tensors (S, ...), mapped along `dims`, with the mapped axis of `size` and S merged."""
    first = [x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims, strict=True)]
    return [x.flatten(0, 1) for x in first]


def _apart(tensors: tuple[Tensor, ...], size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Undo `_joined`: return the tensors with the mapped axis first, and its place in each."""
    return tuple(x.unflatten(0, (size, -1)) for x in tensors), (0,) * len(tensors)
