"""Check of determinism: identical bits in two calls, and no hidden use of random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expbench.global_state import seed_generators
from expbench.inspection.layer_check.layer import (
    TORCHS,
    CheckResult,
    Layer,
    call,
    checked_output,
    dropouts,
    generators,
    largest,
)
from expbench.mixer import in_precision

TWO = "differs between two layers constructed with one seed"


def determinism(layer: Layer) -> CheckResult:
    """Check that two calls give identical bits, forward and backward, that no random generator advances, and that the
    constructor is deterministic given the seed.

    Dropout may use torch's generator in training mode, where the same seed must give identical bits.
    """
    x = layer.tokens(2, layer.longest).requires_grad_()

    def bits(module: nn.Module) -> list[Tensor]:
        y = checked_output(module(x), x, x.dtype)
        leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
        return [y, *torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)]

    constructed = []
    for _ in range(3):
        seed_generators(0)  # as a run does
        module = layer.construct()
        constructed.append(in_precision(module, x.dtype))
    states = [module.state_dict() | dict(module.named_buffers()) for module in constructed]
    for name, value in states[0].items():
        if isinstance(value, Tensor) and not torch.equal(value, states[1][name]):
            return CheckResult("fail", f"{name} {TWO}")
    outputs = [call(module.eval(), x) for module in constructed[1:]]  # a first call may change the layer
    if not torch.equal(*outputs):
        return CheckResult("fail", f"the output {TWO}")
    drops = bool(dropouts(constructed[0]))
    for training in (False, True):
        mode = "in training mode " if training else ""
        module = constructed[0].train(training)
        seen, before = [], generators()
        for _ in range(2):
            if drops and training:
                torch.manual_seed(0)
            seen.append(bits(module))
        drawn = [name for name, state in generators().items() if before[name] != state]
        if drops and training and TORCHS in drawn:
            drawn.remove(TORCHS)
        what = f"{mode}draws from {' and '.join(drawn)}" if drawn else ""
        different = [largest(one - other) for one, other in zip(*seen, strict=True) if not torch.equal(one, other)]
        if different:
            what = f"{mode}results for the same input differ by {max(different):.1e}{'; it ' if drawn else ''}{what}"
        if what:
            return CheckResult("fail", f"{what}{layer.said}")
    how = "identical bits in two calls, also in training mode"
    return CheckResult("pass", f"{how}{' for equal torch seeds (it has dropout)' if drops else ''}{layer.said}")
