"""The check of determinism: the same bits twice, and no hidden draw of random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expbench.inspection.layer_check.subject import (
    TORCHS,
    Answer,
    Layer,
    checked_output,
    dropouts,
    generators,
    largest,
    set_generators,
)


def determinism(layer: Layer) -> Answer:
    """Check for the same bits twice, forward and backward, with no draw from any generator, and one seed's same parameters.

    Dropout may draw from torch's generator in training, where the same seed then gives the same bits.
    """
    x = layer.tokens(2, layer.longest).requires_grad_()

    def bits(module: nn.Module) -> list[Tensor]:
        y = checked_output(module(x), x, x.dtype)
        leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
        return [y, *torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)]

    constructed = []
    set_generators()
    for _ in range(2):
        torch.manual_seed(0)  # alone: another generator is not set by the seed of a run
        module = layer.construct()
        constructed.append(module.double() if x.dtype == torch.float64 else module.float())
    states = [module.state_dict() for module in constructed]
    for name, value in states[0].items():
        if isinstance(value, Tensor) and not torch.equal(value, states[1][name]):
            return Answer("fail", f"{name} differs in two layers that are constructed under one seed")
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
            what = f"{mode}the same input gives other bits, by {max(different):.1e}{'; it ' if drawn else ''}{what}"
        if what:
            return Answer("fail", f"{what}{layer.said}")
    how = "the same bits twice, in training mode too"
    return Answer("pass", f"{how}{' if torch is seeded alike (it has dropout)' if drops else ''}{layer.said}")
