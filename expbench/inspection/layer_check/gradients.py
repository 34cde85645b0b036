"""Check of gradients against differences.

A difference with one step size may be wrong where autograd is right: near a kink, with strong curvature, or for a parameter
that the layer casts to float32. So the gradient fails only if it disagrees with the differences of all step sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from expbench.inspection.layer_check.layer import DOUBLE, SINGLE, TINY, CheckResult, Layer, Precision, call

_POINTS = (1, 20, 21)  # seeds of tokens: in float32, steps are so large that some of many kinks may lie within all of them


def gradients(layer: Layer) -> CheckResult:
    """Compare the autograd derivative of a random functional with differences, for each tensor."""
    fault = ""
    for seed in _POINTS if layer.precision is SINGLE else _POINTS[:1]:
        fault, passed = _compared(layer, seed)
        if not fault:
            return CheckResult("pass", passed)
    return CheckResult("fail", f"{fault}{layer.said}")


def _compared(layer: Layer, seed: int) -> tuple[str, str]:
    """Describe the first gradient that is wrong (empty without one), and the comparison if none is."""
    module, x = layer.build(), layer.tokens(2, layer.longest, seed=seed).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    named = {"the input": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}

    def value() -> Tensor:
        return (call(module, x).double() * weights).sum()

    scale = float((call(module, x).detach().double() * weights).norm())
    grads = torch.autograd.grad(value(), list(named.values()), allow_unused=True, materialize_grads=True)
    worst, rounded = 0.0, []
    for (name, tensor), grad in zip(named.items(), grads, strict=True):
        for _ in range(2):
            along = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            stated = float((grad * along.conj()).sum().real)
            slopes = _Slopes(lambda: float(value().detach()), tensor, along)
            near, coarse = _nearest(slopes, stated, layer.precision, scale)
            rounded += [name] if coarse and name not in rounded else []
            larger = max(abs(near), abs(stated))
            tolerance = (SINGLE if coarse else layer.precision).slope * larger + layer.precision.slope_floor * scale
            if not abs(near - stated) <= tolerance:
                what = f"the gradient of {name} is {stated:.6g}, differences give {near:.6g}"
                return f"{what} in a random direction", ""
            worst = max(worst, abs(near - stated) / max(larger, scale, TINY))
    how = f"the input and {len(named) - 1} parameters, within {worst:.0e} of differences{layer.said}"
    return "", how + (
        f"; {', '.join(rounded)} with the tolerance of float32, in which the layer computes" if rounded else ""
    )


class _Slopes:
    """Differences of a function of one tensor along a direction."""

    def __init__(self, value: Callable[[], float], tensor: Tensor, along: Tensor) -> None:
        self.value, self.tensor, self.along, self.start = value, tensor, along, tensor.detach().clone()

    def at(self, step: float) -> float:
        with torch.no_grad():
            self.tensor.copy_(self.start + step * self.along)
            try:
                return self.value()
            finally:
                self.tensor.copy_(self.start)

    def central(self, step: float) -> float:
        return (self.at(step) - self.at(-step)) / (2 * step)

    def sides(self, step: float) -> list[float]:
        """Return the differences on either side: beside a kink only one of them is right."""
        here = self.at(0)
        return [(self.at(step) - here) / step, (here - self.at(-step)) / step]


def _nearest(slopes: _Slopes, stated: float, precision: Precision, scale: float) -> tuple[float, bool]:
    """Return the difference that is nearest to the stated slope, and whether it holds to the rounding of float32 alone.

    Differences that scatter with the step in float64 show that the tensor is rounded to float32. Those that agree with one
    another are the slope.
    """

    def agree(slope: float, other: float) -> bool:
        return abs(slope - other) <= precision.slope * max(abs(slope), abs(other)) + precision.slope_floor * scale

    found: list[float] = []
    for step in precision.steps:
        found.append(slopes.central(step))
        if agree(found[-1], stated):
            return found[-1], False
    alike = agree(found[0], found[1]) or agree(found[1], found[3])
    if precision is DOUBLE:
        found += [side for step in precision.steps for side in slopes.sides(step)]
        if not alike and not any(agree(side, stated) for side in found):
            return min((slopes.central(step) for step in SINGLE.steps), key=lambda slope: abs(slope - stated)), True
    return min(found, key=lambda slope: abs(slope - stated)), False
