"""A preset: the requests of a study in parts, in the order in which they are run, and its preregistered claims."""

from __future__ import annotations

from typing import NamedTuple

from expbench.claims.claim import Claim
from expbench.errors import BadInput, unknown
from expbench.results.learning_rates import TUNING_RUNS
from expbench.sweep.spec import SweepSpec


class Part(NamedTuple):
    """Requests of a study that are completed before those of the next part start."""

    name: str
    requests: tuple[SweepSpec, ...]


class Preset(NamedTuple):
    """A study: its parts in order, and its claims.

    tuning_runs: number of runs at each learning rate of the grid. of_text: whether it needs a text.
    """

    parts: tuple[Part, ...]
    claims: tuple[Claim, ...]
    tuning_runs: int = TUNING_RUNS
    of_text: bool = False

    @property
    def requests(self) -> tuple[SweepSpec, ...]:
        """Requests of all parts."""
        return tuple(spec for part in self.parts for spec in part.requests)

    @property
    def tunes(self) -> bool:
        """True if learning rates are tuned first."""
        return any(spec.lr == "auto" for spec in self.requests)

    def until(self, name: str | None) -> Preset:
        """Return the study up to the part of this name, or all of it for None; raise `BadInput` for an unknown name.

        Earlier parts are kept, since all parts share the grids of learning rates.
        """
        names = [part.name for part in self.parts]
        if name is None:
            return self
        if len(names) == 1:
            raise BadInput(f"--until {name}: this study has no parts; omit the option")
        if name not in names:
            raise unknown("part of the study in --until:", name, names)
        return self._replace(parts=self.parts[: names.index(name) + 1])


def whole(*requests: SweepSpec) -> tuple[Part, ...]:
    """Return the parts of a study that has only one."""
    return (Part("", requests),)
