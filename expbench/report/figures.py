"""Figures: pure functions of the configurations of a results table, with controls for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from expbench.console.formatting import number
from expbench.report.drawing import (
    COLOURS,
    LEAST,
    Axes,
    Figure,
    LineCollection,
    draw_legend,
    draw_metric_axis,
    drawn_panels,
    make_logarithmic,
    make_panels,
    of_runs,
    panel_title,
    share_axes,
    shortened,
    spread,
    styled,
)
from expbench.report.labels import by_name, labels
from expbench.results.configurations import Configuration

_DASHES: list[Any] = ["--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))] * 3
_DOTTED = 12  # most lines for which single runs are drawn too
_ON_BRIGHT, _ON_DARK = "#101010", "#fefefe"  # not pure black and white, which the page replaces by theme colours
_FLOOR_STYLE: Any = {"markersize": 14, "markeredgewidth": 2}


@styled()
def metric_against(configurations: Sequence[Configuration], controls: pd.DataFrame, axis: str) -> Figure:
    """Draw the primary metric against ``L`` or ``degree``: mean, interval and every run; controls dashed.

    If L and degree are crossed, there is one panel for each value of the other. Each model has one colour, and each of its
    configurations one line style.
    """
    other = "degree" if axis == "L" else "L"
    crossed = _crossed(configurations, axis)
    every = sorted({c[other] for c in configurations}) if crossed else [None]
    apart = spread(every)
    names = labels(configurations)
    styles = _styles(configurations, names)
    dots = of_runs(configurations)
    figure, panels = make_panels(len(apart), *((4.0, 3.2) if crossed else (6.0, 4.0)))
    named: dict[str, Any] = {}
    for axes, value in zip(panels, apart, strict=True):
        here = [c for c in configurations if value is None or c[other] == value]
        kept = controls[(controls["kind"] != "positive") & controls[axis].notna()]
        named |= _lines_against(axes, here, kept if value is None else kept[kept[other] == value], axis, names, styles, dots)
        axes.set_title("" if value is None else f"{other}={value}", fontsize=9)
        ticks = sorted({c[axis] for c in configurations})
        if len(ticks) > 2 and ticks[-1] >= 4 * ticks[0] > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        draw_metric_axis(axes, configurations, "test")
    if len(apart) < len(every):
        figure.suptitle(f"{len(apart)} of {len(every)} values of {other}", fontsize=9)
    share_axes(panels, "xy")
    draw_legend(figure, list(named.values()), list(named))
    return figure


def _crossed(configurations: Sequence[Configuration], axis: str) -> bool:
    """Return whether some value of the axis occurs with several values of the other."""
    return len({(c["L"], c["degree"]) for c in configurations}) > len({c[axis] for c in configurations})


def _lines_against(
    axes: Axes,
    configurations: Sequence[Configuration],
    controls: pd.DataFrame,
    axis: str,
    names: dict[int, str],
    styles: dict[str, Any],
    dots: dict[str, Any],
) -> dict[str, Any]:
    """Draw one panel of `metric_against`; return its legend entries. dots: options of the dots of single runs."""
    named: dict[str, Any] = {}
    for name, group in by_name(configurations, names).items():
        group = sorted(group, key=lambda configuration: configuration[axis])
        colour, dashes = styles[name]
        x = [c[axis] for c in group]
        means = [c.interval.center for c in group]
        (named[name],) = axes.plot(x, means, color=colour, linestyle=dashes, marker="o", markersize=4)
        low, high = zip(*(_visible(c) for c in group), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        if len(styles) <= _DOTTED:
            runs = [(c[axis], value) for c in group for value in c.values]
            axes.plot(*zip(*runs, strict=True), ".", color=colour, alpha=0.4, markersize=4, **dots)
        floors = [(c[axis], floor) for c in group for floor in _floor(c)]
        if floors:
            (drawn,) = axes.plot(*zip(*floors, strict=True), "_", color=colour, **_FLOOR_STYLE)
            named.setdefault("floor" if len(styles) > _DOTTED else f"{name}: floor", drawn)
    for style, (control, rows) in zip(_DASHES, controls.groupby("model", sort=False), strict=False):
        mean = rows.groupby(axis)["value"].mean().sort_index()
        (named[str(control)],) = axes.plot(mean.index, mean, linestyle=style, color="0.55", linewidth=1)
    return named


def _styles(configurations: Sequence[Configuration], names: dict[int, str]) -> dict[str, Any]:
    """Return the colour and dashes of each name: with several models one colour per model, and dashes for its settings."""
    models: dict[str, list[str]] = {}
    for configuration in configurations:
        own = models.setdefault(configuration["model"], [])
        own += [names[id(configuration)]] if names[id(configuration)] not in own else []
    if len(models) == 1 or max(map(len, models.values())) > len(_DASHES):
        return {name: (colour, "-") for own in models.values() for name, colour in zip(own, COLOURS, strict=False)}
    return {
        name: (colour, dashes)
        for colour, own in zip(COLOURS, models.values(), strict=False)
        for name, dashes in zip(own, ["-", *_DASHES], strict=False)
    }


@styled()
def depth_against_degree(configurations: Sequence[Configuration]) -> Figure:
    """Draw a heat map for each model: depth on the y axis, degree (or L) on the x axis, the mean metric in each field."""
    axis = "L" if any(c["degree"] is None for c in configurations) else "degree"
    crossed = axis == "degree" and _crossed(configurations, "degree")
    groups = by_name(configurations, labels(configurations, also=["L"] if crossed else [], without=["depth"]))
    degrees, depths = (sorted({c[column] for c in configurations}) for column in (axis, "depth"))
    figure, panels = make_panels(
        len(groups), width=1.4 + 0.6 * len(degrees), height=1.2 + 0.45 * len(depths), most=len(groups)
    )
    for axes, (name, group) in zip(panels, groups.items(), strict=True):
        field = np.full((len(depths), len(degrees)), np.nan)
        floors: dict[tuple[int, int], list[str]] = {}
        for configuration in group:
            place = depths.index(configuration["depth"]), degrees.index(configuration[axis])
            assert np.isnan(field[place]), "two configurations in one field"
            field[place] = configuration.interval.center
            floors[place] = [f"floor {number(floor)}" for floor in _floor(configuration)]
        colours = "viridis" if configurations[0].higher_is_better else "viridis_r"
        shade = _shade(field, configurations[0])
        bright = shade if configurations[0].higher_is_better else 1 - shade
        axes.imshow(shade, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(field):
            if not np.isnan(value):
                text = "\n".join([number(value), *floors[row, column]])
                centred: Any = {
                    "ha": "center",
                    "va": "center",
                    "in_layout": False,
                }  # they fit inside their fields
                axes.text(
                    column, row, text, fontsize=7, color=_ON_BRIGHT if bright[row, column] > 0.45 else _ON_DARK, **centred
                )
        axes.set_xticks(range(len(degrees)), [str(degree) for degree in degrees])
        axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(axis)
        axes.set_ylabel("depth")
        axes.spines[:].set_visible(False)
    share_axes(panels, "xy")
    figure.suptitle(f"{configurations[0].metric} (test), mean", fontsize=9)
    return figure


@styled()
def curves(configurations: Sequence[Configuration], points: pd.DataFrame) -> Figure:
    """Draw the primary metric on the validation split during training, one line per run; points: key, step and value."""
    places = drawn_panels(configurations)
    shown = [c for c in configurations if (c["L"], c["degree"]) in places]
    by_key = _lines(points, {key for c in shown for key in c.each("key")})
    figure, panels = make_panels(len(places), width=3.8, height=3.0)
    names = labels(configurations)
    colours = dict(zip(dict.fromkeys(names.values()), COLOURS, strict=False))
    named: dict[str, Any] = {}
    for axes, place in zip(panels, places, strict=True):
        for name, group in by_name([c for c in shown if (c["L"], c["degree"]) == place], names).items():
            lines = [by_key[key] for c in group for key in c.each("key") if key in by_key]
            if lines:
                style = {"colors": [colours[name]], "alpha": 0.7, "linewidths": 1, **of_runs(shown)}
                drawn = axes.add_collection(LineCollection(lines, **style))
                named.setdefault(name, drawn)
        axes.autoscale_view()
        axes.set_title(panel_title(*place), fontsize=9)
        axes.set_xlabel("step")
        draw_metric_axis(axes, configurations, "validation")
    share_axes(panels, "y")
    draw_legend(figure, list(named.values()), list(named))
    return figure


def _lines(points: pd.DataFrame, keys: set[str]) -> dict[str, Any]:
    """Return an array of points (step, value) for each of these runs, by key."""
    own = points[points["key"].isin(keys)].sort_values(["key", "step"], kind="stable")
    values = own[["step", "value"]].to_numpy(dtype=float)
    starts = np.flatnonzero((own["key"] != own["key"].shift()).to_numpy())
    return dict(zip(own["key"].to_numpy()[starts], np.split(values, starts[1:]), strict=True)) if len(own) else {}


@styled()
def beside_controls(configurations: Sequence[Configuration], controls: pd.DataFrame) -> Figure:
    """Draw each run of each model as a dot, with the controls of the same task below; one panel per L and degree."""
    places = drawn_panels(configurations)
    names = labels(configurations)
    models = list(dict.fromkeys(names.values()))
    rows = [*models, *controls.drop_duplicates("model")["model"]]
    figure, panels = make_panels(len(places), width=4.2, height=0.9 + 0.22 * len(rows))
    floor = -math.inf if configurations[0].higher_is_better else LEAST
    dots = of_runs(configurations)
    for axes, place in zip(panels, places, strict=True):
        here = [c for c in configurations if (c["L"], c["degree"]) == place]
        for configuration in here:
            row = models.index(names[id(configuration)])
            values = [max(value, floor) for value in configuration.values]
            axes.plot(values, [row] * len(values), "o", color=COLOURS[row], alpha=0.6, markersize=5, **dots)
            for drawn in _floor(configuration):
                axes.plot([drawn], [row], "|", color=COLOURS[row], **_FLOOR_STYLE)
        kept = controls[controls["L"] == place[0]]
        kept = kept if place[1] is None else kept[kept["degree"] == place[1]]
        axes.plot(
            [max(value, floor) for value in kept["value"]], kept["model"].map(rows.index), "D", color="0.35", markersize=4
        )
        axes.axvline(configurations[0].success_threshold, color="0.7", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), list(map(shortened, rows)), fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(panel_title(*place), fontsize=9)
        axes.set_xlabel(f"{configurations[0].metric} (test)")
        if not configurations[0].higher_is_better:
            make_logarithmic(axes, "x")
            axes.set_xlim(left=LEAST * 0.8)
    share_axes(panels, "xy")
    return figure


def _floor(configuration: Configuration) -> list[float]:
    """Return the floor of a configuration as a list, empty if it is unknown or below the drawn range."""
    return (
        [configuration.floor]
        if configuration.floor is not None and not configuration.higher_is_better and configuration.floor >= LEAST
        else []
    )


def _visible(configuration: Configuration) -> tuple[float, float]:
    """Return the interval clipped to the drawn range of the metric; the mean twice if the interval is unknown."""
    interval = configuration.interval
    if np.isnan(interval.low):
        return interval.center, interval.center
    if not configuration.higher_is_better:
        return max(interval.low, 0.5 * min(configuration.values), LEAST), interval.high
    return max(interval.low, 0.0), min(interval.high, max(1.0, *configuration.values))


def _shade(field: Any, configuration: Configuration) -> Any:
    """Return the field scaled to 0..1: unchanged if higher is better, otherwise on a log scale from 1e-4 to 1."""
    if configuration.higher_is_better:
        return field
    return np.clip(1 + np.log10(np.maximum(field, 1e-4)) / 4, 0, 1)
