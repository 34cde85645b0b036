"""The selective scan in plain PyTorch, the backend ``torch``: fast on a CPU and correct on every device.

It processes a problem chunk by chunk, as cut by `torch_tiles`. The forward pass saves only the state before each chunk, and
`backward` recomputes the states within it. The recurrence is `scan.in_place`, so transitions may be zero, negative or
larger than 1. Letters: n steps of a chunk, N state, D width, P lanes of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.ops.selective.discretisation import find_step, find_transition, through_step, through_transition
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs
from expbench.ops.selective.torch_tiles import Chunk, Shared, Size, by_lane, walk, write


def unavailable_reason() -> str | None:
    """Return None: the backend works on every machine."""
    return None


def unsupported(inputs: Inputs, form: Form) -> str | None:
    """Return None: the backend supports every problem."""
    return None


def saved_shapes(inputs: Inputs, form: Form) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of y before the gate (S, B, L, D) and of the checkpoints.

    Checkpoints are the states before each chunk (chunks, N, D, P), or all a and h (2, L + 1, N, D, P) of a single chunk.
    """
    return (0,) if inputs.z is None else inputs.u.shape, Size.of(inputs).checkpoints


def forward(inputs: Inputs, form: Form, keep: bool) -> Outputs:
    """Return the outputs, with raw in the dtype of u, and with checkpoints only if `keep`."""
    size = Size.of(inputs)
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    raw = y.new_empty(0 if inputs.z is None else y.shape)
    kept = inputs.A.new_empty(size.checkpoints if keep else 0)
    state = inputs.A.new_zeros(size.N, size.D, size.P)
    with torch.inference_mode():  # reduces the time of a torch call to three quarters
        if inputs.state is not None:
            state.copy_(by_lane(inputs.state))
        if keep and size.whole:
            kept[0, 0].zero_()  # the first step has no a: never expose uninitialised memory
        shared = Shared.of(inputs)
        writes = [y] if inputs.z is None else [y, raw]
        for lanes, i, chunk, tensors, parts in walk(size, _sequences(inputs), writes, state, kept if keep else None):
            here = state[..., lanes]
            chunk.start.copy_(here)
            if keep and not size.whole:
                kept[i, ..., lanes] = here
            write(parts, _solve(chunk, tensors, form, shared.among(lanes)))
            here.copy_(chunk.end)
    return Outputs(y, size.by_sequence(state), raw, kept)


def backward(
    grad_y: Tensor, grad_last: Tensor | None, inputs: Inputs, form: Form, raw: Tensor, checkpoints: Tensor
) -> Gradients:
    """Return the gradients of the inputs from those of y (S, B, L, D) and of the last state (S, B, D, N)."""
    size = Size.of(inputs)
    sequences = _sequences(inputs)
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in sequences]
    sums = Shared.zeros(inputs, size)
    grad_state = torch.zeros_like(sums.A)
    with torch.inference_mode():
        if grad_last is not None:
            grad_state.copy_(by_lane(grad_last))
        shared = Shared.of(inputs)
        reads = [grad_y, *sequences] if inputs.z is None else [grad_y, *sequences, raw]
        for lanes, i, chunk, tensors, parts in walk(size, reads, grads, grad_state, checkpoints, backwards=True):
            if not size.whole:
                chunk.start.copy_(checkpoints[i, ..., lanes])
            given, growing, here = shared.among(lanes), sums.among(lanes), grad_state[..., lanes]
            write(parts, _differentiate(chunk, tensors, form, given, growing, here, solved=size.whole))
    u, delta, B, C, *z = grads
    skip, bias = (None if x is None else size.by_model(x) for x in (sums.skip, sums.bias))
    state = None if inputs.state is None else size.by_sequence(grad_state)
    return Gradients(u, delta, size.by_model(sums.A), B, C, skip, z[0] if z else None, bias, state)


def _sequences(inputs: Inputs) -> list[Tensor]:
    return [x for x in (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z) if x is not None]


def _solve(chunk: Chunk, tensors: Sequence[Tensor], form: Form, shared: Shared) -> list[Tensor]:
    """Return y (n, D, P) and, with a gate, raw (n, D, P), from the chunk's start and the sequences."""
    u, delta, B, C, *z = tensors
    _, step, x = _drive(u, delta, form, shared)
    _find_states(chunk, form, shared, step, x, B)
    raw = torch.mul(chunk.h, C.unsqueeze(2), out=chunk.work).sum(1)
    if shared.skip is not None:
        raw.addcmul_(u, shared.skip)
    return [raw * F.silu(z[0]), raw] if z else [raw]


def _differentiate(
    chunk: Chunk,
    tensors: Sequence[Tensor],
    form: Form,
    shared: Shared,
    sums: Shared,
    grad_state: Tensor,
    *,
    solved: bool,
) -> list[Tensor]:
    """Return the gradients of the sequences; `tensors` are the gradient of y, the sequences and, with a gate, raw.

    The gradients of shared parameters are added to `sums`. grad_state (N, D, P) holds the gradient of the end state on entry
    and that of the start state on return. solved: whether the chunk holds a and h (else only its start).
    """
    grad_y, u, delta, B, C, *gate = tensors
    r, step, x = _drive(u, delta, form, shared)
    if not solved:
        _find_states(chunk, form, shared, step, x, B)
    grad_z: list[Tensor] = []
    if gate:
        grad_y, *grad_z = _through_gate(grad_y, *gate)

    work, g = chunk.work, _through_states(chunk, grad_y, C, grad_state)
    grad_C = torch.mul(chunk.h, grad_y.unsqueeze(1), out=work).sum(2)
    grad_B = torch.mul(g, x.unsqueeze(1), out=work).sum(2)
    grad_x = torch.mul(g, B.unsqueeze(2), out=work).sum(1)
    grad_v = g.mul_(chunk.before)  # the gradient of a here; the next line turns it into that of v = Delta A in place
    through_transition(grad_v, chunk, step, shared.A, form)
    sums.A.add_(torch.mul(grad_v, step.unsqueeze(1), out=work).sum(0))
    grad_step = torch.mul(grad_v, shared.A, out=work).sum(1)

    grad_u = grad_x
    if form.delta_on_b:
        grad_step.addcmul_(grad_x, u)
        grad_u = grad_x.mul_(step)
    if shared.skip is not None and sums.skip is not None:
        grad_u.addcmul_(grad_y, shared.skip)
        sums.skip.add_((grad_y * u).sum(0))
    grad_delta = through_step(grad_step, r, form, shared.coefficients)
    if sums.bias is not None:
        sums.bias.add_(grad_delta.sum(0))
    return [grad_u, grad_delta, grad_B, grad_C, *grad_z]


def _drive(u: Tensor, delta: Tensor, form: Form, shared: Shared) -> tuple[Tensor, Tensor, Tensor]:
    """Return Delta's argument r, Delta, and the input that B multiplies, each (n, D, P)."""
    r = delta if shared.bias is None else delta + shared.bias
    step = find_step(r, form, shared.coefficients)
    return r, step, step * u if form.delta_on_b else u


def _find_states(chunk: Chunk, form: Form, shared: Shared, step: Tensor, x: Tensor, B: Tensor) -> None:
    """Fill the chunk's a and h from Delta and the input x (both (n, D, P)), and B (n, N, P)."""
    find_transition(chunk, step, shared.A, form)
    torch.mul(x.unsqueeze(1), B.unsqueeze(2), out=chunk.h)
    chunk.scan()


def _through_states(chunk: Chunk, grad: Tensor, C: Tensor, grad_state: Tensor) -> Tensor:
    """Return the gradient (n, N, D, P) of the inputs of the recurrence from that of raw (n, D, P) and C (n, N, P).

    grad_state (N, D, P) holds the gradient of the end state on entry and that of the start state on return.
    """
    g = torch.mul(grad.unsqueeze(1), C.unsqueeze(2), out=chunk.adjoint[1:])
    g[-1].add_(grad_state)
    start = chunk.adjoint[0].zero_()
    chunk.scan_back()
    grad_state.copy_(start)
    return g


def _through_gate(grad_y: Tensor, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of raw and of z from that of y = raw silu(z), all (n, D, P)."""
    s = torch.sigmoid(z)
    return grad_y * z * s, grad_y * raw * s * (1 + z * (1 - s))
