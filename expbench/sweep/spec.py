"""Request: the options of the command line as texts, and the parsing of lists of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from expbench import settings
from expbench.errors import BadInput, unknown
from expbench.run import AXES, FIELDS
from expbench.settings import REQUIRED, Option, Role, setting

_LARGEST_RATE = 1e9


@dataclass(frozen=True, kw_only=True)
class _Own:
    """Options of a request that are not fields of a run."""

    match: str = setting(
        "--match",
        role="size",
        default=None,
        metavar="WHAT=N",
        help="Instead of --D: match each model to params=N or state=N, within 5 %.",
    )
    epochs: int = setting(
        "--epochs",
        role="training",
        default=None,
        most=10**6,
        help="Instead of --steps: number of epochs over the training split of a text.",
    )
    paired: bool = setting("--paired", role="instance", default=False, help="Instead of --instances: seed i on instance i.")


OWN = settings.options(_Own)


def _options() -> Iterator[Option]:
    """Yield the options by role; within a role, alternatives to a field of a run precede the field."""
    given = [option for declared in (OWN, FIELDS, AXES) for option in declared.values() if option.flags]
    for role in get_args(Role):
        yield from (option for option in given if option.role == role)


OPTIONS = {option.name: option for option in _options()}


def _field(option: Option) -> tuple[str, Any, Any]:
    """Return a field of a request in the format of `make_dataclass`."""
    if option.repeats:
        return option.name, Sequence[str], dataclasses.field(default=())
    kind = bool if isinstance(option.default, bool) else str | None
    default = dataclasses.MISSING if option.default is REQUIRED else option.default
    return option.name, kind, dataclasses.field(default=default)


_Texts: Any = dataclasses.make_dataclass("_Texts", map(_field, OPTIONS.values()), frozen=True, kw_only=True)


class SweepSpec(_Texts):
    """Options of the command line by their names in `OPTIONS`: texts, lists and ranges as the user wrote them.

    This is a dataclass. None means the default of the task, the model or another option. paired: whether seed i runs on
    instance i only. task_settings, model_settings: tuples of texts.
    """


def axis(option: Option, text: str | None) -> list[Any]:
    """Return the values that the text of an option lists, converted to the type of its field; [None] if it is absent."""
    if text is None:
        return [None]
    if option.kind is bool:
        return [value == "on" for value in choice(option.flag, text, ("on", "off"))]
    if option.kind is int:
        return whole(option.flag, text, option.least, option.most)
    if option.kind is float:
        return real(option.flag, text, option.above)
    return choice(option.flag, text, get_args(option.kind))


def assignments(texts: Sequence[str], option: str, names: list[str], kind: str, name: str) -> dict[str, list[str]]:
    """Return the values that -t or -m texts assign to each setting of the plugin `name`, one of `names`.

    Raise `BadInput` for an owner that is not among `names`, and for a setting that is given twice.
    """
    given: dict[str, list[str]] = {}
    for text in texts:
        owner, setting, values = settings.split_assignment(text, option)
        if owner is not None and owner not in names:
            raise unknown(f"{kind} in {option} {text!r}:", owner, names)
        if owner in (None, name):
            if setting in given:
                raise BadInput(f"{option} {text}: {setting} is given twice; write {setting}=VALUE1,VALUE2")
            given[setting] = values
    return given


def whole(option: str, text: str, least: int = 1, most: int = 2**63 - 1) -> list[int]:
    """Parse a list of integers; raise `BadInput` for a text that is not an integer, or a value outside the bounds."""
    values: list[int] = [_number(option, member, int) for member in settings.split_list(text, option)]
    for value in values:
        if value < least:
            raise BadInput(f"{option}: {value} is too small, the minimum is {least}")
        if value > most:
            raise BadInput(f"{option}: {value} is too large, the maximum is {most}")
    return values


def real(option: str, text: str, above: float | None = None) -> list[float]:
    """Parse a list of numbers; raise `BadInput` for other texts, for negative values and for values not above `above`."""
    values: list[float] = [_number(option, member, float) for member in settings.split_list(text, option)]
    for value in values:
        if value < 0 or (above is not None and value <= above):
            raise BadInput(f"{option}: {value:g} must be {'above' if above is not None else 'at least'} 0")
        if value > _LARGEST_RATE:
            raise BadInput(f"{option}: {value:g} is too large, the maximum is {_LARGEST_RATE:g}")
    return values


def _number(option: str, text: str, kind: type) -> Any:
    return settings.Setting(option, kind, REQUIRED).parse(text, "run")


def choice(option: str, text: str, choices: Sequence[str]) -> list[Any]:
    """Parse a list of names; raise `BadInput` for one that is not among `choices`."""
    values = settings.split_list(text, option)
    for value in values:
        if value not in choices:
            raise unknown(f"value of {option}:", value, choices)
    return values
