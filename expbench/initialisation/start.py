"""Initial weights: torch's default or those of a construction, with optional noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from expbench.errors import BadInput
from expbench.initialisation import count_in_row, lemma2, theorem2
from expbench.initialisation.need import Need
from expbench.nn.network import Network
from expbench.run import Run
from expbench.task import Task


class _Construction(NamedTuple):
    """A construction. needs: yields its requirements on a run and its model class. start: sets a network's weights."""

    needs: Callable[[Run, type], Iterator[Need]]
    start: Callable[[Network, Task], None]


_CONSTRUCTIONS = {
    "construct:lemma2": _Construction(lemma2.needs, lambda network, _: lemma2.start(network)),
    "construct:count-in-row": _Construction(count_in_row.needs, lambda network, _: count_in_row.start(network)),
    "construct:theorem2": _Construction(theorem2.needs, theorem2.start),
}


def check(run: Run, model: type) -> None:
    """Raise `BadInput`, naming the missing options, if a run does not meet the needs of its initial construction."""
    if run.init != "default":
        missing = [need.option for need in _CONSTRUCTIONS[run.init].needs(run, model) if not need.met]
        if missing:
            raise BadInput(f"--init {run.init} needs {' '.join(missing)}")


def start(network: Network, run: Run, task: Task) -> None:
    """Set the initial weights of a run in its network, which is on the CPU and has torch's initialisation.

    Noise is drawn from torch's generator after the network's own initialisation, which noise therefore leaves unchanged.
    """
    if run.init != "default":
        _CONSTRUCTIONS[run.init].start(network, task)
    if run.init_noise:
        disturb(network, run.init_noise)


@torch.no_grad()
def disturb(network: Network, size: float) -> None:
    """Add normal noise with standard deviation `size` to every trainable parameter.

    It is drawn in float32, so that one seed gives the same numbers for every size and dtype.
    """
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape), alpha=size)
