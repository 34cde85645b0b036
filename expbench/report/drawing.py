"""Panels of figures: style, axes, legend and saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from expbench.results.configurations import Configuration

Value = TypeVar("Value")

COLOURS = list(mpl.color_sequences["tab10"]) * 10
STYLE: Any = {"svg.hashsalt": "expbench", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
LEAST = 1e-5  # smaller errors are drawn at this value
_PANELS, _COLUMNS = 6, 3
_NAMED = 28  # names in a legend


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same bytes for the same figure."""
    with mpl.rc_context(STYLE):
        layout = figure.get_layout_engine()
        if layout is not None:  # run the layout only once; savefig would otherwise redraw the figure for it
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(path, format="svg", metadata={"Date": None})


def make_panels(count: int, width: float, height: float, most: int = _PANELS) -> tuple[Figure, list[Axes]]:
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


def share_axes(panels: Sequence[Axes], which: str) -> None:
    """Give axes "x", "y" or "xy" the same limits in all panels, with labels at the outer panels only."""
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


def draw_legend(figure: Figure, handles: list[Any], names: list[str]) -> None:
    """Draw the legend to the right of the panels, truncated to their height."""
    if len(names) > _NAMED:
        handles, names = handles[:_NAMED], [*names[: _NAMED - 1], f"... and {len(names) - _NAMED + 1} more"]
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)


def drawn_panels(configurations: Sequence[Configuration]) -> list[tuple[int, int | None]]:
    """Return the sorted pairs of L and degree, or an evenly spaced subset if there are more pairs than panels."""
    return spread(
        sorted(
            {(c["L"], c["degree"]) for c in configurations},
            key=lambda place: (place[0], place[1] or 0),
        )
    )


def spread(values: Sequence[Value]) -> list[Value]:
    """Return at most as many values as there are panels, evenly spaced."""
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, min(_PANELS, len(values)))]


def panel_title(L: int, degree: int | None) -> str:
    return f"L={L}" if degree is None else f"L={L}, degree {degree}"


def draw_metric_axis(axes: Axes, configurations: Sequence[Configuration], split: str) -> None:
    """Set up the metric axis: errors on a log scale, cut below the best run, and the success threshold as a line."""
    axes.axhline(configurations[0].success_threshold, color="0.8", linewidth=0.8, zorder=0)
    axes.set_ylabel(f"{configurations[0].metric} ({split})")
    if not configurations[0].higher_is_better:
        make_logarithmic(axes, "y")
        best = min(min(c.values) for c in configurations)
        axes.set_ylim(bottom=max(LEAST, 0.5 * min(best, configurations[0].success_threshold)))


def make_logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain-text labels, since mathtext labels took most of a figure's time."""
    scale, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    scale("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
