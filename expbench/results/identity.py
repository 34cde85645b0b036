"""Identity: what tells runs apart, all of it or without some.

What is left out is named by roles ("seed": every field of that role) or by names of fields, of columns, or of settings of a
task. A new field of `Run` is part of every identity that does not leave out its role. Whatever groups runs asks here.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import get_args

from expbench.results.schema import READ_OUT
from expbench.run import AXES, FIELDS, Run, canonical
from expbench.settings import Role

SIZES = ("test_size", "selection_size")
# Columns that stand for settings, with the roles of these; `cells.with_context` adds what the schema has not.
_OF_SETTINGS: dict[str, Role] = {"context": "task", "skip": "model", **dict.fromkeys(SIZES, "task")}
_ROLES: dict[str, Role] = {name: field.role for name, field in {**FIELDS, **AXES}.items()} | _OF_SETTINGS
_READ_AS = {
    "task_settings": ("context", *(name for name in AXES if name != "instance"), *SIZES, "instance"),
    "residual": ("residual", *READ_OUT["residual"]),
}


def identity(run: Run, without: Collection[str] = ()) -> str:
    """Return what tells a run apart as a text: equal of two runs that differ in nothing but what is left out."""
    left_out = _left_out(frozenset(without))
    kept = {name: value for name, value in run.values().items() if name not in left_out}
    if "task_settings" in kept:
        kept["task_settings"] = {name: value for name, value in run.task_settings.items() if name not in left_out}
    return canonical(kept)


def fields(without: Collection[str] = ()) -> list[str]:
    """Return the names of the fields that tell runs apart, in the order of the table."""
    left_out = _left_out(frozenset(without))
    return [name for name in FIELDS if name not in left_out]


def columns(without: Collection[str] = ()) -> list[str]:
    """Return the columns of `cells.with_context` that tell runs apart: those of fields, and of settings one by one."""
    left_out = _left_out(frozenset(without))
    return [column for name in FIELDS for column in _READ_AS.get(name, (name,)) if column not in left_out]


@cache
def _left_out(without: frozenset[str]) -> frozenset[str]:
    """Return the names that are left out; raises `ValueError` for one that is neither a role nor a name."""
    unknown = without - {*get_args(Role), *_ROLES}
    if unknown:
        raise ValueError(f"neither a role nor a field of a run: {', '.join(sorted(unknown))}")
    return without | {name for name, role in _ROLES.items() if role in without}
