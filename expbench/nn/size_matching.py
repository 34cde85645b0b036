"""Size matching: find the width, or the number of states, for a given parameter count or state size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

from expbench.errors import BadInput, first_line, place_of, unknown
from expbench.mixer import unsupported
from expbench.nn.network import Network
from expbench.run import Norm, Positions
from expbench.settings import Setting, Value
from expbench.task import Task

SizeKind = Literal["params", "state"]
WITHIN = 0.05  # of the target, unless --within is given
_WIDEST, _MOST_STATES = 4096, 1024
_GAP = 64  # values in a row that a model may refuse, such as all but the multiples of a number of heads
_BESIDE, _LISTED = 3, 24  # values on either side of the nearest one: to choose from, and to list if none matches


class Target(NamedTuple):
    """The quantity to match, its target value, and the largest difference, relative to it."""

    what: SizeKind
    size: int
    within: float = WITHIN

    def __str__(self) -> str:
        return f"{self.what}={self.size}"

    def meets(self, size: int) -> bool:
        return abs(size - self.size) <= self.within * self.size

    @classmethod
    def parse(cls, text: str, within: str | None = None) -> Target:
        """Parse ``params=300`` or ``state=64``, and a difference in percent; raise `BadInput` for malformed text."""
        what, equals, size = text.partition("=")
        if what not in ("params", "state"):
            raise unknown("quantity of --match:", what, ("params", "state"))
        if not equals or not (size.isascii() and size.isdigit()) or not 1 <= int(size) <= 10**10:
            raise BadInput(f"--match: {text!r} is not {what}=N with a whole number N of 1 or more, e.g. {what}=300")
        return cls("params" if what == "params" else "state", int(size), WITHIN if within is None else _share(within))


def _share(text: str) -> float:
    """Parse a percentage as a share; raise `BadInput` if it is not above 0 and below 100."""
    percent = Setting("--within", float, None).parse(text.removesuffix("%").strip(), "run")
    if not isinstance(percent, float) or not 0 < percent < 100:
        raise BadInput(f"--within: {text} is not above 0 and below 100, e.g. --within 10")
    return percent / 100


class SizeMissed(BadInput):
    """Error for a model that has no size near the target. sizes: the sizes that it has around it."""

    def __init__(self, target: Target, name: str, reason: str, sizes: Sequence[Sized] = ()) -> None:
        self.target, self.name, self.reason, self.sizes = target, name, reason, tuple(sizes)
        super().__init__(f"--match {target}: {name} {reason}")


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
    """Return a width and model settings for which the network is as near to the target as it asks.

    Widths are tried first. If none is close enough and the model has a setting N at its default, other N are tried too.
    Raise `SizeMissed` with the nearest sizes if nothing matches.
    """
    errors: list[BaseException] = []

    @cache
    def size(width: int, states: int | None) -> int | None:
        if unsupported(model, width=width, dtype="float32", device="cpu") is not None:
            return None
        settings: dict[str, Any] = {**values, **({} if states is None else {"N": states})}
        try:
            network = Network(task, lambda: model(width, **settings), width=width, **around._asdict())
            found = network.parameter_count() if target.what == "params" else network.state_size()
        except (Exception, SystemExit) as error:  # an unsupported width; a library may say so by any exception
            errors.append(error)
            return None
        if found is None:
            raise SizeMissed(target, name, "does not declare its state size")
        return found

    def of_widths(beside: int) -> list[Sized]:
        return [Sized(n, None, of) for n, of in _around(lambda width: size(width, None), target.size, _WIDEST, beside)]

    found = of_widths(_BESIDE)
    best = min(found, key=lambda sized: abs(sized.size - target.size), default=None)
    if "N" in values and values["N"] is None and (best is None or not target.meets(best.size)):
        for width in range(max(1, (best.width if best else 2) - 2), (best.width if best else 2) + 4):
            by_states = _around(partial(size, width), target.size, _MOST_STATES)
            found += [Sized(width, states, of) for states, of in by_states]
        best = min(found, key=lambda s: (abs(s.size - target.size), abs((s.states or s.width) - s.width)), default=None)
    if best is None:
        why = f": {first_line(errors[0])}{_at(errors[0])}" if errors else ""
        raise SizeMissed(target, name, f"cannot be built with any width up to {_WIDEST}{why}")
    if not target.meets(best.size):
        below = max((s for s in found if s.size < target.size), key=lambda s: s.size, default=None)
        above = min((s for s in found if s.size > target.size), key=lambda s: s.size, default=None)
        nearest = " and ".join(str(sized) for sized in (below, above) if sized is not None) or "none"
        said = f"has the nearest sizes {nearest} at depth {around.depth}"
        raise SizeMissed(target, name, said, [*found, *of_widths(_LISTED)])
    return best.width, {**values, **({} if best.states is None else {"N": best.states})}


def _at(error: BaseException) -> str:
    place = place_of(error)
    return f" ({place})" if place else ""


def all_missed(missed: Sequence[SizeMissed], others: Sequence[Sequence[Sized]], count: int) -> BadInput:
    """Return one error for all models that miss a target, with the nearest target that suits all `count` models.

    others: the sizes around the target of the models that meet it.
    """
    target, reasons = missed[0].target, {f"{m.name} {m.reason}": None for m in missed}
    sizes = [[sized.size for sized in found] for found in (*(m.sizes for m in missed), *others)]
    head = f"--match {target}: {len(reasons)} of {count} models miss it by more than {100 * target.within:g} %"
    said = [f"{head if count > 1 else f'--match {target}'}: {'; '.join(reasons)}"]
    common = _common(sizes, target) if all(sizes) else None
    if common is not None:
        said.append(f"the nearest size that suits all is {target._replace(size=common)}")
    if all(sizes):
        apart = max(min(abs(size - target.size) for size in found) for found in sizes) / target.size
        if apart < 1:
            said.append(f"--within {math.ceil(100 * apart)} accepts {target}")
    return BadInput("; ".join(said))


def _common(sizes: Sequence[Sequence[int]], target: Target) -> int | None:
    """Return the nearest target value that every model meets with one of its sizes."""
    ends = [math.ceil(s / (1 + target.within)) for found in sizes for s in found]
    ends += [math.floor(s / (1 - target.within)) for found in sizes for s in found]
    common = [end for end in ends if end > 0 and all(any(map(target._replace(size=end).meets, found)) for found in sizes)]
    return min(common, key=lambda end: abs(end - target.size), default=None)


def _around(size: Callable[[int], int | None], target: int, most: int, beside: int = _BESIDE) -> Iterator[tuple[int, int]]:
    """Yield values near the point where the increasing `size` reaches the target, with their sizes, if they have one.

    The nearest values with a size on both sides are among them, unless more than `_GAP` values in a row have none.
    """

    def least(value: int) -> int:
        """Return the size at this value, or at the nearest lower value with a size."""
        sizes = (size(lower) for lower in range(value, max(0, value - _GAP), -1))
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
    below = next((n for n in range(low, max(0, low - _GAP), -1) if size(n) is not None), low)
    above = next((n for n in range(high, min(most, high + _GAP) + 1) if size(n) is not None), high)
    for value in range(max(1, min(below, low - beside)), min(most, max(above, high + beside)) + 1):
        found = size(value)
        if found is not None:
            yield value, found
