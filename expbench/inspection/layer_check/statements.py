"""Checks of the declarations of a layer: its state size, its degree and interaction order, its position codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.errors import first_line
from expbench.inspection.layer_check.layer import TINY, CheckResult, Layer, call, difference, largest
from expbench.mixer import Mixer, RelativeCode, apply_relative, relative_codes, state_size
from expbench.nn.network import stack_reach
from expbench.ops.backends import BackendUnsupported
from expbench.run import NO_BASE, Positions
from expbench.theory.degree import MOST_POSITIONS, degree_of, generic, has_degree, order_of
from expbench.theory.residues import NotMeasured, NotPolynomial

_STATE_MOVED = 0.5  # like `MOVED`, larger for the state size: nearly equal decays lower the numerical rank
_STATE_COLUMNS = 64  # maximum of D times past tokens (exceeded by wide layers and by layers for long sequences only)
_FUTURES, _SPARE_ROWS = 3, 8  # extra rows beyond the expected rank, so that random combinations reach it
_LONGEST = 512  # length that is tried for a layer that supports only some
_HIGHEST_DEGREE, _LINE_LENGTH = 1 << 12, 4  # highest degree to measure, and sequence length for it


def state(layer: Layer) -> CheckResult:
    """Compare the declared state size with the rank of the Jacobian of later outputs in earlier tokens.

    If the outputs after position k depend on the first k tokens through s numbers, differentiably, then the rank is at most
    s for any later tokens. The rank is therefore a lower bound on the state size.
    """
    width, module = layer.width, layer.build(moved=_STATE_MOVED)
    k = next((k for k in range(4, _LONGEST + 1) if layer.supports(2 * k)), None)
    if k is None:
        return CheckResult("not measured", f"no even length from 8 to {2 * _LONGEST} is supported")
    declared = state_size(module, k)
    # Double k until the past tokens have more numbers than the declared state; a key-value cache is never exceeded.
    while width * k <= (width * k if declared is None else declared) and 2 * width * k <= _STATE_COLUMNS:
        if not layer.supports(4 * k):
            break
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
    lengths = [n for n in range(_LINE_LENGTH, _LONGEST + 1) if layer.supports(n)][:1]
    usual = [_LINE_LENGTH] if layer.declares(_LINE_LENGTH) else []
    error: Exception | SystemExit | None = None
    for length in dict.fromkeys([*usual, *lengths]):
        declared = stack_reach([layer.construct()], length, residual=False)
        stated = _words(declared)
        try:
            degree, order = _measured(layer, length, declared.degree[-1] if isinstance(declared, Reach) else None)
        except BackendUnsupported:
            raise
        except NotPolynomial as why:
            if declared is NO_BOUND:
                return CheckResult("pass", f"{stated}, and is not polynomial ({why.operation})")
            if declared is None:
                return CheckResult("not stated", f"not a polynomial ({why.operation})")
            return CheckResult("fail", f"{stated}, but is not a polynomial ({why.operation})")
        except NotMeasured as why:
            return CheckResult("not measured", f"{stated or 'it declares nothing'}; not measured ({why.operation})")
        except (Exception, SystemExit) as raised:  # a plugin is third-party code
            error = raised
            continue
        joined = f"order {'not measured' if order is None else order} (L={length})"
        measured = f"has degree {'above the measured range' if degree is None else degree} and {joined}"
        if declared is None:
            return CheckResult("not stated", f"it is polynomial: {measured}")
        if not isinstance(declared, Reach):
            return CheckResult("fail" if degree is not None else "pass", f"{stated}, {measured}")
        above = degree is None or degree > declared.degree[-1] or (order is not None and order > declared.order[-1])
        return CheckResult("fail" if above else "pass", f"{stated}, {measured}")
    why_not = "no short length is supported" if error is None else first_line(error)
    return CheckResult("not measured", f"not measured ({why_not})")


def _words(declared: Reach | NoBound | None) -> str:
    if isinstance(declared, Reach):
        return f"declares degree {declared.degree[-1]} and order {declared.order[-1]}"
    return "" if declared is None else "declares that it is not polynomial"


def _measured(layer: Layer, length: int, declared: int | None) -> tuple[int | None, int | None]:
    """Return the degree (None: above the range) and the interaction order (None: too many positions) of the last output."""
    module = _AtTheEnd(generic(layer.construct(), double=layer.is_double))
    if declared is None or declared > _HIGHEST_DEGREE:
        degree = degree_of(module, length, layer.width)
    elif has_degree(module, length, layer.width, declared):
        degree = declared
    else:
        degree = degree_of(module, length, layer.width, 8 * declared)
    return degree, order_of(module, length, layer.width) if length <= MOST_POSITIONS else None


def positions(layer: Layer) -> CheckResult:
    """Check whether the layer tells the order of earlier tokens, by itself or by a position code that it declares.

    It must do so with each relative code that it declares to apply, and must not look ahead then.
    """
    length = next((n for n in reversed(layer.lengths) if n >= 3), None)
    if length is None:
        return CheckResult("not measured", "a length of 3 or more is needed")
    declared = [vars(cls)["positions"] for cls in layer.cls.__mro__ if cls is not Mixer and "positions" in vars(cls)]
    module, x = layer.build(), layer.tokens(1, length)
    applied = relative_codes(layer.cls)
    for kind in applied:
        why = _relative_fault(layer, kind, x)
        if why is not None:
            return CheckResult("fail", f"with --positions {kind} {why}{layer.said}")
    y = call(module, x)[:, -1]
    others = {"earlier": torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1), "other": torch.cat([2 * x[:, :-1], x[:, -1:]], 1)}
    same = {name: difference(layer.precision, call(module, z)[:, -1], y, largest(y)) is None for name, z in others.items()}
    if not same["earlier"]:
        return CheckResult("pass", f"the output depends on the order of earlier tokens{layer.said}")
    if same["other"]:
        return CheckResult("pass", f"the last output depends on no earlier token{layer.said}")
    if declared:
        codes = " and ".join(applied)
        also = f", sees it with {codes}" if applied else ""
        said = f"declares {declared[0]}; alone it does not see the order of earlier tokens{also}{layer.said}"
        return CheckResult("pass", said)
    said = 'it does not see the order of earlier tokens; a class attribute adds a code: positions = "sin"'
    return CheckResult("not stated", f"{said} (or run with --positions sin){layer.said}")


def _relative_fault(layer: Layer, kind: Positions, x: Tensor) -> str | None:
    """Return what is wrong with a layer that applies a relative position code, on tokens x (1, L, D); None if nothing is."""
    module, length = layer.build(), x.shape[1]
    apply_relative(module, RelativeCode(kind, length, NO_BASE))
    y = call(module, x)
    later = torch.cat([x[:, :-1], 2 * x[:, -1:]], 1)
    if difference(layer.precision, call(module, later)[:, :-1], y[:, :-1], largest(y)) is not None:
        return "it looks ahead"
    turned = call(module, torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1))
    if difference(layer.precision, turned[:, -1], y[:, -1], largest(y)) is None:
        return "it does not see the order of earlier tokens"
    return None


class _AtTheEnd(nn.Module):
    """A layer with only its output at the last position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[:, -1]
        return y
