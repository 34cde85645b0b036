"""Witness: a network that solves an instance of a task and can be built again, so its class of networks can represent it.

A run that solved the task and kept nothing is an observation of training, not a witness: nobody can check it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

CONSTRUCTED = "construct:"  # prefix of the initial weights of `run.Init` that a theorem gives


class Witness(NamedTuple):
    """A network that can be built again. kind: ``construction`` or ``kept weights``. precision: dtype of its evaluation."""

    instance: int
    kind: str
    precision: str


def covered(witnesses: Iterable[Witness], instances: Collection[int]) -> list[Witness]:
    """Return one witness per instance that has some, a construction before kept weights."""
    by_instance = {witness.instance: witness for witness in sorted(witnesses, key=lambda w: w.kind, reverse=True)}
    return [by_instance[instance] for instance in sorted(set(instances)) if instance in by_instance]


def representable(witnesses: Collection[Witness], instances: Collection[int], norm: str) -> str | None:
    """Return the reading of a configuration that no run solves, from the witnesses of its class; None without a witness."""
    found, number = covered(witnesses, instances), len(set(instances))
    if not found:
        return None
    some = "" if len(found) == number else f" for {len(found)} of {number} instances"
    kinds, precisions = (" and ".join(sorted(set(each))) for each in zip(*(w[1:] for w in found), strict=True))
    return f"representable{some}, not found ({kinds} in {precisions}, norm {norm})"


def is_construction(init: object, noise: object) -> bool:
    """Return whether runs start from the exact weights of a construction."""
    return isinstance(init, str) and init.startswith(CONSTRUCTED) and noise == 0
