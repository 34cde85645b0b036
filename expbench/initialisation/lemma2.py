"""Lemma 2 of arXiv 2502.02209: an S6 layer with Abar = 1 is a head of linear attention over its own tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from expbench.initialisation.need import Need
from expbench.models.s6 import S6
from expbench.models.s6_poly_disc import S6PolyDisc
from expbench.nn.network import Network
from expbench.run import Run

EPS = 1e-6  # -A of a trainable layer, because A = -exp(A_log) cannot be 0 for a finite A_log


def needs(run: Run, model: type) -> Iterator[Need]:
    """Yield the needs: a layer of the S6 family with separate linear maps for B and C."""
    yield Need("--models s6 (or s6-bbar-b, s6-poly, s6-poly-disc)", issubclass(model, S6))
    yield Need("-m layout=full_bias", run.model_settings.get("layout") == "full_bias")


@torch.no_grad()
def start(network: Network) -> None:
    """Set each layer to y_t = sum_{j<=t} (W_Q x_t . W_K x_j) x_j; W_Q = S_C and W_K = S_B keep their random weights.

    Delta is 1, and log 2 in the Taylor variants; if Delta scales B, it scales W_K as well. The term of x_j has the factor
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
    """Set Abar = 1 (by A = -eps in place of A = 0), B = C = 0 and no skip, in a layer with layout ``full_bias``."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.zero_()
    if isinstance(layer, S6PolyDisc) and layer.linear:
        layer.to_delta.bias.fill_(1)
        return
    layer.A_log.fill_(math.log(eps) if eps else -math.inf)
    if not isinstance(layer, S6PolyDisc):
        layer.to_delta.bias.fill_(math.log(math.e - 1))
