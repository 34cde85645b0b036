"""Delta and the transitions a of a chunk, and gradients through both: `Form` for the backend ``torch``.

`backend_reference.discretise` defines them. Here each pass over the numbers (n, N, D, P) counts: all that can be is done in
place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.ops.selective.problem import Form
from expbench.ops.selective.torch_tiles import Chunk
from expbench.ops.taylor import horner

_LOG2E = 1 / math.log(2)


def find_step(r: Tensor, form: Form, coefficients: list[Tensor]) -> Tensor:
    """Delta from its argument, both (n, D, P), and for a Taylor polynomial its coefficients, each (D, P)."""
    if form.kind == "taylor":
        return horner(r, coefficients)
    return r if form.kind == "linear" else F.softplus(r)


def through_step(grad: Tensor, r: Tensor, form: Form, coefficients: list[Tensor]) -> Tensor:
    """The gradient of Delta's argument r, from that of Delta, all (n, D, P); in the latter's memory."""
    if form.kind == "taylor":
        return grad.mul_(horner(r, [k * c for k, c in enumerate(coefficients)][1:]))
    return grad if form.kind == "linear" else grad.mul_(torch.sigmoid(r))


def find_transition(chunk: Chunk, step: Tensor, A: Tensor, form: Form) -> None:
    """The chunk's a, from Delta (n, D, P) and A (N, D, P)."""
    if form.kind == "taylor":
        v = torch.mul(step.unsqueeze(1), A, out=chunk.work)
        _exp_taylor(v.clamp_(form.lowest, 0) if form.lowest < 0 else v, form.degree, out=chunk.a)
    elif form.kind == "linear":
        torch.mul(step.unsqueeze(1), A, out=chunk.a)
    else:
        torch.mul((step * _LOG2E).unsqueeze(1), A, out=chunk.a).exp2_()  # takes half as long as exp


def through_transition(grad: Tensor, chunk: Chunk, step: Tensor, A: Tensor, form: Form) -> None:
    """Make of the gradient (n, N, D, P) of a that of v = Delta A, in place."""
    if form.kind == "exact":
        grad.mul_(chunk.a)
    elif form.kind == "taylor" and (form.lowest < 0 or form.degree > 1):
        v = torch.mul(step.unsqueeze(1), A, out=chunk.work)
        if form.lowest < 0:
            grad.mul_((v >= form.lowest) & (v <= 0))
            v.clamp_(form.lowest, 0)
        if form.degree > 1:
            grad.mul_(_exp_taylor(v, form.degree - 1, out=chunk.slope))


def _exp_taylor(v: Tensor, degree: int, *, out: Tensor) -> Tensor:
    """The Taylor polynomial of exp, 1 + v (1 + v/2 (1 + v/3 ...)), with one pass over memory for each degree from 1 on."""
    one = v.new_ones(())
    torch.add(one, v, alpha=1 / degree, out=out)
    for k in range(degree - 1, 0, -1):
        torch.addcmul(one, v, out, value=1 / k, out=out)
    return out
