"""Size matching: find the width, or the number of states, for a given parameter count or state size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple

from expbench.errors import BadInput, unknown
from expbench.mixer import unsupported
from expbench.nn.network import Network
from expbench.run import Norm, Positions
from expbench.settings import Value
from expbench.task import Task

SizeKind = Literal["params", "state"]
WITHIN = 0.05  # of the target
_WIDEST, _MOST_STATES = 4096, 1024


class Target(NamedTuple):
    """The quantity to match and its target value."""

    what: SizeKind
    size: int

    def __str__(self) -> str:
        return f"{self.what}={self.size}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse ``params=300`` or ``state=64``; raise `BadInput` for malformed text."""
        what, equals, size = text.partition("=")
        if what not in ("params", "state"):
            raise unknown("quantity of --match:", what, ("params", "state"))
        if not equals or not (size.isascii() and size.isdigit()) or not 1 <= int(size) <= 10**10:
            raise BadInput(f"--match: {text!r} is not {what}=N with a whole number N of 1 or more, e.g. {what}=300")
        return cls("params" if what == "params" else "state", int(size))


class NetworkConfig(NamedTuple):
    """The architecture of a network around its layers, and their number."""

    depth: int
    norm: Norm
    positions: Positions
    residual: bool


class Sized(NamedTuple):
    """A width, a number of states (None: the default of the model), and the resulting size."""

    width: int
    states: int | None
    size: int

    def __str__(self) -> str:
        return f"{self.size} (D={self.width}{'' if self.states is None else f', N={self.states}'})"


def match(
    task: Task, model: type, name: str, values: Mapping[str, Value], around: NetworkConfig, target: Target
) -> tuple[int, dict[str, Value]]:
    """Return a width and model settings for which the network is within 5 % of the target.

    Widths are tried first. If none is close enough and the model has a setting N at its default, other N are tried too.
    Raise `BadInput` with the nearest sizes if nothing matches.
    """

    @cache
    def size(width: int, states: int | None) -> int | None:
        if unsupported(model, width=width, dtype="float32", device="cpu") is not None:
            return None
        settings: dict[str, Any] = {**values, **({} if states is None else {"N": states})}
        try:
            network = Network(task, lambda: model(width, **settings), width=width, **around._asdict())
        except ValueError:  # an unsupported width
            return None
        found = network.parameter_count() if target.what == "params" else network.state_size()
        if found is None:
            raise BadInput(f"--match {target.what}={target.size}: {name} does not declare its state size")
        return found

    found = [Sized(width, None, of) for width, of in _around(lambda width: size(width, None), target.size, _WIDEST)]
    best = min(found, key=lambda sized: abs(sized.size - target.size), default=None)
    if "N" in values and values["N"] is None and (best is None or not _near(best, target)):
        for width in range(max(1, (best.width if best else 2) - 2), (best.width if best else 2) + 4):
            by_states = _around(partial(size, width), target.size, _MOST_STATES)
            found += [Sized(width, states, of) for states, of in by_states]
        best = min(found, key=lambda s: (abs(s.size - target.size), abs((s.states or s.width) - s.width)), default=None)
    if best is None or not _near(best, target):
        below = max((s for s in found if s.size < target.size), key=lambda s: s.size, default=None)
        above = min((s for s in found if s.size > target.size), key=lambda s: s.size, default=None)
        nearest = " and ".join(str(sized) for sized in (below, above) if sized is not None) or "none"
        raise BadInput(
            f"--match {target.what}={target.size}: the nearest sizes of {name} at depth {around.depth} are {nearest}"
        )
    return best.width, {**values, **({} if best.states is None else {"N": best.states})}


def _near(sized: Sized, target: Target) -> bool:
    return abs(sized.size - target.size) <= WITHIN * target.size


def _around(size: Callable[[int], int | None], target: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield values near the point where the increasing `size` reaches the target, with their sizes, if they have one."""

    def least(value: int) -> int:
        """Return the size at this value, or at the nearest lower value with a size."""
        sizes = (size(lower) for lower in range(value, max(0, value - 16), -1))
        return next((found for found in sizes if found is not None), 0)

    top = 1
    while top < most and least(top) < target:
        top *= 2
    low, high = top // 2, min(top, most)
    while low + 1 < high:
        middle = (low + high) // 2
        if least(middle) < target:
            low = middle
        else:
            high = middle
    for value in range(max(1, low - 3), min(most, high + 3) + 1):
        found = size(value)
        if found is not None:
            yield value, found
