"""Rows of results tables for tests: what a row must hold, without a training."""

from __future__ import annotations

from typing import Any

from expbench.run import FIELDS, LATER, canonical

SETTINGS = canonical({"L": 4, "degree": 2, "instance": 0, "test_size": 64, "validation_size": 64})
_OF_KIND = {str: "1", int: 1, float: 0.5, bool: True}


def control(**columns: Any) -> dict[str, Any]:
    """A row of a control."""
    constants = {"kind": "baseline", "status": "ok", "task": "polyreg", "task_settings": SETTINGS, "model": "zero"}
    return constants | columns


def trained(**columns: Any) -> dict[str, Any]:
    """A row of a run, with a value in each field that every run has."""
    fields = {name: LATER.get(name, _OF_KIND.get(field.kind, "none")) for name, field in FIELDS.items()}
    settings = {"task": "polyreg", "model": "s6", "task_settings": SETTINGS, "model_settings": "{}", "L": 4, "instance": 0}
    return (
        fields | settings | {"kind": "run", "status": "ok", "higher_is_better": False, "success_threshold": 0.01} | columns
    )
