"""Initial weights: torch's own, or those of a construction, and noise on them."""

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
    """needs: what it asks of a run, given the class of its model. start: sets the weights of a network that is so."""

    needs: Callable[[Run, type], Iterator[Need]]
    start: Callable[[Network, Task], None]


_CONSTRUCTIONS = {
    "construct:lemma2": _Construction(lemma2.needs, lambda network, _: lemma2.start(network)),
    "construct:count-in-row": _Construction(count_in_row.needs, lambda network, _: count_in_row.start(network)),
    "construct:theorem2": _Construction(theorem2.needs, theorem2.start),
}


def check(run: Run, model: type) -> None:
    """Raise `BadInput`, which names the options to give, if a run is not as the construction that it starts from needs."""
    if run.init != "default":
        missing = [need.option for need in _CONSTRUCTIONS[run.init].needs(run, model) if not need.met]
        if missing:
            raise BadInput(f"--init {run.init} needs {' '.join(missing)}")


def start(network: Network, run: Run, task: Task) -> None:
    """Set the weights of a network, on the CPU and as torch has initialised it, to those that its run starts from.

    Noise is drawn from torch's generator, after all that the network's own initialisation has drawn.
    """
    if run.init != "default":
        _CONSTRUCTIONS[run.init].start(network, task)
    if run.init_noise:
        disturb(network, run.init_noise)


@torch.no_grad()
def disturb(network: Network, size: float) -> None:
    """Add normal noise of that size to every trainable parameter: of one seed the same numbers for every size and dtype."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape), alpha=size)
