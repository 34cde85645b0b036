"""The definition of the selective scan, step by step in plain PyTorch: any device, differentiable to any order.

    h_t = a_t h_{t-1} + b_t,   y_t = C_t . h_t + skip u_t,   b_t = Delta_t u_t B_t  (or u_t B_t),   y_t silu(z_t) with a gate
for each channel and state, with Delta and a as defined by `Form` (Eq. 3-6 of arXiv 2502.02209).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.ops.selective.problem import Form, Inputs, state_dtype
from expbench.ops.taylor import exp_taylor, horner


def reference(inputs: Inputs, form: Form) -> tuple[Tensor, Tensor]:
    """Return y (S, B, L, D) in the dtype of u, and the last state (S, B, D, N)."""
    dtype = state_dtype(inputs.u.dtype)
    u, delta, B, C = (x.to(dtype) for x in (inputs.u, inputs.delta, inputs.B, inputs.C))
    if inputs.bias is not None:
        delta = delta + inputs.bias[:, None, None]
    step, a = discretise(delta, inputs.A, form, inputs.coefficients)
    source = step * u if form.delta_on_b else u
    b = source.unsqueeze(-1) * B.unsqueeze(-2)
    h = torch.zeros_like(b[:, :, 0]) if inputs.state is None else inputs.state
    states = []
    for a_t, b_t in zip(a.unbind(2), b.unbind(2), strict=True):
        h = a_t * h + b_t
        states.append(h)
    y = (torch.stack(states, 2) * C.unsqueeze(-2)).sum(-1)
    if inputs.skip is not None:
        y = y + inputs.skip[:, None, None] * u
    if inputs.z is not None:
        y = y * F.silu(inputs.z.to(dtype))
    return y.to(inputs.u.dtype), h


def discretise(argument: Tensor, A: Tensor, form: Form, coefficients: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return Delta (S, B, L, D) and a (S, B, L, D, N) for the argument r (S, B, L, D) and A (S, D, N).

    coefficients: (S, degree + 1, D), those of softplus's Taylor polynomial; None for the other kinds.
    """
    if form.kind == "exact":
        step = F.softplus(argument)
    elif form.kind == "linear":
        step = argument
    else:
        assert coefficients is not None
        step = horner(argument, list(coefficients[:, :, None, None].unbind(1)))
    v = step.unsqueeze(-1) * A[:, None, None]
    if form.kind == "exact":
        return step, v.exp()
    if form.kind == "linear":
        return step, v
    return step, exp_taylor(v.clamp(form.lowest, 0) if form.lowest < 0 else v, form.degree)
