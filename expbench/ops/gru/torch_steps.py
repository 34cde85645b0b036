"""The gated recurrence step by step in torch: five operations per step forward, two backward, for any number of models.

On a GPU each operation of a step is a kernel, and with small models the number of kernels is the time.
Letters: S stacked models, B batch, L length, H states. Tensors lie time first in memory, so that a step is contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states (S, B, L, H), and r, z and W_n h + b_n (S, B, L, 3H), which `backward` needs.

    x: (S, B, L, 3H). weight: (S, 3H, H). bias: (S, 3H).
    """
    (S, B, L, _), H = x.shape, weight.shape[2]
    x, turned = x.movedim(2, 0), weight.mT
    gates, states = empty(x, S, B, L, 3 * H).movedim(2, 0), empty(x, S, B, L, H).movedim(2, 0)
    torch.add(x[..., : 2 * H], bias[:, None, : 2 * H], out=gates[..., : 2 * H])
    gates[..., 2 * H :] = bias[:, None, 2 * H :]
    h = torch.zeros_like(states[0])
    for t, (x_t, own, h_t) in enumerate(zip(x.unbind(0), gates.unbind(0), states.unbind(0), strict=True)):
        if t:
            own.baddbmm_(h, turned)
        rz = own[..., : 2 * H].sigmoid_()
        n = torch.addcmul(x_t[..., 2 * H :], rz[..., :H], own[..., 2 * H :]).tanh_()
        h = torch.lerp(n, h, rz[..., H:], out=h_t)
    return states.movedim(0, 2), gates.movedim(0, 2)


def backward(grad: Tensor, x: Tensor, weight: Tensor, states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias for the gradient (S, B, L, H) of the states, given those and the gates.

    With all gates known, the gradient g_t of h_t makes those of the gates of the state by factors k, in one product, and
    these make that of h_{t-1}; the term z g_t takes part in it as a fourth gate whose weight is the identity.
    """
    S, B, L, H = grad.shape
    x, states, gates = (tensor.movedim(2, 0) for tensor in (x, states, gates))
    g = grad.movedim(2, 0).clone(memory_format=torch.contiguous_format)
    k = grad.new_empty(L, S, B, 4, H)
    k_r, k_z, k_own, k_h = k.unbind(-2)
    r, z, own = gates.unflatten(-1, (3, H)).unbind(-2)
    n = torch.addcmul(x[..., 2 * H :], r, own).tanh_()
    slope = torch.addcmul(n.new_ones(()), n, n, value=-1)
    k_n = torch.addcmul(slope, slope, z, value=-1)  # (1 - n^2) (1 - z)
    torch.mul(k_n, r, out=k_own)
    along = k_own * own
    torch.addcmul(along, along, r, value=-1, out=k_r)
    n.neg_()[1:].add_(states[:-1])
    n *= z
    torch.addcmul(n, n, z, value=-1, out=k_z)  # (h_{t-1} - n) z (1 - z)
    k_h.copy_(z)

    identity = torch.eye(H, dtype=weight.dtype, device=weight.device).expand(S, H, H)
    back, of_gates = torch.cat([weight, identity], 1), k.flatten(-2)
    for t in range(L - 1, -1, -1):
        k[t].mul_(g[t].unsqueeze(-2))
        if t:
            g[t - 1].baddbmm_(of_gates[t], back)

    of_input = of_gates[..., : 3 * H].clone(memory_format=torch.contiguous_format)
    torch.mul(k_n, g, out=of_input[..., 2 * H :])
    return of_input.movedim(0, 2), *of_parameters(of_gates[..., : 3 * H], states)


def of_parameters(of_state: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias for those of the gates of the state (L, S, B, 3H); states: (L, S, B, H)."""
    L, S, B, H = states.shape
    of_state = of_state.transpose(0, 1).reshape(S, L * B, 3 * H)
    before = states[:-1].transpose(0, 1).reshape(S, (L - 1) * B, H)
    return of_state[:, B:].mT @ before, of_state.sum(1)


def empty(like: Tensor, S: int, B: int, L: int, numbers: int) -> Tensor:
    """Return an uninitialised tensor (S, B, L, numbers), time first in memory, as `forward` and `backward` return them."""
    return like.new_empty(L, S, B, numbers).movedim(0, 2)
