"""Declaration of claims: check the text of a claim against the known tasks and models before it is written.

A claim with a misspelt name would otherwise never match a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expbench import contracts, plugins, settings
from expbench.claims.claim import Claim
from expbench.claims.parsing import Side
from expbench.errors import BadInput, unknown
from expbench.results import identity
from expbench.run import Positions

# Columns that describe the network around the model and its training; the others are no settings of a side.
_OF_RUN = identity.fields({"task", "model", "version", "seed", "instance"})


def claim(text: str, task: str, where: Sequence[str], margin: float | None) -> Claim:
    """Parse `text` as a claim on a task; raise `BadInput` for a syntax error or an unknown task, model or setting.

    If the two models have different default position codes, each side gets its own, unless the claim fixes the positions.
    """
    plugin = plugins.find("task", task)
    known = {*settings.declared(contracts.load_task(plugin)), *_OF_RUN} - {"instance"}
    allowed: dict[str, list[str]] = {}
    for assignment in where:
        owner, name, values = settings.split_assignment(assignment, "--where")
        if owner is not None or name not in known:
            raise unknown("column or setting of --where:", assignment.partition("=")[0], known)
        if name in allowed:
            raise BadInput(f"--where {name} is given twice; write a list, for example {name}=1,2")
        allowed[name] = values
    made = Claim(text, plugin.name, allowed, margin)
    left, right = (_positions(side, made.text) for side in (made.left, made.right))
    if left == right or "positions" in {*allowed, *made.left.settings, *made.right.settings}:
        return made
    sides = [Side(s.model, s.settings | {"positions": code}) for s, code in ((made.left, left), (made.right, right))]
    return replace(made, text=f"{sides[0]} {made.relation} {sides[1]}")


def _positions(side: Side, text: str) -> Positions:
    """Check the settings of a side and return the default position code of its model."""
    model = contracts.load_model(plugins.find("model", side.model))
    known = (*settings.declared(model), *_OF_RUN)
    for name in side.settings:
        if name not in known:
            raise unknown(f"setting of {side.model} in the claim {text!r}:", name, known)
    return contracts.default_positions(model, side.model)
