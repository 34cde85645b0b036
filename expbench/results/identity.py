"""Identity: the fields that distinguish runs, all or a subset.

Excluded fields are given by role ("seed": every field of that role) or by the name of a field, a column or a setting of a
task. A new field of `Run` enters every identity that does not exclude its role. All grouping of runs uses this module.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import get_args

from expbench.results.schema import READ_OUT
from expbench.run import AXES, FIELDS, Run, canonical
from expbench.settings import Role

SIZES = ("test_size", "validation_size")
# Columns derived from settings, with their roles; `configurations.with_context` adds those that the schema lacks.
_OF_SETTINGS: dict[str, Role] = {"context": "task", "skip": "model", **dict.fromkeys(SIZES, "task")}
_ROLES: dict[str, Role] = {name: field.role for name, field in {**FIELDS, **AXES}.items()} | _OF_SETTINGS
_READ_AS = {
    "task_settings": ("context", *(name for name in AXES if name != "instance"), *SIZES, "instance"),
    "residual": ("residual", *READ_OUT["residual"]),
}


def identity(run: Run, without: Collection[str] = ()) -> str:
    """Return the identity of a run as a text, equal for two runs that differ only in the excluded fields."""
    left_out = _left_out(frozenset(without))
    kept = {name: value for name, value in run.values().items() if name not in left_out}
    if "task_settings" in kept:
        kept["task_settings"] = {name: value for name, value in run.task_settings.items() if name not in left_out}
    return canonical(kept)


def fields(without: Collection[str] = ()) -> list[str]:
    """Return the names of the fields that distinguish runs, in the order of the table."""
    left_out = _left_out(frozenset(without))
    return [name for name in FIELDS if name not in left_out]


def columns(without: Collection[str] = ()) -> list[str]:
    """Return the columns of `configurations.with_context` that distinguish runs, with one column per setting."""
    left_out = _left_out(frozenset(without))
    return [column for name in FIELDS for column in _READ_AS.get(name, (name,)) if column not in left_out]


@cache
def _left_out(without: frozenset[str]) -> frozenset[str]:
    """Return the excluded names; raise ValueError for one that is neither a role nor a name."""
    unknown = without - {*get_args(Role), *_ROLES}
    if unknown:
        raise ValueError(f"neither a role nor a field of a run: {', '.join(sorted(unknown))}")
    return without | {name for name, role in _ROLES.items() if role in without}
