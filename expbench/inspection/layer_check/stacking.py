"""Check of stacking: several networks with the layer, trained as one under vmap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expbench.data.rng import CounterRNG
from expbench.errors import first_line
from expbench.global_state import seed_generators
from expbench.inspection.layer_check.layer import TINY, CheckResult, Layer, call, dropouts, largest
from expbench.mixer import in_precision
from expbench.nn.network import Network
from expbench.task import Batch, Score, Task
from expbench.training.ensemble import Ensemble
from expbench.training.precision import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class _Probe(Task):
    """A minimal task for a network: as many channels as the layer is wide, every position read."""

    width: int
    primary_metric = "loss"
    higher_is_better = False
    success_threshold = 0.0
    readout = "all"

    @property
    def channels(self) -> int:
        return self.width

    @property
    def outputs(self) -> int:
        return self.width

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * targets).sum()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        raise NotImplementedError


def stacking(layer: Layer) -> CheckResult:
    """Compare two networks with the layer, evaluated as one stack of runs, with each network alone."""
    if dropouts(layer.construct()):
        return CheckResult("unsupported", "not stacked: dropout needs random numbers per run, which a stack does not have")
    task = _Probe(L=layer.longest, width=layer.width)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = Network(
            task,
            lambda seed=seed: layer.build(seed=seed, training=True),  # type: ignore[misc]
            width=layer.width,
            depth=1,
            norm="none",
            positions="none",
            residual=True,
        )
        in_precision(made, layer.precision.dtype)
        networks.append(made)
    call(layer.build(training=True), layer.tokens(2, layer.longest))  # raises for an output that breaks the contract
    inputs, targets = (torch.stack([layer.tokens(2, layer.longest, seed=seed + i) for i in (0, 1)]) for seed in (5, 7))
    shared = layer.tokens(2, layer.longest, seed=9)
    alone = [_outputs_and_gradients(Ensemble([n]), task, inputs[[i]], targets[[i]], shared) for i, n in enumerate(networks)]
    try:
        together = _outputs_and_gradients(Ensemble(networks), task, inputs, targets, shared)
    except (Exception, SystemExit) as error:  # vmap raises various errors
        return CheckResult("unsupported", f"not stacked: vmap fails: {first_line(error)}")
    expected = [torch.cat(own) for own in zip(*alone, strict=True)]
    apart = [largest(x - y) / max(largest(y), TINY) for x, y in zip(together, expected, strict=True)]
    worst = max(apart, key=lambda value: math.inf if math.isnan(value) else value)
    if not worst <= TOLERANCE[layer.precision.name]:  # the tolerance of training
        return CheckResult(
            "fail", f"under vmap over two sets of parameters, outputs or gradients differ by {worst:.1e}{layer.said}"
        )
    return CheckResult("pass", f"outputs and gradients of two networks, stacked and alone, within {worst:.0e}{layer.said}")


def _outputs_and_gradients(ensemble: Ensemble, task: Task, inputs: Tensor, targets: Tensor, shared: Tensor) -> list[Tensor]:
    """Return outputs (S, B, L, D) for separate inputs (S, B, L, D) and for shared ones (B, L, D), and all gradients."""
    seed_generators(0)
    outputs = [ensemble.outputs(inputs, shared=False), ensemble.outputs(shared, shared=True)]
    losses = ensemble.losses(task, Batch(inputs, targets))
    grads = torch.autograd.grad(losses.sum(), ensemble.leaves, allow_unused=True, materialize_grads=True)
    return [*(y.detach() for y in outputs), *ensemble.stacked(grads)]
