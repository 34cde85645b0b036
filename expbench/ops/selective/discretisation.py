"""Delta and the transitions a of a chunk, and the gradients through both, for the backend ``torch``.

`backend_reference.discretise` defines them for each `Form`. The cost here is passes over tensors (n, N, D, P), so operations
run in place wherever possible. Letters: n steps of a chunk, N state, D width, P lanes.
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
    """Return Delta for its argument r, both (n, D, P); coefficients (D, P) are those of a Taylor polynomial, else empty."""
    if form.kind == "taylor":
        return horner(r, coefficients)
    return r if form.kind == "linear" else F.softplus(r)


def through_step(grad: Tensor, r: Tensor, form: Form, coefficients: list[Tensor]) -> Tensor:
    """Return the gradient of Delta's argument r from that of Delta, all (n, D, P), in the memory of `grad`."""
    if form.kind == "taylor":
        return grad.mul_(horner(r, [k * c for k, c in enumerate(coefficients)][1:]))
    return grad if form.kind == "linear" else grad.mul_(torch.sigmoid(r))


def find_transition(chunk: Chunk, step: Tensor, A: Tensor, form: Form) -> None:
    """Fill the chunk's a (n, N, D, P) from Delta (n, D, P) and A (N, D, P)."""
    if form.kind == "taylor":
        v = torch.mul(step.unsqueeze(1), A, out=chunk.work)
        _exp_taylor(v.clamp_(form.lowest, 0) if form.lowest < 0 else v, form.degree, out=chunk.a)
    elif form.kind == "linear":
        torch.mul(step.unsqueeze(1), A, out=chunk.a)
    else:
        torch.mul((step * _LOG2E).unsqueeze(1), A, out=chunk.a).exp2_()  # exp2 takes half as long as exp


def through_transition(grad: Tensor, chunk: Chunk, step: Tensor, A: Tensor, form: Form) -> None:
    """Turn the gradient (n, N, D, P) of a into that of v = Delta A, in place."""
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
    """Return the Taylor polynomial of exp at v, 1 + v (1 + v/2 (1 + v/3 ...)), in `out`: `degree` passes over memory."""
    one = v.new_ones(())
    torch.add(one, v, alpha=1 / degree, out=out)
    for k in range(degree - 1, 0, -1):
        torch.addcmul(one, v, out, value=1 / k, out=out)
    return out
