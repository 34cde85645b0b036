"""Checks of the declarations of a layer: its state size, its degree and interaction order."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from expbench.inspection.layer_check.layer import TINY, CheckResult, Layer, call
from expbench.mixer import state_size
from expbench.nn.network import stack_reach
from expbench.theory.degree import degree_of, generic, has_degree, order_of
from expbench.theory.residues import NotPolynomial

_STATE_MOVED = 0.5  # like `MOVED`, larger for the state size: nearly equal decays lower the numerical rank
_STATE_COLUMNS = 64  # maximum of D times past tokens (exceeded by wide layers and by layers for long sequences only)
_FUTURES, _SPARE_ROWS = 3, 8  # extra rows beyond the expected rank, so that random combinations reach it
_HIGHEST_DEGREE, _LINE_LENGTH = 1 << 12, 4  # highest degree to measure, and sequence length for it


def state(layer: Layer) -> CheckResult:
    """Compare the declared state size with the rank of the Jacobian of later outputs in earlier tokens.

    If the outputs after position k depend on the first k tokens through s numbers, differentiably, then the rank is at most
    s for any later tokens. The rank is therefore a lower bound on the state size.
    """
    width, unit = layer.width, math.gcd(*layer.lengths)  # a layer may need lengths that are multiples of a unit
    module = layer.build(moved=_STATE_MOVED)
    k = max(unit, -(-4 // unit) * unit)
    declared = state_size(module, k)
    # Double k until the past tokens have more numbers than the declared state; a key-value cache is never exceeded.
    while width * k <= (width * k if declared is None else declared) and 2 * width * k <= _STATE_COLUMNS:
        k *= 2
        declared = state_size(module, k)
    if declared is not None and (not isinstance(declared, int) or declared < 0):
        return CheckResult("fail", f"state_size({k}) is {declared!r}, not a whole number")
    rank, most = _rank(layer, module, k, _STATE_COLUMNS if declared is None else min(_STATE_COLUMNS, declared))
    seen = ", the most this check can detect" if rank == most else ""
    needed = f"at least {rank} needed after {k} tokens{seen} (D={width}){layer.said}"
    if declared is None:
        return CheckResult("not stated", needed)
    return CheckResult("fail" if declared < rank else "pass", f"declares {declared}, {needed}")


def _rank(layer: Layer, module: nn.Module, k: int, expected: int) -> tuple[int, int]:
    """Return the numerical rank of the Jacobian of y_{k+1..2k} in x_{1..k} over several futures, and its upper bound."""
    precision = layer.precision
    past = layer.tokens(1, k, seed=10).requires_grad_()
    each = -(-(min(past.numel(), expected) + _SPARE_ROWS) // _FUTURES)
    generator = torch.Generator().manual_seed(11)
    rows = []
    for future in range(_FUTURES):
        y = call(module, torch.cat([past, layer.tokens(1, k, seed=12 + future)], 1))[:, k:]
        # Random combinations of outputs have the same rank but fewer rows; dividing by the size weighs positions equally.
        size = y.detach().abs().amax(-1, keepdim=True).clamp(min=TINY)
        for _ in range(each):
            weights = torch.randn(y.shape, generator=generator, dtype=torch.float32).to(y.dtype) / size
            (row,) = torch.autograd.grad(
                (y * weights).sum(), past, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(row.flatten())
    jacobian = torch.stack(rows)
    jacobian = jacobian / jacobian.norm(dim=1, keepdim=True).clamp(min=TINY)
    if not bool(jacobian.isfinite().all()):
        raise ValueError(f"derivatives of outputs after {k} tokens are not finite")
    values = torch.linalg.svdvals(jacobian.double())
    return int((values > precision.rank * values[0]).sum()), len(values)


def reach(layer: Layer) -> CheckResult:
    """Compare the declared reach with the degree and interaction order that `expbench.theory.degree` measures exactly."""
    declared = stack_reach([layer.construct()], _LINE_LENGTH, residual=False)
    module = _AtTheEnd(generic(layer.construct()))
    stated = "" if declared is None else f"declares degree {declared.degree[-1]} and order {declared.order[-1]}"
    try:
        if declared is None or declared.degree[-1] > _HIGHEST_DEGREE:
            degree = degree_of(module, _LINE_LENGTH, layer.width)
        elif has_degree(module, _LINE_LENGTH, layer.width, declared.degree[-1]):
            degree = declared.degree[-1]
        else:
            degree = degree_of(module, _LINE_LENGTH, layer.width, 8 * declared.degree[-1])
        order = order_of(module, _LINE_LENGTH, layer.width)
    except NotPolynomial as why:
        if declared is None:
            return CheckResult("not stated", f"not a polynomial ({why.operation})")
        return CheckResult("fail", f"{stated}, but is not a polynomial ({why.operation})")
    measured = f"has degree {'above the measured range' if degree is None else degree} and order {order} (L={_LINE_LENGTH})"
    if declared is None:
        return CheckResult("not stated", f"it is polynomial: {measured}")
    above = degree is None or degree > declared.degree[-1] or order > declared.order[-1]
    return CheckResult("fail" if above else "pass", f"{stated}, {measured}")


class _AtTheEnd(nn.Module):
    """A layer with only its output at the last position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[:, -1]
        return y
