"""Count in row by one channel of Eq. 5 of arXiv 2502.02209: h_t = x_t h_{t-1} + x_t, exact because all are integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from expbench.initialisation.need import Need
from expbench.models.s6_poly import S6Poly
from expbench.nn.network import Network
from expbench.run import Run


def needs(run: Run, model: type) -> Iterator[Need]:
    """Yield the needs: one layer of Eq. 5 with a linear Abar, with only a residual connection around it, of any width."""
    yield Need("--task count-in-row", run.task == "count-in-row")
    yield Need("--models s6-poly", issubclass(model, S6Poly))
    for name, value in (("layout", "full_bias"), ("transition", "linear"), ("skip", "true")):
        yield Need(f"-m {name}={value}", str(run.model_settings.get(name)).lower() == value)
    yield Need("--depth 1", run.depth == 1)
    yield Need("--norm none", run.norm == "none")
    yield Need("--positions none", run.positions == "none")
    yield Need("--residual on", run.residual)


@torch.no_grad()
def start(network: Network) -> None:
    """Set the weights so that channel 0 counts in its first state (Abar = x_t, B = C = 1) and the read-out reads only it.

    Its skip of -1 cancels the residual connection. Among classes k, the logit 2 k count - k^2 is largest at k = count. Other
    channels keep their embedding, and the read-out ignores them until training changes it. Their Abar does not depend on the
    token and is at most 1, so that they stay finite.
    """
    (layer,) = network.mixers
    assert isinstance(layer, S6Poly)
    assert layer.skip is not None
    embed: Any = network.embed
    embed.weight[:, 0] = torch.tensor([0, 1])
    for tensor in (layer.to_delta.weight, layer.to_b.weight, layer.to_b.bias, layer.to_c.weight[0], network.head.weight):
        tensor.zero_()
    layer.to_delta.weight[0, 0] = 1 / layer.arg_scale
    layer.to_delta.bias[0] = 0
    layer.A_log[0] = 0
    layer.to_b.bias[0] = layer.to_c.bias[0] = 1
    layer.skip[0] = -1
    k = torch.arange(len(network.head.bias))
    scalar = len(k) == 1
    network.head.weight[:, 0] = 1 if scalar else 2 * k
    network.head.bias.copy_(0 * k if scalar else -(k**2))
