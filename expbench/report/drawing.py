"""Panels of figures: style, axes, legend and saving.

All figures are drawn through this module, so that they do not depend on the reader's matplotlib: its backend is ignored, and
its settings are replaced by matplotlib's defaults.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from expbench.console.formatting import visible
from expbench.results.configurations import Configuration

_BACKEND = os.environ.pop("MPLBACKEND", None)  # if it is unknown, the import of matplotlib raises
import matplotlib as mpl  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.collections import LineCollection as LineCollection  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402
from matplotlib.ticker import LogLocator as LogLocator  # noqa: E402

if _BACKEND is not None:
    os.environ["MPLBACKEND"] = _BACKEND
    with suppress(ValueError):
        mpl.rcParams["backend"] = _BACKEND

Value = TypeVar("Value")

COLOURS = list(mpl.color_sequences["tab10"]) * 10
_STYLE: Any = {"svg.hashsalt": "expbench", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
LEAST = 1e-5  # smaller errors are drawn at this value
_PANELS, _COLUMNS = 6, 3
_MOST_VECTORS = 5000  # runs of a figure; of more, each is drawn in pixels, since the file would take seconds and megabytes
_DPI = 150  # of a layer of pixels
_NAMED = 28  # names in a legend
_LONGEST = 60  # characters of a name


@contextmanager
def styled(*, math: bool = False) -> Iterator[None]:
    """Draw with matplotlib's defaults and the style of the reports; as a decorator too.

    math: whether texts between dollars are formulas. Names are not, so that a name with dollars is drawn as it is.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | {"text.parse_math": math})
        yield


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same bytes for the same figure."""
    written = io.StringIO()
    with styled(math=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # names fill the figure
        layout = figure.get_layout_engine()
        if layout is not None:  # run the layout only once; savefig would otherwise redraw the figure for it
            layout.execute(figure)
            figure.set_layout_engine(None)
        resolution: dict[str, Any] = {"dpi": _DPI} if figure.findobj(lambda drawn: drawn.get_rasterized()) else {}
        figure.savefig(written, format="svg", metadata={"Date": None}, **resolution)
    path.write_text(visible(written.getvalue(), keep="\n\t"), encoding="utf-8")


@styled()
def make_figure(width: float, height: float) -> Figure:
    """Make a figure of a size in inches whose layout fits its contents."""
    return Figure(figsize=(width, height), layout="constrained")


@styled()
def make_panels(count: int, width: float, height: float, most: int = _PANELS) -> tuple[Figure, list[Axes]]:
    """Make a figure with at most `most` panels of a size in inches; return it and its panels in row order."""
    count = min(count, most)
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure = make_figure(width * columns, height * lines)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def of_runs(configurations: Sequence[Configuration]) -> dict[str, Any]:
    """Return the options to draw single runs with: many are a layer of pixels, while axes and means remain vectors."""
    many = sum(len(c.values) for c in configurations) > _MOST_VECTORS
    return {"rasterized": True, "zorder": 1.9} if many else {}  # below lines (2), as one layer per panel


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
    figure.legend(handles, list(map(shortened, names)), loc="outside right upper", fontsize=8, frameon=False)


def shortened(name: str) -> str:
    """Return a name that leaves room for the axes: its beginning and its end."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]} ... {name[-15:]}"


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
