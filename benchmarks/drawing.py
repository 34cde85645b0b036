"""Drawing shared by generalisation.py and taylor.py: panels, lines of means with intervals, one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expbench.console.formatting import number
from expbench.results.configurations import Configuration
from expbench.stats.intervals import Interval, nested_interval

COLOURS = mpl.color_sequences["tab10"]


def mean(configuration: Configuration, values: Mapping[str, float] | pd.Series[float]) -> Interval:
    """Return the mean over instances and seeds of `values` (by key) for the successful runs of a configuration."""
    runs = configuration.runs[configuration.runs["status"] == "ok"]
    each = runs["key"].map(values)
    return nested_interval([list(group.dropna()) for _, group in each.groupby(runs["instance"])])


def spread(interval: Interval) -> str:
    """Format the ends of an interval, or a dash if unknown."""
    return "-" if pd.isna(interval.low) else f"{number(interval.low)} to {number(interval.high)}"


def panels(lines: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels in row order."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.6 * columns, 3.4 * lines), layout="constrained")
        return figure, list(figure.subplots(lines, columns, squeeze=False).flat)


def line(axes: Axes, points: Sequence[tuple[int, Interval]], least: float, most: float, **style: Any) -> None:
    """Draw means at `points`, with intervals as a band clipped to the range of the metric; skip unknown means."""
    known = sorted((x, interval) for x, interval in points if not pd.isna(interval.center))
    if not known:
        return
    x = [place for place, _ in known]
    axes.plot(x, [interval.center for _, interval in known], **{"marker": "o", "markersize": 4, **style})
    ends = [(i.center, i.center) if pd.isna(i.low) else (max(i.low, least), min(i.high, most)) for _, i in known]
    axes.fill_between(x, [low for low, _ in ends], [high for _, high in ends], color=style["color"], alpha=0.12, linewidth=0)


def legend(figure: Figure) -> None:
    """Add one legend for all panels, on the right."""
    found = {name: handle for axes in figure.axes for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(found.values()), list(found), loc="outside right upper", fontsize=8, frameon=False)
