"""Mixer: the contract of a model author, on one screen.

A model is a causal sequence mixer: any `nn.Module` whose constructor takes the width D first (its other parameters are
its settings) and whose forward maps (B, L, D) to (B, L, D). Nothing else is asked for; subclassing `Mixer` lets it state
more about itself. Embedding, positions, normalisation, residual and read-out stand around it, alike for every model.

    class Ema(Mixer):
        \"\"\"An exponential moving average in each channel.\"\"\"

        def __init__(self, width: int, *, horizon: float = 8.0) -> None:
            super().__init__()
            self.decay = nn.Parameter(torch.full((width,), 1 - 1 / horizon))

        def forward(self, x):
            return linear_scan(self.decay, x.transpose(0, 1)).transpose(0, 1)  # time first

        def state_size(self, L):
            return len(self.decay)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from expbench.algebra.reach import Reach
from expbench.ops import backends
from expbench.run import Positions
from expbench.settings import Value

Backbone = Literal["mamba", "transformer"]


class Mixer(nn.Module):
    """A sequence mixer that states what is known about it; every statement has a default, so none is owed.

    version: raised when the same settings would compute something else. positions: the position code that the model is
    run with unless the command line says otherwise. backbone: the block that a language model puts around it, in place of
    such a code (`language/model.py`). widths, dtypes, devices: what it supports (None is everything); a run outside is
    recorded as `unsupported`. backends: likewise, where --backend forces one upon its operations.
    """

    version: ClassVar[int] = 1
    positions: ClassVar[Positions] = "none"
    backbone: ClassVar[Backbone] = "mamba"
    widths: ClassVar[Container[int] | None] = None
    dtypes: ClassVar[Container[str] | None] = None
    devices: ClassVar[Container[str] | None] = None
    backends: ClassVar[Container[str] | None] = None

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        """The settings with every None that stands for "as the width has it" replaced by its value."""
        return settings

    def state_size(self, L: int) -> int | None:
        """Numbers that must be kept to go on after L tokens of one sequence; None if unknown."""
        return None

    def flops(self, L: int) -> float | None:
        """Floating-point operations of the forward pass for one token, on average over a sequence of L; None if unknown.

        A multiplication, an addition, an exponential or the like is one; a linear map of m to n numbers is 2 m n.
        """
        return None

    def reach(self, inputs: Reach) -> Reach | None:
        """The reach of the output for an input of that reach; None where the layer is not polynomial."""
        return None

    def statistics(self, x: Tensor) -> Mapping[str, Tensor]:
        """Scalars worth logging while training, for the layer's input x (B, L, D)."""
        return {}


class Attention(Mixer):
    """A mixer that is a function of queries, keys and values, so that a backbone can rotate them by their positions.

    heads: what the width is split into.
    """

    positions = "sin"  # a causal sum over the past sees it as a set
    backbone = "transformer"
    heads: int = 1

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens x (B, L, D), each (B, L, D) or (B, heads, L, D / heads)."""
        raise NotImplementedError

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """y (B, L, D) of queries, keys and values as `project` gives them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(*self.project(x))


def state_size(layer: nn.Module, L: int) -> int | None:
    """`Mixer.state_size` of any module; None for one that does not state it."""
    state: int | None = layer.state_size(L) if isinstance(layer, Mixer) else None
    return state


def flops(layer: nn.Module, L: int) -> float | None:
    """`Mixer.flops` of any module; None for one that does not state it."""
    return layer.flops(L) if isinstance(layer, Mixer) else None


@contextmanager
def logged(mixers: Iterable[nn.Module]) -> Iterator[dict[tuple[int, str], Tensor]]:
    """What mixers log about the inputs that they get within it, by (layer, name); nothing of those that log nothing."""
    seen: dict[tuple[int, str], Tensor] = {}

    def record(layer: int) -> Callable[..., None]:
        def hook(mixer: Any, args: tuple[Tensor]) -> None:
            seen.update({(layer, name): value for name, value in mixer.statistics(args[0]).items()})

        return hook

    handles = [m.register_forward_pre_hook(record(i)) for i, m in enumerate(mixers) if isinstance(m, Mixer)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def unsupported(model: type, *, width: int, dtype: str, device: str) -> str | None:
    """Why a model class cannot run at that width, dtype and device, or by a forced backend, in words; None if it can."""
    wanted: list[tuple[str, Any]] = [("width", width), ("dtype", dtype), ("device", device), ("backend", backends.forced())]
    for what, value in wanted:
        supported: Any = getattr(model, f"{what}s", None)
        if value is not None and hasattr(supported, "__contains__") and value not in supported:
            return f"{what} {value} is not supported (supported: {_listing(supported)})"
    return None


def _listing(supported: Any) -> str:
    if isinstance(supported, range):
        step = f" in steps of {supported.step}" if supported.step != 1 else ""
        return f"{supported.start} to {supported[-1]}{step}"
    return ", ".join(map(str, sorted(supported))) if hasattr(supported, "__iter__") else str(supported)
