"""Declare: a claim as it is typed, checked against the tasks and models that there are before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expbench import contracts, plugins, settings
from expbench.claims.claim import Claim
from expbench.claims.parsing import Side
from expbench.errors import BadInput, unknown
from expbench.results import identity
from expbench.run import Positions

# What stands around a model, and how it is trained.
_OF_RUN = identity.fields({"task", "model", "version", "seed", "instance"})


def claim(text: str, task: str, where: Sequence[str], margin: float | None) -> Claim:
    """The claim of `text` on a task; raises `BadInput` for what does not parse, and for a task, model or setting unknown.

    Models that ask for different position codes have their own on either side, unless the claim says otherwise.
    """
    plugin = plugins.find("task", task)
    known = {*settings.declared(contracts.load_task(plugin)), *_OF_RUN} - {"instance"}
    allowed: dict[str, list[str]] = {}
    for assignment in where:
        owner, name, values = settings.split_assignment(assignment, "--where")
        if owner is not None or name not in known:
            raise unknown("column or setting of --where:", assignment.partition("=")[0], known)
        if name in allowed:
            raise BadInput(f"--where {name}: it is given twice; give a list, as {name}=1,2")
        allowed[name] = values
    made = Claim(text, plugin.name, allowed, margin)
    left, right = (_positions(side, made.text) for side in (made.left, made.right))
    if left == right or "positions" in {*allowed, *made.left.settings, *made.right.settings}:
        return made
    sides = [Side(s.model, s.settings | {"positions": code}) for s, code in ((made.left, left), (made.right, right))]
    return replace(made, text=f"{sides[0]} {made.relation} {sides[1]}")


def _positions(side: Side, text: str) -> Positions:
    """The position code that a side's model asks for, once its settings are known to be some that it has."""
    model = contracts.load_model(plugins.find("model", side.model))
    known = (*settings.declared(model), *_OF_RUN)
    for name in side.settings:
        if name not in known:
            raise unknown(f"setting of {side.model} in the claim {text!r}:", name, known)
    return contracts.default_positions(model, side.model)
