"""Names of configurations in figures and tables: the model, and the settings in which its configurations differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from expbench.results.configurations import SIZES, TRAINING, Configuration

_TOLD_APART = ["model_settings", "model_version", "task_version", *SIZES, *TRAINING]


def labels(
    configurations: Sequence[Configuration], *, also: Sequence[str] = (), without: Sequence[str] = ()
) -> dict[int, str]:
    """Return a name for each configuration (by its `id`): the model, and the settings that vary within this model.

    also: further columns to consider. without: columns to ignore.
    """
    by_model: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        by_model.setdefault(configuration["model"], []).append(configuration)
    names = {}
    for model, group in by_model.items():
        known = {
            *without,
            *(["lr"] if all(c.tuned for c in group) else []),
        }  # a tuned rate is a result
        columns = [c for c in [*_TOLD_APART, *also] if c not in known and _differ(group, c)]
        settings = _settings_apart(group)
        for configuration in group:
            parts = (
                settings[id(configuration)] if c == "model_settings" else _setting(c, configuration.stated(c))
                for c in columns
            )
            names[id(configuration)] = " ".join([model, *parts])
    return names


def _settings_apart(configurations: Sequence[Configuration]) -> dict[int, str]:
    """Return the settings that vary between configurations of one model, as a text for each (by its `id`)."""
    known = {id(c): json.loads(c["model_settings"] or "{}") for c in configurations}
    names = dict.fromkeys(name for settings in known.values() for name in settings)
    apart = [name for name in names if len({str(settings.get(name)) for settings in known.values()}) > 1]
    return {c: " ".join(_setting(n, settings[n]) for n in apart if n in settings) for c, settings in known.items()}


def _differ(configurations: Sequence[Configuration], column: str) -> bool:
    """Return whether configurations differ in a column; split sizes are compared at equal L and degree only."""
    by_place: dict[tuple[int, int | None] | None, set[Any]] = {}
    for configuration in configurations:
        place = (configuration["L"], configuration["degree"]) if column in SIZES else None
        by_place.setdefault(place, set()).add(configuration.stated(column))
    return any(len(values) > 1 for values in by_place.values())


def _setting(column: str, value: Any) -> str:
    return f"{column}={'on' if value is True else 'off' if value is False else value}"


def by_name(configurations: Iterable[Configuration], names: dict[int, str]) -> dict[str, list[Configuration]]:
    groups: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        groups.setdefault(names[id(configuration)], []).append(configuration)
    return groups
