"""Overview figures of a report, over all tasks and their configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from expbench.report.drawing import COLOURS, Axes, Figure, make_figure, shortened, styled
from expbench.report.labels import labels
from expbench.report.published import Entry, around
from expbench.results.configurations import SIZES, Configuration

_MOST_MODELS = 8
_NONE = 0.5  # y value if no degree is solved


@styled()
def solved_by_depth(configurations: Sequence[Configuration]) -> Figure | None:
    """Draw the largest degree that at least half of the runs solve, against depth; one panel per L and task configuration.

    Dashed: the largest degree whose floor lies below the success threshold; above it no such network solves the
    task. Configurations with ill-posed labels are omitted. Return None if degree and depth do not vary, or for too many
    models.
    """
    configurations = [c for c in configurations if c["degree"] and c.trials and not c.higher_is_better]
    configurations = [c for c in configurations if c["well_posed"] is not False]
    apart = _settings_apart(configurations)
    grids: dict[tuple[str, int], list[Configuration]] = {}
    for configuration in configurations:
        grids.setdefault((apart[configuration["context"]] or configuration["task"], configuration["L"]), []).append(
            configuration
        )
    grids = {
        place: own
        for place, own in grids.items()
        if len({c["degree"] for c in own}) > 2 and len({c["depth"] for c in own}) > 1
    }
    names = _names(configurations)
    models = list(dict.fromkeys(names[id(c)] for own in grids.values() for c in own))
    if not grids or len(models) > _MOST_MODELS:
        return None
    rows = list(dict.fromkeys(setting for setting, _ in grids))
    columns = sorted({L for _, L in grids})
    figure = make_figure(1.2 + 1.9 * len(columns), 0.8 + 1.75 * len(rows))
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    named: dict[str, Any] = {}
    for (row, column), axes in np.ndenumerate(panels):
        own = grids.get((rows[row], columns[column]))
        if own is None:
            axes.remove()
            continue
        for i, model in enumerate(models):
            mine = [c for c in own if names[id(c)] == model]
            named |= _lines(axes, mine, model, COLOURS[i], (i - (len(models) - 1) / 2) * 0.04)
        _degree_axis(axes, own)
        axes.set_title(f"L = {columns[column]}", fontsize=8)
        if (rows[row], columns[column]) == min(place for place in grids if place[0] == rows[row]):
            axes.set_ylabel(rows[row].replace(", ", "\n"), fontsize=8)
        axes.set_xlabel("depth", fontsize=8)
        axes.tick_params(labelsize=7)
    handles, texts = list(named.values()), list(map(shortened, named))
    figure.legend(handles, texts, loc="outside upper center", ncols=len(models), fontsize=8, frameon=False)
    return figure


def _names(configurations: Sequence[Configuration]) -> dict[int, str]:
    """Return the names of the models, with their position codes if one model has several in one place of the figure."""
    names = labels(configurations, without=["depth", "positions", "position_base", *SIZES])
    where = [(names[id(c)], c["context"], c["L"], c["degree"], c["depth"]) for c in configurations]
    with_code = {(*place, c["positions"], c.base) for place, c in zip(where, configurations, strict=True)}
    crossed = len(with_code) > len(set(where))
    return labels(configurations, without=["depth", *SIZES]) if crossed else names


def _lines(axes: Axes, configurations: Sequence[Configuration], name: str, colour: Any, aside: float) -> dict[str, Any]:
    """Draw the degrees that a model solves, and the limit set by floors if there is one; return its legend entry."""
    if not configurations:
        return {}
    depths = sorted({c["depth"] for c in configurations})
    highest = max(c["degree"] for c in configurations)
    solved, possible = [], []
    for depth in depths:
        own = [c for c in configurations if c["depth"] == depth]
        allowed = [c for c in own if c.floor is None or c.floor <= c.success_threshold]
        solved.append(max((c["degree"] for c in own if 2 * c.solved >= c.trials), default=_NONE))
        # a degree without runs at this depth is not ruled out by a floor
        possible.append(highest if len(allowed) == len(own) else max((c["degree"] for c in allowed), default=_NONE))
    if min(possible) < highest:
        axes.plot(depths, possible, "--", color=colour, linewidth=1, alpha=0.8)
    x = [depth + aside for depth in depths]
    return {name: axes.plot(x, solved, "o-", color=colour, markersize=4, linewidth=1.4)[0]}


def _degree_axis(axes: Axes, configurations: Sequence[Configuration]) -> None:
    degrees = sorted({c["degree"] for c in configurations})
    ticks = [degree for i, degree in enumerate(degrees) if i in (0, len(degrees) - 1) or math.log2(degree) % 1 == 0]
    axes.set_yscale("log", base=2)
    axes.set_yticks([_NONE, *ticks], ["none", *map(str, ticks)])
    axes.minorticks_off()
    axes.set_ylim(_NONE * 0.8, degrees[-1] * 1.25)
    axes.set_xticks(sorted({c["depth"] for c in configurations}))
    axes.margins(x=0.12)


def _settings_apart(configurations: Sequence[Configuration]) -> dict[str, str]:
    """Return for each context a text of the settings needed to distinguish it from the others."""
    contexts = {c["context"]: dict(part.partition("=")[::2] for part in c["context"].split(", ")) for c in configurations}
    kept: list[str] = []
    told_apart = 1
    for name in dict.fromkeys(name for settings in contexts.values() for name in settings):
        apart = len({tuple(settings.get(n) for n in [*kept, name]) for settings in contexts.values()})
        if apart > told_apart:
            kept, told_apart = [*kept, name], apart
    return {text: ", ".join(f"{n}={settings[n]}" for n in kept if n in settings) for text, settings in contexts.items()}


@styled()
def beside_published(entries: Sequence[Entry]) -> Figure | None:
    """Draw published numbers as marks, and our means with prediction intervals for the mean of three further seeds.

    Return None without entries.
    """
    rows = list(dict.fromkeys(entry.published.row for entry in entries))
    if not rows:
        return None
    figure = make_figure(8.0, 1.2 + 0.62 * len(rows))
    axes = figure.subplots()
    setting = {id(entry): _setting_of(entry, entries) for entry in entries}
    settings = sorted(set(setting.values()))
    styles = {name: (COLOURS[i], "os^D"[i // 10 % 4]) for i, name in enumerate(settings)}  # colours repeat after ten
    named: dict[str, Any] = {}
    for row, name in enumerate(rows):
        own = sorted((e for e in entries if e.published.row == name), key=lambda entry: setting[id(entry)])
        for place, entry in enumerate(own):
            assert entry.ours is not None
            y = row + 0.8 * ((place + 0.5) / len(own) - 0.5)
            colour, marker = styles[setting[id(entry)]]
            axes.plot([entry.ours.low, entry.ours.high], [y, y], color=colour, linewidth=1.2, alpha=0.6)
            named.setdefault(
                setting[id(entry)], axes.plot([entry.ours.center], [y], marker, color=colour, markersize=3.5)[0]
            )
        mark = axes.plot([own[0].published.value] * 2, [row - 0.42, row + 0.42], color="black", linewidth=1.8)[0]
    named["published (mean of three seeds)"] = mark
    axes.set_yticks(range(len(rows)), [name.partition(": ")[2] for name in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy, % (lines: 95 % prediction interval for the mean of three further seeds of ours)", fontsize=8)
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=2, fontsize=7, frameon=False)
    return figure


def _setting_of(entry: Entry, entries: Sequence[Entry]) -> str:
    assert entry.configuration is not None
    readings = [part for part in str(entry.configuration["context"]).split(", ") if part.startswith(("head", "supervise"))]
    return ", ".join([*readings, *around(entry.configuration, entries)])
