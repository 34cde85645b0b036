"""Request: what the command line asks for, as texts; and how lists of numbers are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from expbench import settings
from expbench.errors import BadInput, unknown

_LARGEST_RATE = 1e9


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for, as texts; lists and ranges as the user wrote them. None leaves it to task or model."""

    task: str
    models: str
    L: str | None = None
    degree: str | None = None
    instances: str = "0"
    D: str | None = None  # 4, or what `match` comes to
    match: str | None = None
    depth: str = "1"
    norm: str = "layer"
    positions: str | None = None
    residual: str = "on"
    lr: str = "0.01"  # or auto
    seeds: str = "0:3"
    paired: bool = False  # whether seed i is run on instance i alone
    steps: str | None = None  # 2000, unless epochs are given
    epochs: str | None = None
    batch_size: str = "64"
    warmup: str | None = None
    weight_decay: str = "0"
    clip: str = "1.0"
    dtype: str = "float32"
    init: str = "default"
    init_noise: str = "0"
    task_settings: Sequence[str] = field(default_factory=tuple)
    model_settings: Sequence[str] = field(default_factory=tuple)


def assignments(texts: Sequence[str], option: str, names: list[str], kind: str, name: str) -> dict[str, list[str]]:
    """The values that -t or -m texts give to each setting of the plugin `name`, one among `names`.

    Raises `BadInput` for an owner that is none of them, and for a setting that is given twice.
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
    """A list of whole numbers, as the user wrote it; raises `BadInput` for what is none, or not within the bounds."""
    values: list[int] = [_number(option, member, int) for member in settings.split_list(text, option)]
    for value in values:
        if value < least:
            raise BadInput(f"{option}: {value} is too small, the least is {least}")
        if value > most:
            raise BadInput(f"{option}: {value} is too large, the most is {most}")
    return values


def real(option: str, text: str, above: float | None = None) -> list[float]:
    """A list of numbers, as the user wrote it; raises `BadInput` for what is none, is negative, or not above `above`."""
    values: list[float] = [_number(option, member, float) for member in settings.split_list(text, option)]
    for value in values:
        if value < 0 or (above is not None and value <= above):
            raise BadInput(f"{option}: {value:g} must be {'above' if above is not None else 'at least'} 0")
        if value > _LARGEST_RATE:
            raise BadInput(f"{option}: {value:g} is too large, the most is {_LARGEST_RATE:g}")
    return values


def _number(option: str, text: str, kind: type) -> Any:
    return settings.Setting(option, kind, None).parse(text, "run")


def choice(option: str, text: str, choices: Sequence[str]) -> list[Any]:
    values = settings.split_list(text, option)
    for value in values:
        if value not in choices:
            raise unknown(f"value of {option}:", value, choices)
    return values
