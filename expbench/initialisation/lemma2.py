"""Lemma 2 of arXiv 2502.02209: an S6 layer whose Abar is 1 is a head of linear attention over its own tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from expbench.initialisation.need import Need
from expbench.models.s6 import S6
from expbench.models.s6_poly_disc import S6PolyDisc
from expbench.nn.network import Network
from expbench.run import Run

EPS = 1e-6  # -A of a layer that is to be trained: A = 0 is out of the reach of A = -exp(A_log)


def needs(run: Run, model: type) -> Iterator[Need]:
    """A layer of the S6 family whose B and C are maps of their own."""
    yield Need("--models s6 (or s6-bbar-b, s6-poly, s6-poly-disc)", issubclass(model, S6))
    yield Need("-m layout=full_bias", run.model_settings.get("layout") == "full_bias")


@torch.no_grad()
def start(network: Network) -> None:
    """Make each layer y_t = sum_{j<=t} (W_Q x_t . W_K x_j) x_j; W_Q = S_C and W_K = S_B stay as torch has drawn them.

    Delta is 1, and log 2 in the Taylor variants; where it scales B, so it does W_K. The term of x_j has the factor
    exp(-eps Delta (t - j)), eps = 1e-6: a relative error of at most eps Delta (t - j), and none with ``transition=linear``.
    """
    for layer in network.mixers:
        assert isinstance(layer, S6)
        drawn = [linear.weight.clone() for linear in (layer.to_b, layer.to_c)]
        sum_up(layer, EPS)
        for linear, weight in zip((layer.to_b, layer.to_c), drawn, strict=True):
            linear.weight.copy_(weight)


@torch.no_grad()
def sum_up(layer: S6, eps: float) -> None:
    """Set Abar = 1 (A = -eps where A = 0 makes it so), B = C = 0 and no skip, in a layer of the layout ``full_bias``."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.zero_()
    if isinstance(layer, S6PolyDisc) and layer.linear:
        layer.to_delta.bias.fill_(1)
        return
    layer.A_log.fill_(math.log(eps) if eps else -math.inf)
    if not isinstance(layer, S6PolyDisc):
        layer.to_delta.bias.fill_(math.log(math.e - 1))
