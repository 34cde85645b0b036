"""Check of gradients against central differences."""

from __future__ import annotations

import torch
from torch import Tensor

from expbench.inspection.layer_check.layer import TINY, CheckResult, Layer, call


def gradients(layer: Layer) -> CheckResult:
    """Compare the autograd derivative of a random functional with central differences, for each tensor."""
    precision = layer.precision
    module, x = layer.build(), layer.tokens(2, layer.longest).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    named = {"the input": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}

    def value() -> Tensor:
        return (call(module, x).double() * weights).sum()

    scale = float((call(module, x).detach().double() * weights).norm())
    grads = torch.autograd.grad(value(), list(named.values()), allow_unused=True, materialize_grads=True)
    worst = 0.0
    for (name, tensor), grad in zip(named.items(), grads, strict=True):
        for _ in range(2):
            along = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            start, values = tensor.detach().clone(), []
            for sign in (1, -1):
                with torch.no_grad():
                    tensor.copy_(start + sign * precision.step * along)
                    values.append(float(value()))
                    tensor.copy_(start)
            slope = (values[0] - values[1]) / (2 * precision.step)
            stated = float((grad * along.conj()).sum().real)
            larger = max(abs(slope), abs(stated))
            if not abs(slope - stated) <= precision.slope * larger + precision.slope_floor * scale:
                what = f"the gradient of {name} is {stated:.6g}, central differences give {slope:.6g}"
                return CheckResult("fail", f"{what} in a random direction{layer.said}")
            worst = max(worst, abs(slope - stated) / max(larger, scale, TINY))
    return CheckResult(
        "pass", f"the input and {len(named) - 1} parameters, within {worst:.0e} of central differences{layer.said}"
    )
