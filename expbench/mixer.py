"""Mixer: the contract of a model author, on one screen.

A model is a causal sequence mixer: any `nn.Module` whose constructor takes the width D first (its other parameters are
its settings) and whose forward maps (B, L, D) to (B, L, D). Nothing else is required. A subclass of `Mixer` can declare more
about itself. Embedding, positions, normalisation, residual and read-out belong to the network, equal for all models.

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
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from expbench.algebra.reach import NoBound, Reach
from expbench.ops import backends
from expbench.run import RELATIVE, Positions
from expbench.settings import Value

Bound = Literal["symmetry", "span"]
Backbone = Literal["mamba", "transformer"]
LONGEST_PROBE = 4096  # the longest sequence on which a layer is tried before it is trained


class RelativeCode(NamedTuple):
    """A position code that attention applies itself. kind: ``rotary`` or ``alibi``. length: of the longest sequence.

    base: of the rotary angles.
    """

    kind: Positions
    length: int
    base: float


class Mixer(nn.Module):
    """A sequence mixer with declarations about itself, all optional.

    version: raise it when the same settings would compute something else. positions: the default position code of the
    model. relative: the relative position codes that the layer can apply (`use_positions`). backbone: the block that a
    language model puts around the mixer, instead of a position code (`language/model.py`). widths, lengths, dtypes, devices:
    the supported values (None: all), such as ``range(32, 4097, 32)``; other runs are recorded as `unsupported`. backends:
    likewise, for a backend forced by --backend.
    """

    version: ClassVar[int] = 1
    positions: ClassVar[Positions] = "none"
    relative: ClassVar[Container[Positions]] = ()
    backbone: ClassVar[Backbone] = "mamba"
    widths: ClassVar[Container[int] | None] = None
    lengths: ClassVar[Container[int] | None] = None
    dtypes: ClassVar[Container[str] | None] = None
    devices: ClassVar[Container[str] | None] = None
    backends: ClassVar[Container[str] | None] = None
    # What is proved of one such layer; a subclass, which computes something else, does not inherit it. symmetry: y_t is a
    # function of x_t and the multiset of x_1 .. x_t (algebra/symmetry.py). span: y_t is the sum over j <= t of
    # (q_t . k_j) v_j with q, k and v affine in the tokens (algebra/spans.py).
    bounds: ClassVar[tuple[Bound, ...]] = ()

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        """Return the settings with each None that defaults to the width replaced by its value."""
        return settings

    def use_positions(self, code: RelativeCode) -> None:
        """Apply a relative position code, one of `relative`, from now on; called once, before training."""
        raise NotImplementedError

    def state_size(self, L: int) -> int | None:
        """Return how many numbers to keep after L tokens of a sequence in order to continue it; None if unknown."""
        return None

    def flops(self, L: int) -> float | None:
        """Return the FLOPs of the forward pass per token, averaged over a sequence of length L; None if unknown.

        A multiplication, addition, exponential or the like counts as one; a linear map from m to n numbers as 2 m n.
        """
        return None

    def reach(self, inputs: Reach) -> Reach | NoBound | None:
        """Return the reach of the output for an input of the given reach.

        Return `NO_BOUND` (`algebra/reach.py`) if the layer is not polynomial, and None to state nothing.
        """
        return None

    def statistics(self, x: Tensor) -> Mapping[str, Tensor]:
        """Return scalars to log in training, for the layer input x (B, L, D)."""
        return {}


class Attention(Mixer):
    """A mixer of queries, keys and values, so that a backbone can apply rotary positions to them.

    heads: the number of heads that share the width.
    """

    positions = "sin"  # a causal sum is invariant to the order of the past
    backbone = "transformer"
    heads: int = 1

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens x (B, L, D) to queries, keys and values, each (B, L, D) or (B, heads, L, D / heads)."""
        raise NotImplementedError

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix queries, keys and values, shaped as `project` returns them, to y (B, L, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(*self.project(x))


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a module's real numbers to float32 or float64, and its complex ones to pairs of these; return the module."""
    pairs = torch.complex128 if dtype == torch.float64 else torch.complex64

    def converted(x: Tensor) -> Tensor:
        return x.to(pairs) if x.is_complex() else x.to(dtype) if x.is_floating_point() else x

    module._apply(converted)
    return module


def supports(model: type, positions: Positions) -> bool:
    """Return whether a model class can be trained with a position code: a relative one if it declares that it applies it."""
    return positions not in RELATIVE or (issubclass(model, Mixer) and positions in model.relative)


def relative_codes(model: type) -> list[Positions]:
    """Return the relative position codes that a model class declares to apply."""
    return [code for code in RELATIVE if supports(model, code)]


def apply_relative(layer: nn.Module, code: RelativeCode | None) -> None:
    """Tell a layer to apply a relative position code, if any; raise ValueError if it does not declare to support it."""
    if code is not None:
        if not isinstance(layer, Mixer) or not supports(type(layer), code.kind):
            raise ValueError(f"{type(layer).__name__} does not apply the position code {code.kind}")
        layer.use_positions(code)


def state_size(layer: nn.Module, L: int) -> int | None:
    """Return `Mixer.state_size` of any module; None if it does not declare it."""
    state: int | None = layer.state_size(L) if isinstance(layer, Mixer) else None
    return state


def flops(layer: nn.Module, L: int) -> float | None:
    """Return `Mixer.flops` of any module; None if it does not declare it."""
    return layer.flops(L) if isinstance(layer, Mixer) else None


def bounds(layer: nn.Module) -> tuple[Bound, ...]:
    """Return `Mixer.bounds` as the class of a layer itself states it."""
    stated: tuple[Bound, ...] = vars(type(layer)).get("bounds", ()) if isinstance(layer, Mixer) else ()
    return stated


@contextmanager
def logged(mixers: Iterable[nn.Module]) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Collect the statistics that mixers log about their inputs within the block, by (layer, name)."""
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


def unsupported(model: type, *, width: int, dtype: str, device: str, length: int | None = None) -> str | None:
    """Return why a model class does not support a width, dtype, device, length or the forced backend; None if it does."""
    wanted: list[tuple[str, Any]] = [("width", width), ("dtype", dtype), ("device", device), ("backend", backends.forced())]
    for what, value in [*wanted, ("length", length)]:
        supported: Any = declared_lengths(model) if what == "length" else getattr(model, f"{what}s", None)
        if value is not None and hasattr(supported, "__contains__") and value not in supported:
            return f"{what} {value} is not supported (supported: {_listing(supported)})"
    return None


def declared_lengths(model: type) -> Container[int] | None:
    """Return the lengths that a model class declares to support; None if it declares none."""
    declared: Any = getattr(model, "lengths", None)
    is_container = hasattr(declared, "__contains__") and not isinstance(declared, str | type)  # else an unrelated attribute
    return declared if is_container else None


def supported_length(model: type, most: int) -> int:
    """Return the largest length up to `most` that a model class supports, or else the smallest above it, for probes.

    If it supports no length in reach, return `most`.
    """
    supported = declared_lengths(model)
    if supported is None:
        return most
    found = (length for length in (*range(most, 0, -1), *range(most + 1, LONGEST_PROBE + 1)) if length in supported)
    return next(found, most)


def _listing(supported: Any) -> str:
    if isinstance(supported, range):
        step = f" in steps of {supported.step}" if supported.step != 1 else ""
        return f"{supported.start} to {supported[-1]}{step}"
    return ", ".join(map(str, sorted(supported))) if hasattr(supported, "__iter__") else str(supported)
