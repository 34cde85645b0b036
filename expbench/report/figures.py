"""Figures: pure functions of the cells of a results table. Controls are drawn into every one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from expbench.console.formatting import number
from expbench.results.cells import SIZES, TRAINING, Cell

Value = TypeVar("Value")

COLOURS = list(mpl.color_sequences["tab10"]) * 10
_DASHES: list[Any] = ["--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))] * 3
_PANELS, _COLUMNS = 6, 3
_NAMED = 28  # names in a legend
_DOTTED = 12  # lines, of which each run is drawn as well
_LEAST = 1e-5  # errors below this are drawn here
_TOLD_APART = ["model_settings", "model_version", "task_version", *SIZES, *TRAINING]
_ON_BRIGHT, _ON_DARK = "#101010", "#fefefe"  # no black and white of a page, which follow its theme: fields do not
_FLOOR_STYLE: Any = {"markersize": 14, "markeredgewidth": 2}
STYLE: Any = {"svg.hashsalt": "expbench", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same bytes for the same figure."""
    with mpl.rc_context(STYLE):
        layout = figure.get_layout_engine()
        if layout is not None:  # once: matplotlib would draw the figure a second time to do so, and a third to trim it
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(path, format="svg", metadata={"Date": None})


def labels(cells: Sequence[Cell], *, also: Sequence[str] = (), without: Sequence[str] = ()) -> dict[int, str]:
    """A name for each cell (by its `id`): the model, and those settings in which one model differs.

    also: further columns that tell cells apart here; without: columns that need not.
    """
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell["model"], []).append(cell)
    names = {}
    for model, group in by_model.items():
        known = {*without, *(["lr"] if all(cell.tuned for cell in group) else [])}  # a rate that was chosen is a result
        columns = [c for c in [*_TOLD_APART, *also] if c not in known and _differ(group, c)]
        settings = _settings_apart(group)
        for cell in group:
            parts = (settings[id(cell)] if c == "model_settings" else _setting(c, cell[c]) for c in columns)
            names[id(cell)] = " ".join([model, *parts])
    return names


def _settings_apart(cells: Sequence[Cell]) -> dict[int, str]:
    """Those settings of the model in which cells of one model differ, as a text for each (by its `id`)."""
    known = {id(cell): json.loads(cell["model_settings"] or "{}") for cell in cells}
    names = dict.fromkeys(name for settings in known.values() for name in settings)
    apart = [name for name in names if len({str(settings.get(name)) for settings in known.values()}) > 1]
    return {cell: " ".join(_setting(n, settings[n]) for n in apart if n in settings) for cell, settings in known.items()}


def _differ(cells: Sequence[Cell], column: str) -> bool:
    """Whether cells differ in a column; in the size of a split, which may follow from L, whether two in one place do."""
    by_place: dict[tuple[int, int | None] | None, set[Any]] = {}
    for cell in cells:
        place = (cell["L"], cell["degree"]) if column in SIZES else None
        by_place.setdefault(place, set()).add(cell[column])
    return any(len(values) > 1 for values in by_place.values())


def metric_against(cells: Sequence[Cell], controls: pd.DataFrame, axis: str) -> Figure:
    """The headline metric against ``L`` or ``degree``: mean, interval and every run; controls dashed.

    Where a value of the one is met with several of the other, a panel for each of the other. A model has one colour, its
    settings have lines of their own.
    """
    other = "degree" if axis == "L" else "L"
    crossed = _crossed(cells, axis)
    every = sorted({cell[other] for cell in cells}) if crossed else [None]
    apart = _spread(every)
    names = labels(cells)
    styles = _styles(cells, names)
    figure, panels = _panels(len(apart), *((4.0, 3.2) if crossed else (6.0, 4.0)))
    named: dict[str, Any] = {}
    for axes, value in zip(panels, apart, strict=True):
        here = [cell for cell in cells if value is None or cell[other] == value]
        kept = controls[(controls["kind"] != "positive") & controls[axis].notna()]
        named |= _lines_against(axes, here, kept if value is None else kept[kept[other] == value], axis, names, styles)
        axes.set_title("" if value is None else f"{other}={value}", fontsize=9)
        ticks = sorted({cell[axis] for cell in cells})
        if len(ticks) > 2 and ticks[-1] >= 4 * ticks[0] > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        _metric_axis(axes, cells, "test")
    if len(apart) < len(every):
        figure.suptitle(f"{len(apart)} of {len(every)} values of {other}", fontsize=9)
    _share(panels, "xy")
    _legend(figure, list(named.values()), list(named))
    return figure


def _crossed(cells: Sequence[Cell], axis: str) -> bool:
    """Whether a value of the axis is met with several of the other."""
    return len({(cell["L"], cell["degree"]) for cell in cells}) > len({cell[axis] for cell in cells})


def _lines_against(
    axes: Axes, cells: Sequence[Cell], controls: pd.DataFrame, axis: str, names: dict[int, str], styles: dict[str, Any]
) -> dict[str, Any]:
    """Draw one panel of `metric_against`; what is to be named in the legend."""
    named: dict[str, Any] = {}
    for name, group in _by_name(cells, names).items():
        group = sorted(group, key=lambda cell: cell[axis])
        colour, dashes = styles[name]
        x = [cell[axis] for cell in group]
        means = [cell.interval.center for cell in group]
        (named[name],) = axes.plot(x, means, color=colour, linestyle=dashes, marker="o", markersize=4)
        low, high = zip(*(_visible(cell) for cell in group), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        if len(styles) <= _DOTTED:
            dots = [(cell[axis], value) for cell in group for value in cell.values]
            axes.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.4, markersize=4)
        floors = [(cell[axis], floor) for cell in group for floor in _floor(cell)]
        if floors:
            (drawn,) = axes.plot(*zip(*floors, strict=True), "_", color=colour, **_FLOOR_STYLE)
            named.setdefault("floor" if len(styles) > _DOTTED else f"{name}: floor", drawn)
    for style, (control, rows) in zip(_DASHES, controls.groupby("model", sort=False), strict=False):
        mean = rows.groupby(axis)["value"].mean().sort_index()
        (named[str(control)],) = axes.plot(mean.index, mean, linestyle=style, color="0.55", linewidth=1)
    return named


def _styles(cells: Sequence[Cell], names: dict[int, str]) -> dict[str, Any]:
    """Colour and dashes of each name: a colour for each model, if there are several, and dashes for what differs in one."""
    models: dict[str, list[str]] = {}
    for cell in cells:
        own = models.setdefault(cell["model"], [])
        own += [names[id(cell)]] if names[id(cell)] not in own else []
    if len(models) == 1 or max(map(len, models.values())) > len(_DASHES):
        return {name: (colour, "-") for own in models.values() for name, colour in zip(own, COLOURS, strict=False)}
    return {
        name: (colour, dashes)
        for colour, own in zip(COLOURS, models.values(), strict=False)
        for name, dashes in zip(own, ["-", *_DASHES], strict=False)
    }


def depth_against_degree(cells: Sequence[Cell]) -> Figure:
    """A map for each model: depth upwards, degree (or L, for a task without) to the right, the mean metric in each field."""
    axis = "L" if any(cell["degree"] is None for cell in cells) else "degree"
    crossed = axis == "degree" and _crossed(cells, "degree")
    groups = _by_name(cells, labels(cells, also=["L"] if crossed else [], without=["depth"]))
    degrees, depths = (sorted({cell[column] for cell in cells}) for column in (axis, "depth"))
    figure, panels = _panels(len(groups), width=1.4 + 0.6 * len(degrees), height=1.2 + 0.45 * len(depths), most=len(groups))
    for axes, (name, group) in zip(panels, groups.items(), strict=True):
        field = np.full((len(depths), len(degrees)), np.nan)
        floors: dict[tuple[int, int], list[str]] = {}
        for cell in group:
            place = depths.index(cell["depth"]), degrees.index(cell[axis])
            assert np.isnan(field[place]), "two cells in one field"
            field[place] = cell.interval.center
            floors[place] = [f"floor {number(floor)}" for floor in _floor(cell)]
        colours = "viridis" if cells[0].higher_is_better else "viridis_r"
        shade = _shade(field, cells[0])
        bright = shade if cells[0].higher_is_better else 1 - shade
        axes.imshow(shade, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(field):
            if not np.isnan(value):
                text = "\n".join([number(value), *floors[row, column]])
                centred: Any = {"ha": "center", "va": "center", "in_layout": False}  # none reaches beyond its field
                axes.text(
                    column, row, text, fontsize=7, color=_ON_BRIGHT if bright[row, column] > 0.45 else _ON_DARK, **centred
                )
        axes.set_xticks(range(len(degrees)), [str(degree) for degree in degrees])
        axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(axis)
        axes.set_ylabel("depth")
        axes.spines[:].set_visible(False)
    _share(panels, "xy")
    figure.suptitle(f"{cells[0].metric} (test), mean", fontsize=9)
    return figure


def curves(cells: Sequence[Cell], points: pd.DataFrame) -> Figure:
    """The headline metric on the selection split while training, a line a run; `points` has key, step and value."""
    places = _places(cells)
    shown = [cell for cell in cells if (cell["L"], cell["degree"]) in places]
    by_key = _lines(points, {key for cell in shown for key in cell.each("key")})
    figure, panels = _panels(len(places), width=3.8, height=3.0)
    names = labels(cells)
    colours = dict(zip(dict.fromkeys(names.values()), COLOURS, strict=False))
    named: dict[str, Any] = {}
    for axes, place in zip(panels, places, strict=True):
        for name, group in _by_name([c for c in shown if (c["L"], c["degree"]) == place], names).items():
            lines = [by_key[key] for cell in group for key in cell.each("key") if key in by_key]
            if lines:
                drawn = axes.add_collection(LineCollection(lines, colors=[colours[name]], alpha=0.7, linewidths=1))
                named.setdefault(name, drawn)
        axes.autoscale_view()
        axes.set_title(_place(*place), fontsize=9)
        axes.set_xlabel("step")
        _metric_axis(axes, cells, "selection")
    _share(panels, "y")
    _legend(figure, list(named.values()), list(named))
    return figure


def _lines(points: pd.DataFrame, keys: set[str]) -> dict[str, Any]:
    """The points (step, value) of each of these runs, by key."""
    own = points[points["key"].isin(keys)].sort_values(["key", "step"], kind="stable")
    values = own[["step", "value"]].to_numpy(dtype=float)
    starts = np.flatnonzero((own["key"] != own["key"].shift()).to_numpy())
    return dict(zip(own["key"].to_numpy()[starts], np.split(values, starts[1:]), strict=True)) if len(own) else {}


def beside_controls(cells: Sequence[Cell], controls: pd.DataFrame) -> Figure:
    """Every run of each model as a dot, with the controls of the same cell below; one panel for each L and degree."""
    places = _places(cells)
    names = labels(cells)
    models = list(dict.fromkeys(names.values()))
    rows = [*models, *controls.drop_duplicates("model")["model"]]
    figure, panels = _panels(len(places), width=4.2, height=0.9 + 0.22 * len(rows))
    floor = -math.inf if cells[0].higher_is_better else _LEAST
    for axes, place in zip(panels, places, strict=True):
        here = [cell for cell in cells if (cell["L"], cell["degree"]) == place]
        for cell in here:
            row = models.index(names[id(cell)])
            values = [max(value, floor) for value in cell.values]
            axes.plot(values, [row] * len(values), "o", color=COLOURS[row], alpha=0.6, markersize=5)
            for drawn in _floor(cell):
                axes.plot([drawn], [row], "|", color=COLOURS[row], **_FLOOR_STYLE)
        kept = controls[controls["L"] == place[0]]
        kept = kept if place[1] is None else kept[kept["degree"] == place[1]]
        axes.plot(
            [max(value, floor) for value in kept["value"]], kept["model"].map(rows.index), "D", color="0.35", markersize=4
        )
        axes.axvline(cells[0].solved_at, color="0.7", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(_place(*place), fontsize=9)
        axes.set_xlabel(f"{cells[0].metric} (test)")
        if not cells[0].higher_is_better:
            _logarithmic(axes, "x")
            axes.set_xlim(left=_LEAST * 0.8)
    _share(panels, "xy")
    return figure


def _floor(cell: Cell) -> list[float]:
    """The floor of a cell, if there is one to be seen: an error, and not below what is drawn."""
    return [cell.floor] if cell.floor is not None and not cell.higher_is_better and cell.floor >= _LEAST else []


def _panels(count: int, width: float, height: float, most: int = _PANELS) -> tuple[Figure, list[Axes]]:
    count = min(count, most)
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _share(panels: Sequence[Axes], which: str) -> None:
    """Axes "x", "y" or both alike in all panels, with their numbers and names beside the outer panels alone."""
    ends = {axis: [end for axes in panels for end in getattr(axes, f"get_{axis}lim")()] for axis in which}
    flipped = {axis: bool(getattr(panels[0], f"{axis}axis").get_inverted()) for axis in which}
    for index, axes in enumerate(panels):
        for axis, known in ends.items():
            limits = sorted((min(known), max(known)), reverse=flipped[axis])
            getattr(axes, f"set_{axis}lim")(*limits)
        if "x" in which and index + _COLUMNS < len(panels):
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
        if "y" in which and index % _COLUMNS:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)


def _legend(figure: Figure, handles: list[Any], names: list[str]) -> None:
    """To the right of the panels; cut where it would be taller than they are."""
    if len(names) > _NAMED:
        handles, names = handles[:_NAMED], [*names[: _NAMED - 1], f"... and {len(names) - _NAMED + 1} more"]
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)


def _setting(column: str, value: Any) -> str:
    return f"{column}={'on' if value is True else 'off' if value is False else value}"


def _by_name(cells: Iterable[Cell], names: dict[int, str]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(names[id(cell)], []).append(cell)
    return groups


def _places(cells: Sequence[Cell]) -> list[tuple[int, int | None]]:
    """The pairs of L and degree, in order; evenly spaced ones where there are too many to draw."""
    return _spread(sorted({(cell["L"], cell["degree"]) for cell in cells}, key=lambda place: (place[0], place[1] or 0)))


def _spread(values: Sequence[Value]) -> list[Value]:
    """As many of the values as there are panels, evenly spaced."""
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, min(_PANELS, len(values)))]


def _place(L: int, degree: int | None) -> str:
    return f"L={L}" if degree is None else f"L={L}, degree {degree}"


def _metric_axis(axes: Axes, cells: Sequence[Cell], split: str) -> None:
    """Errors on a logarithm, cut below what the models reach; the threshold of the task as a line."""
    axes.axhline(cells[0].solved_at, color="0.8", linewidth=0.8, zorder=0)
    axes.set_ylabel(f"{cells[0].metric} ({split})")
    if not cells[0].higher_is_better:
        _logarithmic(axes, "y")
        best = min(min(cell.values) for cell in cells)
        axes.set_ylim(bottom=max(_LEAST, 0.5 * min(best, cells[0].solved_at)))


def _logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis whose numbers are plain texts: setting each as mathematics took most of a figure's time."""
    scale, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    scale("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _visible(cell: Cell) -> tuple[float, float]:
    """The interval as it can be drawn: nothing where it is unknown, and inside the range that the metric can have."""
    interval = cell.interval
    if np.isnan(interval.low):
        return interval.center, interval.center
    if not cell.higher_is_better:
        return max(interval.low, 0.5 * min(cell.values), _LEAST), interval.high
    return max(interval.low, 0.0), min(interval.high, max(1.0, *cell.values))


def _shade(field: Any, cell: Cell) -> Any:
    """The field on 0..1: as it is where more is better, else on a logarithm from 1e-4 to 1."""
    if cell.higher_is_better:
        return field
    return np.clip(1 + np.log10(np.maximum(field, 1e-4)) / 4, 0, 1)
