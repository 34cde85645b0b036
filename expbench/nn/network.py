"""Network: the architecture around the mixer, equal for all models.

tokens or channels -> embedding (+ positions) -> depth x [x + mixer(norm(x))] -> linear read-out. There is no convolution,
activation or feed-forward part, so that experiments measure the mixer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.mixer import Mixer, RelativeCode, apply_relative, flops, logged, state_size
from expbench.nn.positions import PositionCode
from expbench.run import NO_BASE, RELATIVE, Norm, Positions
from expbench.task import Task

_NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "none": lambda _: nn.Identity(),
}


class Network(nn.Module):
    """A stack of `depth` mixers of width D with embedding and read-out; `mixer` builds one layer.

    norm: normalisation before each mixer. positions: the code of `PositionCode` that is added to the embedding, or one of
    `RELATIVE`, which every mixer is told to apply. position_base: base of the sinusoids or the rotary angles. residual:
    whether the output of each mixer is added to its input.
    """

    def __init__(
        self,
        task: Task,
        mixer: Callable[[], nn.Module],
        *,
        width: int,
        depth: int,
        norm: Norm,
        positions: Positions,
        residual: bool,
        position_base: float = NO_BASE,
    ) -> None:
        super().__init__()
        self.length, self.last, self.residual = task.L, task.readout == "last", residual
        tokens = task.vocabulary
        self.embed: nn.Module = nn.Linear(task.channels, width) if tokens is None else nn.Embedding(tokens, width)
        channels = task.channels if tokens is None else tokens
        self.code = PositionCode(positions, task.L, width, base=position_base, channels=channels)
        self.norms = nn.ModuleList(_NORMS[norm](width) for _ in range(depth))
        self.mixers = nn.ModuleList(mixer() for _ in range(depth))
        if positions in RELATIVE:
            for layer in self.mixers:
                apply_relative(layer, RelativeCode(positions, task.L, position_base))
        self.head = nn.Linear(width, task.outputs)
        self.polynomial = norm == "none"

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, L) int64 or (B, L, C) to outputs (B, O) if the task reads the last position, else (B, L, O)."""
        x = self.code(self.embed(inputs))
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            y = mixer(norm(x))
            x = x + y if self.residual else y
        outputs: Tensor = self.head(x[:, -1] if self.last else x)
        return outputs

    def reach(self) -> Reach | NoBound | None:
        """Return degree and interaction order at every position.

        Return `NO_BOUND` if the network is not polynomial end to end, and None if a mixer does not state it.
        """
        return stack_reach(self.mixers, self.length, residual=self.residual) if self.polynomial else NO_BOUND

    def parameter_count(self) -> int:
        """Return the number of trainable parameters; a complex one counts twice."""
        return sum(p.numel() * (1 + p.is_complex()) for p in self.parameters() if p.requires_grad)

    def state_size(self) -> int | None:
        """Return the state size over all layers after L tokens of one sequence; None if a mixer does not declare it."""
        sizes = [state_size(mixer, self.length) for mixer in self.mixers]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def flops(self) -> float | None:
        """Return the FLOPs of the forward pass per token (`Mixer.flops`), without norms; None if unknown.

        The read-out counts where it is applied: at every position, or only at the last of L.
        """
        layers = [flops(mixer, self.length) for mixer in self.mixers]
        if None in layers:
            return None
        embed = 2 * self.embed.weight.numel() if isinstance(self.embed, nn.Linear) else 0
        head = 2 * self.head.weight.numel() / (self.length if self.last else 1)
        return embed + head + sum(layer for layer in layers if layer is not None)

    @torch.no_grad()
    def statistics(self, inputs: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> dict[tuple[int, str], Tensor]:
        """Return the statistics that each mixer logs about its input, by (layer, name).

        forward: the function that calls this network, if other than with its own parameters.
        """
        with logged(self.mixers) as seen:
            (forward or self)(inputs)
        return seen


def stack_reach(mixers: Iterable[nn.Module], length: int, *, residual: bool) -> Reach | NoBound | None:
    """Return the reach of a stack of mixers without normalisation, `NO_BOUND`, or None if a mixer does not state it."""
    reach = Reach.of_inputs(length)
    for mixer in mixers:
        after = mixer.reach(reach) if isinstance(mixer, Mixer) else None
        if not isinstance(after, Reach):
            return after
        reach = reach | after if residual else after
    return reach
