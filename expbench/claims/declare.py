"""Declaration of claims: check the text of a claim against the known tasks and models before it is written.

A claim with a misspelt name would otherwise never match a run.
"""

from __future__ import annotations

from collections.abc import Sequence

from expbench import contracts, plugins, settings
from expbench.claims.claim import Claim
from expbench.claims.parsing import Side
from expbench.errors import BadInput, unknown
from expbench.results import identity

# Columns that describe the network around the model and its training; the others are no settings of a side.
_OF_RUN = identity.fields({"task", "model", "version", "seed", "instance"})


def claim(text: str, task: str, where: Sequence[str], margin: float | None, about: Sequence[str] = ()) -> Claim:
    """Parse `text` as a claim on a task; raise `BadInput` for a syntax error or an unknown task, model or setting."""
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
    made = Claim(text, plugin.name, allowed, margin, about=about)
    for side in (made.left, made.right):
        _check(side, made.text)
    return made


def warnings(made: Claim) -> list[str]:
    """Return a line for each setting in which the sides of a claim differ, or do by default, though it is not about it."""
    left, right = made.left.settings, made.right.settings
    found = []
    for name in left.keys() & right.keys():
        if left[name] != right[name] and name not in made.subjects:
            size = ", unless both have the same size (--match)" if name == "D" else ""
            about = ",".join(sorted({*made.subjects, name}))
            found.append(
                f"the sides differ in {name} ({left[name]} against {right[name]}): its verdicts will be confounded{size}; "
                f"if this is what the claim is about, add --about {about}"
            )
    models = (made.left.model, made.right.model)
    codes = [contracts.default_positions(contracts.load_model(plugins.find("model", name)), name) for name in models]
    if codes[0] != codes[1] and "positions" not in {*made.where, *left, *right}:
        found.append(
            f"by default {models[0]} has positions {codes[0]} and {models[1]} has {codes[1]}, but the claim is tested where "
            "both have the same: run both with --positions sin, for example"
        )
    return sorted(found)


def _check(side: Side, text: str) -> None:
    """Raise `BadInput` for an unknown model or setting of a side."""
    known = (*settings.declared(contracts.load_model(plugins.find("model", side.model))), *_OF_RUN)
    for name in side.settings:
        if name not in known:
            raise unknown(f"setting of {side.model} in the claim {text!r}:", name, known)
