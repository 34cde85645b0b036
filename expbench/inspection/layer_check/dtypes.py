"""Checks of dtypes: float64, float32, and bfloat16 autocast."""

from __future__ import annotations

from contextlib import nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from expbench.errors import first_line
from expbench.global_state import seed_generators
from expbench.inspection.layer_check.layer import (
    TINY,
    BadOutput,
    CheckResult,
    Layer,
    call,
    checked_output,
    largest,
)
from expbench.mixer import unsupported
from expbench.ops.backends import BackendUnsupported
from expbench.run import DType

_STEPS = (1e-5, 3e-6, 1e-6)  # of a parameter
_SMOOTH, _NOISE = 1e-4, 1e-13  # of third differences, relative to first ones and to the outputs
_ROUNDINGS = 16  # tolerance, in multiples of the effect of one rounding


def double(layer: Layer) -> CheckResult:
    """Check that float64 results are finite, and not computed in float32. A layer without float64 omits it from `dtypes`."""
    if layer.double.verdict != "pass":
        return layer.double
    module, x = layer.build(), layer.tokens(2, layer.longest)
    y, grad = _with_gradient(module, x, "float64")
    if not bool((y.isfinite() & grad.isfinite()).all()):
        raise BadOutput(f"outputs or gradients of {layer.longest} tokens are not finite")
    rounded = [name for name, parameter in module.named_parameters() if _rounds(module, x, parameter)]
    if rounded:
        return CheckResult("unsupported", f"part of the layer computes in float32: it rounds {', '.join(rounded)}")
    return CheckResult("pass", f"finite, and {layer.double.detail}")


@torch.no_grad()
def _rounds(module: nn.Module, x: Tensor, parameter: Tensor) -> bool:
    """Return whether the outputs for x (B, L, D) depend on a parameter through float32.

    A third difference is then about a thousandth of the first; for a smooth function it is far smaller. A kink between the
    points may look alike, but not at every step.
    """
    start, generator = parameter.detach().clone(), torch.Generator().manual_seed(9)
    for step in _STEPS:
        along, ys = step * torch.randn(start.shape, generator=generator, dtype=start.dtype), []
        for at in (-1.5, -0.5, 0.5, 1.5):
            parameter.copy_(start + at * along)
            ys.append(call(module, x))
        parameter.copy_(start)
        third, first = largest(ys[3] - 3 * ys[2] + 3 * ys[1] - ys[0]), largest(ys[3] - ys[0])
        if third <= _SMOOTH * first + _NOISE * largest(ys[0]):
            return False
    return True


def narrow(layer: Layer, name: DType) -> CheckResult:
    """Check that outputs and input gradients are finite, and as close to float64 as rounding allows."""
    why = unsupported(layer.cls, width=layer.width, dtype=name, device="cpu")
    if why is not None:
        return CheckResult("unsupported", why)
    try:
        return _compared(layer, name)
    except (BackendUnsupported, BadOutput):
        raise
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        others = ", ".join(f'"{dtype}"' for dtype in get_args(DType) if dtype != name and dtype != "float64")
        said = f"{first_line(error)}; a layer for other dtypes declares them: dtypes = ({others},)"
        return CheckResult("fail", said, error)


def _compared(layer: Layer, name: DType) -> CheckResult:
    eps = torch.finfo(getattr(torch, name)).eps
    x = layer.tokens(2, layer.longest, dtype=torch.float32)
    found = _with_gradient(layer.build(dtype=torch.float32), x, name)
    if not all(bool(y.isfinite().all()) for y in found):
        raise BadOutput(f"outputs or gradients of {layer.longest} tokens are not finite")
    if layer.precision.name == name:
        return CheckResult("pass", "finite; no float64 to compare with")
    # The tolerance follows from the effect of one rounding error in every token and parameter. A correct implementation
    # rounds more often, but each time by less than half as much.
    reference, wide = layer.build(), x.to(layer.precision.dtype)
    expected = _with_gradient(reference, wide, layer.precision.name)
    generator = torch.Generator().manual_seed(6)

    def jittered(values: Tensor) -> Tensor:
        return values * (1 + eps * torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.dtype))

    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(jittered(parameter))
    moved = _with_gradient(reference, jittered(wide), layer.precision.name)
    worst = 0.0
    for what, y, true, near in zip(("outputs", "gradients"), found, expected, moved, strict=True):
        apart, scale = largest(y.to(true.dtype) - true), max(largest(true), TINY)
        allowed = _ROUNDINGS * (eps * scale + largest(near - true))
        if not apart <= allowed:
            bound = f"rounding explains {allowed / scale:.1e}"
            return CheckResult("fail", f"{what} differ by {apart / scale:.1e} from {layer.precision.name}; {bound}")
        worst = max(worst, apart / scale)
    return CheckResult("pass", f"finite, outputs and gradients within {worst:.0e} of {layer.precision.name}")


def _with_gradient(module: nn.Module, x: Tensor, name: DType) -> tuple[Tensor, Tensor]:
    """Return the output (B, L, D) for x (B, L, D), and the gradient in x of its inner product with fixed weights.

    bfloat16 means autocast.
    """
    x = x.detach().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float32).to(x.dtype)
    seed_generators(0)
    with torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext():
        y = module(x)
    narrow_ = name == "bfloat16" and isinstance(y, Tensor) and y.dtype == torch.bfloat16
    y = checked_output(y, x, torch.bfloat16 if narrow_ else x.dtype, finite=False)
    (grad,) = torch.autograd.grad((y.to(x.dtype) * weights).sum(), x, allow_unused=True, materialize_grads=True)
    return y.detach(), grad
