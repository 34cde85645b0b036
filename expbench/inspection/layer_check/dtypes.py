"""Checks of dtypes: float64, float32, and bfloat16 autocast."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from expbench.inspection.layer_check.layer import TINY, CheckResult, Layer, checked_output, largest, set_generators
from expbench.mixer import unsupported
from expbench.run import DType

_ROUNDINGS = 16  # tolerance, in multiples of the effect of one rounding


def double(layer: Layer) -> CheckResult:
    """Check that float64 results are finite, and not computed in float32. A layer without float64 omits it from `dtypes`."""
    if layer.double.verdict != "pass":
        return layer.double
    y, grad = _with_gradient(layer.build(), layer.tokens(2, layer.longest), "float64")
    if not bool((y.isfinite() & grad.isfinite()).all()):
        return CheckResult("fail", f"outputs or gradients of {layer.longest} tokens are not finite")
    return CheckResult("pass", f"finite, and {layer.double.detail}")


def narrow(layer: Layer, name: DType) -> CheckResult:
    """Check that outputs and input gradients are finite, and as close to float64 as rounding allows."""
    why = unsupported(layer.cls, width=layer.width, dtype=name, device="cpu")
    if why is not None:
        return CheckResult("unsupported", why)
    eps = torch.finfo(getattr(torch, name)).eps
    x = layer.tokens(2, layer.longest, dtype=torch.float32)
    found = _with_gradient(layer.build(dtype=torch.float32), x, name)
    if not all(bool(y.isfinite().all()) for y in found):
        return CheckResult("fail", f"outputs or gradients of {layer.longest} tokens are not finite")
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
    set_generators()
    with torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext():
        y = module(x)
    y = checked_output(y, x, torch.bfloat16 if name == "bfloat16" and y.dtype == torch.bfloat16 else x.dtype)
    (grad,) = torch.autograd.grad((y.to(x.dtype) * weights).sum(), x, allow_unused=True, materialize_grads=True)
    return y.detach(), grad
